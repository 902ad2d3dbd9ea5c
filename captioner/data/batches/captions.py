"""Captions as arrays of word ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captioner.tokenizer import Tokenizer
from captioner.types import Item


class EncodedCaptions:
    """The token ids of all captions of a data set, in one array (worker processes share it).

    Captions end with the end word, but for those longer than `max_words`: these are cut there and, as they do
    not end there, have none. Captions without words are left out.

    Args:
        items: the images with their captions.
        tokenizer: makes ids of captions.
        max_words: the most words that are kept of a caption.
    """

    def __init__(self, items: Sequence[Item], tokenizer: Tokenizer, max_words: int) -> None:
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1, not {max_words}")
        flat: list[int] = []
        caption_ends, image_ends = [0], [0]
        self.num_cut = 0
        for item in items:
            for caption in item.captions:
                words = tokenizer.encode(caption)
                if not words:
                    continue
                self.num_cut += len(words) > max_words
                flat += [*words, tokenizer.eos_id][: max_words + (len(words) <= max_words)]
                caption_ends.append(len(flat))
            image_ends.append(len(caption_ends) - 1)
        self.flat = np.array(flat, dtype=np.int32)
        self.caption_ends = np.array(caption_ends, dtype=np.int64)
        self.image_ends = np.array(image_ends, dtype=np.int64)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_ends) - 1

    def of_image(self, index: int) -> list[np.ndarray]:
        """The captions of one image, in its reader's order: arrays of word ids, the end word included."""
        captions = range(self.image_ends[index], self.image_ends[index + 1])
        return [self.flat[self.caption_ends[i] : self.caption_ends[i + 1]] for i in captions]

    def longest(self) -> np.ndarray:
        """(N,) the length of each image's longest caption, the end word included; 0 where it has none."""
        lengths = np.diff(self.caption_ends)
        bounds = zip(self.image_ends[:-1], self.image_ends[1:], strict=True)
        return np.array([lengths[start:end].max(initial=0) for start, end in bounds], dtype=np.int64)


def pad_captions(captions: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Captions of B images as one tensor.

    Args:
        captions: for each image its captions, any number, as arrays of word ids with their end word.

    Returns:
        tokens (B, K, T + 1) int64: begin word, words, end word, padding; lengths (B, K) int64: the words to
        predict, 0 for a missing caption. K and T are at least 1.
    """
    num_captions = max([1, *(len(of_image) for of_image in captions)])
    num_words = max([1, *(len(words) for of_image in captions for words in of_image)])
    tokens = np.full((len(captions), num_captions, num_words + 1), Tokenizer.pad_id, dtype=np.int64)
    lengths = np.zeros((len(captions), num_captions), dtype=np.int64)
    tokens[:, :, 0] = Tokenizer.bos_id
    for row, of_image in enumerate(captions):
        for column, words in enumerate(of_image):
            tokens[row, column, 1 : len(words) + 1] = words
            lengths[row, column] = len(words)
    return torch.from_numpy(tokens), torch.from_numpy(lengths)
