"""Parallel text made ready for training: the `data` section of a config for sequence to sequence."""

from __future__ import annotations

from captioner.data import TextTransform
from captioner.data.readers import TextReader
from captioner.tokenizer import TokenizerBuilder, WordLevel
from captioner.training import SequenceData
from captioner.types import TextPair


class TextData(SequenceData):
    """Training and validation batches of parallel text, as `CaptionData` gives them of photos and captions.

    A config chooses it by `class_path` under `data`.

    Args:
        reader: reads the data set.
        source_vocabulary: learns the vocabulary of the sources that are trained on; by default whole words seen at
            least 5 times.
        vocabulary: learns that of their targets; by default the same.
        batch_size: sentences of a training batch, per process.
        eval_batch_size: sentences of a validation batch, per process.
        max_words: targets are cut after so many words; they have no end word then.
        num_workers: processes that load sentences; this one alone is fast enough for most.
        bucket_window: batches among which sentences are sorted by the length of their targets; see `BucketedBatches`.
        train_split: the reader's split to train on.
        val_split: the reader's split to validate on.
        seed: of shuffling.
    """

    def __init__(
        self,
        reader: TextReader,
        source_vocabulary: TokenizerBuilder | None = None,
        vocabulary: TokenizerBuilder | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        max_words: int = 50,
        num_workers: int = 0,
        bucket_window: int = 32,
        train_split: str = "train",
        val_split: str = "dev",
        seed: int = 0,
    ) -> None:
        super().__init__(
            vocabulary or WordLevel(),
            batch_size,
            eval_batch_size,
            None,
            max_words,
            num_workers,
            bucket_window,
            train_split,
            val_split,
            seed,
        )
        self.reader = reader
        self.source_vocabulary = source_vocabulary or WordLevel()
        self._transform: TextTransform | None = None

    @property
    def transform(self) -> TextTransform:
        """Makes sentences ready for the encoder, with the vocabulary of the training sources, learnt once."""
        if self._transform is None:
            self._transform = TextTransform(
                self.source_vocabulary.fit(item.text for item in self.items(self.train_split))
            )
        return self._transform

    def read(self, split: str) -> list[TextPair]:
        """See `SequenceData.read`."""
        return self.reader.read(split)

    def source(self, training: bool) -> TextTransform:
        """See `SequenceData.source`."""
        return self.transform
