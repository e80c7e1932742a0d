"""Cases of data that come with exposures and known poses."""

from __future__ import annotations

from pathlib import Path

from raylign.errors import InputError
from raylign.evaluation import folders
from raylign.evaluation.subject_kinds import DeepFluoro, Folder, Ljubljana
from raylign.evaluation.subjects import needed
from raylign.evaluation.truth import Truth

Recorded = Folder | DeepFluoro | Ljubljana


def recorded_count(kind: object, data: Path | None) -> int:
    """How many cases there are.

    Raises
    ------
    InputError: data that are not there.
    """
    if isinstance(kind, Folder):
        return len(folders.entries(needed(data, "cases"), kind.sets))
    raise NotImplementedError


def recorded(kind: object, number: int, data: Path | None) -> tuple[str, Truth]:
    """Whose anatomy a case shows, and the case.

    Raises
    ------
    InputError: data that are not there, no case of that number.
    """
    if isinstance(kind, Folder):
        there = folders.entries(needed(data, "cases"), kind.sets)
        if number >= len(there):
            raise InputError(f"there is no case {number}", file=data, field="index", remedy=f"there are {len(there)}")
        return there[number].ct, folders.opened(needed(data, "cases"), there[number])
    raise NotImplementedError
