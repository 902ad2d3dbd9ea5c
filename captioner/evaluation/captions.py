"""A model on a data set's split: its own captions, their scores, and how well it expects the references."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioner.data.batches import BatchLoader, CaptionDataset, Collate, EncodedCaptions, OrderedBatches, move
from captioner.decoding import BeamSearch, Search
from captioner.losses import CaptionLoss
from captioner.metrics import CaptionTokenizer, attention_entropy, caption_statistics, exact_match, score
from captioner.metrics.meteor import meteor_command
from captioner.predictors import Captioner, Wording
from captioner.progress import progress_bar
from captioner.types import Item

LONGEST_REFERENCE = 100  # words; longer references count in the perplexity up to here


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        captions: the model's caption of each image, by image id.
        metrics: scores from 0 to 100 by their usual names, `perplexity` per word, and caption statistics.
        decoding_seconds: what the search took, over memories that were prepared.
    """

    captions: dict[int | str, str]
    metrics: dict[str, Any]
    decoding_seconds: float = field(compare=False)


def evaluate(
    captioner: Captioner,
    items: Sequence[Item],
    training_captions: Iterable[str] | None = None,
    search: Search | None = None,
    wording: Wording | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    tokenizer: CaptionTokenizer | None = None,
    require_meteor: bool = False,
    keep: Callable[[Mapping[int | str, str]], object] = lambda captions: None,
) -> Evaluation:
    """Caption every image (or sentence) once, by free-running search, and score the captions.

    Args:
        captioner: the model; it reads its feature cache where it has one.
        items: a split's items with their reference captions.
        training_captions: what the model was trained on, for the share of its captions that it has seen there.
        search: how to search, as for `Captioner.caption`.
        wording: what captions must obey, likewise.
        batch_size: images at a time.
        num_workers: processes that load images.
        tokenizer: as for `score`.
        require_meteor: likewise.
        keep: is called with the captions before they are scored, to write them down, say.

    Returns:
        The captions, and: BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr; `perplexity`, exp of the mean negative
        log-likelihood of the references' words (unknown words and end words counted as words); `exact`, how many
        captions are one of their references as the vocabulary spells these; `attention_entropy` of a reference's
        word in nats, see there, None where the model does not attend; `statistics` of the captions.

    Raises:
        ValueError: an image has no references, or cannot be read; or there are no images; or what comes out is not
            a finite number.
        JavaError: a tokenizer or METEOR that is asked for needs Java, and none starts.
    """
    if not items:
        raise ValueError("there are no images to evaluate")
    bare = [item.key for item in items if not any(map(captioner.tokenizer.encode, item.captions))]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(items)} images have no reference captions to score against: "
            f"{bare[:5]}; give them captions, or leave them out of the split"
        )
    if require_meteor:
        meteor_command()  # before any work
    loader = BatchLoader(
        CaptionDataset(items, EncodedCaptions(items, captioner.tokenizer, LONGEST_REFERENCE), captioner.source),
        OrderedBatches(len(items), batch_size),
        Collate(captioner.source),
        num_workers,
        pin_memory=captioner.device.type == "cuda",
    )
    model, vocabulary = captioner.model, captioner.tokenizer
    rules, search = (wording or Wording()).rules(vocabulary), search or BeamSearch()
    loss = CaptionLoss(doubly_stochastic=0.0).eval()
    captions: dict[int | str, str] = {}
    nll = words = seconds = entropy = 0.0
    attends = False
    with captioner.computing(), progress_bar("evaluating", len(items)) as bar:
        for batch in loader:
            batch = move(batch, captioner.device)
            memory = model.encode(batch.source)
            output = model.decoder(memory, batch.tokens, batch.lengths)
            likelihood = loss(output, batch.tokens[..., 1:]).logs["nll"]
            if not math.isfinite(likelihood.total.item()):
                raise ValueError(
                    f"the log-likelihood of these images' references is {-likelihood.total.item()}: "
                    f"{[item.key for item in batch.items]}; numbers in the model or in their features are not finite"
                )
            nll, words = nll + likelihood.total.item(), words + likelihood.number.item()
            if output.alpha is not None:
                attends = True
                entropy += attention_entropy(output.alpha, output.extras).sum().item()
            begin = time.perf_counter()
            found = search(*model.decoder.begin(memory), rules)
            seconds += time.perf_counter() - begin
            for item, hypotheses in zip(batch.items, found, strict=True):
                captions[item.key] = vocabulary.decode(hypotheses[0].tokens)
            bar.advance(len(batch.items))
    captions = {item.key: captions[item.key] for item in items}  # in the reader's order, not the batches'
    keep(captions)
    scores = score({item.key: item.captions for item in items}, captions, tokenizer, require_meteor)
    metrics = {
        **scores.to_dict(),
        "perplexity": _perplexity(nll / words),
        "exact": exact_match({item.key: map(vocabulary.normalise, item.captions) for item in items}, captions),
        "attention_entropy": entropy / words if attends else None,
        "statistics": caption_statistics(captions, training_captions),
    }
    return Evaluation(captions, metrics, seconds)


def _perplexity(nll: float) -> float | None:
    """Exp of a negative log-likelihood; None for one that no number holds."""
    try:
        return math.exp(nll)
    except OverflowError:
        warnings.warn(f"perplexity is left out: it is exp({nll:.1f}), more than a number can hold", stacklevel=3)
        return None
