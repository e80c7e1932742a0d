"""Closed meshes evenly resampled and cut, and a mesh as a patient who can be exposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.data.solids import inside, signed_distance
from raylign.errors import InputError
from raylign.simulation.correspondence import Surface
from raylign.simulation.phantoms.field import Array, Grid
from raylign.simulation.phantoms.surfaces import grid_around, isosurface
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

__all__ = ["FillingConfig", "cut", "inside", "resampled", "signed_distance", "subject_from_mesh"]


def resampled(mesh: Mesh, edge_mm: float) -> Mesh:
    """The same closed surface with evenly spaced vertices about ``edge_mm`` apart: a template for ``correspond``.

    Details finer than the edge are rounded off.
    """
    points = mesh.vertices.numpy()
    grid = grid_around(points.min(0), points.max(0), edge_mm)
    return _even(isosurface(grid, signed_distance(mesh, grid), mesh.name))


def _even(mesh: Mesh, rounds: int = 12) -> Mesh:
    """Vertices moved along the surface towards the middle of their neighbours: marching cubes leave slivers."""
    from raylign.simulation.correspondence import _laplacian

    surface = Surface(mesh.vertices.numpy(), mesh.faces.numpy())
    links = _laplacian(len(surface.vertices), surface.faces)
    degree = links.diagonal()[:, None]
    points = surface.vertices.copy()
    for _ in range(rounds):
        points, _ = surface.nearest(points - 0.5 * (links @ points) / degree)
    return Mesh(torch.from_numpy(points), mesh.faces, mesh.name)


def cut(mesh: Mesh, point: tuple[float, float, float], normal: tuple[float, float, float], edge_mm: float = 1.0) -> Mesh:
    """The part of a closed mesh behind a plane, closed by a flat cap: what several people's scans have in common.

    Parameters
    ----------
    point, normal: mm; the side to which the normal points is cut away.
    edge_mm: spacing of the new mesh's vertices.

    Raises
    ------
    InputError: nothing is left.
    """
    vertices = mesh.vertices.numpy()
    grid = grid_around(vertices.min(0), vertices.max(0), edge_mm)
    n = np.asarray(normal, float) / np.linalg.norm(normal)
    x, y, z = (axis - np.float32(p) for axis, p in zip(grid.coordinates(grid.whole), point, strict=True))
    plane = x * np.float32(n[0]) + y * np.float32(n[1]) + z * np.float32(n[2])
    return isosurface(grid, np.maximum(signed_distance(mesh, grid), plane), mesh.name)


@dataclass(frozen=True)
class FillingConfig:
    """What a bone's mesh is filled with.

    Parameters
    ----------
    voxel_mm: isotropic pitch, 0.3 to 5 mm.
    margin_mm: soft tissue around the bone: a cylinder along z with this much space to its sides.
    cortex_mm: thickness of the cortex.
    cortex_hu, trabecular_hu, soft_hu, fat_hu: what the tissues measure.
    noise_hu: standard deviation of the scan's noise.
    label: the structure's name; the mesh's where it is empty.

    Raises
    ------
    InputError: a size out of range.
    """

    voxel_mm: float = 1.0
    margin_mm: float = 35.0
    cortex_mm: float = 2.5
    cortex_hu: float = 1250.0
    trabecular_hu: float = 190.0
    soft_hu: float = 50.0
    fat_hu: float = -98.0
    noise_hu: float = 9.0
    label: str = ""

    def __post_init__(self) -> None:
        if not 0.3 <= self.voxel_mm <= 5:
            raise InputError(f"{self.voxel_mm} mm voxels", field="voxel_mm", remedy="choose 0.3 to 5 mm")
        if not (self.margin_mm >= 2 * self.voxel_mm and self.cortex_mm > 0 and self.noise_hu >= 0):
            raise InputError("margin_mm, cortex_mm and noise_hu must be positive", field="FillingConfig")


def subject_from_mesh(
    mesh: Mesh,
    id: str,
    config: FillingConfig | None = None,
    points: Mapping[str, tuple[float, float, float]] | None = None,
    seed: int = 0,
) -> Subject:
    """A patient made of one closed bone in a cylinder of soft tissue under fat.

    Parameters
    ----------
    mesh: closed, patient LPS mm.
    id: whose anatomy it is. Meshes sampled from a shape model are nobody's: name them by model and seed.
    points: landmarks by name, mm; the middle of the mesh is always among them.
    seed: of the texture and the noise.

    Returns
    -------
    Subject: volume (HU), labels (muscle, subcutaneous_fat and the bone), the mesh and the landmarks.

    Raises
    ------
    InputError: a mesh that encloses nothing.
    """
    from scipy.ndimage import gaussian_filter

    config = config or FillingConfig()
    name = config.label or mesh.name or "bone"
    vertices = mesh.vertices.numpy()
    low, high = vertices.min(0), vertices.max(0)
    room = np.array([config.margin_mm, config.margin_mm, 2 * config.voxel_mm])
    axes = [
        np.arange(int((b - a) / config.voxel_mm) + 1) * config.voxel_mm + a for a, b in zip(low - room, high + room, strict=True)
    ]
    x, y, z = (axis.astype(np.float32) for axis in axes)
    grid = Grid(x, y, z, config.voxel_mm)
    bone = signed_distance(mesh, grid)
    if not (bone < 0).any():
        raise InputError(f"the mesh {name!r} encloses no voxel", field="mesh", remedy="give a closed surface in mm")
    rng = numpy_generator(seed, 5)
    middle, half = (low + high) / 2, (high - low) / 2 + config.margin_mm - 2 * config.voxel_mm
    px, py, _ = grid.coordinates(grid.whole)
    round_ = (np.sqrt(((px - middle[0]) / half[0]) ** 2 + ((py - middle[1]) / half[1]) ** 2) - 1) * min(half[0], half[1])
    skin = np.broadcast_to(round_, grid.shape).astype(np.float32)

    def cover(distance: Array) -> Array:
        out: Array = np.clip(0.5 - distance / config.voxel_mm, 0, 1)
        return out

    hu = np.full(grid.shape, -1000, np.float32)
    labels = np.zeros(grid.shape, np.uint8)
    grain = gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 1.2 / config.voxel_mm)
    grain /= max(float(grain.std()), 1e-6)
    layers = (
        (skin, np.float32(config.fat_hu), 1),
        (skin + np.float32(0.3 * config.margin_mm), config.soft_hu + 6 * grain, 2),
        (bone, np.float32(config.cortex_hu), 3),
        (bone + np.float32(config.cortex_mm), config.trabecular_hu + 55 * grain, 3),
    )
    for distance, value, label in layers:
        hu += cover(distance) * (value - hu)
        labels[distance < 0] = label
    hu += config.noise_hu * rng.standard_normal(grid.shape, dtype=np.float32)
    affine = torch.eye(4, dtype=torch.float64) * config.voxel_mm
    affine[3, 3] = 1
    affine[:3, 3] = torch.tensor([float(grid.x[0]), float(grid.y[0]), float(grid.z[0])])
    volume = Volume(
        torch.from_numpy(np.clip(hu, -1024, 3071)), affine, unit="HU", truncated=((False, False), (False, False), (True, True))
    )
    marks = {f"{name}/middle": tuple(vertices.mean(0).tolist()), **(points or {})}
    return Subject(
        volume,
        LabelMap(torch.from_numpy(labels), affine, {1: "subcutaneous_fat", 2: "muscle", 3: name}),
        Landmarks(tuple(marks), torch.tensor(list(marks.values()), dtype=torch.float64)),
        {name: Mesh(mesh.vertices, mesh.faces, name)},
        id,
    )
