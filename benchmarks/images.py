"""Images before the decoder: feature extraction by the CNN alone, and the loader alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.captioning import write_photos
from benchmarks.measure import Side
from benchmarks.textbook import textbook_encoder_of
from benchmarks.workload import Sizes, make_encoder, make_pixels
from captioner.data.batches import BatchLoader, CaptionDataset, Collate, EncodedCaptions, OrderedBatches
from captioner.data.images import ImageTransform
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def feature_extraction(sizes: Sizes, device: torch.device, with_bf16: bool = True) -> list[Side]:
    """The training steps' CNN on the images of a batch: one by one, against all together."""
    encoder = make_encoder(sizes)
    theirs = textbook_encoder_of(encoder).to(device)
    ours = encoder.to(device)
    pixels = make_pixels(sizes.num_images, sizes.pixels).to(device)

    @torch.no_grad()
    def one_by_one(number: int) -> None:
        for image in pixels.split(1):
            theirs(image)

    @torch.no_grad()
    def together(number: int, bf16: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            ours(pixels)

    def side(name: str, run: partial[None], bf16: bool = False) -> Side:
        return Side(name, run, lambda number: len(pixels), counted=run, dtype="bfloat16" if bf16 else "float32")

    sides = [
        side("textbook, one by one, fp32", partial(one_by_one)),
        side("ours, a batch, fp32", partial(together, bf16=False)),
    ]
    return [*sides, side("ours, a batch, bf16", partial(together, bf16=True), bf16=True)] if with_bf16 else sides


class TextbookPhotos(Dataset):
    """Photos through torchvision's transforms, as tutorials load them.

    Args:
        paths: the photos.
        side: of the square.
    """

    def __init__(self, paths: list[Path], side: int) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize((side, side), transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(*IMAGENET),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def loading(sizes: Sizes, folder: Path, num_workers: int, size: tuple[int, int]) -> list[Side]:
    """JPEG files to batches of pixels, each photo once on both sides; a row per caption would load it five times."""
    folder.mkdir(exist_ok=True)
    paths = write_photos(folder, sizes, *size)
    book = DataLoader(
        TextbookPhotos(paths, sizes.pixels),
        batch_size=sizes.num_images,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    items = [CaptionedImage(path.name, path, ("a photo",)) for path in paths]
    source = ImageTransform(sizes.pixels, "squash")
    captions = EncodedCaptions(items, WordLevel(min_count=1).fit(["a photo"]), max_words=5)
    ours = BatchLoader(
        CaptionDataset(items, captions, source),
        OrderedBatches(len(items), sizes.num_images),
        Collate(source),
        num_workers=num_workers,
    )

    def run(loader: DataLoader | BatchLoader, number: int) -> None:
        for _ in loader:
            pass

    return [
        Side("textbook", partial(run, book), lambda number: len(paths)),
        Side("ours", partial(run, ours), lambda number: len(paths)),
    ]
