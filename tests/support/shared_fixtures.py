"""What many tests share: a tiny model that was never trained but always says the same, and photos drawn by code."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.checkpoint import Bundle, load_model, save_model
from captioner.data import ImageTransform
from captioner.models import AdditiveAttention, CaptionModel, GridEncoder, ShowAttendTell
from captioner.tokenizer import Tokenizer, WordLevel

CAPTIONS = ("a red dog runs on the green grass near two small boys", "a blue cat sits in front of a white house")


def pytest_configure(config):
    shift = config.getoption("--seed")
    if not shift:
        return
    seed, Generator = torch.manual_seed, torch.Generator  # noqa: N806

    class Shifted(Generator):
        def manual_seed(self, number: int) -> torch.Generator:
            return super().manual_seed(number + shift)

    torch.manual_seed = lambda number: seed(number + shift)
    torch.Generator = Shifted


@pytest.fixture(autouse=True)
def _seeded(request):
    """Begin each test with its own random numbers, whichever test came before."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def _lightning_quiet():
    """Lightning's messages are not what the tests look at."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return WordLevel(min_count=1).fit(CAPTIONS)


@pytest.fixture(scope="session")
def make_bundle(tokenizer) -> Callable[..., Bundle]:
    """Builds models whose captions differ from photo to photo, and end."""

    def make(encoder: dict | None = None, fit: str = "pad", tokenizer: Tokenizer = tokenizer, **decoder) -> Bundle:
        torch.manual_seed(0)
        eyes = GridEncoder(
            **{"name": "timm/test_efficientnet", "weights": "none", "output_stride": 16} | (encoder or {})
        )
        options = {"embed_dim": 16, "hidden_dim": 16, "normalise_features": True} | decoder
        options.setdefault("attention", lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, 8))
        tongue = ShowAttendTell(eyes.feature_dim, tokenizer.vocab_size, **options)
        with torch.no_grad():
            for weight in {id(weight): weight for weight in tongue.parameters() if weight.dim() > 1}.values():
                weight.mul_(6)
            tongue.output.bias[tokenizer.eos_id] += 4
        return Bundle(CaptionModel(eyes, tongue).eval(), tokenizer, ImageTransform(64, fit), {"note": "a test"})

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle) -> Bundle:
    """The tiny model. Do not change it."""
    return make_bundle()


@pytest.fixture(scope="session")
def model_file(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(bundle, path, "float32")
    return path


@pytest.fixture(scope="session")
def broken_model(model_file, tmp_path_factory) -> Path:
    """The model with weights so large that its numbers overflow; a file holds no weights that are no numbers."""
    path = tmp_path_factory.mktemp("broken") / "broken.safetensors"
    broken = load_model(model_file)
    with torch.no_grad():
        broken.model.decoder.output.weight.fill_(3e38)
    save_model(broken, path, "float32")
    return path


def picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Smooth colours that differ from seed to seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    return picture


GOOD = (
    "CMYK.jpg",
    "grey.png",
    "palette.gif",
    "rgba.PNG",
    "sixteen.png",
    "moving.gif",
    "web.webp",
    "turned.JPG",
    "long.jpg",
    "tiny.bmp",
    "de eper/Füße 猫 and spaces.jpeg",
    "de eper/plain.tiff",
)
BROKEN = {
    "empty.jpg": "the file is empty",
    "half.png": "damaged or cut short",
    "words.jpg": "not an image",
    "de eper/zeros.png": "not an image",
}


@pytest.fixture(scope="session")
def album(tmp_path_factory) -> Path:
    """A folder with twelve good pictures of all kinds, four broken ones, and a file that is no picture."""
    root = tmp_path_factory.mktemp("album")
    (root / "de eper").mkdir()
    images = [picture(seed) for seed in range(len(GOOD))]
    images[0] = images[0].convert("CMYK")
    images[1] = images[1].convert("L")
    images[2] = images[2].quantize(16)
    images[3].putalpha(Image.linear_gradient("L").resize(images[3].size))
    images[4] = Image.fromarray(np.asarray(images[4].convert("L")).astype(np.uint16) * 256)
    images[8] = picture(8, 3000, 60)
    images[9] = picture(9, 2, 2)
    upright = Image.Exif()
    upright[0x0112] = 6
    options = {5: {"save_all": True, "append_images": [picture(50)]}, 7: {"exif": upright}}
    for number, (name, image) in enumerate(zip(GOOD, images, strict=True)):
        image.save(root / name, **options.get(number, {}))
    (root / "empty.jpg").touch()
    (root / "half.png").write_bytes((root / "grey.png").read_bytes()[:-40])
    (root / "words.jpg").write_text("not a picture")
    (root / "de eper" / "zeros.png").write_bytes(bytes(500))
    (root / "notes.txt").write_text("left alone")
    return root


@pytest.fixture(scope="session")
def good_names() -> tuple[str, ...]:
    return GOOD


@pytest.fixture(scope="session")
def broken_names() -> dict[str, str]:
    return BROKEN
