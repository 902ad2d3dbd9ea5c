"""Measuring: sides interleaved round by round, medians, what was computed and what it cost in memory traffic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Side:
    """One way to do a case's work.

    Attributes:
        name: "textbook, eager fp32", say.
        run: does the work of a round, given the round's number.
        units: how many captions (images, ...) a round's work is.
        num_kinds: how many rounds differ in their work, before it repeats; 1 where all are alike.
        warm_ups: how many rounds go before those that count.
        counted: does a round's work uncompiled, for its arithmetic to be counted; None where nothing is to count.
        check: raises where the side does not do its work in the way that its name says, once it has warmed up.
        counted_share: how much of the work `counted` does.
        dtype: what its products are computed in, "float32" or "bfloat16".
        compiled: whether operations are fused, so that counting them one by one says nothing of memory traffic.
        set_aside: whether it works in memory that is set aside for it, so that a round's peak says nothing.
        optional: whether it may fail; it is left out then, with its reason told.
        most_rounds: how many rounds it takes part in; None is all of them.
    """

    name: str
    run: Callable[[int], Any]
    units: Callable[[int], int]
    num_kinds: int = 1
    warm_ups: int = 1
    counted: Callable[[int], Any] | None = None
    check: Callable[[], None] | None = None
    counted_share: float = 1.0
    dtype: str = "float32"
    compiled: bool = False
    set_aside: bool = False
    optional: bool = False
    most_rounds: int | None = None


@dataclass
class Timing:
    """What was measured of one side.

    Attributes:
        name: the side's.
        seconds: of each round.
        units: of each round.
        first_seconds: of the first warm-up round, compilation included.
        flops: of each round's products; none where nothing was counted.
        traffic: bytes that each round's operations read and write, each by itself; none for a compiled side.
        dtype: what products are computed in.
        peak_bytes: of a GPU's memory in a round, less what was in use before it; None on a CPU.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    first_seconds: float = 0.0
    flops: list[float] = field(default_factory=list)
    traffic: list[float] = field(default_factory=list)
    dtype: str = "float32"
    peak_bytes: int | None = None

    @property
    def rates(self) -> list[float]:
        """Units per second of each round."""
        return [units / seconds for units, seconds in zip(self.units, self.seconds, strict=True)]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that some work takes."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def interleave(
    sides: Sequence[Side],
    rounds: int,
    device: torch.device,
    say: Callable[[str], None],
    deadline: float = math.inf,
) -> list[tuple[Side, Timing]]:
    """Measure sides in turn, round by round, so that what else the machine does falls on all alike.

    Args:
        sides: the first is what the others are compared with.
        rounds: how many count.
        device: where they compute.
        say: is told what is going on.
        deadline: when to end, by `time.monotonic`: optional sides that have not begun are left out, and rounds but the
            first.

    Returns:
        The sides that were measured.
    """
    measured = []
    for side in sides:
        if side.optional and time.monotonic() > deadline:
            say(f"  {side.name}: left out, there is no time for it")
        elif (timing := _warm_up(side, device, say)) is not None:
            measured.append((side, timing))
    for number in range(rounds):
        if number and time.monotonic() > deadline:
            break
        measured = [(side, timing) for side, timing in measured if _goes_on(side, timing, number, device, say)]
        rates = ", ".join(f"{timing.rates[-1]:.3g}" for _, timing in measured)
        say(f"  round {number + 1} of {rounds}: {rates} per second")
    return measured


def count(measured: Sequence[tuple[Side, Timing]], deadline: float = math.inf) -> None:
    """Count the arithmetic and the traffic of the rounds, as far as there is time for it."""
    for side, timing in measured:
        if side.counted is not None and time.monotonic() < deadline:
            rounds = len(timing.seconds)
            kinds = [count_work(side.counted, number) for number in range(min(rounds, side.num_kinds))]
            work = [kinds[number % len(kinds)] for number in range(rounds)]
            timing.flops = [flops / side.counted_share for flops, _ in work]
            timing.traffic = [] if side.compiled else [traffic / side.counted_share for _, traffic in work]


def _goes_on(side: Side, timing: Timing, number: int, device: torch.device, say: Callable[[str], None]) -> bool:
    """Whether a side has done a round, or all that it has to; an optional one that fails is left out."""
    if side.most_rounds is not None and number >= side.most_rounds:
        return True
    with _leaving_out(side, say) as went_well:
        timing.seconds.append(timed(partial(side.run, number), device))
        timing.units.append(side.units(number))
    return went_well()


@contextmanager
def _leaving_out(side: Side, say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Has an optional side that fails told why; gives what tells whether it went well."""
    failed: list[Exception] = []
    try:
        yield lambda: not failed
    except Exception as error:
        if not side.optional:
            raise
        failed.append(error)
        reason = (str(error).splitlines() or [""])[0]
        say(f"  {side.name}: cannot run ({type(error).__name__}: {reason})")


def _warm_up(side: Side, device: torch.device, say: Callable[[str], None]) -> Timing | None:
    """A timing to be filled; None where an optional side cannot run."""
    with _leaving_out(side, say):
        first = timed(partial(side.run, 0), device)
        for number in range(1, side.warm_ups):
            side.run(number)
        if side.check is not None:
            side.check()
        peak = _peak_of(side, device) if device.type == "cuda" and not side.set_aside else None
        say(f"  {side.name}: ready, the first time took {first:.1f} s")
        return Timing(side.name, first_seconds=first, dtype=side.dtype, peak_bytes=peak)
    return None


def _peak_of(side: Side, device: torch.device) -> int:
    """Bytes of a GPU's memory that a round takes at its most, beside what is in use anyway."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    side.run(0)
    return torch.cuda.max_memory_allocated(device) - before


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write, as if each went to memory by itself; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.num_bytes += sum(_touched(tensor) for tensor in tensors)
        return result


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor; what it repeats by expansion is one."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return tensor.element_size() * math.prod(sizes)


def count_work(work: Callable[[int], Any], round_number: int) -> tuple[float, float]:
    """Floating-point operations of a round's products, and the bytes that its operations read and write."""
    with _Traffic() as traffic, FlopCounterMode(display=False) as counter:
        work(round_number)
    return float(counter.get_total_flops()), traffic.num_bytes
