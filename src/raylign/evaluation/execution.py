"""The work of an evaluation, cut into jobs, and done in this process. ``local`` and ``cluster`` do it in others.

A job is a case, or a few of one subject. It is sent as text: protocol, seed, where the data are, and which methods each case
still lacks. Whoever does it makes the cases anew, which depends on nothing else, and hands back records.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.errors import InputError
from raylign.evaluation import provenance
from raylign.evaluation.record import NOT_MADE, WORKER_DIED, Record, Records, one_line

if TYPE_CHECKING:
    from raylign.evaluation.cases import Case
    from raylign.evaluation.protocol import Protocol

SOURCE = "source"
"""Among versions: a digest of the package's source."""

RETRIES = 2
"""How often a case is tried again that a worker died of."""

TOGETHER = 4
"""Cases of one subject that a worker of a cluster gets at a time, so that its volumes are made once for them."""


@dataclass(frozen=True)
class Work:
    """What all jobs of a run have in common.

    Parameters
    ----------
    protocol: as JSON. seed: the run's. data: the folder, where there is one. versions: of the packages that results depend on.
    """

    protocol: str
    seed: int
    data: str | None
    versions: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """To be sent."""
        return json.dumps([self.protocol, self.seed, self.data, [list(v) for v in self.versions]])

    @classmethod
    def of_text(cls, text: str) -> Work:
        """From what was sent."""
        protocol, seed, data, with_versions = json.loads(text)
        return cls(protocol, seed, data, tuple((name, version) for name, version in with_versions))


@dataclass(frozen=True)
class Job:
    """Cases by index, for each the methods that it still lacks, in their order; and whose they are, where that is known."""

    cases: tuple[tuple[int, tuple[str, ...]], ...]
    subject: str = ""

    def __len__(self) -> int:
        return sum(len(methods) for _, methods in self.cases)

    def __contains__(self, at: object) -> bool:
        """Whether a case ("" for its method), or a method on it, is among them."""
        return any(at == (index, method) for index, methods in self.cases for method in ("", *methods))

    def without(self, done: set[tuple[int, str]]) -> Job:
        """What is left of it."""
        left = ((index, tuple(m for m in methods if (index, m) not in done)) for index, methods in self.cases)
        return Job(tuple((index, methods) for index, methods in left if methods), self.subject)

    def apart(self) -> list[Job]:
        """A job for every method on every case."""
        return [Job(((index, (method,)),), self.subject) for index, methods in self.cases for method in methods]

    def text(self) -> str:
        """To be sent."""
        return json.dumps([[index, list(methods)] for index, methods in self.cases])

    @classmethod
    def of_text(cls, text: str) -> Job:
        """From what was sent."""
        return cls(tuple((index, tuple(methods)) for index, methods in json.loads(text)))


def jobs(lacking: Sequence[tuple[int, tuple[str, ...]]], subject: Callable[[int], str], most: int = 1) -> list[Job]:
    """Cases in their order, up to ``most`` neighbours of one subject to a job."""
    found: list[Job] = []
    for entry in lacking:
        whose = subject(entry[0])
        if found and whose and whose == found[-1].subject and len(found[-1].cases) < most:
            found[-1] = Job((*found[-1].cases, entry), whose)
        else:
            found.append(Job((entry,), whose))
    return found


At = Callable[[int, str, "Record | None"], None]
"""Told before each step of a job: the case, the method ("" while the case is being made), and what is known of its start."""


def perform(work: Work, job: Job, at: At | None = None) -> Records:
    """The records of a job, one after the other. A case that cannot be made is a record too, one for each method."""
    from raylign.evaluation.attempt import attempt, begun

    protocol, say = known(work.protocol), at or (lambda case, method, known: None)
    # a method of one's own may need none of our kernels
    warm = warm_once() if any(":" not in method for _, methods in job.cases for method in methods) else {}
    for index, methods in job.cases:
        say(index, "", None)
        since = time.perf_counter()
        try:
            case = made(protocol, index, work)
        except Exception as error:
            yield from failed(work, index, methods, f"{NOT_MADE}: {one_line(error)}")
            continue
        bounds = bounds_of(case)
        spent = time.perf_counter() - since
        for method in methods:
            say(index, method, begun(case, method, work.seed))
            record = attempt(case, method, work.seed)
            yield replace(record, seconds={"make": spent, **record.seconds, **warm}, **bounds)
            spent, warm = 0.0, {}  # once


_warmed = False


def warm_once() -> dict[str, float]:
    """Load or compile the kernels, the first time in a process: what it took, for the first record."""
    global _warmed
    if _warmed:
        return {}
    from raylign.evaluation.warm import warm_kernels

    _warmed = True
    return {"warm": warm_kernels()}


@lru_cache(maxsize=4)
def known(text: str) -> Protocol:
    """The protocol of a text; the last few are kept."""
    from raylign.evaluation.protocol import Protocol

    return Protocol.model_validate_json(text)


def made(protocol: Protocol, index: int, work: Work) -> Case:
    """A case of the run."""
    from raylign.evaluation.cases import make_case

    return make_case(protocol, index, work.seed, None if work.data is None else Path(work.data))


def bounds_of(case: Case) -> dict[str, Any]:
    """What quantum noise alone leaves, for the record, where the exposures tell how many photons they counted."""
    from raylign.evaluation import bounds

    try:
        return dict(bounds.bounds_of(case) or {})
    except Exception as error:  # a case is registered whether or not its limit is known
        return {"bound_failure": one_line(error)}


def failed(work: Work, index: int, methods: Sequence[str], failure: str) -> Iterator[Record]:
    """Records of a case on which nothing could be registered."""
    name, subject, arm = called(work, index)
    for method in methods:
        yield Record(index, name, subject, arm, method, work.seed, failure=failure)


def died(work: Work, index: int, methods: Sequence[str], how: str, known: Record | None = None) -> Iterator[Record]:
    """Records of a case that workers died of; with its name and start, where one lived to tell them."""
    for record in failed(work, index, methods, f"{WORKER_DIED}{f': {how}' if how else ''}"):
        yield record if known is None else replace(known, method=record.method, failure=record.failure)


def loadable(methods: Iterable[str]) -> None:
    """See that this process has every method: that it has not is a fault of the machine, and no failure of the method.

    Raises
    ------
    InputError: one cannot be loaded.
    """
    from raylign.evaluation.attempt import check_method

    for method in methods:
        check_method(method)


def called(work: Work, index: int) -> tuple[str, str, str]:
    """Name, subject and arm of a case, without making it; the subject is empty where the data no longer tell."""
    from raylign.evaluation.cases import subject_of

    protocol = known(work.protocol)
    subject = ""
    with suppress(InputError):  # the data may have gone since
        subject = subject_of(protocol, index, work.seed, None if work.data is None else Path(work.data))
    return f"case {index}", subject, protocol.arms[index % len(protocol.arms)].name


def inline(work: Work, todo: Sequence[Job]) -> Records:
    """Everything in this process, one after the other."""
    with one_torch_thread():
        for job in todo:
            yield from perform(work, job)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Sums in torch may depend on how they are divided among threads: everywhere an evaluation runs there is one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(threads: int) -> dict[str, str]:
    """This process's environment, for a worker of so many threads that finds the same raylign."""
    place = str(Path(__file__).resolve().parents[2])
    paths = [place, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAYLIGN_THREADS": str(threads), "OMP_NUM_THREADS": "1"}


def ours() -> tuple[tuple[str, str], ...]:
    """Versions that results depend on, and what the package's own source comes down to."""
    return (*sorted(provenance.versions().items()), (SOURCE, provenance.source()))
