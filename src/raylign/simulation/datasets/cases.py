"""Cases of a recipe by their number: who, from where, with what, and what the detector saw.

Case n of a recipe is the same in every batch and on every machine: each of its random decisions has a stream of its own, keyed by
the recipe's seed, n, and which decision it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import View, se3
from raylign.projection import project
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.residents import Resident
from raylign.simulation.instruments import Placed, Site, instrument_paths
from raylign.simulation.labelled import Labelled
from raylign.simulation.physics import fields
from raylign.simulation.physics.apparatus import ExposureConfig
from raylign.simulation.physics.exposure import expose_batch
from raylign.simulation.poses.starts import Binned, Grid
from raylign.simulation.seeds import generator

SUBJECT, POINT, POSE, START, APPARATUS, PHYSICS, METAL, LOOK = range(8)
"""The decisions of a case, as places in the tree of seeds: (seed, 0, case, decision, exposure)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Exposures with all that is known about them; those of one case stand together.

    Parameters
    ----------
    labelled: E exposures, with the appearance applied. ``segments`` are mm of the structures that the recipe names. Where an
        image intensifier distorts an exposure, its points and segments are distorted too, and its view is that of the picture
        without distortion.
    starts: [E, 4, 4] float64, where a registration is to start; both exposures of a biplane case start at one pose.
    cases: number of each exposure's case.
    subjects: the resident that each shows.
    points: [E, 3] patient mm of what was brought to the isocentre.
    configs: the apparatus of each.
    instruments: names of what lay in each beam.
    counts: [E, H, W] whole numbers as the detector stored them, before any appearance.
    exposed: the geometry of each exposure before any appearance moved its pixels.
    """

    labelled: Labelled
    starts: Float[Tensor, "E 4 4"]
    cases: tuple[int, ...]
    subjects: tuple[Resident, ...]
    points: Float[Tensor, "E 3"]
    configs: tuple[ExposureConfig, ...]
    instruments: tuple[tuple[str, ...], ...]
    counts: Tensor = field(repr=False)
    exposed: tuple[View, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def ids(self) -> tuple[str, ...]:
        """Whose anatomy each exposure shows."""
        return tuple(resident.entry.id for resident in self.subjects)

    @property
    def targets(self) -> tuple[Float[Tensor, "N 3"], ...]:
        """Points of each exposure's patient, mm, over which mTRE is the mean."""
        return tuple(resident.targets for resident in self.subjects)


def stream_of(plan: Plan, case: int, decision: int, exposure: int = 0) -> torch.Generator:
    """The random stream of one decision of a case."""
    return generator(plan.recipe.seed, 0, case, decision, exposure)


def make_cases(plan: Plan, numbers: Sequence[int], residents: Sequence[Resident], device: str | torch.device = "cpu") -> Batch:
    """Expose cases.

    Parameters
    ----------
    plan: the recipe.
    numbers: of the cases.
    residents: the subject of each, on the device.
    device: where images come to lie.
    """
    each = plan.targets.views_per_case
    placed = _placed(plan, numbers, residents)
    starts = _started(plan, numbers, residents, placed).repeat_interleave(each, 0)
    cases = [n for n in numbers for _ in range(each)]
    shown = [r for r in residents for _ in range(each)]
    ranks = [e for _ in numbers for e in range(each)]
    configs = [plan.ranges.draw(stream_of(plan, n, APPARATUS)) for n in cases]
    metal = _metal(plan, numbers, residents, placed)
    views, poses = placed.views, placed.poses.to(device)
    distinct = list({id(r): r for r in shown}.values())
    index = [next(i for i, d in enumerate(distinct) if d is r) for r in shown]
    exposures = expose_batch(
        [r.matter for r in distinct],
        index,
        views,
        poses,
        configs,
        [stream_of(plan, n, PHYSICS, e) for n, e in zip(cases, ranks, strict=True)],
        extra=instrument_paths(metal, views, device=device) if any(metal) else None,
    )
    bent = [config.intensifier for config in configs]
    segments = _segments(plan, shown, placed, device)
    points = project_points(views, poses, torch.stack([r.landmarks for r in shown]).to(device))
    labelled = Labelled(
        exposures.image,
        exposures.valid,
        tuple(views),
        poses,
        fields.distorted(points, views[0].shape, bent) if any(bent) else points,
        fields.warped(segments, bent),
    )
    labelled = plan.appearance(labelled, [stream_of(plan, n, LOOK, e) for n, e in zip(cases, ranks, strict=True)])
    names = tuple(tuple(item.instrument.name for item in some) for some in metal)
    return Batch(
        labelled,
        starts.to(device),
        tuple(cases),
        tuple(shown),
        placed.points,
        tuple(configs),
        names,
        exposures.counts,
        tuple(views),
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    """Views, true poses, and the points of the patients that they bring to the isocentre; on the CPU."""

    views: list[View]
    poses: Float[Tensor, "E 4 4"]
    points: Float[Tensor, "E 3"]


def _placed(plan: Plan, numbers: Sequence[int], residents: Sequence[Resident]) -> _Placed:
    each = plan.targets.views_per_case
    # drawn for a point at the patient's origin, and moved to the point of each: one draw for a batch of several patients
    origin = torch.zeros(3, dtype=torch.float64)
    views, poses = plan.targets.draw(
        origin, len(numbers) * each, [stream_of(plan, n, POSE) for n in numbers for _ in range(each)]
    )
    chosen = []
    for number, resident in zip(numbers, residents, strict=True):
        pick = int(torch.randint(len(resident.isocentres), (), generator=stream_of(plan, number, POINT)))
        chosen += [resident.isocentres[pick]] * each
    points = torch.stack(chosen)
    return _Placed(views, _about(poses, -points), points)


def _about(poses: Float[Tensor, "E 4 4"], points: Float[Tensor, "E 3"]) -> Float[Tensor, "E 4 4"]:
    """Poses of patients who are first shifted by points of theirs."""
    shift = (poses[:, :3, :3] * points[:, None, :]).sum(-1)
    return se3.from_parts(poses[:, :3, :3], poses[:, :3, 3] + shift)


def _started(plan: Plan, numbers: Sequence[int], residents: Sequence[Resident], placed: _Placed) -> Float[Tensor, "B 4 4"]:
    """One start for each case, turned about its point; the axes are those of its first view."""
    each = plan.targets.views_per_case
    views, truth, points = placed.views[::each], placed.poses[::each], placed.points[::each]
    sampler, origin = plan.starts, torch.zeros(3, dtype=torch.float64)
    streams = [stream_of(plan, n, START) for n in numbers]
    moved = _about(truth, points)  # patients whose point is their origin
    if not isinstance(sampler, Binned | Grid):
        return _about(sampler.draw(moved, views, origin, origin[None], streams), -points)
    # these depend on the patient's targets, or on a start's place in its batch: one by one, at the place that the case has
    out = []
    for n, number in enumerate(numbers):
        targets = residents[n].targets - points[n]
        if isinstance(sampler, Binned):
            one: Any = replace(sampler, bins=(sampler.bins[number % len(sampler.bins)],))
            out.append(one.draw(moved[n : n + 1], views[n : n + 1], origin, targets, streams[n : n + 1]))
        else:
            count = number % sampler.size + 1
            some = sampler.draw(moved[n].expand(count, 4, 4), [views[n]] * count, origin, targets, _last(streams[n], count))
            out.append(some[-1:])
    return _about(torch.cat(out), -points)


def _last(stream: torch.Generator, count: int) -> list[torch.Generator]:
    """So many streams, the last of them the given one."""
    return [*(torch.Generator() for _ in range(count - 1)), stream]


def _metal(plan: Plan, numbers: Sequence[int], residents: Sequence[Resident], placed: _Placed) -> list[tuple[Placed, ...]]:
    """What lies in the beam of every exposure; a case's exposures show the same."""
    each, out = plan.targets.views_per_case, []
    for n, (number, resident) in enumerate(zip(numbers, residents, strict=True)):
        some: tuple[Placed, ...] = ()
        if plan.instruments is not None:
            head = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
            site = Site(placed.points[n * each], head, resident.vessels).moved(placed.poses[n * each])
            some = plan.instruments.draw(placed.views[n * each], site, stream_of(plan, number, METAL))
        out += [some] * each
    return out


def project_points(
    views: Sequence[View], poses: Float[Tensor, "E 4 4"], points: Float[Tensor, "E N 3"]
) -> Float[Tensor, "E N 2"]:
    """(column, row) of every patient's points in his exposure; all exposures in one operation."""
    device = points.device
    vectors = torch.stack([view.vectors for view in views]).to(device)
    source, origin, column, row = vectors.unbind(1)
    inverse = torch.linalg.inv(torch.stack([column, row, origin - source], -1))
    world = points @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    seen = (world - source[:, None]) @ inverse.mT
    return seen[..., :2] / seen[..., 2:]


def _segments(plan: Plan, shown: Sequence[Resident], placed: _Placed, device: str | torch.device) -> Float[Tensor, "E C H W"]:
    """mm of the structures that the recipe names, for every exposure; nothing of those that a subject has not."""
    names, shape = plan.recipe.segments, placed.views[0].shape
    out = torch.zeros(len(shown), len(names), *shape, device=device)
    if not names:
        return out
    back = se3.inverse(placed.poses)
    groups: dict[int, list[int]] = {}
    for n, resident in enumerate(shown):
        groups.setdefault(id(resident), []).append(n)
    for rows in groups.values():
        many = [placed.views[n].transformed(back[n]) for n in rows]
        for channel, solid in enumerate(shown[rows[0]].segments):
            if solid is not None:
                out[rows, channel] = project(solid, many)[0].to(out.dtype)
    return out
