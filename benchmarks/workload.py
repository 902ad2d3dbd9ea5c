"""What both sides work on: sizes, captions as long as Flickr8k's, features, photos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.data.batches import BucketedBatches, pad_captions
from captioner.models import AdditiveAttention, GridEncoder, ShowAttendTell
from captioner.tokenizer import Tokenizer
from captioner.types import Kind, Memory, Segment

LENGTHS = {
    **{3: 15, 4: 126, 5: 346, 6: 862, 7: 1958, 8: 2537, 9: 2927, 10: 3319, 11: 3319, 12: 3132, 13: 2778, 14: 2320},
    **{15: 1848, 16: 1329, 17: 977, 18: 662, 19: 513, 20: 365, 21: 204, 22: 136, 23: 110, 24: 74, 25: 52, 26: 33},
    **{27: 20, 28: 11, 29: 7, 30: 9, 31: 4, 32: 3, 33: 1, 34: 2, 37: 1},
}
"""Words, end word included, of the 30,000 training captions of Flickr8k: how many have so many. Their mean is 11.8."""

WINDOW = 32  # batches that BucketedBatches sorts together, its default


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are those of the bars.

    Attributes:
        num_images: B, of a training batch.
        captions_per_image: K.
        grid: cells a side, so L is its square.
        feature_dim: D.
        hidden_dim: H, and E and A.
        vocab_size: V.
        network: the CNN of the whole training step.
        fine_tuned_from: where its trained part begins, where it is fine-tuned.
        pixels: S, the side of what CNNs look at.
        num_photos: to caption, to load, to extract features of.
        batch_sizes: photos that are captioned at a time, where they lie in memory.
        num_in_bulk: to caption by the command.
        beam_size: of the search.
        large_photo: width and height of a photo as cameras take them.
    """

    num_images: int = 32
    captions_per_image: int = 5
    grid: int = 14
    feature_dim: int = 2048
    hidden_dim: int = 512
    vocab_size: int = 10_000
    network: str = "resnet101"
    fine_tuned_from: str = "layer2"
    pixels: int = 224
    num_photos: int = 64
    batch_sizes: tuple[int, ...] = (1, 32, 256)
    num_in_bulk: int = 256
    beam_size: int = 5
    large_photo: tuple[int, int] = (3000, 2250)


ON_A_GPU = Sizes(num_in_bulk=512)

QUICK = Sizes(
    num_images=4,
    captions_per_image=5,
    grid=4,
    feature_dim=256,
    hidden_dim=32,
    vocab_size=500,
    network="timm/test_efficientnet",
    fine_tuned_from="blocks.1",
    pixels=64,
    num_photos=4,
    batch_sizes=(1, 4),
    num_in_bulk=4,
    large_photo=(1000, 750),
)
"""Sizes to try things with; their ratios mean nothing."""


def sizes_for(device: torch.device, quick: bool) -> Sizes:
    """The sizes to measure a device with."""
    return QUICK if quick else ON_A_GPU if device.type == "cuda" else Sizes()


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of captions, for ours and row by row for the textbook.

    Attributes:
        tokens: (B, K, T + 1), images and captions sorted as `data.batches.Collate` sorts.
        lengths: (B, K) words to predict, in the host's memory.
    """

    tokens: Tensor
    lengths: Tensor

    @property
    def num_captions(self) -> int:
        """R."""
        return self.lengths.numel()

    def to(self, device: torch.device) -> TrainingBatch:
        """The same with its tokens on another device."""
        return TrainingBatch(self.tokens.to(device), self.lengths)


def training_batches(sizes: Sizes, seed: int = 0) -> Iterator[TrainingBatch]:
    """Batches of an epoch over as many images as `BucketedBatches` sorts together, drawn like Flickr8k's captions."""
    rng = np.random.default_rng(seed)
    counts = np.array(list(LENGTHS.values()))
    num_images = WINDOW * sizes.num_images
    lengths = rng.choice(list(LENGTHS), (num_images, sizes.captions_per_image), p=counts / counts.sum())
    for batch in BucketedBatches(lengths.max(axis=1), sizes.num_images, seed, WINDOW).of_epoch(0):
        captions = [
            [_caption(int(length), sizes.vocab_size, rng) for length in sorted(lengths[image], reverse=True)]
            for image in batch
        ]
        captions.sort(key=lambda of_image: len(of_image[0]), reverse=True)
        yield TrainingBatch(*pad_captions(captions))


def _caption(length: int, vocab_size: int, rng: np.random.Generator) -> np.ndarray:
    words = rng.integers(len(Tokenizer.never) + 1, vocab_size, length)
    words[-1] = Tokenizer.eos_id
    return words


def make_decoder(sizes: Sizes, feature_dim: int | None = None, seed: int = 0) -> ShowAttendTell:
    """Ours with its defaults, but for the dropout: two runs must give the same loss."""
    torch.manual_seed(seed)
    return ShowAttendTell(
        feature_dim or sizes.feature_dim,
        sizes.vocab_size,
        lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, sizes.hidden_dim),
        embed_dim=sizes.hidden_dim,
        hidden_dim=sizes.hidden_dim,
        dropout=0.0,
    )


def make_encoder(sizes: Sizes, trainable_from: str | None = None, seed: int = 0) -> GridEncoder:
    """The training steps' CNN: random weights, its last stage dilated; frozen up to `trainable_from`."""
    torch.manual_seed(seed)
    encoder = GridEncoder(sizes.network, weights="none", output_stride=16, trainable_from=trainable_from)
    with torch.no_grad():  # random residual blocks would double the variance one after another
        for name, weight in encoder.named_parameters():
            if name.endswith("bn3.weight"):
                weight.fill_(0.2)
    return encoder


def make_features(sizes: Sizes, seed: int = 0) -> Tensor:
    """(B, L, D) annotation vectors, not negative, as those behind a ReLU are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes.num_images, sizes.grid**2, sizes.feature_dim, generator=generator).relu()


def as_memory(features: Tensor, grid: int) -> Memory:
    """Annotation vectors (B, L, D) as the memory that an encoder gives."""
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    return Memory(features, mask, (Segment(Kind.GRID, grid * grid, grid=(grid, grid)),))


def make_pixels(num_images: int, side: int, seed: int = 0) -> Tensor:
    """(B, 3, S, S) uint8 pixels of photos."""
    photos = [np.asarray(make_photo(seed + number, side, side)) for number in range(num_images)]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()


def make_photo(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """A picture with coarse and fine detail, the size of Flickr's; no two are alike."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3))
    for cells, strength in ((4, 0.5), (12, 0.25), (40, 0.15), (125, 0.1)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        canvas += strength * np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(canvas.astype(np.uint8))
