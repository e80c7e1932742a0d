"""Closed meshes as solids: which voxels lie inside, how deep, and a mesh as a volume that X-rays can be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit
from numpy.typing import NDArray

from raylign.data.mesh import Mesh
from raylign.data.shafts import long_bone
from raylign.data.volume import Volume
from raylign.data.watertight import border
from raylign.errors import InputError

Array = NDArray[np.float32]
Points = NDArray[np.float64]

_SHIFT = (1.7e-4, 2.3e-4)  # mm: no column of voxels then runs through an edge of a mesh on round coordinates
_OPEN = 0.02  # of the voxels inside: so many may be doubtful where a surface has cracks
_THINNEST = 1.0  # mm
_MOST = 400_000_000  # voxels
_SMALLEST = 1.0  # mm: nothing that is registered is as small; a mesh in metres is


class Lattice(Protocol):
    """An isotropic grid: coordinates along x (columns), y (rows) and z (slices), mm, ascending, and the pitch."""

    @property
    def x(self) -> Array: ...
    @property
    def y(self) -> Array: ...
    @property
    def z(self) -> Array: ...
    @property
    def voxel(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Axes:
    """The plainest ``Lattice``."""

    x: Array
    y: Array
    z: Array
    voxel: float


@dataclass(frozen=True)
class Solidity:
    """What a mesh is filled with: attenuation in EXCESS over what surrounds it, 1/mm.

    A bone is a shell of compact bone over spongy bone; an implant, a vessel full of contrast agent or a heart beside lungs is the
    same all through. Registration is blind to the common factor of all attenuations, not to their ratio.

    Long bones are tubes: where the mesh has a round shaft of radius ``R0``, the shell is ``shaft R0`` thick, there is no spongy
    bone within it, and where the bone widens to a radius R the shell thins with ``(R0 / R)^4`` (``shafts.long_bone``). Other
    bones have ``shell_mm``.

    Parameters
    ----------
    excess: of the inside, 1/mm; negative where the inside attenuates less than its surroundings.
    shell_mm: thickness of the shell, to the inside; 0: none.
    shell_excess: of the shell, 1/mm.
    shaft: thickness of a shaft's wall as a share of its radius; 0: shafts are as everything else.
    voxel_mm: pitch of the volume; by default a 180th of the mesh's longest side, within 0.5 to 1.5 mm.

    Raises
    ------
    InputError: a size out of range, nothing in excess.
    """

    excess: float = 0.004
    shell_mm: float = 1.5
    shell_excess: float = 0.022
    shaft: float = 0.42
    voxel_mm: float | None = None

    def __post_init__(self) -> None:
        if not np.isfinite([self.excess, self.shell_mm, self.shell_excess]).all() or self.shell_mm < 0:
            raise InputError("excess and shell must be finite numbers, the shell not below 0", field="Solidity")
        if not 0 <= self.shaft < 1:
            raise InputError(f"a shaft's wall of {self.shaft} of its radius", field="shaft", remedy="give 0 to less than 1")
        if self.voxel_mm is not None and not 0.05 <= self.voxel_mm <= 10:
            raise InputError(f"{self.voxel_mm} mm voxels", field="voxel_mm", remedy="choose 0.05 to 10 mm")
        if self.excess == 0 and (self.shell_mm == 0 or self.shell_excess == 0):
            raise InputError("a solid without any attenuation shows nothing", field="Solidity", remedy="give an excess")


MATERIALS: Mapping[str, Solidity] = {
    "bone": Solidity(),
    "metal": Solidity(excess=0.25, shell_mm=0.0),
    "contrast": Solidity(excess=0.02, shell_mm=0.0),
    "soft": Solidity(excess=0.015, shell_mm=0.0),
    "air": Solidity(excess=-0.019, shell_mm=0.0),
}
"""By name, at an effective energy of 70 keV: bone of some 1150 HU over 200 HU in soft tissue; titanium; a vessel with iodine;
soft tissue among lungs; a cavity."""


def solid_volume(mesh: Mesh, solidity: Solidity | None = None) -> Volume:
    """A mesh as a volume, with edges as sharp as the grid can carry: each voxel holds the part of it that lies inside.

    Parameters
    ----------
    mesh: closed, patient LPS mm; see ``inside`` for one that has cracks.
    solidity: what it is filled with; by default bone.

    Returns
    -------
    Volume: isotropic, in the mesh's millimetres, two voxels of nothing about it; "1/mm".

    Raises
    ------
    InputError: a mesh of less than a millimetre, one that encloses nothing or is open, a grid that would not fit into memory.
    """
    solidity = solidity or Solidity()
    points = mesh.vertices.detach().cpu().numpy()
    used = points[np.unique(mesh.faces.cpu().numpy())]
    low, high = used.min(0), used.max(0)
    longest = float((high - low).max())
    if longest < _SMALLEST:
        raise InputError(
            f"a mesh of {longest:.2g} mm shows nothing", field="mesh", remedy="give it in millimetres: this one looks like metres"
        )
    voxel = solidity.voxel_mm or float(np.clip(longest / 180, 0.5, 1.5))
    counts = np.ceil((high - low) / voxel).astype(int) + 4
    if float(np.prod(counts.astype(float))) > _MOST:
        raise InputError(
            f"a mesh of {longest:.0f} mm in voxels of {voxel:g} mm needs {'x'.join(map(str, counts))} of them",
            field="mesh",
            remedy="check that the mesh is in millimetres, or choose larger voxels",
        )
    first = (low + high) / 2 - (counts - 1) / 2 * voxel
    x, y, z = (start + voxel * np.arange(n) for start, n in zip(first, counts, strict=True))
    solid = inside(mesh, Axes(x, y, z, voxel))
    if not solid.any():
        raise InputError(
            f"the mesh {mesh.name or 'given'!r} encloses no voxel of {voxel:g} mm",
            field="mesh",
            remedy="give a closed surface in millimetres, or choose smaller voxels",
        )
    bone = long_bone(solid, voxel) if solidity.shell_mm > 0 and solidity.shaft > 0 else None
    thickest = solidity.shell_mm if bone is None else max(_THINNEST, solidity.shaft * bone.radius)
    distance = _signed(mesh, Axes(x, y, z, voxel), thickest + 1.5 * voxel, solid)
    data = np.float32(solidity.excess) * _cover(distance, voxel)
    if solidity.shell_mm > 0:
        shell, spongy = np.full(1, solidity.shell_mm, np.float32), np.ones(1, np.float32)
        if bone is not None:
            shell = np.maximum(np.float32(solidity.shaft * bone.radius) * bone.share, np.float32(_THINNEST))
            spongy = 1 - bone.share
        core = _cover(distance + shell, voxel)
        data = np.float32(solidity.shell_excess) * (_cover(distance, voxel) - core) + np.float32(solidity.excess) * spongy * core
    affine = torch.eye(4, dtype=torch.float64) * voxel
    affine[3, 3] = 1
    affine[:3, 3] = torch.from_numpy(first)
    return Volume(torch.from_numpy(data), affine, "1/mm", ((False, False),) * 3)


def material(name: str, voxel_mm: float | None = None) -> Solidity:
    """What a name of ``MATERIALS`` stands for.

    Raises
    ------
    InputError: no such name.
    """
    if name not in MATERIALS:
        raise InputError(f"there is no material {name!r}", field="material", remedy=f"use one of {', '.join(MATERIALS)}")
    return replace(MATERIALS[name], voxel_mm=voxel_mm)


def _cover(distance: Array, voxel: float) -> Array:
    """How much of each voxel lies inside, to first order in the distance of its centre."""
    out: Array = np.clip(np.float32(0.5) - distance / np.float32(voxel), 0, 1)
    return out


def inside(mesh: Mesh, grid: Lattice) -> Bool[NDArray[np.bool_], "D H W"]:
    """Which points of a grid lie inside a mesh given in the grid's frame.

    A closed surface decides by its winding number along z: several parts may overlap, inner walls wound the other way are
    cavities. Where the surface has cracks or triangles wound against each other, lines along all three axes are asked, and the
    majority decides by the parity of crossings.

    Raises
    ------
    InputError: the lines contradict each other about more than a fiftieth of what is inside: the surface is open.
    """
    vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy()
    axes = (np.asarray(grid.x, float), np.asarray(grid.y, float), np.asarray(grid.z, float))
    if balanced(mesh):
        return _windings(vertices, faces, axes) != 0
    votes = np.zeros(tuple(len(a) for a in reversed(axes)), np.uint8)
    for turn in range(3):
        order = np.roll([0, 1, 2], turn)  # this axis order's last one is the line's
        odd = (_windings(np.ascontiguousarray(vertices[:, order]), faces, tuple(axes[o] for o in order)) & 1).astype(np.uint8)
        votes += odd.transpose(*(2 - int(np.flatnonzero(order == 2 - k)[0]) for k in range(3)))
    doubtful, sure = int(((votes == 1) | (votes == 2)).sum()), int((votes == 3).sum())
    if not sure:
        return np.zeros(votes.shape, np.bool_)
    if doubtful > _OPEN * sure:
        raise InputError(
            "the surface is open: what is inside depends on where one looks from",
            field="mesh",
            remedy="fill its holes (trimesh.repair.fill_holes, 3D Slicer, MeshLab), or take the surface of a filled label map",
        )
    return votes >= 2


def balanced(mesh: Mesh) -> bool:
    """Whether every edge is run through as often one way as the other, equal vertices taken as one: a closed surface."""
    vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy()
    if not len(border(faces, len(vertices))):
        return True
    _, same = np.unique(vertices, axis=0, return_inverse=True)
    return not len(border(same.reshape(-1)[faces], len(vertices)))


def _windings(vertices: Points, faces: NDArray[np.int64], axes: tuple[NDArray[np.float64], ...]) -> NDArray[np.int8]:
    """Crossings, by their signs, of a line that comes along the last axis from below; [D, H, W] of these axes."""
    out = np.zeros(tuple(len(a) for a in reversed(axes)), np.int8)
    _cross(out, axes[0] + _SHIFT[0], axes[1] + _SHIFT[1], axes[2], vertices, faces)
    return np.cumsum(out, axis=0, dtype=np.int8)


@njit(cache=True, nogil=True)
def _cross(out, x, y, z, vertices, faces):  # type: ignore[no-untyped-def]
    """Adds, at every crossing of a column of voxels with a face, its sign to the first voxel [k, j, i] above it."""
    px, py = x[1] - x[0], y[1] - y[0]
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area == 0.0:
            continue
        i0 = max(int(np.ceil((min(a[0], b[0], c[0]) - x[0]) / px)), 0)
        i1 = min(int(np.floor((max(a[0], b[0], c[0]) - x[0]) / px)), len(x) - 1)
        j0 = max(int(np.ceil((min(a[1], b[1], c[1]) - y[0]) / py)), 0)
        j1 = min(int(np.floor((max(a[1], b[1], c[1]) - y[0]) / py)), len(y) - 1)
        for j in range(j0, j1 + 1):
            for i in range(i0, i1 + 1):
                u = ((b[0] - x[i]) * (c[1] - y[j]) - (c[0] - x[i]) * (b[1] - y[j])) / area
                v = ((c[0] - x[i]) * (a[1] - y[j]) - (a[0] - x[i]) * (c[1] - y[j])) / area
                w = 1.0 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                k = np.searchsorted(z, u * a[2] + v * b[2] + w * c[2])
                if k < len(z):
                    out[k, j, i] += 1 if area > 0 else -1


def near_distance(mesh: Mesh, grid: Lattice, reach: float) -> Float32[NDArray[np.float32], "D H W"]:
    """Distance in mm to a closed mesh's faces at the points of an isotropic grid, negative inside; +-``reach`` from there on.

    Raises
    ------
    InputError: an open surface (``inside``).
    """
    return _signed(mesh, grid, reach, inside(mesh, grid))


def _signed(mesh: Mesh, grid: Lattice, reach: float, solid: NDArray[np.bool_]) -> Array:
    square = np.full(solid.shape, reach * reach, np.float32)
    vertices = np.ascontiguousarray(mesh.vertices.detach().cpu().numpy())
    axes = (np.asarray(grid.x, float), np.asarray(grid.y, float), np.asarray(grid.z, float))
    _splat(square, *axes, vertices, mesh.faces.cpu().numpy(), float(reach))
    np.sqrt(square, out=square)
    np.negative(square, out=square, where=solid)
    return square


def signed_distance(mesh: Mesh, grid: Lattice) -> Float32[NDArray[np.float32], "D H W"]:
    """Distance in mm to a closed mesh at the points of an isotropic grid, negative inside.

    Exact within two and a half voxels of the surface (to the mesh's own faces); farther away it is that of the voxels, within
    about one voxel.
    """
    from scipy.ndimage import distance_transform_edt

    reach = 2.5 * grid.voxel
    near = near_distance(mesh, grid, reach)
    solid = near < 0
    far = distance_transform_edt(~solid) - distance_transform_edt(solid)
    out = ((far + np.where(solid, 0.5, -0.5)) * grid.voxel).astype(np.float32)
    return np.where(np.abs(near) < reach * (1 - 1e-6), near, out)


@njit(cache=True, nogil=True)
def _splat(square, x, y, z, vertices, faces, reach):  # type: ignore[no-untyped-def]
    """Lowers squared distances to those of the faces, within ``reach`` of each (point and triangle: Ericson 2005, 5.1.5)."""
    pitch = x[1] - x[0]
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        ab, ac = b - a, c - a
        d00, d01, d11 = np.dot(ab, ab), np.dot(ab, ac), np.dot(ac, ac)
        area = d00 * d11 - d01 * d01
        n = np.array([ab[1] * ac[2] - ab[2] * ac[1], ab[2] * ac[0] - ab[0] * ac[2], ab[0] * ac[1] - ab[1] * ac[0]])
        length = np.sqrt(np.dot(n, n))
        if length > 0:
            n /= length
        i0 = max(int(np.ceil((min(a[0], b[0], c[0]) - reach - x[0]) / pitch)), 0)
        i1 = min(int(np.floor((max(a[0], b[0], c[0]) + reach - x[0]) / pitch)), len(x) - 1)
        j0 = max(int(np.ceil((min(a[1], b[1], c[1]) - reach - y[0]) / pitch)), 0)
        j1 = min(int(np.floor((max(a[1], b[1], c[1]) + reach - y[0]) / pitch)), len(y) - 1)
        k0 = max(int(np.ceil((min(a[2], b[2], c[2]) - reach - z[0]) / pitch)), 0)
        k1 = min(int(np.floor((max(a[2], b[2], c[2]) + reach - z[0]) / pitch)), len(z) - 1)
        for k in range(k0, k1 + 1):
            for j in range(j0, j1 + 1):
                for i in range(i0, i1 + 1):
                    px, py, pz = x[i] - a[0], y[j] - a[1], z[k] - a[2]
                    off = px * n[0] + py * n[1] + pz * n[2]
                    if off * off >= square[k, j, i]:
                        continue
                    d20 = px * ab[0] + py * ab[1] + pz * ab[2]
                    d21 = px * ac[0] + py * ac[1] + pz * ac[2]
                    v = w = -1.0
                    if area > 0:
                        v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
                    if v >= 0 and w >= 0 and v + w <= 1:
                        best = off * off
                    else:
                        s = min(max(d20 / d00, 0.0), 1.0) if d00 > 0 else 0.0
                        best = (px - s * ab[0]) ** 2 + (py - s * ab[1]) ** 2 + (pz - s * ab[2]) ** 2
                        s = min(max(d21 / d11, 0.0), 1.0) if d11 > 0 else 0.0
                        best = min(best, (px - s * ac[0]) ** 2 + (py - s * ac[1]) ** 2 + (pz - s * ac[2]) ** 2)
                        bc2 = d11 - 2 * d01 + d00
                        s = min(max((d21 - d20 + d00 - d01) / bc2, 0.0), 1.0) if bc2 > 0 else 0.0
                        qx, qy, qz = ab[0] + s * (ac[0] - ab[0]), ab[1] + s * (ac[1] - ab[1]), ab[2] + s * (ac[2] - ab[2])
                        best = min(best, (px - qx) ** 2 + (py - qy) ** 2 + (pz - qz) ** 2)
                    if best < square[k, j, i]:
                        square[k, j, i] = best
