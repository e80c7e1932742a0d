"""More patients from one: deformed, larger or smaller, with other densities, contrast and noise, in other voxels, cut shorter."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Landmarks, Mesh, grid
from raylign.errors import InputError
from raylign.simulation.anchors import BONES, Anchors
from raylign.simulation.deformation import Deformation, DeformationConfig, anchors_for
from raylign.simulation.poses.laws import Law, Normal, Uniform, fixed, uniforms
from raylign.simulation.resolution import cropped, resampled
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject

BLOOD = (
    "aorta", "heart_ventricle_*", "heart_atrium_*", "atrial_appendage_*", "pulmonary_vein", "pulmonary_artery",
    "superior_vena_cava", "inferior_vena_cava", "brachiocephalic_*", "subclavian_artery_*", "common_carotid_artery_*",
    "iliac_artery_*", "iliac_vena_*", "portal_vein_*", "arch_branches",
)  # fmt: skip
"""Names of what holds blood, as TotalSegmentator has them; its "heart" holds muscle too (``MUSCLE_AND_BLOOD``)."""

MUSCLE_AND_BLOOD = ("heart",)
"""Labels in which blood is what contrast agent makes brighter than muscle."""

_LOST_UNITS = ("_mm", "_mm2", "_mm3", "_cm", "_m", "_m2", "_ml", "_g", "_kg", "_hu", "_deg", "_degrees", "_ratio")
_PLAIN_HU = 60.0  # what blood and muscle measure at most without contrast agent
_ENHANCED_HU = 120.0  # mean of the blood from which on it can be told from muscle
_DENSE_HU = 100.0  # below, a voxel of a bone is marrow or fat and does not grow denser with it


_DEFORMATION = DeformationConfig(rigid=BONES)
_SIZE, _STRETCH = Normal(0.0, 0.04), Normal(0.0, 0.02)
_BONE_GAIN, _SOFT_HU, _NOISE_HU = Uniform(0.85, 1.15), Uniform(-8.0, 8.0), Uniform(0.0, 20.0)
_WHOLE = fixed(1.0)


@dataclass(frozen=True)
class VariationConfig:
    """What copies of a patient vary in, and how far. ``None`` and constants leave a thing as it is.

    Parameters
    ----------
    deformation: the diffeomorphism; bones, where they are labelled, stay nearly rigid by default.
    size: natural logarithm of a factor on all lengths.
    stretch: the same for each axis of the grid alone.
    bone_gain: factor on what bones have above 100 HU (bone mineral).
    soft_hu: added to soft tissue (whole from 0 to 80 HU, fading to nothing at -50 and 130).
    blood_hu: level of contrast agent: every structure of ``blood`` is shifted to this mean. Where a label holds muscle and blood
        (``MUSCLE_AND_BLOOD``) and the blood is enhanced, what is brighter there than 60 HU is scaled accordingly. ``None``
        leaves it.
    noise_hu: standard deviation of noise to add, at the scan's own voxels, correlated over neighbours within slices.
    slice_mm: distance of slices; ``None`` leaves it. In-plane voxels become ``in_plane_mm``.
    in_plane_mm: size of voxels within slices; ``None`` leaves it.
    field: share of the slices that is kept, at a random place.
    blood, bones: names of labels, or patterns of them.
    """

    deformation: DeformationConfig | None = _DEFORMATION
    size: Law = _SIZE
    stretch: Law = _STRETCH
    bone_gain: Law = _BONE_GAIN
    soft_hu: Law = _SOFT_HU
    blood_hu: Law | None = None
    noise_hu: Law = _NOISE_HU
    slice_mm: Law | None = None
    in_plane_mm: Law | None = None
    field: Law = _WHOLE
    blood: tuple[str, ...] = BLOOD
    bones: tuple[str, ...] = BONES


@dataclass(frozen=True)
class _Drawn:
    """The numbers of one copy."""

    factors: tuple[float, float, float]
    bone_gain: float
    soft_hu: float
    blood_hu: float | None
    noise_hu: float
    slice_mm: float | None
    in_plane_mm: float | None
    field: float
    place: float

    @staticmethod
    def of(config: VariationConfig, u: Tensor) -> _Drawn:
        def at(law: Law | None, k: int) -> float | None:
            return None if law is None else float(law.at(u[k]))

        whole = config.size.at(u[0]) + config.stretch.at(u[1:4])
        x, y, z = whole.exp().tolist()
        gain, soft, noise, field = (
            float(law.at(u[k]))
            for law, k in ((config.bone_gain, 4), (config.soft_hu, 5), (config.noise_hu, 7), (config.field, 10))
        )
        blood, thick, fine = at(config.blood_hu, 6), at(config.slice_mm, 8), at(config.in_plane_mm, 9)
        return _Drawn((x, y, z), gain, soft, blood, noise, thick, fine, min(max(field, 0.0), 1.0), float(u[11]))


def vary(subject: Subject, config: VariationConfig, seed: int, copy: int, anchors: Anchors | None = None) -> Subject:
    """One more patient like this one: copy ``copy`` of it.

    The id stays, so that no split parts it from its original. Which copy it is depends on id, seed and number alone.

    Parameters
    ----------
    subject: an original.
    config: what varies.
    seed: of the whole set of copies.
    copy: 1, 2, ...
    anchors: the bones that stay rigid, where many copies are made of one subject (``anchors_for``); found here otherwise.

    Returns
    -------
    Subject on the device of the original. ``traits`` keeps what deforming does not change (age, sex, counts) and says what was
    done (``copy_...``).

    Raises
    ------
    InputError: copy 0 or a copy of a copy.
    """
    if copy < 1 or subject.copy != 0:
        raise InputError(
            f"copy {copy} of copy {subject.copy}", field="copy", remedy="copies count from 1 and are made of originals"
        )
    key = int.from_bytes(hashlib.sha256(subject.id.encode()).digest()[:4], "big")
    drawn = _Drawn.of(config, uniforms(1, 12, generator(seed, key, copy, 0))[0])
    traits = {name: value for name, value in subject.traits.items() if not name.endswith(_LOST_UNITS)}
    out = subject
    if config.deformation is not None:
        held = anchors
        if held is None and _named(subject.labels.present(), config.deformation.rigid):
            held = anchors_for(subject.labels, config.deformation)
        map_ = Deformation.random(subject.labels, config.deformation, generator(seed, key, copy, 1), held)
        out = deformed(out, map_)
        traits["copy_deformation_mm"] = round(float(map_.pull.square().sum(0).mean().sqrt()), 2)
    out = scaled(out, drawn.factors)
    data = recoloured(out, drawn, config)
    if drawn.noise_hu > 0:
        data = data + _noise(data, drawn.noise_hu, generator(seed, key, copy, 2))
    out = replace(out, volume=replace(out.volume, data=data.clamp_min(-1024.0)))
    if drawn.slice_mm is not None or drawn.in_plane_mm is not None:
        x, y, z = out.volume.spacing
        fine = drawn.in_plane_mm
        out = resampled(out, (fine or x, fine or y, drawn.slice_mm or z))
    n = out.volume.data.shape[0]
    kept = max(2, round(n * drawn.field))
    if kept < n:
        out = cropped(out, round(drawn.place * (n - kept)), kept)
    traits |= {"copy_size": float(torch.tensor(drawn.factors).prod() ** (1 / 3)), "copy_bone_gain": drawn.bone_gain}
    traits |= {"copy_noise_hu": drawn.noise_hu}
    return replace(out, copy=copy, traits=traits)


def deformed(subject: Subject, map_: Deformation) -> Subject:
    """The subject under a deformation: scan, labels, meshes and landmarks by one map."""
    return replace(
        subject,
        volume=map_.volume(subject.volume),
        labels=map_.labels(subject.labels),
        landmarks=map_.landmarks(subject.landmarks),
        meshes={name: map_.mesh(mesh) for name, mesh in subject.meshes.items()},
    )


def scaled(subject: Subject, factors: Sequence[float]) -> Subject:
    """The subject enlarged along the axes of its grid (column, row, slice) about the scan's centre: no voxel is interpolated.

    Raises
    ------
    InputError: a factor that is not positive.
    """
    if min(factors) <= 0:
        raise InputError(f"factors {tuple(factors)}", field="factors", remedy="give positive numbers")
    old = subject.volume.affine
    unit = old[:3, :3] / old[:3, :3].norm(dim=0)
    linear = unit @ torch.diag(old.new_tensor(list(factors))) @ torch.linalg.inv(unit)
    centre = grid.centre(old.cpu(), subject.volume.data.shape).to(old)
    matrix = torch.eye(4, dtype=old.dtype, device=old.device)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ centre
    affine = matrix @ old

    def at(points: Tensor) -> Tensor:
        m = matrix.to(points)
        return points @ m[:3, :3].T + m[:3, 3]

    return replace(
        subject,
        volume=replace(subject.volume, affine=affine),
        labels=LabelMap(subject.labels.data, affine, subject.labels.names),
        landmarks=Landmarks(subject.landmarks.names, at(subject.landmarks.points)),
        meshes={name: Mesh(at(mesh.vertices), mesh.faces, mesh.name) for name, mesh in subject.meshes.items()},
    )


def recoloured(subject: Subject, drawn: _Drawn, config: VariationConfig) -> Float[Tensor, "D H W"]:
    """HU of the subject with other densities of bone, soft tissue and blood."""
    hu = subject.volume.data.clone()
    present = subject.labels.present()
    labels = subject.labels.data
    bones = _named(present, config.bones)
    if drawn.bone_gain != 1 and bones:
        dense = (hu - _DENSE_HU).clamp_min(0) * _mask(labels, bones)
        hu += (drawn.bone_gain - 1) * dense
    if drawn.soft_hu:
        hu += drawn.soft_hu * torch.minimum((hu + 50) / 50, (130 - hu) / 50).clamp(0, 1)
    blood = _named(present, config.blood)
    if drawn.blood_hu is not None and blood:
        number = labels.flatten().long()
        # whole numbers: their sums do not depend on the order, nor on the threads
        sums = torch.bincount(number, weights=(hu * 16).round().flatten().double())
        mean = sums / 16 / torch.bincount(number).clamp_min(1)
        shift = torch.zeros_like(mean)
        shift[blood] = drawn.blood_hu - mean[blood]
        pooled = float(sums[blood].sum() / 16 / torch.bincount(number)[blood].sum())
        mixed = _named(present, MUSCLE_AND_BLOOD)
        if mixed and pooled > _ENHANCED_HU:
            less = (drawn.blood_hu - pooled) / (pooled - _PLAIN_HU)
            hu += less * (hu - _PLAIN_HU).clamp_min(0) * _mask(labels, mixed)
        hu += _softened(shift.to(hu)[labels.long()])  # the step at a vessel's wall is as soft as the scan's own
    return hu


def _named(present: dict[int, str], patterns: Sequence[str]) -> list[int]:
    return [n for n, name in present.items() if any(fnmatch.fnmatch(name, p) for p in patterns)]


def _mask(labels: Tensor, numbers: list[int]) -> Tensor:
    table = torch.zeros(int(labels.max()) + 1, dtype=torch.bool, device=labels.device)
    table[numbers] = True
    return table[labels.long()]


def _softened(x: Tensor) -> Tensor:
    """Numbers under (1, 2, 1) / 4 along every axis."""
    for dim in range(3):
        x = _three(x, dim)
    return x


def _three(x: Tensor, dim: int) -> Tensor:
    n = x.shape[dim]
    before, after = x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1)
    low, high = torch.cat([before, x.narrow(dim, 0, n - 1)], dim), torch.cat([x.narrow(dim, 1, n - 1), after], dim)
    return (low + high + 2 * x) / 4


def _noise(like: Tensor, sd: float, stream: torch.Generator) -> Tensor:
    """Gaussian noise that is smooth over neighbouring pixels of a slice, as reconstruction makes it."""
    white = torch.randn(like.shape, generator=stream, device=stream.device).to(like)
    return _three(_three(white, 1), 2) * (sd / 0.375)  # each (1, 2, 1) / 4 leaves 6 / 16 of the variance
