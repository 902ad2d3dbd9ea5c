"""Captioning: of photos, and of sentences (sequence to sequence)."""

from captioner.tasks.captioning.photos import CaptionData
from captioner.tasks.captioning.samples import SampleCaptions
from captioner.tasks.captioning.sentences import TextData
from captioner.tasks.captioning.task import CaptioningTask

__all__ = ["CaptionData", "CaptioningTask", "SampleCaptions", "TextData"]
