"""Methods that cost nothing, as a user would bring methods of their own: MODULE:FACTORY, called with (search, seed)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raylign.geometry import Rigid, se3
from raylign.registration import Confidence, Problem, Result, SearchConfig
from raylign.simulation.seeds import generator


@dataclass(frozen=True)
class Guess:
    """Moves the start by a few mm that depend on the seed; ``before`` may do what it likes first."""

    seed: int
    before: Callable[[Problem], None] = lambda problem: None

    def register(self, problem: Problem) -> Result:
        self.before(problem)
        draw = torch.randn(7, generator=generator(self.seed, 0), dtype=torch.float64)
        matrix = se3.exp(torch.cat([0.01 * draw[:3], 2 * draw[3:6]])) @ problem.start.matrix
        sure = float(torch.sigmoid(draw[6]))
        centre = torch.zeros(3, dtype=torch.float64)
        confidence = Confidence(sure, sure > 0.5)
        return Result(Rigid(matrix), problem.start, torch.eye(6, dtype=torch.float64), centre, 0.5, confidence, method="guess")


def guess(search: SearchConfig, seed: int) -> Guess:
    return Guess(seed)


def slow(search: SearchConfig, seed: int) -> Guess:
    return Guess(seed, lambda problem: time.sleep(0.4))


def crashing(search: SearchConfig, seed: int) -> Guess:
    """Breaks off on one exposure, with more than one line."""
    return Guess(seed, _crash)


def _crash(problem: Problem) -> None:
    if problem.xrays[0].name.startswith("c2"):
        raise ValueError("no pose\nwas found")


def deadly(search: SearchConfig, seed: int) -> Guess:
    """Takes its process with it: on one exposure always, on another the first time."""
    return Guess(seed, _kill)


def _kill(problem: Problem) -> None:
    name = problem.xrays[0].name
    if name.startswith("c1"):
        first = Path(os.environ["RAYLIGN_TEST_FIRST"])
        if first.exists():
            return
        first.touch()
    if name.startswith(("c1", "c3")):
        os.kill(os.getpid(), signal.SIGKILL)


def wild(search: SearchConfig, seed: int) -> Guess:
    return Wild(seed)


class Wild(Guess):
    """Says something that is no pose."""

    def register(self, problem: Problem) -> Result:
        return None  # type: ignore[return-value]


def hollow(search: SearchConfig, seed: int) -> Guess:
    return Hollow(seed)


class Hollow(Guess):
    """A pose and nothing else."""

    def register(self, problem: Problem) -> Result:
        return replace(super().register(problem), confidence=None)  # type: ignore[arg-type]


def hungry(search: SearchConfig, seed: int) -> Guess:
    return Guess(seed, _eat)


def _eat(problem: Problem) -> None:
    raise MemoryError("too much was asked for")


NOT_A_FUNCTION = 3
