"""What the searches share: reading a state's sizes, knowing when to stop, handing back results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from captioner.devices import fetched
from captioner.types import Found, State

MAX_SEQUENCES = 10_000
"""Beams, or samples, of an image: more are a slip, and would take all memory."""

STEPS_BEHIND = {"cuda": 2}
"""How many steps after it was asked for an answer is read, by the kind of device; at once where nothing is said."""

STEPS_BETWEEN_LOOKS = {"mps": 4, "xpu": 4}
"""Where an answer can only be waited for, by the kind of device; elsewhere every step has a look."""


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


class Lookout:
    """Tells a search when nothing is left to search for; a later step would change no result.

    A GPU that is asked must first finish all its work, and stands idle from then until it has been given more. Its
    answer is therefore fetched beside its work, and read some steps later, when it has long arrived and work for these
    steps is waiting: a search takes `STEPS_BEHIND` steps more than it needs, and none waits.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self.asked: deque[Callable[[], Tensor]] = deque()

    def sees_the_end(self, settled: Tensor) -> bool:
        """Have a look, once after each step.

        Args:
            settled: bool, any shape; True where nothing is left.
        """
        self.num_steps += 1
        kind = settled.device.type
        if self.num_steps % STEPS_BETWEEN_LOOKS.get(kind, 1):
            return False
        self.asked.append(fetched(settled.all()))
        return len(self.asked) > STEPS_BEHIND.get(kind, 0) and bool(self.asked.popleft()())


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
