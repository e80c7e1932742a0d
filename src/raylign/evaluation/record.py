"""One line of an evaluation: a method on a case, how far it was off, what it said of itself and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from raylign.errors import InputError

RECORDS = "records.jsonl"
WORKER_DIED = "worker died"
NOT_MADE = "the case could not be made"
NO_MEMORY = "out of memory"

Pose16 = tuple[float, ...]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Record:
    """What came of one method on one case. The line of ``records.jsonl`` has the same names.

    Errors are those of ``raylign.evaluation.metrics``. An error that is None is infinite: the method gave no pose. Those of the
    start are None only where the case could not be made at all.

    Parameters
    ----------
    case: its index in the protocol.
    name, subject, arm: what the case is called, whose it is (bootstraps go by subject), and the arm of the protocol it is in.
    method: as it was asked for.
    seed: the run's.
    start_mtre, start_mpd, start_mrpd: of the start, mm.
    start_in_plane, start_depth, start_rotation, start_angle, start_cross: of the start; as the ones below.
    mtre, mpd, mrpd: of the result, mm.
    in_plane, depth: mm, in the first view, of the targets' centroid; depth is positive away from the source.
    rotation: degrees about the image's horizontal, its vertical and the ray of the first view.
    angle: degrees of the whole rotation.
    cross: mm, of a 10 mm cross at the point that starts turn about, as the first view sees it (``metrics.cross_tre``); None too
        where that point does not lie between source and detector.
    probability, trusted: what the method says of its result; None and False where there is none.
    renders: poses rendered; 0 where the method does not count.
    pose, start: T_world_from_volume, 16 numbers row by row; None where there is none.
    failure: empty, or in one line what the method broke off with ("Type: message"), or why there was nothing to register.
    seconds: "make" (the case), "register" (wall clock), "cpu" (processor time of the registration), "warm" (loading or compiling
        kernels, stated apart, in a worker's first record). Nothing else in a record depends on the machine.
    bound_in_plane, bound_depth: mm, one standard deviation that the exposure's quantum noise alone leaves, where asked for.
    bound_failure: why there is no bound, where it could not be worked out.
    """

    case: int
    name: str
    subject: str
    arm: str
    method: str
    seed: int
    start_mtre: float | None = None
    start_mpd: float | None = None
    start_mrpd: float | None = None
    start_in_plane: float | None = None
    start_depth: float | None = None
    start_rotation: Triple | None = None
    start_angle: float | None = None
    start_cross: float | None = None
    mtre: float | None = None
    mpd: float | None = None
    mrpd: float | None = None
    in_plane: float | None = None
    depth: float | None = None
    rotation: Triple | None = None
    angle: float | None = None
    cross: float | None = None
    probability: float | None = None
    trusted: bool = False
    renders: int = 0
    pose: Pose16 | None = None
    start: Pose16 | None = None
    failure: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    bound_in_plane: float | None = None
    bound_depth: float | None = None
    bound_failure: str = ""

    @property
    def of_the_machine(self) -> bool:
        """Whether it failed for want of a case, a living process or memory, which another try may mend, and not by the method."""
        return self.failure.startswith((WORKER_DIED, NOT_MADE, NO_MEMORY))

    def line(self) -> str:
        """The line of ``records.jsonl``, without its end. Numbers that are not finite become null."""
        return json.dumps(_finite(asdict(self)), separators=(",", ":"), allow_nan=False)


Records = Generator[Record, None, None]
"""Records as they are done; closing it ends the work."""

_NAMES = {f.name for f in fields(Record)}
_REQUIRED = ("case", "name", "subject", "arm", "method", "seed")
_TUPLES = ("start_rotation", "rotation", "pose", "start")


def from_line(line: str) -> Record:
    """The record of a line.

    Raises
    ------
    ValueError: it is none.
    """
    said = json.loads(line)
    if not isinstance(said, dict) or not set(_REQUIRED) <= set(said) or not set(said) <= _NAMES:
        raise ValueError("not a record")
    values: dict[str, Any] = {k: tuple(v) if k in _TUPLES and v is not None else v for k, v in said.items()}
    return Record(**values)


def read_records(path: str | Path) -> list[Record]:
    """The records of a run's folder or of its ``records.jsonl``, by case and in the order of writing within a case.

    A last line that was cut off is left out. Where a case was tried again with a method, the last try counts.

    Raises
    ------
    InputError: no such file, or a line that is no record.
    """
    file = Path(path)
    file = file / RECORDS if file.is_dir() else file
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, remedy="name the folder of an evaluation") from None
    found: dict[tuple[int, str], Record] = {}
    for number, line in enumerate(text[: whole(text)].splitlines(), 1):
        try:
            record = from_line(line.decode("utf-8"))
        except (ValueError, TypeError):
            raise InputError(
                f"line {number} is no record of an evaluation", file=file, remedy="remove that line, or name a new folder"
            ) from None
        found[record.case, record.method] = record
    return sorted(found.values(), key=lambda r: r.case)


def whole(text: bytes) -> int:
    """How many bytes of the file are lines that were written to their end."""
    return text.rfind(b"\n") + 1


def one_line(error: BaseException) -> str:
    """An exception as "Type: message", in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def latest(records: Iterable[Record]) -> dict[tuple[int, str], Record]:
    """Records by case and method, the last of each."""
    return {(r.case, r.method): r for r in records}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
