"""What a short training is made of: photos, an encoder that is trained whole, a new decoder, a quiet trainer."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.pack import unpack
from captioner.checkpoint import load_model
from captioner.data.images import Augmentation, ImageTransform, open_image
from captioner.data.readers import Reader, SyntheticShapes
from captioner.devices import find_device
from captioner.losses import CaptionLoss
from captioner.models import AdditiveAttention, Decoder, GridEncoder, ShowAttendTell
from captioner.specs import build_part, describe_part, weightless
from captioner.tasks.captioning import CaptionData, CaptioningTask
from captioner.tokenizer import WordLevel
from captioner.training import AtomicCheckpointIO, Schedule, Trainer, WarmupCosine

MAX_WORKERS = 15
CLIP = 5.0
NOISE = (  # what Lightning says of every such training
    "does not have many workers",
    "number of training batches",
    r"module\(s\) in eval mode",
    "GPU available but not used",
    "Checkpoint directory",
    "`weights_only` was not set",
    "LeafSpec",
    "resuming from a checkpoint that ended before the epoch",
)


@dataclass(frozen=True)
class Settings:
    """What a training is made of; what is not here is as in configs/flickr8k_finetune.yaml.

    Attributes:
        network: the encoder's CNN, with random weights; None for the encoder of a model.
        hidden_dim: H, and the size of word vectors, of attention and of what features are projected to.
        batch_size: photos of a batch.
        min_count: words that are seen less often are unknown.
        lr: the decoder's learning rate.
        encoder_lr: the encoder's, unless its weights are random.
        num_workers: processes that load photos.
        seed: of everything.
    """

    network: str | None = None
    hidden_dim: int = 512
    batch_size: int = 64
    min_count: int = 5
    lr: float = 1e-3
    encoder_lr: float = 2e-4
    num_workers: int = max(0, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))
    seed: int = 0


QUICK = Settings("timm/test_efficientnet", hidden_dim=32, batch_size=8, min_count=1, lr=5e-3, num_workers=0)
"""To rehearse with."""


class ShortWarmup(Schedule):
    """`WarmupCosine`, which rises for a tenth of the training, or for 200 steps if that is less."""

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See `Schedule.factor`."""
        return WarmupCosine(min(200, max(1, total_steps // 10))).factor(step, total_steps, steps_per_epoch)


class ShortTask(CaptioningTask):
    """The task; where the library of the scores is missing, its validation does without them."""

    def on_validation_epoch_end(self) -> None:
        """Log `val/nll`, and the scores if they can be had."""
        if can_score():
            super().on_validation_epoch_end()
            return
        nll, words = map(sum, zip(*self.likelihoods.values(), strict=True))
        self.log("val/nll", nll / words)
        self.references, self.captions, self.likelihoods = {}, {}, {}


def can_score() -> bool:
    """Whether BLEU and CIDEr can be computed here."""
    try:
        importlib.import_module("pycocoevalcap.bleu.bleu")
        importlib.import_module("pycocoevalcap.cider.cider")
    except ImportError:
        return False
    return True


def make_data(photos: Path | None, folder: Path, settings: Settings) -> CaptionData:
    """The photos of a zip, at the size that they have there; or drawn shapes."""
    reader: Reader = SyntheticShapes(str(folder / "shapes"), num_train=64, num_dev=16)
    if photos is not None:
        reader = unpack(photos, folder / "photos")
    return CaptionData(
        reader,
        ImageTransform(open_image(reader.read("train")[0].path).width, "squash"),
        WordLevel(settings.min_count),
        Augmentation(scale=(0.7, 1.0), saturation=0.0),
        batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        seed=settings.seed,
    )


def make_encoder(model: Path | None, settings: Settings) -> GridEncoder:
    """The encoder of a model file, or one with random weights; all of it is to be trained."""
    if model is None:
        assert settings.network is not None
        return freed(GridEncoder(settings.network, weights="none"), "none")
    given = load_model(model).model.encoder
    if not isinstance(given, GridEncoder):
        raise ValueError(f"{model}: its encoder is a {type(given).__name__}; choose a model with a GridEncoder")
    return freed(given, model.name if given.weights == "none" else given.weights)


def freed(given: GridEncoder, weights: str) -> GridEncoder:
    """The same encoder with the same weights, of which all are trained.

    Args:
        given: the encoder.
        weights: where they are from, as the new one says it: "none" if they are random.
    """
    (network,) = given.network.children()
    first, _ = next(network.named_parameters())
    spec = describe_part(given)
    spec["args"]["trainable_from"] = first.rpartition(".")[0]
    encoder: GridEncoder = build_part(weightless(spec), GridEncoder)
    encoder.load_state_dict(given.state_dict())
    encoder.weights = weights
    return encoder


def make_task(
    data: CaptionData, encoder: GridEncoder, settings: Settings, compile: bool, cuda_graphs: bool | None
) -> ShortTask:
    """The encoder with a new decoder, and how they are trained."""
    size = settings.hidden_dim

    def decoder(feature_dim: int, vocab_size: int) -> Decoder:
        return ShowAttendTell(
            feature_dim,
            vocab_size,
            lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, size),
            embed_dim=size,
            hidden_dim=size,
            gate="vector",
            tie_embeddings=True,
            dropout=0.5,
            normalise_features=True,
            project_dim=size,
        )

    def optimizer(groups: Iterable) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)

    options: dict[str, Any] = {} if cuda_graphs is None else {"cuda_graphs": cuda_graphs}
    return ShortTask(
        encoder,
        decoder,
        data.tokenizer,
        data.transform,
        loss=CaptionLoss(doubly_stochastic=1.0, scale="mean", label_smoothing=0.1),
        optimizer=optimizer,
        encoder_lr=settings.encoder_lr if list(encoder.pretrained()) else None,
        schedule=ShortWarmup(),
        compile=compile,
        **options,
    )


def make_trainer(device: torch.device, folder: Path, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    """A quiet trainer, in bf16 where the device has it."""
    return Trainer(
        default_root_dir=folder,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="auto",
        gradient_clip_val=CLIP,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU if there is one that trainings run on."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return find_device(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's messages, for as long as this lasts."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({'|'.join(NOISE)})")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
