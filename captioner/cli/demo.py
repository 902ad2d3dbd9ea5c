"""`captioner demo`: caption free sample photos and draw where the model looks, to see it work."""

from __future__ import annotations

import argparse
from pathlib import Path

from captioner.files import kept, whole_file

PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # CC0 or in the public domain, in scikit-image's wheel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output", default="demo", metavar="DIR", help="the folder for photos/ and maps/ (default demo)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the photos, their captions and their maps."""
    from captioner.data.images import open_image
    from captioner.heatmaps import export
    from captioner.predictors import load

    folder = Path(args.output)
    with kept(folder) as check:
        paths = write_photos(folder / "photos")
        captioner = load()
        for path, caption in zip(paths, captioner.caption(paths), strict=True):
            check()
            export(open_image(path), caption.maps, folder / "maps" / path.stem, caption.text)
            print(f"{path}: {caption.text}")
    print(f"maps of every word: {folder / 'maps'}/*.png, .gif, .npz, .json")
    return 0


def write_photos(folder: Path) -> list[Path]:
    """Save scikit-image's sample photos as files.

    Raises:
        ValueError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ValueError("the sample photos come with scikit-image: pip install 'captioner[samples]'") from error
    from PIL import Image

    paths = []
    for name in PHOTOS:
        paths.append(folder / f"{name}.jpg")
        with whole_file(paths[-1]) as file:
            Image.fromarray(getattr(data, name)()).save(file, format="JPEG", quality=92)
    return paths
