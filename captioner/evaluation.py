"""A model on a data set's split: its own captions, their scores, and how well it expects the references."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from captioner.data.batches import (
    BatchLoader,
    CaptionDataset,
    Collate,
    EncodedCaptions,
    ImageFiles,
    OrderedBatches,
    Source,
    move,
)
from captioner.data.feature_cache import CachedFeatures
from captioner.decoding import Rules, beam_search
from captioner.losses import CaptionLoss
from captioner.metrics import caption_statistics, score
from captioner.predictor import LENGTH_PENALTY, Captioner
from captioner.progress import progress_bar
from captioner.types import CaptionedImage

LONGEST_REFERENCE = 100  # words; longer references count in the perplexity up to here


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        captions: the model's caption of each image, by image id.
        metrics: scores from 0 to 100 by their usual names, `perplexity` per word, and caption statistics.
    """

    captions: dict[int | str, str]
    metrics: dict[str, Any]


def evaluate(
    captioner: Captioner,
    items: Sequence[CaptionedImage],
    training_captions: Iterable[str] | None = None,
    beam_size: int = 5,
    length_penalty: float = LENGTH_PENALTY,
    batch_size: int = 16,
    num_workers: int = 2,
) -> Evaluation:
    """Caption every image once, by free-running search, and score the captions.

    Args:
        captioner: the model; it reads its feature cache where it has one.
        items: the images of a split with their reference captions.
        training_captions: what the model was trained on, for the share of its captions that it has seen there.
        beam_size: prefixes that the search keeps.
        length_penalty: of the search, see `beam_search`.
        batch_size: images at a time.
        num_workers: processes that load images.

    Returns:
        The captions, and: BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr; `perplexity`, exp of the mean negative
        log-likelihood of the references' words (unknown words and end words counted as words);
        `statistics` of the captions.

    Raises:
        ValueError: an image has no references, or cannot be read; or there are no images.
    """
    bare = [item.image_id for item in items if not any(map(captioner.tokenizer.encode, item.captions))]
    if bare or not items:
        raise ValueError(f"{len(bare)} of {len(items)} images have no reference captions to score against: {bare[:5]}")
    source: Source = ImageFiles(captioner.transform) if captioner.cache is None else CachedFeatures(captioner.cache)
    loader = BatchLoader(
        CaptionDataset(items, EncodedCaptions(items, captioner.tokenizer, LONGEST_REFERENCE), source),
        OrderedBatches(len(items), batch_size),
        Collate(source),
        num_workers,
        pin_memory=captioner.device.type == "cuda",
    )
    model, special = captioner.model, captioner.tokenizer
    rules = Rules(special.bos_id, special.eos_id, special.never)
    loss = CaptionLoss(doubly_stochastic=0.0)
    captions: dict[int | str, str] = {}
    nll = words = 0.0
    with torch.inference_mode(), progress_bar("evaluating", len(items)) as bar:
        for batch in loader:
            batch = move(batch, captioner.device)
            memory = model.encode(batch.source)
            sums = loss(model.decoder(memory, batch.tokens, batch.lengths), batch.tokens[..., 1:])
            nll, words = nll + sums.nll.item(), words + sums.words.item()
            found = beam_search(
                lambda tokens, state: model.decoder.step(tokens, state, memory),  # noqa: B023 (used at once)
                model.decoder.init_state(memory, 1),
                rules,
                beam_size=beam_size,
                length_penalty=length_penalty,
            )
            for item, hypotheses in zip(batch.items, found, strict=True):
                captions[item.image_id] = special.decode(hypotheses[0].tokens)
            bar.advance(len(batch.items))
    captions = {item.image_id: captions[item.image_id] for item in items}  # in the reader's order, not the batches'
    scores = score({item.image_id: item.captions for item in items}, captions)
    metrics = {
        **scores.to_dict(),
        "perplexity": math.exp(nll / words),
        "statistics": caption_statistics(captions, training_captions),
    }
    return Evaluation(captions, metrics)
