"""What captions are like, without references: their length, their words, how much of them is copied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from captioner.metrics.tokenizers import BuiltinTokenizer


def caption_statistics(
    captions: Mapping[Any, str] | Collection[str], training_captions: Iterable[str] | None = None
) -> dict[str, float | int | str | None]:
    """Length, vocabulary and novelty of captions, in words of the built-in tokenizer.

    Args:
        captions: captions, or captions by image; at least one.
        training_captions: the captions that the model was trained on.

    Returns:
        num_captions: how many there are.
        mean_length, min_length, max_length: words per caption, punctuation not counted.
        vocabulary_used: distinct words.
        distinct_captions: captions that differ in a word.
        seen_in_training: the share of captions, from 0 to 100, that are training captions word for word;
            None without training captions.
        tokenizer: the name of the tokenizer that made the words.

    Raises:
        ValueError: when there are no captions.
    """
    texts = list(captions.values() if isinstance(captions, Mapping) else captions)
    if not texts:
        raise ValueError("there are no captions to describe")
    tokenizer = BuiltinTokenizer()
    tokenized = tokenizer.tokenize(texts)
    lengths = [len(caption.split()) for caption in tokenized]
    seen = None
    if training_captions is not None:
        known = set(tokenizer.tokenize(list(training_captions)))
        seen = 100 * sum(caption in known for caption in tokenized) / len(tokenized)
    return {
        "num_captions": len(tokenized),
        "mean_length": sum(lengths) / len(lengths),
        "min_length": min(lengths),
        "max_length": max(lengths),
        "vocabulary_used": len({word for caption in tokenized for word in caption.split()}),
        "distinct_captions": len(set(tokenized)),
        "seen_in_training": seen,
        "tokenizer": tokenizer.name,
    }


def exact_match(references: Mapping[Any, Iterable[str]], captions: Mapping[Any, str]) -> float:
    """The share of captions, from 0 to 100, that are one of their references, character for character.

    Args:
        references: reference captions by image, spelt as captions are.
        captions: captions by image; at least one, each with its references.

    Raises:
        ValueError: when there are no captions.
    """
    if not captions:
        raise ValueError("there are no captions to compare")
    return 100 * sum(caption in set(references[key]) for key, caption in captions.items()) / len(captions)
