"""``raylign objects``: the poses of several bones in the same X-rays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.about import command_line
from raylign.cli.console import DONE, NOT_TRUSTED, Tell, command, complain, load, progress
from raylign.cli.exposures import exposure_options
from raylign.cli.models import Material, PoseFlags, check_models, read_model, start_option
from raylign.cli.outputs import OVERLAY, REPORT, RESULT, finite, staged
from raylign.cli.starts import CENTER, begin, check_start, read_start
from raylign.cli.surfaces import Surface, is_surface
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import LabelMap, XRay
    from raylign.geometry import Rigid
    from raylign.registration.objects import Body, Joint, ObjectsResult


@dataclass(frozen=True, kw_only=True)
class ObjectsFlags(PoseFlags):
    """Options of ``raylign objects``."""

    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A closed mesh, the volume of a bone, or LABELMAP:NAME,... of --volume; NAME=MODEL names it.",
            show_default=False,
        ),
    ]
    xray: Annotated[list[Path], typer.Option(help="An exposure; once for each, of one moment.", show_default=False)]
    out: Annotated[
        Path, typer.Option(help="Folder for result.json, a pose NAME.tfm for each, overlay.png, report.html.", show_default=False)
    ]
    volume: Annotated[
        Path | None, typer.Option(help="The CT that labels are of; all else of it is a body too, called rest.", metavar="FILE")
    ] = None
    init: Annotated[
        str,
        start_option(
            "Of the CT and of bodies with no other start: center, search, or a pose (.json, .tfm, .h5).", "center|search|FILE"
        ),
    ] = CENTER
    start: Annotated[list[str] | None, start_option("The pose about which a body is sought; once for each.", "NAME=FILE")] = None
    joint: Annotated[
        list[str] | None,
        start_option(
            "Two bodies of one frame that turn about a point: B is sought about it. Without @, where the two meet.", "A:B[@X,Y,Z]"
        ),
    ] = None
    joint_mm: Annotated[float, start_option("How far a joint's two bodies may come apart, one standard deviation.", "MM")] = 1.5
    joint_degrees: Annotated[float, start_option("Searched about a joint, either way about each axis.", "DEG")] = 35.0
    through: Annotated[bool, typer.Option("--through", help="Bodies may go through each other.")] = False
    trust: Annotated[float, typer.Option(help="Probability from which a body's pose is trusted.")] = 0.6


@dataclass(frozen=True)
class Model:
    """One MODEL: its name, a file, and of a label map the names of labels."""

    name: str
    path: Path
    labels: tuple[str, ...] = ()


@command(ObjectsFlags)
def objects(flags: ObjectsFlags) -> int:
    """Find the pose of each MODEL in the X-rays, one after the other, then all together.

    Exit code 0: done; 1: the input is wrong (one line says what, and how to mend it); 2: usage; 3: finished, but a pose is not to
    be trusted.
    """
    models = parsed(flags)
    names = [*(["rest"] if any(m.labels for m in models) else []), *(m.name for m in models)]
    outputs = (RESULT, OVERLAY, REPORT, *(f"{n}.tfm" for n in names))
    with staged(flags.out, outputs) as folder, progress(quiet=flags.json) as tell:
        result, content = _registered(flags, models, folder, tell)
    if flags.json:
        print(json.dumps(content, separators=(",", ":"), allow_nan=False))
    else:
        print("\n".join([*said(result), *(str(flags.out / name) for name in outputs)]))
    doubted = {n: r for n, r in result.results.items() if not r.confidence.trusted}
    for name, own in doubted.items():
        why = "; ".join(own.confidence.reasons)
        complain(f"the pose of {name} is not to be trusted (probability {own.confidence.probability:.2f}): {why}")
    return NOT_TRUSTED if doubted else DONE


def parsed(flags: ObjectsFlags) -> list[Model]:
    """What MODEL arguments name, and a refusal of what can be refused before anything is loaded.

    Raises
    ------
    InputError: labels without a volume or a volume without labels, two bodies of one name, a number out of range, metal.
    """
    check_start(flags)
    for name, value, low, high in (
        ("--trust", flags.trust, 0.0, 1.0),
        ("--joint-mm", flags.joint_mm, 0.01, 100.0),
        ("--joint-degrees", flags.joint_degrees, 0.1, 180.0),
        ("--seed", flags.seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise InputError(f"{value:g} is out of range", field=name, remedy=f"give {low:g} to {high:g}")
    models = [_model(text) for text in flags.models]
    if flags.material == Material.METAL and any(is_surface(m.path) for m in models):
        raise InputError(
            "metal saturates exposures and is often symmetric, which is not looked into among several bodies",
            field="--material",
            remedy="register implants one by one: raylign register MODEL XRAY --material metal",
        )
    check_models(flags, [*(m.path for m in models if not m.labels), *([flags.volume] if flags.volume else [])])
    names = [m.name for m in models]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise InputError(f"two bodies are called {double[0]!r}", field="MODEL", remedy="name them: NAME=MODEL")
    if any(m.labels for m in models) != (flags.volume is not None):
        raise InputError(
            "labels go with the CT that they are of, and the CT with labels", field="--volume", remedy="give both or neither"
        )
    if any(m.labels for m in models) and "rest" in names:
        raise InputError("'rest' is what is left of the CT", field="MODEL", remedy="choose another name")
    return models


def _model(text: str) -> Model:
    name, equals, rest = text.partition("=")
    if not equals or "/" in name:
        name, rest = "", text
    path, colon, labels = rest.rpartition(":")
    if colon and path and not Path(rest).exists():
        chosen = tuple(part.strip() for part in labels.split(",") if part.strip())
        if not chosen:
            raise InputError(f"{text!r} names no label", field="MODEL", remedy="give LABELMAP:NAME,NAME")
        return Model(_fit(name or chosen[0], text), Path(path), chosen)
    return Model(_fit(name or Path(rest).name.split(".")[0], text), Path(rest))


def _fit(name: str, text: str) -> str:
    if not name or any(c in name for c in "/\\:@="):
        raise InputError(f"{text!r} gives a name that is no file's", field="MODEL", remedy="name it: NAME=MODEL")
    return name


def _registered(flags: ObjectsFlags, models: list[Model], folder: Path, tell: Tell) -> tuple[ObjectsResult, dict[str, Any]]:
    """Read, register and write; the content of ``result.json`` too."""
    load("raylign.registration.objects", "raylign.io.dicom", "raylign.io.xray_dicom", "pydicom")
    from raylign.io import read_xray
    from raylign.io.transforms import write_pose_itk
    from raylign.registration.objects import Objects, ObjectsConfig, ObjectsProblem
    from raylign.registration.settings import DirectConfig

    tell("reading the X-rays", 0.0)
    options = exposure_options(flags, len(flags.xray))
    xrays = tuple(read_xray(path, option) for path, option in zip(flags.xray, options, strict=True))
    tell("reading the models", 0.05)
    bodies = read_bodies(flags, models, xrays)
    config = ObjectsConfig(direct=DirectConfig(seed=flags.seed), trust=flags.trust)
    if flags.through:
        config = replace(config, collision=None)
    problem = ObjectsProblem(bodies, xrays, tuple(_joint(text, bodies, flags) for text in flags.joint or ()))
    result = Objects(config, lambda stage, share: tell(stage, 0.15 + 0.7 * share)).register(problem)
    tell("writing the report", 0.9)
    inputs = {
        "models": {m.name: f"{m.path.absolute()}{':' + ','.join(m.labels) if m.labels else ''}" for m in models},
        "volume": None if flags.volume is None else str(flags.volume.absolute()),
        "xrays": [{"path": str(p.absolute()), "view": x.view.to_dict()} for p, x in zip(flags.xray, xrays, strict=True)],
        "init": flags.init,
        "joints": list(flags.joint or ()),
    }
    content: dict[str, Any] = finite({**result.to_dict(), "inputs": inputs, "command": command_line()})
    (folder / RESULT).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8", newline="\n")
    for name, own in result.results.items():
        write_pose_itk(own.transform, folder / f"{name}.tfm")
    _shown(folder, result)
    return result, content


def read_bodies(flags: ObjectsFlags, models: Sequence[Model], xrays: Sequence[XRay]) -> tuple[Body, ...]:
    """The bodies of the MODELs with their starts; of labels also the rest of the CT, first.

    Raises
    ------
    InputError: as of the readers; a start of no body; labels of several maps.
    """
    from raylign.io import read_labels, read_pose, read_volume
    from raylign.registration.objects import Body, bodies_of_scan

    poses = {}
    for text in flags.start or ():
        name, _, file = text.partition("=")
        known = [m.name for m in models] + (["rest"] if flags.volume else [])
        if not file or name not in known:
            raise InputError(f"{text!r} is the start of no body", field="--start", remedy=f"give NAME=FILE of {', '.join(known)}")
        if name in poses:
            raise InputError(f"{name} has two starts", field="--start", remedy="give it once")
        poses[name] = read_pose(file)
    given = read_start(flags, flags.xray)
    out: list[Body] = []
    labelled = [m for m in models if m.labels]
    if labelled and flags.volume is not None:
        maps = {m.path for m in labelled}
        if len(maps) > 1:
            raise InputError("labels of several maps", field="MODEL", remedy="put them into one label map")
        volume = read_volume(flags.volume, unit=None if flags.unit is None else flags.unit.value)
        labels = _checked(read_labels(labelled[0].path), labelled)
        begun = begin(flags, given, volume, xrays)
        parts = [(m.name, m.labels) for m in labelled]
        pose = poses.get("rest", begun.pose)
        try:
            out += bodies_of_scan(volume, labels, parts, pose, begun.search)
        except InputError as error:
            raise error.at(labelled[0].path) if error.field == "labels" else error from None
        _hung([m for m in labelled if m.name not in poses], flags.joint or ())
    for model in (m for m in models if not m.labels):
        shape = read_model(model.path, flags)
        volume = shape.volume if isinstance(shape, Surface) else shape
        begun = begin(flags, given, volume, xrays)
        joined = any(_names(j)[1] == model.name for j in flags.joint or ())
        search = None if joined and model.name not in poses else begun.search
        out.append(Body(model.name, volume, poses.get(model.name, begun.pose), search))
    return tuple(_about(body, poses, flags) for body in out)


def _about(body: Body, poses: Mapping[str, Rigid], flags: ObjectsFlags) -> Body:
    """A body with a start of its own is sought in a narrow box about it."""
    if body.name not in poses:
        return body
    from raylign.cli.starts import stated
    from raylign.registration.register import NEAR

    return replace(body, start=poses[body.name], search=stated(NEAR, flags))


def _hung(labelled: Sequence[Model], joints: Sequence[str]) -> None:
    joined = {n for j in joints for n in _names(j)}
    free = [m.name for m in labelled if m.name not in joined]
    if free:
        raise InputError(
            f"nothing says where {free[0]} may have gone", field="--joint", remedy=f"join it to another body, say rest:{free[0]}"
        )


def _checked(labels: LabelMap, models: Sequence[Model]) -> LabelMap:
    for model in models:
        for name in model.labels:
            try:
                labels.number(name)
            except InputError as error:
                raise error.at(model.path) from None
    return labels


def _names(text: str) -> tuple[str, str]:
    pair, _, _ = text.partition("@")
    first, colon, second = pair.partition(":")
    if not colon or not first or not second:
        raise InputError(f"{text!r} joins no two bodies", field="--joint", remedy="give A:B, or A:B@X,Y,Z in LPS mm")
    return first, second


def _joint(text: str, bodies: Sequence[Body], flags: ObjectsFlags) -> Joint:
    """The joint of ``A:B[@X,Y,Z]``: a ball about a point that is given, or found where the two meet."""
    import torch

    from raylign.registration.objects import Joint
    from raylign.registration.objects_contact import ball_between

    first, second = _names(text)
    known = {b.name: b for b in bodies}
    for name in (first, second):
        if name not in known:
            raise InputError(f"{text!r} names no body {name!r}", field="--joint", remedy=f"the bodies are {', '.join(known)}")
    _, at, point = text.partition("@")
    try:
        centre = torch.tensor([float(v) for v in point.split(",")], dtype=torch.float64) if at else None
    except ValueError:
        centre = torch.zeros(0)
    if centre is not None and centre.shape != (3,):
        raise InputError(f"{point!r} is no point", field="--joint", remedy="give X,Y,Z in LPS mm")
    if centre is None:
        try:
            centre = ball_between(known[first].model, known[second].model).centre
        except InputError as error:
            raise InputError(f"{text}: {error.problem}", field="--joint", remedy="give its centre: A:B@X,Y,Z in LPS mm") from None
    return Joint(first, second, centre, mm=flags.joint_mm, reach=flags.joint_degrees)


def said(result: ObjectsResult) -> list[str]:
    """What the terminal shows."""
    lines = []
    for name, own in result.results.items():
        rotation, translation = (", ".join(f"{x:.2g}" for x in sd.tolist()) for sd in own.standard_deviations)
        mark = "" if own.confidence.trusted else ", not to be trusted"
        lines.append(
            f"{name}: probability {own.confidence.probability:.2f}{mark}; one standard deviation {rotation} degrees,"
            f" {translation} mm"
        )
    lines += [
        f"{b} against {a}: turned {m.degrees:.1f} degrees, its middle moved {m.mm:.1f} mm since they lay in one frame"
        for (a, b), m in result.motions.items()
    ]
    lines += [f"{a} and {b} go {mm:.1f} mm into each other" for (a, b), mm in result.collisions.items() if mm > 2]
    return lines


def _shown(folder: Path, result: ObjectsResult) -> None:
    from raylign.evaluation.objects_report import sheet, write_objects_report
    from raylign.evaluation.pictures import write_png

    picture = sheet(result)
    write_png(folder / OVERLAY, picture)
    write_objects_report(folder / REPORT, result, picture, command_line())
