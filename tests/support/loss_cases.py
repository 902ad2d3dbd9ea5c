"""A decoder's answers, for losses."""

from __future__ import annotations

import torch

from captioner.types import TeacherForced

LENGTHS = torch.tensor([[5, 3, 1], [4, 2, 0], [2, 2, 2]])
NUM_WORDS, NUM_LOCATIONS, VOCAB_SIZE = 6, 7, 11


def told(logits, mask, alpha, locations):
    """What a decoder without extras says."""
    return TeacherForced(logits, mask, alpha, {}, locations, mask.flatten().nonzero()[:, 0])


def answer(lengths=LENGTHS, seed=0):
    """A decoder's answer, and the words it should have given; what is padding holds rubbish."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(NUM_WORDS) < lengths[..., None]
    logits = torch.randn(int(mask.sum()), VOCAB_SIZE, generator=generator, requires_grad=True)
    alpha = torch.randn(*mask.shape, NUM_LOCATIONS, generator=generator).softmax(-1) * mask[..., None]
    targets = torch.randint(VOCAB_SIZE, mask.shape, generator=generator)
    everywhere = torch.ones(len(lengths), NUM_LOCATIONS, dtype=torch.bool)
    return told(logits, mask, alpha.requires_grad_(), everywhere), targets


def hard_answer():
    """What a decoder with hard attention says: locations that were sampled."""
    output, targets = answer()
    drawn = output.alpha.detach().clamp_min(1e-9).log()[..., 0] * output.mask
    return output._replace(extras={"sample_log_prob": drawn, "entropy": -drawn}), targets
