"""Exposures of a patient beside poses to compare them with: minibatches of training, and cases to measure by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.geometry import View, se3
from raylign.methods.geodesic import downhill
from raylign.methods.looks import Looks, look
from raylign.methods.patients import Patient
from raylign.simulation.appearance import appearance
from raylign.simulation.labelled import Labelled
from raylign.simulation.poses import starts
from raylign.simulation.seeds import generator


@dataclass(frozen=True)
class Laws:
    """From which laws pairs are drawn.

    Parameters
    ----------
    poses: law of the poses (``simulation.poses``). appearance: domain randomisation, plain for none.
    pixels: along each side of what is seen.
    """

    poses: str
    appearance: str
    pixels: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """Exposures of one patient, and poses to compare them with.

    Parameters
    ----------
    cube: [D, H, W] of the patient.
    looks: B exposures. truth: [B, 4, 4] their poses. moving: [B, 4, 4] others.
    points: [P, 3] mm from the cube's middle, of the model's surface.
    """

    cube: Float[Tensor, "D H W"]
    looks: Looks
    truth: Float[Tensor, "B 4 4"]
    moving: Float[Tensor, "B 4 4"]
    points: Float[Tensor, "P 3"]


def make_pairs(patient: Patient, which: Tensor, laws: Laws, stream: torch.Generator) -> Pairs:
    """Some exposures of a patient, and as many poses drawn by a law about the pose of the model's middle at the isocentre."""
    views = tuple(patient.views[int(k)] for k in which)
    count = len(which)
    seeds = torch.randint(2**62, (count,), generator=stream).tolist()
    shown = Labelled(
        patient.images[which], patient.valid[which], views, patient.truth[which],
        torch.zeros(count, 0, 2, dtype=torch.float64), torch.zeros(count, 0, *patient.images.shape[1:]),
    )  # fmt: skip
    changed = appearance(laws.appearance)(shown, [generator(int(s), 0) for s in seeds])
    moving = drawn(laws.poses, patient.truth[which], changed.views, seeds)
    seen = look(changed.image, changed.valid, changed.views, laws.pixels)
    return Pairs(patient.cube, seen, patient.truth[which], moving, patient.points)


def drawn(law: str, truth: Float[Tensor, "B 4 4"], views: tuple[View, ...], seeds: list[int]) -> Float[Tensor, "B 4 4"]:
    """Poses of the cube by a law of starts, each by a stream of its own."""
    origin = torch.zeros(3, dtype=torch.float64)
    return starts(law).draw(truth, views, origin, origin[None], [generator(seed, 1) for seed in seeds])


def mean_tre(poses: Float[Tensor, "B 4 4"], truth: Float[Tensor, "B 4 4"], points: Float[Tensor, "P 3"]) -> Float[Tensor, " B"]:
    """Mean distance of points between two poses, mm."""
    return (se3.transform(poses, points) - se3.transform(truth, points)).norm(dim=-1).mean(-1)


def left(poses: Float[Tensor, "B 4 4"], pairs: Pairs) -> Float[Tensor, "B 3"]:
    """How far from poses the true ones lie, in each exposure's own axes: the largest of the turns about them (degrees), of the
    shifts across the beam (mm), and the shift along it (mm)."""
    across, down = (pairs.looks.vectors[:, n].to(poses) for n in (2, 3))
    axes = torch.stack([across, down, torch.linalg.cross(across, down)], 1)
    axes = axes / axes.norm(dim=-1, keepdim=True)
    way = downhill(poses, pairs.truth, 1.0).to(axes)
    turn, shift = ((axes @ part[..., None])[..., 0].abs() for part in (way[:, :3], way[:, 3:]))
    return torch.stack([torch.rad2deg(turn.amax(-1)), shift[:, :2].amax(-1), shift[:, 2]], -1)


def left_open(errors: Float[Tensor, "N 3"]) -> dict[str, float]:
    """Half widths of a box about where registrations end, that a method which goes on has to look through.

    Twice the medians of ``left``: some registrations end anywhere, and a box that held those too would be no box.
    """
    degrees, mm, depth = (2 * errors.median(0).values).tolist()
    return {"open_degrees": degrees, "open_mm": mm, "open_depth": depth}


def nearer(before: Float[Tensor, " N"], after: Float[Tensor, " N"]) -> dict[str, float]:
    """How mean TREs (mm) came down: number of cases, medians, quartiles, shares under 10 and 20 mm and nearer than before."""
    return {
        "cases": float(len(after)),
        "tre_start": float(before.median()),
        "tre_median": float(after.median()),
        "tre_p25": float(after.quantile(0.25)),
        "tre_p75": float(after.quantile(0.75)),
        "under_10": float((after < 10).double().mean()),
        "under_20": float((after < 20).double().mean()),
        "nearer": float((after < before).double().mean()),
    }
