"""Processes that make training data side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("OMP_NUM_THREADS", "RAYLIGN_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes begun within it use one thread each: as many as there are processors are enough."""
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
