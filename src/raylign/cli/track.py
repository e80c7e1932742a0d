"""``raylign track``: a model followed through a sequence of frames."""

from __future__ import annotations

import csv
import enum
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.about import command_line
from raylign.cli.console import DONE, NOT_TRUSTED, Tell, command, complain, load, progress
from raylign.cli.exposures import exposure_options
from raylign.cli.models import PoseFlags, check_models, read_model, start_option
from raylign.cli.outputs import finite, staged
from raylign.cli.starts import CENTER, SEARCH, begin, check_start, read_start
from raylign.cli.surfaces import Surface, is_surface
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Volume, XRay
    from raylign.evaluation.film import Film
    from raylign.io.frames import Frames
    from raylign.registration.tracking import Track, TrackedPose, TrackingConfig

TABLE, POSES, REPORT = OUTPUTS = "table.csv", "poses.json", "report.html"
SCHEMA = "raylign.track/1"
_MOST = 600  # frames of a film


class FilmKind(enum.StrEnum):
    """Kinds of film."""

    GIF = "gif"
    MP4 = "mp4"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class TrackFlags(PoseFlags):
    """Options of ``raylign track``."""

    model: Annotated[
        Path, typer.Argument(help="CT (DICOM folder, NIfTI, NRRD, MetaImage) or closed mesh (STL, ...).", show_default=False)
    ]
    frames: Annotated[
        list[Path],
        typer.Option(help="Multi-frame DICOM, or a folder of DICOM files or pictures; once for each camera.", show_default=False),
    ]
    out: Annotated[Path, typer.Option(help="Folder for table.csv, poses.json, film.gif and report.html.", show_default=False)]
    rate: Annotated[
        float | None, typer.Option(help="Frames a second, where the files do not tell; beats them.", metavar="HZ")
    ] = None
    frame: Annotated[list[int] | None, typer.Option(hidden=True)] = None
    init: Annotated[
        str,
        start_option(
            "First frame: center, the model's middle at the isocentre; search, anywhere before the detector; or a pose (.json,"
            " .tfm, .h5).",
            "center|search|FILE",
        ),
    ] = CENTER
    film: Annotated[FilmKind, typer.Option(help="Frames with the model's contours.")] = FilmKind.GIF
    film_size: Annotated[int, typer.Option(help="Pixels of a film's longer side, for each camera.")] = 384
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a folder holds several CTs.", metavar="UID")] = None
    trust: Annotated[
        float | None, typer.Option(help="Probability from which a frame supports its pose; 0.85.", show_default=False)
    ] = None


@command(TrackFlags)
def track(flags: TrackFlags) -> int:
    """Follow MODEL through a sequence: its pose in every frame, breathing phase, a film.

    Exit code 0: done; 1: the input is wrong (one line says what, and how to mend it); 2: usage; 3: finished, but fewer than half
    of the frames support their pose.
    """
    _check(flags)
    names = (*OUTPUTS, *(() if flags.film == FilmKind.NONE else (f"film.{flags.film.value}",)))
    with staged(flags.out, names) as folder, progress(quiet=flags.json) as tell:
        done, said = _tracked(flags, folder, tell)
    supported = sum(pose.supported for pose in done.poses)
    if flags.json:
        print(json.dumps(finite(summary(done)), separators=(",", ":"), allow_nan=False))
    else:
        print("\n".join([*said, *(str(flags.out / name) for name in names)]))
    if 2 * supported < len(done.poses):
        complain(f"the track is not to be trusted: {supported} of {len(done.poses)} frames support their pose")
        return NOT_TRUSTED
    return DONE


def _check(flags: TrackFlags) -> None:
    """Refuse what can be refused before anything is loaded."""
    if flags.frame:
        raise InputError("a sequence has all of its frames", field="--frame", remedy="leave it out")
    if flags.seed < 0:
        raise InputError(f"{flags.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
    if flags.trust is not None and not 0 <= flags.trust <= 1:
        raise InputError(f"{flags.trust} is no probability", field="--trust", remedy="give 0 to 1")
    if not 64 <= flags.film_size <= 2048:
        raise InputError(f"{flags.film_size} pixels", field="--film-size", remedy="give 64 to 2048")
    check_start(flags)
    check_models(flags, [flags.model])
    if flags.series is not None and is_surface(flags.model):
        raise InputError("a surface is of no series", field="--series", remedy="leave it out")
    if flags.film == FilmKind.MP4:
        from raylign.evaluation.film import encoder

        encoder()


def _tracked(flags: TrackFlags, folder: Path, tell: Tell) -> tuple[Track, list[str]]:
    """Read, follow, and write everything into ``folder``; and what to tell."""
    load("raylign.registration.tracking", "raylign.io.frames", "pydicom")
    from raylign.evaluation.film import Caption, Film, thinned
    from raylign.io.frames import open_frames, paired
    from raylign.registration.tracking import Solid, TrackingConfig
    from raylign.registration.tracking import track as follow

    tell("reading the frames", 0.0)
    options = exposure_options(flags, len(flags.frames))
    cameras = [open_frames(path, option, flags.rate) for path, option in zip(flags.frames, options, strict=True)]
    count = paired(cameras)
    tell("reading the model", 0.02)
    shape = read_model(flags.model, flags, flags.series)
    surface = shape if isinstance(shape, Surface) else None
    model = shape.volume if isinstance(shape, Surface) else shape
    config, start = _config(flags, model, TrackingConfig())
    film = Film(model, flags.film_size)
    stride = thinned(count, _MOST)
    current: list[XRay | None] = []
    views: list[Any] = []
    pulled = [-1]

    def frames() -> Iterator[tuple[float, Any]]:
        for index in range(count):
            pulled[0] = index
            current[:] = [camera[index].xray for camera in cameras]
            if all(x is not None for x in current):
                views[:] = [x.view for x in current if x is not None]
            yield cameras[0].times[index], None if any(x is None for x in current) else list(current)

    busy = [0.0, 0]

    def after(pose: TrackedPose) -> None:
        for future in drawn:  # one behind at most: frames are not kept
            future.result()
        drawn.clear()
        if pose.index and pose.renders:
            busy[0] += pose.seconds
            busy[1] += 1
        rate = f", {busy[1] / busy[0]:.0f} a second" if busy[0] > 0 else ""
        tell(f"frame {pose.index + 1} of {count}, {pose.state}{rate}", 0.05 + 0.85 * (pose.index + 1) / count)
        if views and pose.index % stride == 0 and flags.film != FilmKind.NONE:
            words = f"{pose.index}  {pose.time:.2f} s  {pose.state}  p {pose.probability:.2f}"
            caption = Caption(words, pose.supported)
            # frames before the first that shows anything are told of only once that one was read
            pictures = tuple(current) if pose.index == pulled[0] else (None,) * len(cameras)
            drawn.append(beside.submit(film.add, pictures, tuple(views), pose.transform, pose.time, caption))

    drawn: list[Future[None]] = []
    with ThreadPoolExecutor(1) as beside:
        solid = None if surface is None else Solid.of(surface.mesh, surface.material)
        try:
            done = follow(model, frames(), start, config, after, solid)
        except InputError as error:  # it knows the frames, but not where they are from
            own = error.field in ("model", "volume", "unit", "data")
            raise error.at(flags.model if own else ", ".join(map(str, flags.frames))) from None
        for future in drawn:
            future.result()
    tell("writing the report", 0.92)
    inputs = _inputs(flags, cameras, shape)
    _write(folder, flags, done, film, _Written(stride, inputs, [list(c.names) for c in cameras]))
    mended = [surface.words] if surface is not None and surface.words else []
    return done, [*mended, *_said(done, cameras, busy[1] / busy[0] if busy[0] > 0 else 0.0)]


def _config(flags: TrackFlags, model: Volume, config: TrackingConfig) -> tuple[TrackingConfig, Any]:
    """Settings and the start."""
    from raylign.io.landmark_files import holds_landmarks

    if flags.init not in (CENTER, SEARCH) and Path(flags.init).exists() and holds_landmarks(flags.init):
        raise InputError("holds landmarks", file=flags.init, field="--init", remedy="register the first frame, and give its pose")
    start = begin(flags, read_start(flags, flags.frames), model, ())
    direct = replace(config.direct, search=start.search, seed=flags.seed)
    if flags.trust is not None:
        direct = replace(direct, trust=flags.trust)
    return replace(config, direct=direct), start.pose


@dataclass(frozen=True, eq=False)
class _Written:
    """What outputs tell beside a track."""

    stride: int
    inputs: dict[str, str]
    names: list[list[str]]


def _inputs(flags: TrackFlags, cameras: Sequence[Frames], model: Volume | Surface) -> dict[str, str]:
    if isinstance(model, Surface):
        out = {"Model": model.about(flags.model)}
    else:
        out = {"Model": f"{flags.model}: {' x '.join(str(n) for n in model.data.shape[::-1])} voxels, {model.unit}"}
    for k, (path, camera) in enumerate(zip(flags.frames, cameras, strict=True)):
        name = "Frames" if len(cameras) == 1 else f"Frames of camera {k + 1}"
        out[name] = f"{path}: {len(camera)}, {camera.rate:.2f} a second ({camera.timed_by})"
    return {**out, "Start": flags.init}


def _write(folder: Path, flags: TrackFlags, done: Track, film: Film, about: _Written) -> None:
    """Table, poses, film and report."""
    from raylign.evaluation.film import write_gif, write_mp4
    from raylign.evaluation.track_report import TrackContent, write_track_report

    write_table(folder / TABLE, done)
    content = {**poses_dict(done, about.names), "inputs": about.inputs, "command": command_line()}
    (folder / POSES).write_text(json.dumps(finite(content), allow_nan=False) + "\n", encoding="utf-8", newline="\n")
    if flags.film != FilmKind.NONE and film.pictures:
        (write_gif if flags.film == FilmKind.GIF else write_mp4)(folder / f"film.{flags.film.value}", film)
    name = ", ".join(path.name for path in flags.frames)
    write_track_report(folder / REPORT, TrackContent(done, film, about.stride, name, command_line(), about.inputs))


def write_table(path: Path, done: Track) -> None:
    """A line a frame: state, probability, motion from the first frame, deviations, gating."""
    from raylign.evaluation.track_report import relative, signal_row

    shifts, turns = relative(done)
    axes = ("left", "back", "head")
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(
            ["frame", "time_s", "state", "probability", "explained"]
            + [f"{axis}_mm" for axis in axes]
            + [f"about_{axis}_deg" for axis in axes]
            + [f"sd_{axis}_mm" for axis in axes]
            + [f"m{r}{c}" for r in range(3) for c in range(4)]
            + ["breathing_mm", "breathing_phase", "pulse", "pulse_phase"]
        )
        for k, pose in enumerate(done.poses):
            deviations = pose.covariance.diagonal()[3:].clamp_min(0).sqrt().tolist()
            table.writerow(
                [pose.index, f"{pose.time:.4f}", str(pose.state), f"{pose.probability:.4f}", f"{pose.explained:.4f}"]
                + [f"{x:.4f}" for x in (*shifts[k], *turns[k], *deviations)]
                + [f"{x:.9g}" for x in pose.transform.matrix[:3].flatten().tolist()]
                + [*signal_row(done.breathing, k), *signal_row(done.pulse, k)]
            )


def poses_dict(done: Track, names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The content of ``poses.json``."""
    return {
        "schema": SCHEMA,
        "meaning": "matrix: T_world_from_volume, patient LPS mm of the model to world mm; covariance: twist (rotation rad,"
        " translation mm), world axes, about centre",
        **summary(done),
        "first": done.first.to_dict(),
        "frames": [
            {
                "frame": pose.index,
                "names": [camera[pose.index] for camera in names],
                "time": pose.time,
                "state": str(pose.state),
                "probability": pose.probability,
                "explained": pose.explained,
                "misfit": pose.misfit,
                "matrix": pose.transform.matrix.tolist(),
                "centre": pose.centre.tolist(),
                "covariance": pose.covariance.tolist(),
                "seconds": pose.seconds,
            }
            for pose in done.poses
        ],
    }


def summary(done: Track) -> dict[str, Any]:
    """The track in a few numbers."""
    from raylign.registration.tracking import State

    def gate(signal: Any) -> dict[str, float] | None:
        return None if signal is None else {"hertz": signal.hertz, "share": signal.share}

    return {
        "count": len(done.poses),
        "rate": done.rate,
        "states": {str(state): sum(pose.state == state for pose in done.poses) for state in State},
        "breathing": gate(done.breathing),
        "pulse": gate(done.pulse),
    }


def _said(done: Track, cameras: Sequence[Frames], rate: float) -> list[str]:
    from raylign.evaluation.track_report import verdict

    first = done.first
    open_ = () if first.ambiguity is None else first.ambiguity.words
    spent = f", {rate:.1f} a second" if rate else ""
    taken = f" (taken at {cameras[0].rate:.1f})" if cameras[0].rate else ""
    return [
        f"first frame registered in {first.seconds:.2f} s, probability {first.confidence.probability:.2f}",
        *open_,
        f"{len(done.poses)} frames{spent}{taken}",
        verdict(done),
    ]
