"""Subjects from scans, and their split into training, validation and test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.data.resample import resample_labels
from raylign.errors import InputError
from raylign.simulation.resolution import cut_faces
from raylign.simulation.subject import Subject

_AIR_HU = -1024.0


def subject_from_ct(
    volume: Volume,
    labels: LabelMap | None = None,
    meshes: Mapping[str, Mesh] | Sequence[str] = (),
    landmarks: Landmarks | None = None,
    *,
    id: str,
) -> Subject:
    """A patient who was scanned.

    Parameters
    ----------
    volume: CT in HU. Numbers below -1024, which mark what a scanner did not see, become air. Where ``truncated`` is not stated,
        a face counts as cut if the body reaches it (``cut_faces``).
    labels: on any grid in the same patient LPS mm; taken at the nearest voxel. Without, nothing is labelled.
    meshes: closed surfaces by name, or the names of labels whose surfaces are to be made (``label_surface``).
    landmarks: points named ``structure/point``; by default the centroid of every label, ``structure/centroid``. The centroid of a
        bent structure may lie outside it.
    id: whose anatomy this is; two scans of one person have one id.

    Raises
    ------
    InputError: a volume that is not in HU, labels of another patient, a name that is no label's.
    """
    if volume.unit != "HU":
        raise InputError(f"the volume is in {volume.unit}", field="volume", remedy="give a scan in HU")
    plain = volume.decoded()
    plain = replace(plain, data=plain.data.to(torch.float32).clamp_min(_AIR_HU))
    if plain.truncated is None:
        plain = replace(plain, truncated=cut_faces(plain))
    if labels is None:
        own = LabelMap(torch.zeros(plain.data.shape, dtype=torch.uint8, device=plain.data.device), plain.affine)
    else:
        own = resample_labels(labels, plain)
        own = LabelMap(own.data, own.affine, own.present())
    surfaces = dict(meshes) if isinstance(meshes, Mapping) else {name: label_surface(own, name) for name in meshes}
    return Subject(plain, own, centroids(own) if landmarks is None else landmarks, surfaces, id)


def centroids(labels: LabelMap) -> Landmarks:
    """The centroid of every label, ``structure/centroid``, patient LPS mm."""
    present = labels.present()
    if not present:
        return Landmarks((), torch.zeros(0, 3))
    index = labels.data.nonzero()
    number = labels.data[tuple(index.unbind(1))].long()
    count = torch.bincount(number)
    sums = torch.stack(
        [torch.bincount(number, weights=index[:, dim].double()) for dim in (2, 1, 0)], 1
    )  # of whole numbers: exact
    mean = (sums / count[:, None])[list(present)].cpu()
    affine = labels.affine.cpu()
    return Landmarks(tuple(f"{name}/centroid" for name in present.values()), mean @ affine[:3, :3].T + affine[:3, 3])


def label_surface(labels: LabelMap, name: str | int, smooth_voxels: float = 0.7) -> Mesh:
    """The closed surface of a label, by marching cubes (scikit-image) on its mask, smoothed by a Gaussian.

    The smoothing takes the steps off and rounds edges by less than a voxel; structures thinner than two voxels shrink. Where the
    structure is cut by the scan's face, the surface is closed there, half a voxel beyond the last centre. On the CPU.

    Parameters
    ----------
    name: a label's name or number.
    smooth_voxels: standard deviation of the Gaussian, voxels.

    Raises
    ------
    InputError: no voxel has that label.
    """
    import numpy as np
    from scipy.ndimage import find_objects, gaussian_filter
    from skimage.measure import marching_cubes

    mask = (labels.data == labels.number(name)).cpu().numpy()
    box = find_objects(mask.astype(np.int8))[0]
    margin = 2 + math.ceil(3 * smooth_voxels)
    part = np.pad(mask[box].astype(np.float32), margin)
    vertices, faces, _, _ = marching_cubes(gaussian_filter(part, smooth_voxels), 0.5, gradient_direction="ascent")
    first = np.array([s.start for s in box]) - margin
    index = torch.from_numpy((vertices + first)[:, ::-1].astype(np.float64))
    affine = labels.affine.cpu()
    triangles = torch.from_numpy(faces.astype(np.int64))
    mesh = Mesh(index @ affine[:3, :3].T + affine[:3, 3], triangles, str(name))
    return mesh if _enclosed(mesh) > 0 else replace(mesh, faces=triangles.flip(1))


def _enclosed(mesh: Mesh) -> Float[Tensor, ""]:
    """Volume inside the surface; negative where its normals point inwards."""
    a, b, c = (mesh.vertices - mesh.vertices[0])[mesh.faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def part_of(person: str, fractions: Mapping[str, float], seed: int = 0) -> str:
    """Which part a patient belongs to: by a hash (SHA-256) of seed and person (``Subject.person``), and by nothing else.

    Raises
    ------
    InputError: fractions that are negative or do not add up to 1.
    """
    values = list(fractions.values())
    if not values or min(values) < 0 or abs(sum(values) - 1) > 1e-9:
        raise InputError(f"fractions {dict(fractions)} do not add up to 1", field="fractions", remedy="e.g. 0.8, 0.1 and 0.1")
    digest = hashlib.sha256(f"{seed}/{person}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    reached = 0.0
    for name, share in fractions.items():
        reached += share
        if place < reached:
            return name
    return [name for name, share in fractions.items() if share > 0][-1]  # rounding of the sum


def split(subjects: Iterable[Subject], fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[Subject]]:
    """Subjects by part ("train", "test", ...): all copies of a patient in one, whoever else is there.

    A patient's part depends on who he is, the fractions and the seed. It does not change when others come or go; in return the
    shares are those asked for only on average.

    Raises
    ------
    InputError: fractions that are negative or do not add up to 1.
    """
    parts: dict[str, list[Subject]] = {name: [] for name in fractions}
    for subject in subjects:
        parts[part_of(subject.person, fractions, seed)].append(subject)
    return parts
