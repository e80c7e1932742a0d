"""What is measured, and what comes of it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from raylign.bench.scene import RENDERERS
from raylign.bench.settings import Setting, described

OURS = RENDERERS[0]
PEERS = RENDERERS[1:]
WHATS = ("forward", "forward+pose", "forward+volume", "double-backward")
COSTS = {"forward": 1.0, "forward+pose": 2.0, "forward+volume": 2.5, "double-backward": 10.0}
"""Calls forward that one is taken to cost until one has been measured."""

_BURST = 0.1  # seconds of one turn
_ENOUGH, _MOST = 1.5, 20  # seconds, and calls, after which a row has been measured well enough
_LONG = 0.3  # of the seconds of a row: a second timed call is made if it ends before


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    sizes, batches, whats: every combination is a case.
    peers: renderers beside raylign.
    voxels: along an edge of the volume.
    error: relative RMS error that a setting must reach; that of RTK's Joseph projector on the same volume where none is given.
    model: raylign's interpolation model; the cheapest that reaches the error where none is given.
    seconds: a row of which one call takes longer is left out; where it takes a third of that, the first call is the one timed.
    device: "cpu" or "cuda"; RTK and plastimatch stay on the CPU.
    peer_python: interpreter of the environment in which nanodrr and DiffDRR are installed.
    """

    sizes: tuple[int, ...] = (128, 200, 512, 1024)
    batches: tuple[int, ...] = (1, 8, 64)
    whats: tuple[str, ...] = WHATS
    peers: tuple[str, ...] = PEERS
    voxels: int = 256
    error: float | None = None
    model: str | None = None
    seconds: float = 12.0
    device: str = "cpu"
    peer_python: str | None = None

    @property
    def search_size(self) -> int:
        """The size at which settings are chosen: small, because fine settings are tried too."""
        return min(128, *self.sizes)


@dataclass
class Outcome:
    """Rows, what was left out and why, and what else there is to know."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    reference: dict[int, float] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    series: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to do at one size and batch."""

    what: str
    batch: int
    size: int

    @property
    def rays(self) -> int:
        return self.batch * self.size**2

    def __str__(self) -> str:
        return f"{self.what}, batch {self.batch}, {self.size} x {self.size}"


@dataclass
class Entry:
    """A renderer's measurements of one case."""

    setting: Setting
    first_ms: float
    errors: list[float]
    seconds: float
    ms: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    compiles: bool = False  # a first call at any size may hide compilation, so that it is never the one timed
    failed: bool = False

    def __post_init__(self) -> None:
        # the tiny scene has done what there is to do once: beside seconds, what is left in a first call is nothing
        if not self.compiles and self.first_ms > 1000 * self.seconds / 3:
            self.ms.append(self.first_ms)

    @property
    def one(self) -> float:
        """Seconds of a call."""
        return (statistics.median(self.ms) if self.ms else self.first_ms) / 1000

    @property
    def wanted(self) -> int:
        """Calls to be timed: many short ones, two long ones, one where the time allows no more."""
        least = 2 if 2 * self.one + self.first_ms / 1000 < _LONG * self.seconds else 1
        return max(least, min(_MOST, int(_ENOUGH / max(self.one, 1e-6))))

    @property
    def done(self) -> bool:
        return self.failed or len(self.ms) >= self.wanted

    @property
    def calls(self) -> int:
        """Calls of the next turn: a tenth of a second's, at most a third of those wanted; one at first, whose time is not known.

        Where enough has been measured, one more keeps a peer company, if it is short.
        """
        if self.failed:
            return 0
        if self.done:
            return int(self.one < _BURST)
        if not self.ms:
            return 1
        return max(1, min(int(_BURST / max(self.one, 1e-6)), math.ceil(self.wanted / 3)))

    def row(self, who: str, case: Case, target: float, rehearsal_s: float) -> dict[str, Any]:
        """A line of the table, as it is scripted against.

        Parameters
        ----------
        who: the renderer.
        case: what it was measured at.
        target: the error that its setting had to reach.
        rehearsal_s: seconds that the same thing took on the tiny scene, compiling and loading included.
        """
        typical = statistics.median(self.ms)
        row = {
            "who": who,
            "what": case.what,
            "batch": case.batch,
            "size": case.size,
            "ms": typical,
            "ms_min": min(self.ms),
            "repeats": len(self.ms),
            "error": self.errors[0],
            "target": target,
            "reached": self.errors[0] <= target,
            "setting": described(self.setting),
            "model": self.setting["model"],
            "peak_mb": self.peak_mb,
            "compile_s": rehearsal_s + max(0.0, self.first_ms - typical) / 1000,
        }
        if self.errors[-1] > 1.5 * self.errors[0]:
            row["warning"] = f"the last image of the batch has an error of {self.errors[-1]:.3g}"
        return row
