"""One seed a sample: streams of random numbers that depend on which sample it is, and on nothing else."""

from __future__ import annotations

import numpy as np
import torch

from raylign.errors import InputError


def generator(seed: int, *path: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one place in a tree of random things: ``generator(seed, sample, 2)``.

    Neighbouring seeds and indices give unrelated streams (NumPy's ``SeedSequence`` hashes them together).

    Raises
    ------
    InputError: a negative seed or index.
    """
    return torch.Generator(device).manual_seed(int(_sequence(seed, path).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def numpy_generator(seed: int, *path: int) -> np.random.Generator:
    """The same for NumPy."""
    return np.random.default_rng(_sequence(seed, path))


def _sequence(seed: int, path: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0 or any(i < 0 for i in path):
        raise InputError(f"the seed {(seed, *path)} has a negative part", field="seed", remedy="give 0, 1, 2, ...")
    return np.random.SeedSequence(seed, spawn_key=path)
