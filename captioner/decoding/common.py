"""What the searches share: reading a state's sizes, knowing when to stop, handing back results."""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.types import Found, State

STEPS_BETWEEN_LOOKS = 4


def state_sizes(state: State) -> tuple[int, int, torch.device]:
    """Images B and sequences K of a state, whose tensors are all (B, K, ...), and their device."""
    if not state:
        raise ValueError("the state is empty: a search reads from its (B, K, ...) tensors how many images it has")
    tensor = next(iter(state.values()))
    return tensor.shape[0], tensor.shape[1], tensor.device


def start_sizes(state: State) -> tuple[int, torch.device]:
    """Images B of a state to start a search from, (B, 1, ...), and its device."""
    num_images, num_sequences, device = state_sizes(state)
    if num_sequences != 1:
        raise ValueError(f"a search starts from one sequence per image, the state has {num_sequences}")
    return num_images, device


def all_settled(settled: Tensor, num_steps: int) -> bool:
    """Whether nothing is left to search for; a later step would change no result.

    On an accelerator to look is to wait for it, so there only every few steps has a look.

    Args:
        settled: bool, any shape.
        num_steps: steps taken so far.
    """
    if settled.device.type != "cpu" and num_steps % STEPS_BETWEEN_LOOKS:
        return False
    return bool(settled.all())


def best_distinct(found: Found, num_best: int) -> Found:
    """The best `num_best` captions of different words: finished ones before unfinished ones, then by score."""
    missing = found.log_probs == -torch.inf
    rank = missing.int() * 2 + (~found.finished & ~missing).int()  # 0 finished, 1 unfinished, 2 none
    order = found.scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, rank.gather(1, order).argsort(dim=1, stable=True))
    found = chosen(found, order)
    same = found.lengths[:, :, None] == found.lengths[:, None]  # (B, N, N)
    for word in found.words.unbind(dim=-1):
        same &= word[:, :, None] == word[:, None]
    again = same.tril(diagonal=-1).any(dim=-1)  # the same as a better one
    found = found._replace(log_probs=found.log_probs.masked_fill(again, -torch.inf))
    first = (found.log_probs == -torch.inf).int().argsort(dim=1, stable=True)[:, :num_best]
    return chosen(found, first)


def chosen(found: Found, order: Tensor) -> Found:
    """Captions of each image in another order (B, N')."""
    return Found(*(tensor[torch.arange(len(order), device=order.device)[:, None], order] for tensor in found))
