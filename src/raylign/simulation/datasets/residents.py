"""A subject at hand: what is in the beam, on the device, and the points of it that matter."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.simulation.datasets.recipes import Recipe, TargetPoints
from raylign.simulation.datasets.roster import Entry, centre_lines, make
from raylign.simulation.physics.materials import Matter
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

_BONE_HU = 300.0


@dataclass(frozen=True, eq=False)
class Resident:
    """One subject, ready to be exposed.

    Parameters
    ----------
    entry: which of the recipe's.
    subject: the patient.
    matter: its materials, on the device.
    isocentres: [K, 3] patient mm, of which a case brings one to the isocentre.
    targets: [N, 3] patient mm, over which mTRE is the mean.
    landmarks: [L, 3] patient mm of the landmarks that the recipe names; NaN where this subject has none of that name.
    vessels: centre lines [N, 3], patient mm, in which instruments can lie.
    segments: indicators, on the device, of the structures that the recipe names, cut to where they are; None for those that this
        subject has not.
    """

    entry: Entry
    subject: Subject
    matter: Matter
    isocentres: Float[Tensor, "K 3"]
    targets: Float[Tensor, "N 3"]
    landmarks: Float[Tensor, "L 3"]
    vessels: tuple[Float[Tensor, "N 3"], ...] = ()
    segments: tuple[Volume | None, ...] = ()


def reside(recipe: Recipe, entry: Entry, device: str | torch.device = "cpu") -> Resident:
    """Make a subject and bring it to the device.

    Raises
    ------
    InputError: it cannot be made; it has none of the structures that the recipe names.
    """
    subject = make(recipe, entry)
    return Resident(
        entry,
        subject,
        Matter.of(subject).to(device),
        isocentres(subject, recipe.isocentre),
        target_points(subject, recipe.target_points),
        landmark_points(subject, recipe.landmarks),
        centre_lines(recipe, entry),
        tuple(indicator(subject.labels, name, device) for name in recipe.segments),
    )


def indicator(labels: LabelMap, name: str, device: str | torch.device) -> Volume | None:
    """One in a structure and zero about it, on that part of the grid which holds it: what rays miss of it costs them nothing."""
    number = {known: n for n, known in labels.present().items()}.get(name)
    if number is None:
        return None
    inside = labels.data == number
    low, high = (f(inside.nonzero(), 0) for f in (torch.amin, torch.amax))
    (k0, j0, i0), (k1, j1, i1) = (low - 1).tolist(), (high + 2).tolist()  # zeros all around, beyond the grid's edge too
    padded = torch.nn.functional.pad(inside.to(torch.float32), (1, 1, 1, 1, 1, 1))
    cut = padded[k0 + 1 : k1 + 1, j0 + 1 : j1 + 1, i0 + 1 : i1 + 1].contiguous()
    affine = labels.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([i0, j0, k0], dtype=affine.dtype)
    return Volume(cut, affine, "raw").to(device)


def isocentres(subject: Subject, names: tuple[str, ...]) -> Float[Tensor, "K 3"]:
    """Where the named landmarks lie, the middles of the named labels, or of the scan ("centre"); those that this subject has.

    Raises
    ------
    InputError: it has none of them.
    """
    present = {name: number for number, name in subject.labels.present().items()}
    found = []
    for name in names:
        if name == "centre":
            found.append(subject.volume.centre.double().cpu())
        elif name in subject.landmarks.names:
            found.append(subject.landmarks[name].cpu())
        elif name in present:
            found.append(_patient(subject, (subject.labels.data == present[name]).nonzero()).mean(0))
    if not found:
        some = ", ".join([*subject.landmarks.names[:4], *list(present)[:4]])
        raise InputError(
            f"{subject.id} has no {' and no '.join(names)}", field="isocentre", remedy=f'use "centre", or it has {some}, ...'
        )
    return torch.stack(found)


def target_points(subject: Subject, wanted: TargetPoints) -> Float[Tensor, "N 3"]:
    """Voxels on the surface of the wanted structures, chosen by the subject's id: the same points in every data set.

    Raises
    ------
    InputError: the subject has none of the structures.
    """
    if wanted.structures:
        chosen = chosen_labels(subject, wanted)
        inside = torch.isin(subject.labels.data, torch.tensor(chosen, dtype=subject.labels.data.dtype))
    else:
        inside = subject.volume.decoded().data > _BONE_HU
    inside = inside.cpu()
    surface = inside & ~_inner(inside)
    places = surface.nonzero()
    if not len(places):
        what = ", ".join(wanted.structures) or f"above {_BONE_HU:g} HU"
        raise InputError(f"{subject.id} has nothing that is {what}", field="target_points", remedy="name other structures")
    rng = numpy_generator(int.from_bytes(subject.id.encode()[-6:], "big"))
    picked = torch.from_numpy(rng.choice(len(places), min(wanted.count, len(places)), replace=False))
    return _patient(subject, places[picked])


def chosen_labels(subject: Subject, wanted: TargetPoints) -> list[int]:
    """Numbers of the labels that the wanted structures name."""
    names = subject.labels.present()
    return [n for n, name in names.items() if any(fnmatch.fnmatchcase(name, w) for w in wanted.structures)]


def _inner(inside: Tensor) -> Tensor:
    """Voxels whose six neighbours all lie inside too."""
    out = inside.clone()
    for axis in range(3):
        for shift in (1, -1):
            beside = torch.roll(inside, shift, axis)
            beside.select(axis, 0 if shift == 1 else -1).fill_(False)
            out &= beside
    return out


def _patient(subject: Subject, places: Tensor) -> Float[Tensor, "n 3"]:
    """Patient mm of voxels given as (slice, row, column)."""
    affine = subject.volume.affine.double().cpu()
    return places.cpu().flip(1).double() @ affine[:3, :3].T + affine[:3, 3]


def landmark_points(subject: Subject, names: tuple[str, ...]) -> Float[Tensor, "L 3"]:
    """The named landmarks in patient mm, NaN for those that the subject has not."""
    known = dict(zip(subject.landmarks.names, subject.landmarks.points.double().cpu(), strict=True))
    nowhere = torch.full((3,), torch.nan, dtype=torch.float64)
    return torch.stack([known.get(name, nowhere) for name in names]) if names else torch.zeros(0, 3, dtype=torch.float64)
