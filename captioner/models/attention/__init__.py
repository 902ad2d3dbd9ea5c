"""Attention: a query looks at a memory and gets a weighted mean of its annotation vectors back.

Not every scorer is defined over every memory, nor with a sentinel. A pair that is not raises a ValueError, a memory in
`prepare`, a sentinel in `forward`; several are memories of more than one part:

    scorer                      grid    regions  words   several  sentinel
    AdditiveAttention           yes     yes      yes     yes      yes
    DotAttention                yes     yes      yes     yes      yes
    GeneralAttention            yes     yes      yes     yes      yes
    ConcatAttention             yes     yes      yes     yes      yes
    ScaledDotAttention          yes     yes      yes     yes      yes
    MultiHeadAttention          yes     yes      yes     yes      yes
    LocationAttention           yes     no       yes     no       no
    LocalMonotonicAttention     yes     no       yes     no       yes
    LocalPredictiveAttention    yes     no       yes     no       yes
    HardAttention               yes     yes      yes     yes      no

`two_dimensional` local attention is over a grid alone. A wrapper (the last three) also refuses what its scorer refuses;
what it cannot wrap its docstring says. `DotAttention` needs features and queries of one size.
"""

from captioner.models.attention.base import Attention, Focus
from captioner.models.attention.hard import HardAttention
from captioner.models.attention.local import LocalAttention, LocalMonotonicAttention, LocalPredictiveAttention
from captioner.models.attention.multi_head import MultiHeadAttention
from captioner.models.attention.normalisers import Entmax15, Normaliser, Softmax, Sparsemax
from captioner.models.attention.scorers import (
    AdditiveAttention,
    ConcatAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
    ScaledDotAttention,
)
from captioner.models.attention.wrapped import WrappedAttention

__all__ = [
    "AdditiveAttention",
    "Attention",
    "ConcatAttention",
    "DotAttention",
    "Entmax15",
    "Focus",
    "GeneralAttention",
    "HardAttention",
    "LocalAttention",
    "LocalMonotonicAttention",
    "LocalPredictiveAttention",
    "LocationAttention",
    "MultiHeadAttention",
    "Normaliser",
    "ScaledDotAttention",
    "Softmax",
    "Sparsemax",
    "WrappedAttention",
]
