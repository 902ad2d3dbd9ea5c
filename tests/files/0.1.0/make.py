"""Makes the files of this folder. It runs under captioner 0.1.0 alone: check out commit 7889c68 before you run it.

    python tests/files/0.1.0/make.py OUTPUT

photos/            four drawn pictures, and captions.csv: a data set
model.safetensors  a model of photos that was never trained
features/          a feature cache of the pictures, two views each, of that model's encoder
regions/           region features of the pictures, made with that encoder and transform
shards/            the pictures in a tar shard, with its index
photos_run/        a training on the regions that was cut off in mid-epoch: config.yaml and checkpoints/last.ckpt
dates_run/         a training of sequence to sequence, likewise
class_paths.txt    every path by which a config or a file could name a part
expected.json      what the models say
expected.safetensors  where they look, and the weights at the end of the trainings
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import shutil
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from captioner.data.feature_cache import build_cache, identity
from captioner.data.regions import Regions, RegionWriter
from captioner.data.shard_sets import write_shards
from captioner.predictor import Captioner, load
from captioner.tasks.resume import ExactResume
from captioner.tasks.schedules import Schedule
from PIL import Image
from safetensors.torch import save_file

import captioner
from captioner.checkpoint import Bundle, save_model
from captioner.cli.train import main as train
from captioner.data import Augmentation, CaptionFolder, ImageTransform
from captioner.decoding import Constraint, Search
from captioner.losses import CaptionLoss
from captioner.models import AdditiveAttention, Attention, CaptionModel, Decoder, Encoder, GridEncoder, ShowAttendTell
from captioner.models.attention import Normaliser
from captioner.tokenizer import TokenizerBuilder, WordLevel

CAPTIONS = (
    "a red dog runs on the green grass",
    "two small boys sit in front of a white house",
    "a blue cat looks at the small dog",
    "the boys run on the grass near a house",
)
KEPT_AT = 3  # the optimiser step whose checkpoint is kept: 2 are an epoch

PHOTOS_RUN = {
    "seed_everything": 7,
    "run_dir": "photos_run",
    "save_every_n_steps": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [{"class_path": "captioner.tasks.averaging.AveragedWeights", "init_args": {"decay": 0.9}}],
    },
    "data": {
        "reader": {"class_path": "captioner.data.readers.CaptionFolder", "init_args": {"root": "photos"}},
        "transform": {"size": 64},
        "vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
        "regions": "regions",
        "batch_size": 2,
        "num_workers": 0,
    },
    "model": {
        "encoder": {"class_path": "captioner.models.PrecomputedRegions", "init_args": {"feature_dim": 8}},
        "decoder": {
            "class_path": "captioner.models.decoders.up_down.UpDown",
            "init_args": {
                "attention": {
                    "class_path": "captioner.models.attention.scorers.AdditiveAttention",
                    "init_args": {"attention_dim": 8},
                },
                "embed_dim": 8,
                "hidden_dim": 8,
                "dropout": 0.0,  # versions of torch draw other numbers
            },
        },
        "loss": {"class_path": "captioner.losses.CaptionLoss", "init_args": {"scale": "paper"}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        "schedule": {"class_path": "captioner.tasks.schedules.WarmupCosine", "init_args": {"warmup_steps": 2}},
        "search": {"class_path": "captioner.decoding.search.BeamSearch", "init_args": {"beam_size": 2}},
    },
}
DATES_RUN = {
    **{key: value for key, value in PHOTOS_RUN.items() if key not in ("data", "model")},
    "run_dir": "dates_run",
    "data": {
        "class_path": "captioner.data.text_datamodule.TextData",
        "init_args": {
            "reader": {
                "class_path": "captioner.data.dates.Dates",
                "init_args": {"num_train": 64, "num_dev": 4, "num_test": 4},
            },
            "source_vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
            "vocabulary": {"class_path": "captioner.tokenizer.Characters"},
            "batch_size": 32,
        },
    },
    "model": {
        "encoder": {"class_path": "captioner.models.WordEncoder", "init_args": {"embed_dim": 4, "hidden_dim": 4}},
        "decoder": {
            "class_path": "captioner.models.ShowAttendTell",
            "init_args": {
                "attention": {
                    "class_path": "captioner.models.attention.MultiHeadAttention",
                    "init_args": {"attention_dim": 8, "num_heads": 2},
                },
                "embed_dim": 8,
                "hidden_dim": 8,
                "dropout": 0.0,  # versions of torch draw other numbers
            },
        },
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        "schedule": {"class_path": "captioner.tasks.schedules.EpochDecay", "init_args": {"gamma": 0.5}},
    },
}
PARTS = (
    *(Encoder, Decoder, Attention, Normaliser, CaptionLoss, Search, Constraint, Schedule, TokenizerBuilder),
    *(captioner.data.Reader, captioner.data.TextReader, ImageTransform, Augmentation),
    *(pl.LightningDataModule, pl.LightningModule, pl.Callback),
)


def draw(folder: Path) -> list[Path]:
    """Four pictures of smooth colours, with a caption each."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        small = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(path)
    rows = (f"{path.name},{caption},train" for path, caption in zip(paths, CAPTIONS, strict=True))
    (folder / "captions.csv").write_text("\n".join(("image,caption,split", *rows, "")), encoding="utf-8")
    with (folder / "captions.csv").open("a", encoding="utf-8") as file:
        file.write(f"dev/0.png,{CAPTIONS[0]},dev\n")
    (folder / "dev").mkdir()
    shutil.copy(paths[0], folder / "dev/0.png")
    return paths


def bundle() -> Bundle:
    """A model whose captions differ from photo to photo, and end."""
    torch.manual_seed(0)
    tokenizer = WordLevel(min_count=1).fit(CAPTIONS)
    eyes = GridEncoder("timm/test_efficientnet", weights="none", output_stride=16)
    tongue = ShowAttendTell(
        eyes.feature_dim,
        tokenizer.vocab_size,
        lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, 8),
        embed_dim=16,
        hidden_dim=16,
        normalise_features=True,
    )
    with torch.no_grad():
        for weight in {id(weight): weight for weight in tongue.parameters() if weight.dim() > 1}.values():
            weight.mul_(6)
        tongue.output.bias[tokenizer.eos_id] += 4
    return Bundle(CaptionModel(eyes, tongue).eval(), tokenizer, ImageTransform(64, "pad"), {"note": "a test"})


def write_regions(paths: list[Path], made_with: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    with RegionWriter("regions", made_with, "float32") as writer:
        for number, path in enumerate([*paths, Path("dev/0.png")]):
            corner = torch.rand(2 + number, 2, generator=generator) * 20
            extent = torch.rand(2 + number, 2, generator=generator) * 20
            features = torch.randn(2 + number, 8, generator=generator)
            scores = torch.rand(2 + number, generator=generator)
            key = path.name if path.parent.name != "dev" else "dev/0.png"
            writer.add(key, Regions(features, torch.cat((corner, corner + extent), 1), scores, (60, 40)))


def run(config: dict, weights: dict[str, torch.Tensor]) -> None:
    """Train to the end, and keep what a run that was cut off would have left."""
    name = config["run_dir"]
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    save, checkpoints = ExactResume._save, Path(name, "checkpoints")

    def save_and_keep(callback: ExactResume, trainer: pl.Trainer) -> None:
        save(callback, trainer)
        if trainer.global_step == KEPT_AT:
            shutil.copy(checkpoints / "last.ckpt", "kept.ckpt")

    ExactResume._save = save_and_keep
    try:
        assert train(["fit", "-c", f"{name}.yaml"]) == 0
    finally:
        ExactResume._save = save
    end = torch.load(checkpoints / "last.ckpt", weights_only=True)
    weights.update({f"{name}.{key}": value.contiguous() for key, value in end["state_dict"].items()})
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    torch.save(without_folder(torch.load("kept.ckpt", weights_only=True)), checkpoints / "last.ckpt")
    Path("kept.ckpt").unlink()
    Path(f"{name}.yaml").unlink()


def without_folder(value: object) -> object:
    """The same, with paths as they are seen from the folder that is filled."""
    if isinstance(value, dict):
        return type(value)({without_folder(key): without_folder(item) for key, item in value.items()})
    return value.replace(f"{os.getcwd()}/", "") if isinstance(value, str) else value


def class_paths() -> list[str]:
    """All paths, of modules and of packages that hand them on, that lead to a part that can be built."""
    found = set()
    for module in pkgutil.walk_packages(captioner.__path__, "captioner."):
        for name, value in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(value) and value.__module__.startswith("captioner.") and not name.startswith("_")
            if (
                own
                and not inspect.isabstract(value)
                and issubclass(value, PARTS)
                and (value.__module__ == module.name or hands_on(module.name, name))
            ):
                found.add(f"{module.name}.{name}")
    return sorted(found)


def hands_on(module: str, name: str) -> bool:
    return name in getattr(sys.modules[module], "__all__", ())


def main() -> None:
    """Fill the folder."""
    output = Path(sys.argv[1]).absolute()
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(output)
    paths = draw(Path("photos"))
    model = bundle()
    save_model(model, "model.safetensors", "float32")
    items = CaptionFolder("photos").read("train")
    encoder = model.model.encoder
    assert not build_cache("features", items, encoder, model.transform, Augmentation(), 2, num_workers=0)
    write_regions(paths, identity(encoder, model.transform))
    write_shards(items, "shards", "train")
    weights: dict[str, torch.Tensor] = {}
    run(PHOTOS_RUN, weights)
    run(DATES_RUN, weights)

    said = {}
    shown = Captioner(model, "cpu").caption(paths)
    region_model = load("photos_run/checkpoints/last.ckpt", "cpu", regions="regions")
    dates = importlib.import_module("captioner.data.dates").Dates(64, 4, 4).read("dev")
    told = {
        "model": shown,
        "photos_run": region_model.caption([str(path) for path in paths]),
        "dates_run": load("dates_run/checkpoints/last.ckpt", "cpu").caption([item.text for item in dates]),
    }
    for name, captions in told.items():
        said[name] = [{"text": caption.text, "log_prob": caption.log_prob} for caption in captions]
        weights |= {f"{name}.alpha.{i}": torch.from_numpy(one.maps.alpha) for i, one in enumerate(captions)}
    said["dates"] = [item.text for item in dates]
    Path("expected.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, "expected.safetensors")
    Path("class_paths.txt").write_text("\n".join([*class_paths(), ""]), encoding="utf-8")
    for leftover in (*Path().rglob("lock"), *Path().rglob("hparams.yaml")):
        leftover.unlink()


if __name__ == "__main__":
    main()
