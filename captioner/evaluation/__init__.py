"""A model on a data set's split, and what its answers are worth."""

from captioner.evaluation.captions import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
