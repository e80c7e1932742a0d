"""How the Triton kernels are cut up: one typed place, which benchmarks change for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from raylign.errors import InputError


@dataclass(frozen=True)
class Tuning:
    """How kernels are cut up. All but ``warps`` are powers of two, ``run`` a multiple of ``lanes``.

    Parameters
    ----------
    rows, columns: pixels that one program renders.
    lanes: how many samples of a ray are taken at once, 16 at most. Neighbouring samples share cache lines whichever way the rays
        run, neighbouring pixels only where the detector's columns run along the volume's rows.
    run: samples, or planes of Joseph's model, that are skipped together: never where they reach further than a brick.
    warps: of 32 threads, for each program.
    brick: edge of the bricks of ``occupancy``, in voxels.
    """

    rows: int = 2
    columns: int = 8
    lanes: int = 8
    run: int = 16
    warps: int = 4
    brick: int = 16

    def __post_init__(self) -> None:
        sizes = (self.rows, self.columns, self.lanes, self.warps, self.brick)
        if any(n < 1 or n & (n - 1) for n in sizes) or self.run < 1 or self.run % self.lanes:
            raise InputError(f"{self} does not fit", remedy="use powers of two, and a run that is a multiple of the lanes")
        if self.lanes > 16:
            raise InputError(f"{self.lanes} lanes are too many", remedy="use 16 at most: their bits must fit a positive int32")
        if self.brick < 8:
            raise InputError(f"bricks of {self.brick} voxels are too small", remedy="use 8, 16 or 32")

    @property
    def bits(self) -> int:
        """Binary logarithm of the brick."""
        return self.brick.bit_length() - 1


_tuning = Tuning()


def tuning() -> Tuning:
    """The settings that launches use now."""
    return _tuning


@contextmanager
def tuned(**changes: int) -> Iterator[Tuning]:
    """Other settings within a block, for benchmarks and tests; not for several threads at once."""
    global _tuning
    before = _tuning
    _tuning = replace(before, **changes)
    try:
        yield _tuning
    finally:
        _tuning = before
