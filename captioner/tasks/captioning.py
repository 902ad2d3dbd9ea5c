"""How a captioning model is trained and validated: the LightningModule."""

from __future__ import annotations

import copy
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from captioner.checkpoint import Bundle, describe, load_model
from captioner.data import ImageTransform
from captioner.data.text import TextTransform
from captioner.decoding import GreedySearch, Rules, Search
from captioner.losses import CaptionLoss, LossSums
from captioner.metrics import exact_match, quick_score
from captioner.models import CaptionModel, Decoder, Encoder
from captioner.tasks.schedules import Constant, Schedule
from captioner.tokenizer import Tokenizer
from captioner.types import Batch

COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
"""C++ compilers, one of which torch's compiler needs."""


class CaptioningTask(pl.LightningModule):
    """Teacher forcing in training; in validation, captions that the model decodes by itself, scored.

    The same for photos and for sentences (sequence to sequence): the encoder and the data are all that differs.

    Logged: `train/loss`, `train/nll` (per word), `train/doubly_stochastic` (per caption), whatever else the loss logs,
    `val/nll`, and of decoded captions `val/cider`, `val/bleu1` to `val/bleu4` (built-in tokenizer) and `val/exact`
    (how many are one of their references, word for word), all 0 to 100. All are of all processes together.

    Args:
        encoder: makes memories of images; or, as one of sentences needs the size of the data's source vocabulary,
            makes the encoder from that size.
        decoder: makes the decoder from (feature_dim, vocab_size).
        tokenizer: the data's vocabulary (the command line links it).
        transform: the data's transform of images or sentences (linked as well), kept with the model.
        loss: what is minimised; by default the paper's with the tutorials' scale, see `CaptionLoss`.
        optimizer: makes the optimiser from parameters; its learning rate is the decoder's.
        encoder_lr: the fine-tuned encoder's learning rate; the decoder's by default.
        schedule: how learning rates move; constant by default.
        search: of the validation; greedy by default.
        max_length: longest caption in validation, in words.
        init_from: a model file or a run's checkpoint whose weights to start from, such as those of a run with a frozen
            encoder when it is to be fine-tuned; its vocabulary must be the data's.
        compile: have torch compile what the decoder runs at every word, see `RecurrentDecoder.compile`; where there is
            no C++ compiler a warning says so, and nothing is compiled.

    Raises:
        ValueError: `init_from` holds another model or another vocabulary, or the encoder needs a source vocabulary
            and the data are photos.
    """

    def __init__(
        self,
        encoder: Encoder | Callable[[int], Encoder],
        decoder: Callable[[int, int], Decoder],
        tokenizer: Tokenizer,
        transform: ImageTransform | TextTransform,
        loss: CaptionLoss | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        encoder_lr: float | None = None,
        schedule: Schedule | None = None,
        search: Search | None = None,
        max_length: int = 30,
        init_from: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, Encoder):
            encoder = _built(encoder, transform)
        self.model = CaptionModel(encoder, decoder(encoder.feature_dim, tokenizer.vocab_size))
        if init_from is not None:
            self._start_from(init_from, tokenizer, transform)
        self.tokenizer = tokenizer
        self.transform = transform
        self.loss = loss or CaptionLoss()
        self.optimizer = optimizer
        self.encoder_lr = encoder_lr
        self.schedule = schedule or Constant()
        self.search = search or GreedySearch()
        self.compiles = compile
        self.rules = Rules(tokenizer.bos_id, tokenizer.eos_id, tokenizer.never, max_length=max_length)
        self.references: dict[int | str, tuple[str, ...]] = {}
        self.captions: dict[int | str, str] = {}
        self.likelihoods: dict[int | str, tuple[float, float]] = {}
        self.whole: LossSums | None = None  # all processes' batches since the last optimiser step

    def _start_from(self, path: str, tokenizer: Tokenizer, transform: ImageTransform | TextTransform) -> None:
        own_packages = {type(module).__module__.partition(".")[0] for module in self.model.modules()}
        start = load_model(path, trust=sorted(own_packages))
        if _vocabularies(start.tokenizer, start.transform) != _vocabularies(tokenizer, transform):
            raise ValueError(
                f"{path}: its vocabulary is not that of the data; train on the same captions, or from scratch"
            )
        try:
            self.model.load_state_dict(start.model.state_dict())
        except RuntimeError as error:
            first_of_many = " ".join(str(error).split("\n")[:2])
            raise ValueError(f"{path}: not the same model ({first_of_many})") from error

    def on_fit_start(self) -> None:
        """See that the model can be described, now rather than at the first checkpoint; compile the decoder."""
        describe(self.bundle())
        if self.compiles and not any(map(shutil.which, COMPILERS)):
            warnings.warn(f"nothing is compiled: no C++ compiler ({', '.join(COMPILERS)}) is installed", stacklevel=2)
        elif self.compiles:
            self.model.decoder.compile(dynamic=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's summed loss; `on_before_optimizer_step` divides the gradients by the global count."""
        sums = self.loss(self.model(batch.source, batch.tokens, batch.lengths), batch.tokens[..., 1:])
        vector = sums.vector()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(vector)  # not the trainer's `reduce`, for which the host waits
        whole = sums.from_vector(vector)
        self.whole = whole if self.whole is None else whole.from_vector(self.whole.vector() + vector)
        means = {
            "doubly_stochastic": whole.doubly_stochastic / whole.captions,
            "nll": whole.nll / whole.words,
            **{name: mean.value for name, mean in whole.logs.items()},
        }
        self.log("train/loss", whole.total / whole.count, prog_bar=True, batch_size=len(batch.tokens))
        self.log_dict({f"train/{name}": mean for name, mean in means.items()}, batch_size=len(batch.tokens))
        return sums.share_of(whole)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn gradients of sums into those of the mean over all processes and accumulated batches.

        Lightning has divided each batch's loss by the number of accumulated batches, and DDP has averaged over
        processes. Gradients are clipped after this.
        """
        assert self.whole is not None
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / self.whole.count
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self.loss.learn(self.whole)
        self.whole = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Per-word likelihood of the references, and the model's own captions."""
        memory = self.model.encode(batch.source)
        sums = self.loss(self.model.decoder(memory, batch.tokens, batch.lengths), batch.tokens[..., 1:])
        found = self.search(
            lambda tokens, state: self.model.decoder.step(tokens, state, memory),
            self.model.decoder.init_state(memory, 1),
            self.rules,
        )
        for item, hypotheses in zip(batch.items, found, strict=True):
            self.references[item.key] = item.captions
            self.captions[item.key] = self.tokenizer.decode(hypotheses[0].tokens)
        # By an item's key: where there are fewer items than processes, some see what another has, and it counts once.
        self.likelihoods[batch.items[0].key] = (sums.nll.item(), sums.words.item())

    def on_validation_epoch_end(self) -> None:
        """Score the captions of all processes together, each image once; all processes find the same."""
        shares = [(self.references, self.captions, self.likelihoods)]
        self.references, self.captions, self.likelihoods = {}, {}, {}
        if self.trainer.world_size > 1:
            mine, shares = shares[0], shares * self.trainer.world_size
            torch.distributed.all_gather_object(shares, mine)
        references = {key: value for share, _, _ in shares for key, value in share.items()}
        captions = {key: value for _, share, _ in shares for key, value in share.items()}
        likelihoods = {key: value for _, _, share in shares for key, value in share.items()}
        nll, words = map(sum, zip(*likelihoods.values(), strict=True))
        scores = quick_score(references, captions)
        spelt = {key: map(self.tokenizer.normalise, texts) for key, texts in references.items()}
        self.log("val/nll", nll / words, sync_dist=True)
        self.log("val/cider", scores.cider, prog_bar=True, sync_dist=True)
        for n, bleu in enumerate(scores.bleu, start=1):
            self.log(f"val/bleu{n}", bleu, prog_bar=n == 4, sync_dist=True)
        self.log("val/exact", exact_match(spelt, captions), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One group for the decoder and one for the part of the encoder that is fine-tuned."""
        if not math.isfinite(self.trainer.estimated_stepping_batches):
            raise ValueError("a schedule needs an end: set the trainer's max_epochs")
        groups: list[dict] = [{"params": list(self.model.decoder.parameters())}]
        fine_tuned = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        if fine_tuned:
            groups.append({"params": fine_tuned})
            if self.encoder_lr is not None:
                groups[-1]["lr"] = self.encoder_lr
        optimizer = self.optimizer(groups)
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = max(1, total_steps // max(1, self.trainer.max_epochs or 1))
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total_steps, steps_per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep, beside the weights, all that is needed to caption: see `checkpoint.py`."""
        checkpoint["captioner"] = describe(self.bundle())

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptioningTask:
        """A copy with weights of its own; it shares the optimiser's factory.

        One that was made from a config holds the parser, and through it the trainer with its processes and data.
        """
        memo[id(self.optimizer)] = self.optimizer
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def bundle(self) -> Bundle:
        """The model with what belongs to it."""
        return Bundle(self.model, self.tokenizer, self.transform)


def _built(make: Callable[..., Encoder], transform: ImageTransform | TextTransform) -> Encoder:
    """An encoder that is not built yet.

    It is one of sentences, or else one of photos whose making has failed: jsonargparse then takes it for a factory, and
    making it again says why.
    """
    if isinstance(transform, TextTransform):
        return make(transform.tokenizer.vocab_size)
    try:
        return make()
    except TypeError as error:
        raise ValueError(
            f"the encoder cannot be made from the config alone ({error}); if it is one of sentences, it needs data of "
            "text (data.class_path: captioner.data.text_datamodule.TextData), and these data are photos"
        ) from error


def _vocabularies(tokenizer: Tokenizer, transform: ImageTransform | TextTransform) -> list[str]:
    """All that makes words of ids, and ids of the words that are read, as texts to compare."""
    tokenizers = [tokenizer, transform.tokenizer] if isinstance(transform, TextTransform) else [tokenizer]
    return [each.to_json() for each in tokenizers]
