"""Where ``raylign register`` begins: what ``--init`` stands for, and how much of it is left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Landmarks, Volume, XRay
    from raylign.geometry import Rigid
    from raylign.registration import SearchConfig
    from raylign.registration.landmarks import LandmarkPose

CENTER, SEARCH, ANYWHERE = "center", "search", "anywhere"
WORDS = (CENTER, SEARCH, ANYWHERE)
_OUTSIDE = 30.0  # mm beyond the volume from which a landmark cannot be one of it


class SearchFlags(Protocol):
    """The options that say how much is searched."""

    @property
    def search_degrees(self) -> float | None: ...
    @property
    def search_mm(self) -> float | None: ...
    @property
    def search_depth(self) -> float | None: ...
    @property
    def starts(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


class StartFlags(SearchFlags, Protocol):
    """The options that say where to begin."""

    @property
    def init(self) -> str: ...
    @property
    def landmarks_2d(self) -> list[Path] | None: ...
    @property
    def landmark_degrees(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Given:
    """What the file of ``--init`` holds, read before anything large is: a pose, or points and their marks; or neither."""

    pose: Rigid | None = None
    points: Landmarks | None = None
    marks: tuple[Landmarks | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Start:
    """A start, what it leaves open, and the landmarks that it came from; ``nowhere``: the pose counts for nothing."""

    pose: Rigid
    search: SearchConfig
    given: Given
    landmarks: LandmarkPose | None = None
    nowhere: bool = False


def check_start(flags: StartFlags, *, nowhere: bool = False) -> None:
    """Refuse what can be refused before anything is loaded; ``nowhere``: whether the command takes "anywhere"."""
    if flags.init == ANYWHERE and not nowhere:
        raise InputError(
            "is for one model in exposures of one moment",
            field="--init anywhere",
            remedy="raylign register --init anywhere first, and give its result.json as --init",
        )
    searched = [flags.search_degrees, flags.search_mm, flags.search_depth, flags.starts]
    if flags.init == ANYWHERE and any(value is not None for value in searched):
        raise InputError(
            "with all turns and all places looked through, there is no box to state",
            field="--search-degrees, --search-mm, --search-depth, --starts",
            remedy="leave them out, or use --init search",
        )
    if flags.starts is not None and not 1 <= flags.starts <= 100_000:
        raise InputError(f"{flags.starts} starts", field="--starts", remedy="give 1 to 100000")
    numbers = (
        ("--search-degrees", flags.search_degrees, 180),
        ("--search-mm", flags.search_mm, 1000),
        ("--search-depth", flags.search_depth, 1000),
        ("--landmark-degrees", flags.landmark_degrees, 180),
    )
    for name, value, most in numbers:
        if value is not None and not 0 <= value <= most:
            raise InputError(f"{value:g} is out of range", field=name, remedy=f"give 0 to {most}")
    if flags.landmarks_2d and flags.init in WORDS:
        raise InputError(
            "there are no points of the volume to go with", field="--landmarks-2d", remedy="give them with --init points.mrk.json"
        )


def read_start(flags: StartFlags, xrays: Sequence[Path]) -> Given:
    """The file of ``--init``.

    Raises
    ------
    InputError: as its reader says; marks for a start that has no points.
    """
    from raylign.io import read_pose
    from raylign.io.landmark_files import holds_landmarks, read_marked

    if flags.init in WORDS:
        return Given()
    if not Path(flags.init).suffix and not Path(flags.init).exists():  # a word, and not one that is known
        raise InputError(f"{flags.init!r} is no start", field="--init", remedy=f"give {', '.join(WORDS)} or a file")
    if not holds_landmarks(flags.init):
        if flags.landmarks_2d:
            raise InputError("is a pose, with which no landmarks go", file=flags.init, remedy="leave --landmarks-2d out")
        return Given(pose=read_pose(flags.init))
    points, marks = read_marked(flags.init, xrays, flags.landmarks_2d or ())
    return Given(points=points, marks=marks)


def begin(flags: StartFlags, given: Given, volume: Volume, xrays: Sequence[XRay]) -> Start:
    """The start in numbers; "center" is of the whole volume: where a structure lies in it is not what the C-arm was aimed at.

    Raises
    ------
    InputError: landmarks outside the volume or the image, or that determine no pose.
    """
    from raylign.registration import SearchConfig, centred
    from raylign.registration.register import NEAR, WIDE

    nominal = centred(volume)
    if given.points is not None:
        found = _from_landmarks(flags, given, volume, xrays)
        search = found.search(volume.centre, xrays[0].view)
        return Start(found.pose, stated(search, flags), given, found)
    if given.pose is not None:
        return Start(given.pose, stated(NEAR, flags), given)
    nowhere = flags.init == ANYWHERE
    return Start(nominal, stated(WIDE if flags.init == SEARCH else SearchConfig(), flags), given, nowhere=nowhere)


def stated(search: SearchConfig, flags: SearchFlags) -> SearchConfig:
    """A search with what the options state in place of its own."""
    if flags.search_mm is not None:
        search = replace(search, mm=flags.search_mm, depth=None)
    stated = {"degrees": flags.search_degrees, "depth": flags.search_depth, "hypotheses": flags.starts}
    return replace(search, **{name: value for name, value in stated.items() if value is not None})  # type: ignore[arg-type]


def _from_landmarks(flags: StartFlags, given: Given, volume: Volume, xrays: Sequence[XRay]) -> LandmarkPose:
    from raylign.registration import centred
    from raylign.registration.landmarks import PnPConfig, start_from_landmarks

    assert given.points is not None
    try:
        _within_volume(given.points, volume)
        for marks, xray in zip(given.marks, xrays, strict=True):
            _within_image(marks, xray)
        config = PnPConfig(degrees=flags.landmark_degrees, seed=flags.seed)
        return start_from_landmarks(given.points, given.marks, [x.view for x in xrays], centred(volume), config)
    except InputError as error:
        raise error.at(flags.init) from None


def _within_volume(points: Landmarks, volume: Volume) -> None:
    import torch

    size = torch.tensor(volume.data.shape[::-1], dtype=torch.float64)
    pitch = torch.tensor(volume.spacing, dtype=torch.float64)
    affine = volume.affine
    index = (points.points - affine[:3, 3]) @ torch.linalg.inv(affine[:3, :3]).T
    beyond = (torch.maximum(-0.5 - index, index - (size - 0.5)) * pitch).amax(1)
    worst = int(beyond.argmax())
    if float(beyond[worst]) > _OUTSIDE:
        raise InputError(
            f"it lies {float(beyond[worst]):.0f} mm outside the volume",
            field=points.names[worst],
            remedy="look whether the points are of this scan, and whether LPS or RAS is stated rightly",
        )


def _within_image(marks: Landmarks | None, xray: XRay) -> None:
    h, w = xray.view.shape
    for name, (column, row) in zip(
        () if marks is None else marks.names, () if marks is None else marks.points.tolist(), strict=True
    ):
        if not (-0.5 <= column <= w - 0.5 and -0.5 <= row <= h - 0.5):
            raise InputError(
                f"({column:g}, {row:g}) is outside of {xray.name} with {w} columns and {h} rows",
                field=name,
                remedy="give column, then row, in its stored pixels; null for what is not seen",
            )


def landmark_words(start: Start, final: Rigid, xrays: Sequence[XRay]) -> tuple[dict[str, Any], list[str]]:
    """Landmarks for ``result.json``, and sentences for terminal and report: who was used, and how far off before and after."""
    from raylign.registration.landmarks import reprojection

    found, given = start.landmarks, start.given
    assert found is not None and given.points is not None
    after = reprojection(final, given.points, given.marks, [x.view for x in xrays])
    names = [x.name for x in xrays]
    several = len(xrays) > 1
    rms = (sum(after[m.view][m.name] ** 2 for m in found.inliers) / len(found.inliers)) ** 0.5
    out = ", ".join(f"{m.name}{f' on {names[m.view]}' if several else ''} ({m.pixels:.0f} px)" for m in found.outliers)
    said = [
        f"landmarks: {len(found.inliers)} of {len(found.marks)} marks used, rms {found.rms:.1f} px at the start,"
        f" {rms:.1f} px under the pose found",
        *([f"landmarks left out: {out}"] if out else []),
        *(f"landmarks: {note}" for note in found.notes),
    ]
    numbers = {
        "rms_px": {"start": found.rms, "pose": rms},
        "notes": list(found.notes),
        "marks": [
            {"name": m.name, "xray": names[m.view], "used": m.agrees, "start_px": m.pixels, "pose_px": after[m.view][m.name]}
            for m in found.marks
        ],
        "start_covariance": found.covariance.tolist(),
        "start_centre": found.centre.tolist(),
    }
    return numbers, said
