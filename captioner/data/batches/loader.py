"""Loading batches in worker processes, from where a run was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from captioner.data.batches.examples import Place, Problem
from captioner.data.batches.order import EpochBatches
from captioner.types import Batch


class LoadError(ValueError):
    """An image, or a sentence, of a data set could not be loaded."""


class _PlaceBatches(Sampler):
    """The batches that come next, in the form that torch's loader asks for.

    The position is kept here and not in the loader: with a reference back to the loader, workers would be
    ended by the garbage collector, when it is too late to tell them.
    """

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches
        self.epoch = 0
        self.num_used = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        return iter([[(epoch, index) for index in batch] for batch in self.batches.of_epoch(epoch)[self.num_used :]])


class BatchLoader:
    """Loads batches, in worker processes, from the first to the last whenever it is iterated.

    It draws no global random numbers: how many are drawn would depend on when workers are started.

    Args:
        dataset: examples or problems by (epoch, index).
        batches: which images make which batch.
        collate: makes a `Batch` of a list of what the data set gives.
        num_workers: processes that load; they live as long as the loader. 0 loads in this process.
        pin_memory: whether batches come in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: EpochBatches,
        collate: Callable[[list[Any]], Batch | Problem],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.upcoming = _PlaceBatches(batches)
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.upcoming,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # of the seed that torch's loader draws for its workers
        )

    @property
    def _iterator(self) -> Any:
        """Where Lightning looks for workers to end with the training."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self.loader._iterator = iterator

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches.

        Raises:
            LoadError: an image cannot be loaded; the error names it.
        """
        for batch in self.loader:
            if isinstance(batch, Problem):
                raise LoadError(batch.message)
            yield batch


class ResumableLoader(BatchLoader):
    """A loader that moves from epoch to epoch, and can start in mid-epoch without loading what was used before.

    Its state is (epoch, number of batches given out in it); batches that workers have prepared but that were
    not given out do not count. After an epoch's last batch the state is the next epoch's beginning, and
    iterating again gives that epoch. An iterator reads the epoch when its first batch is asked for, so
    `set_epoch` and `load_state_dict` may come after `iter`.

    Its arguments are those of `BatchLoader`.
    """

    @property
    def sampler(self) -> ResumableLoader:
        """Where Lightning looks for `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[Batch]:
        """The batches that the epoch has left; see `BatchLoader`."""
        here = self.upcoming
        for batch in super().__iter__():
            here.num_used += 1
            if here.num_used == len(self):
                here.epoch, here.num_used = here.epoch + 1, 0
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens where it is the epoch that the loader is in."""
        if epoch != self.upcoming.epoch:
            self.upcoming.epoch, self.upcoming.num_used = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is."""
        return {
            "epoch": self.upcoming.epoch,
            "num_used": self.upcoming.num_used,
            "num_batches": len(self),
            "settings": self.batches.settings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader of the same data was.

        Raises:
            ValueError: in mid-epoch, when the epoch of this loader has other batches.
        """
        if state["num_used"] and state["num_batches"] != len(self):
            raise ValueError(
                f"cannot go on in mid-epoch: an epoch had {state['num_batches']} batches and has {len(self)} now; "
                "resume with the same data, batch size and number of processes, or start anew from the weights"
            )
        own = self.batches.settings
        changed = [name for name, value in state.get("settings", own).items() if own.get(name) != value]
        if state["num_used"] and changed:
            name = changed[0]
            raise ValueError(
                f"cannot go on in mid-epoch: data.{name} was {state['settings'][name]} and is {own.get(name)}; resume "
                "with the same settings, or start anew from the weights"
            )
        self.upcoming.epoch, self.upcoming.num_used = state["epoch"], state["num_used"]
