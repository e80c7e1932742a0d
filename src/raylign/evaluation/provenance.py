"""What an evaluation ran with: versions, commit, machine, data. Kept beside the numbers in ``run.json``."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from raylign.registration.versions import versions

__all__ = ["commit", "listing", "machine", "source", "versions"]

_PACKAGE = Path(__file__).resolve().parents[1]
_KINDS = (".py", ".csv", ".json", ".yaml", ".safetensors")
"""What numbers can depend on: code, tables of physics, weights, protocols."""


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Git's commit of the package's own source, "+changed" behind it where files differ; None where that is not known.

    A repository that merely holds the environment into which the package was installed does not count.
    """
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+changed" if _git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")


@lru_cache(maxsize=1)
def source() -> str:
    """A digest of the package's own source and data files: equal where these are, whatever a version number or a commit says."""
    digest = hashlib.sha256()
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in _KINDS and p.is_file()):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=_PACKAGE, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory and system of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"processor": _processor(), "cores": cores, "system": platform.platform(terse=True)}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def listing(data: Path | None, file: str | None = None) -> list[list[Any]]:
    """What evaluations find in a folder of data: path, and bytes of a file or entries of a folder. Sorted by path.

    Parameters
    ----------
    data: the folder. Scans and their segmentations (``ct/*``) and sets of cases (``cases/*/*``) are looked at, nothing else.
    file: one more, relative to it or absolute.
    """
    found: list[list[Any]] = []
    if data is None:
        return found
    for path in sorted({*data.glob("ct/*"), *data.glob("cases/*/*"), *([data / file] if file else [])}):
        try:
            size = sum(1 for _ in path.iterdir()) if path.is_dir() else path.stat().st_size
        except OSError:
            continue
        found.append([(path.relative_to(data) if path.is_relative_to(data) else path).as_posix(), size])
    return found
