"""What ran: versions of the packages that a result depends on."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from raylign._version import __version__


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Version of raylign, Python and the numerical packages."""
    found = {"raylign": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "numba", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
