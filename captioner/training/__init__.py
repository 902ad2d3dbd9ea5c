"""What training needs of Lightning: bases of tasks and data, exact resume, schedules, averages."""

from captioner.training.averaging import AveragedWeights
from captioner.training.data import SequenceData
from captioner.training.finite import FiniteWatch, NotFiniteError, named
from captioner.training.resume import AtomicCheckpointIO, ExactResume
from captioner.training.schedules import Constant, EpochDecay, Schedule, WarmupCosine
from captioner.training.task import Task
from captioner.training.trainer import Trainer

__all__ = [
    "AtomicCheckpointIO",
    "AveragedWeights",
    "Constant",
    "EpochDecay",
    "ExactResume",
    "FiniteWatch",
    "NotFiniteError",
    "Schedule",
    "SequenceData",
    "Task",
    "Trainer",
    "WarmupCosine",
    "named",
]
