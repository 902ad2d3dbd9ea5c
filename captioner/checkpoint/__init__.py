"""One safe file per model: weights, vocabulary, preprocessing, architecture and provenance.

The file is `.safetensors`: tensors, and one JSON text that says how to put them together. Loading runs no
code from it: classes are looked up by name, in this package or in packages that the caller trusts.

Reading order: `bundle.py` (a model as one description), `model_file.py` (the file), `training_run.py` (the
checkpoints of trainings).
"""

from captioner.checkpoint.bundle import Bundle, CheckpointError, describe, rebuild
from captioner.checkpoint.model_file import load_model, save_model
from captioner.checkpoint.training_run import read_checkpoint, require_resumable

__all__ = [
    "Bundle",
    "CheckpointError",
    "describe",
    "load_model",
    "read_checkpoint",
    "rebuild",
    "require_resumable",
    "save_model",
]
