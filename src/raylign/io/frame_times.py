"""When the frames of a sequence were taken, as DICOM headers tell it.

Sources: DICOM PS3.3 C.7.6.5 (cine: FrameTime, FrameTimeVector, CineRate, RecommendedDisplayFrameRate), C.7.6.6 (multi-frame,
FrameIncrementPointer), C.7.6.16.2.2 (date and time of each frame of an Enhanced image).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from raylign.errors import InputError
from raylign.io import dicomfile as df

_TIME_VECTOR = 0x00181065


def times_of(dataset: Any, count: int, rate: float | None) -> tuple[tuple[float, ...], str]:
    """Seconds of every frame from the first, and where they are from."""
    if rate is not None or count == 1:
        return tuple(i / (rate or 1.0) for i in range(count)), f"{rate:g} frames a second, as given" if rate else "one frame"
    pointer = getattr(dataset, "FrameIncrementPointer", None)
    tags = [] if pointer is None else list(pointer) if hasattr(pointer, "__iter__") else [pointer]
    named = {int(tag) for tag in tags}
    vector = df.numbers(dataset, "FrameTimeVector", count) if _has(dataset, "FrameTimeVector") else None
    step = df.numbers(dataset, "FrameTime", 1)
    if vector is not None and (_TIME_VECTOR in named or step is None):
        times = np.cumsum([0.0, *vector[1:]]) / 1000
        if not (np.diff(times) > 0).all():
            raise InputError("frames do not follow one another", field=df.label("FrameTimeVector"), remedy="give --rate")
        return tuple(times.tolist()), df.label("FrameTimeVector")
    if step is not None and step[0] > 0:
        return tuple(i * step[0] / 1000 for i in range(count)), df.label("FrameTime")
    own = _frame_times(dataset, count)
    if own is not None:
        return own, "date and time of each frame"
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        given = df.numbers(dataset, keyword, 1)
        if given is not None and given[0] > 0:
            return tuple(i / given[0] for i in range(count)), df.label(keyword)
    raise InputError(
        "the file does not tell how fast its frames follow one another",
        field=df.label("FrameTime"),
        remedy="give frames a second with --rate",
    )


def _has(dataset: Any, keyword: str) -> bool:
    return getattr(dataset, keyword, None) not in (None, "")


def _frame_times(dataset: Any, count: int) -> tuple[float, ...] | None:
    """Of Enhanced images: FrameAcquisitionDateTime (0018,9074) or FrameReferenceDateTime (0018,9151) of every frame."""
    groups = list(getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or [])
    if len(groups) != count:
        return None
    for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
        moments = []
        for group in groups:
            content = list(getattr(group, "FrameContentSequence", None) or [])
            moments.append(moment(str(getattr(content[0], keyword, "") or "")) if content else None)
        times = rising(moments)
        if times is not None:
            return times
    return None


def moment(text: str) -> tuple[int, float] | None:
    """Day and seconds of a DICOM date and time (YYYYMMDDHHMMSS.FFFFFF), whatever its offset; day 0 where there is no date."""
    found = re.match(r"^(\d{8})?(\d{2})(\d{2})(\d{2}(?:\.\d+)?)", text.strip())
    if not found:
        return None
    day = 0
    if found[1]:
        try:
            day = datetime.date(int(found[1][:4]), int(found[1][4:6]), int(found[1][6:])).toordinal()
        except ValueError:
            return None
    return day, 3600 * int(found[2]) + 60 * int(found[3]) + float(found[4])


def rising(moments: Sequence[tuple[int, float] | None]) -> tuple[float, ...] | None:
    """Seconds from the first, where all are known and grow."""
    known = [m for m in moments if m is not None]
    if len(known) != len(moments) or len(known) < 2:
        return None
    first_day, first = known[0]
    times = tuple(round(86400 * (day - first_day) + seconds - first, 6) for day, seconds in known)
    return times if (np.diff(times) > 0).all() else None
