"""The lumen and the wall of an arterial tree: distances on any grid, surfaces, calcified plaques."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.simulation.phantoms.aorta_course import Tree, wall_of, walled
from raylign.simulation.phantoms.aorta_tubes import Tube, arc_length, distance
from raylign.simulation.phantoms.field import Grid
from raylign.simulation.phantoms.surfaces import grid_around

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
    from skimage.measure import marching_cubes

    tubes = walled(tree) if outer else list(tree.tubes)
    widest = max(float(t.radii.max()) for t in tubes) + 3 * pitch
    low = np.min([t.points.min(0) for t in tubes], 0) - widest
    high = np.max([t.points.max(0) for t in tubes], 0) + widest
    grid = grid_around(low, high, pitch)
    grown = tree.root.sizes.wall if outer else 0.0
    field, _ = solid(tree, tubes, grid, {t.name: 1 for t in tubes}, 3.5 * pitch, grown)
    tiny = np.float32(1e-3 * pitch)  # a vertex exactly on a sample would make triangles without area
    np.copyto(field, np.where(field < 0, -tiny, tiny), where=np.abs(field) < tiny)
    # most of the box is far from any vessel: the mask saves half of the time
    index, faces, _, _ = marching_cubes(field, 0.0, mask=field < 2.6 * pitch, gradient_direction="ascent")
    points = index[:, ::-1].astype(np.float64) * pitch + [float(grid.x[0]), float(grid.y[0]), float(grid.z[0])] + origin
    return Mesh(torch.from_numpy(points), torch.from_numpy(faces.astype(np.int64)), name)


def plaques(tree: Tree, rng: np.random.Generator) -> list[Tube]:
    """Calcified plaques in the wall as short arcs: most below the kidneys and at the bifurcations, more on the back of the wall.

    The distribution follows what coronary and aortic calcium studies describe (infrarenal aorta and common iliacs first); the
    numbers are a choice.
    """
    sizes = tree.root.sizes
    names = ["aorta", "common_iliac_artery_left", "common_iliac_artery_right", "common_femoral_artery_left", "common_femoral_artery_right"]
    out = []
    for n in range(sizes.plaques):
        tube = tree[names[int(rng.choice(5, p=[0.56, 0.17, 0.17, 0.05, 0.05]))]]
        # along the aorta: a quarter in the arch, the rest towards its lower end
        at = float(rng.beta(2.0, 5.0) * 0.5 + 0.1 if rng.random() < 0.25 else rng.beta(5.0, 1.3)) if tube.name == "aorta" else float(rng.random())
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
        line = tube.points[k] + r * (np.cos(angle)[:, None] * back + np.sin(angle)[:, None] * beside) + (t * length)[:, None] * along
        width = float(rng.uniform(0.7, 1.6)) * (1 - 1.6 * t**2)
        out.append(Tube(f"plaque_{n}", line, width, fillet=0.5))
    return out


