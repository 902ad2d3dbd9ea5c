"""Captions in, scores out: BLEU, METEOR, ROUGE-L, CIDEr, caption statistics, COCO's files; the entropy of attention."""

from captioner.metrics.attention import attention_entropy
from captioner.metrics.coco import read_references, read_results, write_results
from captioner.metrics.scores import Scores, find_tokenizer, quick_score, score
from captioner.metrics.statistics import caption_statistics, exact_match
from captioner.metrics.tokenizers import BuiltinTokenizer, CaptionTokenizer, PTBTokenizer

__all__ = [
    "BuiltinTokenizer",
    "CaptionTokenizer",
    "PTBTokenizer",
    "Scores",
    "attention_entropy",
    "caption_statistics",
    "exact_match",
    "find_tokenizer",
    "quick_score",
    "read_references",
    "read_results",
    "score",
    "write_results",
]
