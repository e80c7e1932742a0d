"""The cases of a protocol by their number: a model, its exposures, the truth and a start.

Case n of a protocol and a seed is the same in any process and in any order: each random decision has a stream of its own, keyed
by the seed, the case and which decision it is. The arms of one case share them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay
from raylign.errors import InputError
from raylign.evaluation import disturb
from raylign.evaluation.arms import BEFORE_EXPOSING, UNDISTURBED, Arm
from raylign.evaluation.protocol import Protocol, Targets, Views, law
from raylign.evaluation.starts import Start
from raylign.evaluation.subject_kinds import Phantoms, Scans
from raylign.evaluation.subjects import Patient, patient, subject_name
from raylign.evaluation.truth import Truth
from raylign.geometry import Rigid, View
from raylign.registration import Problem, SearchConfig
from raylign.simulation import expose, generator
from raylign.simulation.instruments import Placed, Site, instrument_paths
from raylign.simulation.poses import TARGETS, CArmModel, Direction, TargetSampler

POINT, POSE, START, APPARATUS, PHYSICS, METAL, DISTURBANCE = range(7)
"""The decisions of a case, as places in the tree of seeds: (seed, 1, case, decision, view)."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case of an evaluation.

    Parameters
    ----------
    index: its number in the protocol. name: unique within the protocol.
    subject: whose anatomy it shows. kind: of what.
    arm: "none", or how it is disturbed.
    model, xrays: what a method gets. pose: the truth, ``T_world_from_volume``.
    targets: [N, 3] patient LPS mm, over which errors are means.
    centre: [3] patient LPS mm of the point that the start turned about.
    start: ``T_world_from_volume``. start_name: its kind. search: what it leaves open.
    bones: see ``raylign.registration.Problem``: those over which errors are means, where the protocol names them.
    """

    index: int
    name: str
    subject: str
    kind: str
    arm: str
    model: Volume
    xrays: tuple[XRay, ...]
    pose: Rigid
    targets: Float[Tensor, "N 3"]
    centre: Float[Tensor, "3"]
    start: Rigid
    start_name: str
    search: SearchConfig
    bones: LabelMap | None = None

    @property
    def problem(self) -> Problem:
        """What a method is asked."""
        return Problem(self.model, self.xrays, self.start, self.bones)


@dataclass(frozen=True, eq=False)
class _Shown:
    """A subject exposed at a known pose, before a start is drawn."""

    truth: Truth
    subject: str
    centre: Float[Tensor, "3"]


def case_count(protocol: Protocol, data: Path | None = None) -> int:
    """How many cases a protocol has, arms counted; of data that come with exposures no more than these have starts.

    Raises
    ------
    InputError: data that are not there.
    """
    kind, many = protocol.subjects, protocol.cases
    if not isinstance(kind, Phantoms | Scans):
        from raylign.evaluation.recorded import recorded_count

        many = min(many, recorded_count(kind, data) * protocol.repeats)
    return many * len(protocol.arms)


def subject_of(protocol: Protocol, index: int, seed: int | None = None, data: Path | None = None) -> str:
    """Whose anatomy a case shows, without making it: what ``make_case`` of the same arguments has as ``subject``.

    Raises
    ------
    InputError: data that are not there, no case of that number.
    """
    kind, place = protocol.subjects, index // len(protocol.arms) // protocol.repeats
    if isinstance(kind, Phantoms | Scans):
        return subject_name(kind, place // protocol.per_subject, protocol.seed if seed is None else seed)
    from raylign.evaluation.recorded import recorded_subject

    return recorded_subject(kind, place, data, protocol.per_subject)


def make_case(protocol: Protocol, index: int, seed: int | None = None, data: Path | None = None) -> Case:
    """One case. Arms of an exposure stand together: ``index`` is arm ``index % len(arms)`` of exposure ``index // len(arms)``.

    Parameters
    ----------
    seed: in place of the protocol's.
    data: the folder in which scans and exposures are found.

    Raises
    ------
    InputError: a negative index, data that are not there.
    """
    if index < 0:
        raise InputError(f"case {index}", field="index", remedy="cases count from 0")
    seed = protocol.seed if seed is None else seed
    number, arm = index // len(protocol.arms), protocol.arms[index % len(protocol.arms)]
    place = number // protocol.repeats
    shown = _shown(protocol, place, arm, seed, data)
    turn, which = divmod(number, len(protocol.start_kinds))
    start_name, search = protocol.start_kinds[which]
    drawn = Start(start_name).of(shown.truth, shown.centre, generator(seed, 1, number, START), turn)
    truth, pose = shown.truth, shown.truth.pose
    xrays, motions = [], []
    for n, xray in enumerate(truth.xrays):
        stream = generator(seed, 1, place, DISTURBANCE, n)
        view, motion = disturb.told(xray.view, arm, stream, n)
        xrays.append(disturb.seen(replace(xray, view=view), arm, stream))
        motions.append(motion)
    if arm.kind != UNDISTURBED:
        pose = Rigid(motions[0] @ pose.matrix)
    name = truth.name if protocol.repeats == 1 else f"{truth.name}/start {number % protocol.repeats}"
    return Case(
        index,
        name if arm.kind == UNDISTURBED else f"{name}/{arm.name}",
        shown.subject,
        truth.kind,
        arm.name,
        disturb.coarser(truth.model, arm),
        tuple(xrays),
        pose,
        truth.targets,
        shown.centre,
        drawn,
        start_name,
        search,
        truth.bones,
    )


_last: dict[bool, tuple[tuple[object, ...], _Shown]] = {}  # the last exposure as usual, and the last as an arm has it


def _shown(protocol: Protocol, number: int, arm: Arm, seed: int, data: Path | None) -> _Shown:
    """Exposure ``number``, kept until another is asked for: most arms, and all starts of one, share it."""
    made_so = arm if arm.kind in BEFORE_EXPOSING else Arm()
    key = (protocol.model_dump_json(), number, made_so, seed, data)
    usual = made_so == Arm()
    if usual not in _last or _last[usual][0] != key:
        _last[usual] = (key, _exposed(protocol, number, made_so, seed, data))
    return _last[usual][1]


def _exposed(protocol: Protocol, number: int, arm: Arm, seed: int, data: Path | None) -> _Shown:
    kind = protocol.subjects
    if not isinstance(kind, Phantoms | Scans):
        from raylign.evaluation.recorded import recorded

        subject, truth = recorded(kind, number, data, protocol.per_subject)
        return _Shown(truth, subject, truth.model.centre)
    who = patient(kind, protocol.points.wanted, number // protocol.per_subject, seed, data)
    pick = int(torch.randint(len(who.isocentres), (), generator=generator(seed, 1, number, POINT)))
    point = who.isocentres[pick]
    sampler = sampler_of(protocol)
    each = sampler.views_per_case
    views, poses = sampler.draw(point, each, [generator(seed, 1, number, POSE) for _ in range(each)])
    pose = Rigid(poses[0])
    metal = _metal(protocol, arm, (views[0], point, pose), generator(seed, 1, number, METAL))
    xrays = tuple(_exposure(protocol, arm, who, (view, pose, metal), (seed, number, n)) for n, view in enumerate(views))
    return _Shown(Truth(f"{who.name}/{number:05d}", who.kind, who.model, xrays, pose, who.targets, who.bones), who.name, point)


def _exposure(
    protocol: Protocol, arm: Arm, who: Patient, scene: tuple[View, Rigid, tuple[Placed, ...]], place: tuple[int, int, int]
) -> XRay:
    (view, pose, metal), (seed, number, n) = scene, place
    config = disturb.exposed(protocol.ranges.draw(generator(seed, 1, number, APPARATUS, n)), arm)
    extra = {k: v[0] for k, v in instrument_paths([metal], [view]).items()} if metal else None
    stream = generator(seed, 1, number, PHYSICS, n)
    made = expose(who.body, view, pose, config, stream, extra=extra).xray
    return replace(made, name=f"view {n}")


def _metal(
    protocol: Protocol, arm: Arm, scene: tuple[View, Float[Tensor, "3"], Rigid], stream: torch.Generator
) -> tuple[Placed, ...]:
    what = disturb.in_beam(protocol.instrument_set, arm)
    if what is None:
        return ()
    view, point, pose = scene
    return what.draw(view, Site(point).moved(pose.matrix), stream)


def sampler_of(protocol: Protocol) -> TargetSampler:
    """The distribution of views and true poses of a protocol."""
    given, views = protocol.targets, protocol.views
    base = TARGETS[given if isinstance(given, str) else "raylign"]
    if isinstance(given, Targets):
        base = replace(base, name=protocol.name, chosen="", motion=given.motion, axes=given.axes, disc_mm=given.disc_mm)
    directions = base.directions
    if views.angles:
        directions = tuple(Direction(str(n), law(a.primary), law(a.secondary)) for n, a in enumerate(views.angles))
    together = base.biplane if views.together is None else views.together
    return replace(base, carm=_carm(base.carm, views), directions=directions, biplane=together)


def _carm(base: CArmModel, views: Views) -> CArmModel:
    """A C-arm with what a protocol says otherwise; of another number of pixels and no other pitch the detector keeps its size."""
    out = base
    if views.shape is not None:
        if views.pitch is not None:
            out = replace(out, shape=views.shape, row_pitch=1.0)
        else:
            low, high = (float(x) for x in base.pitch.at(torch.tensor([0.0, 1.0], dtype=torch.float64)))
            across, down = base.shape[1] / views.shape[1], base.shape[0] / views.shape[0]
            spread = law((low * across, high * across))
            out = replace(out, shape=views.shape, pitch=spread, row_pitch=base.row_pitch * down / across)
    if views.pitch is not None:
        out = replace(out, pitch=law(views.pitch), row_pitch=1.0)
    if views.sid is not None:
        out = replace(out, sid=law(views.sid))
    if views.sod is not None:
        out = replace(out, sod=law(views.sod))
    return out
