"""What training minimises: likelihood, the doubly stochastic term, hard attention's rewards.

All are named sums together with the numbers they are to be divided by (`sums.py`), so that gradient accumulation and
several processes can divide by the global numbers, not by a mean of means; `docs/training.md` has an example.
"""

from captioner.losses.hard_attention import HardAttentionLoss
from captioner.losses.likelihood import SCALES, CaptionLoss, doubly_stochastic_term
from captioner.losses.sums import LossSums, Mean

__all__ = ["SCALES", "CaptionLoss", "HardAttentionLoss", "LossSums", "Mean", "doubly_stochastic_term"]
