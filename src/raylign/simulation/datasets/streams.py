"""Training data on the fly: cases without end, made on the device, nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.utils.data import IterableDataset, get_worker_info

from raylign.errors import InputError
from raylign.simulation.datasets.cases import SUBJECT, Batch, make_cases, stream_of
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.recipes import Recipe, read_recipe
from raylign.simulation.datasets.residents import Resident, reside

_AHEAD = 2  # subjects made before they are needed


@dataclass(frozen=True)
class StreamConfig:
    """How a stream is read; none of it changes what case n is.

    Parameters
    ----------
    batch: cases in a batch.
    device: where subjects reside and cases are made.
    part: of the subjects, by the recipe's split: "train", "validation" or "test"; None for all.
    first: number of the first case, to go on where a training was broken off.
    rank, world: of several processes, each takes every ``world``-th case, beginning at ``first + rank``.
    """

    batch: int = 32
    device: str | torch.device = "cpu"
    part: str | None = "train"
    first: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"{self.batch} cases", field="batch", remedy="give 1 or more")
        if self.first < 0:
            raise InputError(f"{self.first} is negative", field="first", remedy="give 0, 1, 2, ...")
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} of {self.world}", field="rank", remedy="count from 0")


class Stream(IterableDataset[Batch]):
    """An endless, reproducible sequence of labelled exposures; iterate over it.

    A window of ``recipe.resident`` subjects resides on the device. Case n shows one of the window at n, taken at random; after
    every ``recipe.cases_per_subject`` cases the window moves on by one subject, which a thread has made meanwhile. Which subjects
    that are follows from n alone, so that case n is the same whatever the batch size, the number of processes and the speed of
    the machine. (Arithmetic that torch orders by the size of a tensor may differ in its last bit.)

    It is an ``IterableDataset`` whose batches are made already: ``DataLoader(stream, batch_size=None)`` takes it, but no loader
    and no worker is needed; workers, where there are some, divide the cases among them.

    Parameters
    ----------
    recipe: or the path of one.
    config: how it is read.

    Raises
    ------
    InputError: something in the recipe that is not there, a part without subjects.
    """

    def __init__(self, recipe: Recipe | str | Path, config: StreamConfig | None = None) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        self.config = config or StreamConfig()
        self.plan = Plan(self.recipe)
        self.entries = self.plan.of_part(self.config.part)
        self.order = self.plan.order(len(self.entries))
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="raylign-subjects")
        self._residents: dict[int, Future[Resident]] = {}

    def subject(self, case: int) -> int:
        """Number, among ``entries``, of the subject that a case shows."""
        ahead = int(torch.randint(self.recipe.resident, (), generator=stream_of(self.plan, case, SUBJECT)))
        return self.order[case // self.recipe.cases_per_subject + ahead]

    def cases(self, numbers: list[int]) -> Batch:
        """Cases by their numbers, in any order."""
        chosen = [self.subject(n) for n in numbers]
        self._keep(min(numbers), max(numbers))
        return make_cases(self.plan, numbers, [self._resident(k) for k in chosen], self.config.device)

    def __iter__(self) -> Iterator[Batch]:
        config, worker = self.config, get_worker_info()
        rank, world = config.rank, config.world
        if worker is not None:  # of a loader: each takes its share
            rank, world = rank * worker.num_workers + worker.id, world * worker.num_workers
        for start in count(config.first + rank, config.batch * world):
            yield self.cases([start + world * i for i in range(config.batch)])

    def _keep(self, first: int, last: int) -> None:
        """Begin to make the subjects of the window from the first case to the last and beyond; let go of those before it."""
        each, size = self.recipe.cases_per_subject, self.recipe.resident
        places = range(first // each, last // each + size + _AHEAD)
        wanted = list(dict.fromkeys(self.order[place] for place in places))
        for number in set(self._residents) - set(wanted):
            self._residents.pop(number).cancel()
        for number in wanted:
            if number not in self._residents:
                self._residents[number] = self._maker.submit(reside, self.recipe, self.entries[number], self.config.device)

    def _resident(self, number: int) -> Resident:
        return self._residents[number].result()

    def settle(self) -> None:
        """Wait until the subjects that are being made ahead are there."""
        for resident in list(self._residents.values()):
            resident.result()

    def close(self) -> None:
        """Let go of the subjects and of the thread that makes them."""
        self._maker.shutdown(wait=False, cancel_futures=True)
        self._residents.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
