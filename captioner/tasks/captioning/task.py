"""How a captioning model is trained and validated: the LightningModule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch.distributed
from torch.optim import Optimizer

from captioner.checkpoint import Bundle, load_model
from captioner.decoding import GreedySearch, Rules, Search
from captioner.losses import CaptionLoss, LossSums
from captioner.metrics import exact_match, quick_score
from captioner.models import CaptionModel, Decoder, Encoder
from captioner.specs import package_of
from captioner.tokenizer import Tokenizer
from captioner.training import Constant, NotFiniteError, Schedule, Task, named
from captioner.types import Batch, Memory, Transform
from captioner.types.limits import require_factors, require_sizes


class CaptioningTask(Task):
    """Teacher forcing in training; in validation, captions that the model decodes by itself, scored.

    The same for photos and for sentences (sequence to sequence): the encoder and the data are all that differs.

    Logged: `train/loss`, `train/nll` (per word), `train/doubly_stochastic` (per caption), whatever else the loss logs,
    `val/nll`, and of decoded captions `val/cider`, `val/bleu1` to `val/bleu4` (built-in tokenizer) and `val/exact`
    (how many are one of their references, word for word), all 0 to 100. All are of all processes together.

    Args:
        encoder: makes memories of images; or, as one of sentences needs the size of the data's source vocabulary,
            makes the encoder from that size.
        decoder: makes the decoder from (feature_dim, vocab_size), which no config knows; how a config writes one is in
            docs/architecture.md, "Arguments that make parts".
        tokenizer: the data's vocabulary (the command line links it).
        transform: the data's transform of images or sentences (linked as well), kept with the model.
        loss: what is minimised; by default the paper's with the tutorials' scale, see `CaptionLoss`.
        optimizer: makes the optimiser from parameter groups. Its learning rate is for new parameters, its weight decay
            for the matrices of layers alone, see `ParameterGroup`.
        encoder_lr: the learning rate of the encoder's pretrained parameters; that of the others by default.
        schedule: how learning rates move; constant by default.
        search: of the validation; greedy by default.
        max_length: longest caption in validation, in words.
        init_from: a model file or a run's checkpoint whose weights to start from, such as those of a run with a frozen
            encoder when it is to be fine-tuned; its vocabulary must be the data's.
        compile: have torch compile what the decoder runs at every word, see `RecurrentDecoder.compile`; where there is
            no C++ compiler a warning says so, and nothing is compiled.
        cuda_graphs: on a GPU, launch the decoder's loop over words as one, see `Decoder.use_cuda_graphs`.

    Raises:
        ValueError: `init_from` holds another model or another vocabulary, or the encoder needs a source vocabulary
            and the data are photos.
    """

    validates = ("val/nll", "val/cider", "val/bleu1", "val/bleu2", "val/bleu3", "val/bleu4", "val/exact")

    def __init__(
        self,
        encoder: Encoder | Callable[[int], Encoder],
        decoder: Callable[[int, int], Decoder],
        tokenizer: Tokenizer,
        transform: Transform,
        loss: CaptionLoss | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        encoder_lr: float | None = None,
        schedule: Schedule | None = None,
        search: Search | None = None,
        max_length: int = 30,
        init_from: str | None = None,
        compile: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        require_sizes(max_length=max_length)
        if encoder_lr is not None:
            require_factors(encoder_lr=encoder_lr)
        if not isinstance(encoder, Encoder):
            encoder = _built(encoder, transform)
        model = CaptionModel(encoder, decoder(encoder.feature_dim, tokenizer.vocab_size))
        if init_from is not None:
            _start_from(init_from, model, tokenizer, transform)
        super().__init__(
            model, loss or CaptionLoss(), optimizer, encoder_lr, schedule or Constant(), compile, cuda_graphs
        )
        self.tokenizer = tokenizer
        self.transform = transform
        self.search = search or GreedySearch()
        self.rules = Rules(tokenizer.bos_id, tokenizer.eos_id, tokenizer.never, max_length=max_length)
        self.references: dict[int | str, tuple[str, ...]] = {}
        self.captions: dict[int | str, str] = {}
        self.likelihoods: dict[int | str, tuple[float, float]] = {}

    def add_up(self, batch: Batch) -> LossSums:
        """See `Task.add_up`: teacher forcing."""
        return self.sums(self.model.encode(batch.source), batch)

    def sums(self, memory: Memory, batch: Batch) -> LossSums:
        """The loss of a batch whose memory is prepared."""
        output = self.model.decoder(memory, batch.tokens, batch.lengths)
        return self.loss(output, batch.tokens[..., 1:], batch.references)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Per-word likelihood of the references, and the model's own captions."""
        memory = self.model.encode(batch.source)
        nll = self.sums(memory, batch).logs["nll"]
        if not math.isfinite(total := nll.total.item()):
            where = f"in validation, with {named(batch.items)}"
            raise NotFiniteError(f"the likelihood of references is not finite (infinite or NaN) {where}")
        found = self.search(*self.model.decoder.begin(memory), self.rules)
        for item, hypotheses in zip(batch.items, found, strict=True):
            self.references[item.key] = item.captions
            self.captions[item.key] = self.tokenizer.decode(hypotheses[0].tokens)
        # By an item's key: where there are fewer items than processes, some see what another has, and it counts once.
        self.likelihoods[batch.items[0].key] = (total, nll.number.item())

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

    def bundle(self) -> Bundle:
        """The model with what belongs to it."""
        return Bundle(self.model, self.tokenizer, self.transform)


def _start_from(path: str, model: CaptionModel, tokenizer: Tokenizer, transform: Transform) -> None:
    """Load the weights of another run; see `CaptioningTask`."""
    own_packages = set(map(package_of, model.modules()))
    start = load_model(path, trust=sorted(own_packages))
    if _vocabularies(start.tokenizer, start.transform) != _vocabularies(tokenizer, transform):
        raise ValueError(f"{path}: its vocabulary is not that of the data; train on the same captions, or from scratch")
    try:
        model.load_state_dict(start.model.state_dict())
    except RuntimeError as error:
        first_of_many = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"{path}: not the same model ({first_of_many})") from error


def _built(make: Callable[..., Encoder], transform: Transform) -> Encoder:
    """An encoder that is not built yet.

    It is one of sentences, or else one of photos whose making has failed: jsonargparse then takes it for a factory, and
    making it again says why.
    """
    if transform.encoder_sizes:
        return make(*transform.encoder_sizes)
    try:
        return make()
    except TypeError as error:
        raise ValueError(
            f"the encoder cannot be made from the config alone ({error}); if it is one of sentences, it needs data of "
            "text (data.class_path: captioner.tasks.captioning.TextData), and these data are photos"
        ) from error


def _vocabularies(tokenizer: Tokenizer, transform: Transform) -> list[str]:
    """All that makes words of ids, and ids of what is read, as texts to compare."""
    return [tokenizer.to_json(), *transform.vocabularies]
