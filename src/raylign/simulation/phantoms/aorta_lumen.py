"""The lumen and the wall of an arterial tree: distances on any grid, surfaces, calcified plaques."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.simulation.phantoms.aorta_builder import Tree
from raylign.simulation.phantoms.aorta_course import wall_of, walled
from raylign.simulation.phantoms.aorta_tubes import Tube, arc_length, distance
from raylign.simulation.phantoms.field import Grid

Array = NDArray[np.float32]
Points = NDArray[np.float64]


def solid(
    tree: Tree, tubes: Sequence[Tube], grid: Grid, labels: dict[str, int], reach: float, grown: float = 0.0
) -> tuple[Array, NDArray[np.uint8]]:
    """Distance to the united tubes and the root [D, H, W] mm, and the label of the nearest vessel."""
    sizes = tree.root.sizes
    if grown:  # between the sinuses the wall is solid
        heights = sizes.root_height * np.array([0.15, 0.6, 1.0])
        core = np.stack([tree.root.place(0, 0, float(h)) for h in heights])
        radii = np.array([0.7 * sizes.radius["annulus"], 0.9 * sizes.radius["junction"], sizes.radius["junction"]]) + grown
        tubes = [Tube("aorta", core, radii), *tubes]
    field, owner = distance(grid, tubes, labels, reach)
    middle, half = tree.root.place(0, 0, 0.5 * sizes.root_height), sizes.radius["sinus"] + 0.5 * sizes.root_height + 6
    cut = [
        slice(int(np.searchsorted(axis, m - half)), int(np.searchsorted(axis, m + half)))
        for axis, m in zip((grid.x, grid.y, grid.z), middle, strict=True)
    ]
    if all(c.stop > c.start for c in cut):
        xyz = (grid.x[cut[0]][None, None, :], grid.y[cut[1]][None, :, None], grid.z[cut[2]][:, None, None])
        part = field[cut[2], cut[1], cut[0]]
        tree.root.unite(part, xyz, grown=grown)
        owner[cut[2], cut[1], cut[0]][(part < reach) & (owner[cut[2], cut[1], cut[0]] == 0)] = labels["aorta"]
    return field, owner


def surface(tree: Tree, outer: bool, pitch: float, origin: Points, name: str) -> Mesh:
    """The closed surface of the lumen, or of the outer wall: one piece with all branches, outward normals.

    Parameters
    ----------
    pitch: edge of the cells that the surface is cut from, mm.
    origin: [3] added to the anatomical coordinates: patient LPS mm of their origin.
    """
    tubes = walled(tree) if outer else list(tree.tubes)
    for finer in (1.0, 0.93, 1.06, 0.97, 0.87, 0.8, 0.72):
        points, faces = _cut(tree, tubes, pitch * finer, tree.root.sizes.wall if outer else 0.0)
        # a tree is a sphere with branches (vertices - edges + faces = 2); in the narrow angle of a fork a cell can
        # make a tiny handle, which a shifted lattice does not
        if len(points) - len(faces) // 2 == 2:
            break
    return Mesh(torch.from_numpy(points + origin), torch.from_numpy(faces), name)


_SLAB = 48  # cells along z


def _cut(tree: Tree, tubes: Sequence[Tube], pitch: float, grown: float) -> tuple[Points, NDArray[np.int64]]:
    """Vertices [N, 3] and faces [M, 3] of the surface, anatomical mm.

    The tree fills little of its box, so that the lattice is cut slab by slab, each as wide as the vessels in it.
    """
    from skimage.measure import marching_cubes

    points, radii = np.concatenate([t.points for t in tubes]), np.concatenate([t.radii for t in tubes])
    root = tree.root.sizes.radius["sinus"] + tree.root.sizes.root_height
    points = np.concatenate([points, tree.root.centre[None]])
    radii = np.concatenate([radii, [root]])[:, None] + 4 * pitch
    first = np.floor((points - radii).min(0) / pitch)
    last = np.ceil((points + radii).max(0) / pitch)
    parts: list[tuple[Points, NDArray[np.int64]]] = []
    for k in range(int(first[2]), int(last[2]), _SLAB):
        near = (points[:, 2] + radii[:, 0] >= k * pitch) & (points[:, 2] - radii[:, 0] <= (k + _SLAB) * pitch)
        if not near.any():
            continue
        low = np.floor((points - radii)[near].min(0) / pitch)
        high = np.ceil((points + radii)[near].max(0) / pitch)
        low[2], high[2] = k, k + _SLAB
        axes = [((np.arange(a, b + 1)) * pitch).astype(np.float32) for a, b in zip(low, high, strict=True)]
        grid = Grid(axes[0], axes[1], axes[2], pitch)
        field, _ = solid(tree, tubes, grid, {t.name: 1 for t in tubes}, 3.5 * pitch, grown)
        if not (field < 0).any():
            continue
        tiny = np.float32(1e-3 * pitch)  # a vertex exactly on a sample would make triangles without area
        field += np.where(np.abs(field) < tiny, np.where(field < 0, -tiny, tiny), np.float32(0))
        index, faces, _, _ = marching_cubes(field, 0.0, mask=field < 2.6 * pitch, gradient_direction="ascent")
        parts.append((index[:, ::-1].astype(np.float64) + low, faces.astype(np.int64)))
    index, faces = _stitched(parts)
    return index * pitch, faces


def _stitched(parts: Sequence[tuple[Points, NDArray[np.int64]]]) -> tuple[Points, NDArray[np.int64]]:
    """Slabs joined where they share a plane of the lattice: vertices there occur in both, up to rounding."""
    from scipy.spatial import cKDTree

    vertices, faces, offset = [parts[0][0]], [parts[0][1]], 0
    for below, (upper, triangles) in pairwise(parts):
        plane = round(float(upper[:, 2].min()))
        shared = np.flatnonzero(np.abs(upper[:, 2] - plane) < 1e-6)
        lower = np.flatnonzero(np.abs(below[0][:, 2] - plane) < 1e-6)
        names = np.arange(len(upper)) + offset + len(below[0])
        if len(shared) and len(lower):
            gap, which = cKDTree(below[0][lower]).query(upper[shared])
            same = gap < 2e-4
            names[shared[same]] = lower[which[same]] + offset
        offset += len(below[0])
        vertices.append(upper)
        faces.append(names[triangles])
    every, mesh = np.concatenate(vertices), np.concatenate(faces)
    used, mesh = np.unique(mesh, return_inverse=True)
    return every[used], mesh.reshape(-1, 3)


def plaques(tree: Tree, rng: np.random.Generator) -> list[Tube]:
    """Calcified plaques in the wall as short arcs: most below the kidneys and at the bifurcations, more on the back of the wall.

    The distribution follows what coronary and aortic calcium studies describe (infrarenal aorta and common iliacs first); the
    numbers are a choice.
    """
    sizes = tree.root.sizes
    names = [
        "aorta",
        "common_iliac_artery_left",
        "common_iliac_artery_right",
        "common_femoral_artery_left",
        "common_femoral_artery_right",
    ]
    out = []
    for n in range(sizes.plaques):
        tube = tree[names[int(rng.choice(5, p=[0.56, 0.17, 0.17, 0.05, 0.05]))]]
        # along the aorta: a quarter in the arch, the rest towards its lower end
        at = (
            float(rng.beta(2.0, 5.0) * 0.5 + 0.1 if rng.random() < 0.25 else rng.beta(5.0, 1.3))
            if tube.name == "aorta"
            else float(rng.random())
        )
        s = arc_length(tube.points)
        k = int(np.clip(np.searchsorted(s, at * s[-1]), 2, len(s) - 3))
        along = tube.points[k + 1] - tube.points[k - 1]
        along /= np.linalg.norm(along)
        back = np.array([0.0, 1.0, 0.0]) - along[1] * along
        back /= np.linalg.norm(back)
        beside = np.cross(along, back)
        middle, arc, length = rng.normal(0.0, 1.3), rng.uniform(0.15, 0.9), rng.gamma(2.0, 1.8)
        r = float(tube.radii[k]) + 0.5 * wall_of(tube.name, sizes.wall)
        t = np.linspace(-0.5, 0.5, 6)
        angle = middle + arc * t
        line = (
            tube.points[k] + r * (np.cos(angle)[:, None] * back + np.sin(angle)[:, None] * beside) + (t * length)[:, None] * along
        )
        width = float(rng.uniform(0.7, 1.6)) * (1 - 1.6 * t**2)
        out.append(Tube(f"plaque_{n}", line, width, fillet=0.5))
    return out
