"""Data of drawn shapes, and a task that keeps its batches."""

from __future__ import annotations

from captioner.data.images import ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.tasks.captioning import CaptionData
from captioner.tokenizer import WordLevel


def data(tmp_path, **options):
    options = {"vocabulary": WordLevel(min_count=1), "batch_size": 8, "eval_batch_size": 4, "num_workers": 0} | options
    reader = options.pop("reader", SyntheticShapes(tmp_path / "pictures", num_train=20, num_dev=6, size=32))
    return CaptionData(reader, ImageTransform(32), **options)
