"""Whether a chest's structures keep out of one another: clearances in mm, negative where one cuts into another.

Surfaces are sampled where their meshes have vertices and put into the other structure's distance, not counted in voxels.
"""

from __future__ import annotations

import numpy as np

from raylign.simulation.phantoms import thorax_bones, thorax_draw, thorax_heart, thorax_organs, thorax_shape, thorax_vessels
from raylign.simulation.phantoms.field import Array, Union
from raylign.simulation.phantoms.surfaces import grid_around, swept_surface
from raylign.simulation.phantoms.thorax_draw import Chest
from raylign.simulation.phantoms.thorax_shape import ChestShape, Points


def clearances(chest: Chest) -> dict[str, float]:
    """The smallest gaps in a chest, mm.

    ``wall``: of the left ventricle's wall, as its cavity's distance to the outer surface. ``heart_chest``: pericardium to the
    inner face of ribs and sternum, and about as much to the spine. ``ribs_lungs``, ``ribs_heart``, ``ribs_ribs`` (neighbours),
    ``ribs_shoulder`` (scapulae, clavicles and humeri), ``lungs_heart``, ``liver_lungs``, ``liver_heart``.
    """
    shape, heart = chest.shape, chest.heart
    ribs = {(i, s): _rib_points(shape, i, s) for _, s in thorax_bones.SIDES for i in range(1, shape.ribs + 1)}
    all_ribs = _split(np.concatenate(list(ribs.values())))
    inner = _split(heart.left_points(30, 36, False))
    gaps = {
        "wall": -float(thorax_heart.left_outside(heart, inner).max()),
        "heart_chest": thorax_draw.CLEARANCE - 3.8 * shape.rib_size - thorax_draw.crowding(heart, shape),
        "ribs_lungs": float(thorax_organs.lungs(shape, heart, all_ribs).min()),
        "ribs_heart": float(thorax_heart.pericardium(heart, all_ribs).min()),
        "ribs_ribs": min(_to_rib(shape, i, s, p) for (j, s), p in ribs.items() for i in (j - 1, j + 1) if (i, s) in ribs),
    }
    return gaps | _organs(chest) | {"ribs_shoulder": _shoulders(shape)}


def _split(points: Points) -> tuple[Array, Array, Array]:
    x, y, z = (c.astype(np.float32) for c in points.T)
    return x, y, z


def _rib_points(shape: ChestShape, number: int, side: float) -> Points:
    line, normal = thorax_bones.rib_line(shape, number, side)
    mesh = swept_surface(line, thorax_bones.rib_radii(shape, number, len(line)), normal, "rib")
    return np.asarray(mesh.vertices.numpy())


def _to_rib(shape: ChestShape, number: int, side: float, points: Points) -> float:
    """The smallest distance from points to a rib."""
    line, normal = thorax_bones.rib_line(shape, number, side)
    radii = thorax_bones.rib_radii(shape, number, len(line))
    a, step = line[:-1], np.diff(line, axis=0)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    t = step / length
    n = normal[:-1] + normal[1:]
    n -= np.einsum("ij,ij->i", n, t)[:, None] * t
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    off = (points[None] - a[:, None]).astype(np.float32)  # [segments, points, 3]
    across, wide, along = (np.einsum("spi,si->sp", off, e.astype(np.float32)) for e in (n, np.cross(t, n), t))
    rest = along - np.clip(along, 0, length.astype(np.float32))
    thick, high = ((radii[:-1] + radii[1:]) / 2).T.astype(np.float32)[:, :, None]
    parts = [across / thick, wide / high, rest / thick]
    value = np.sqrt(sum(np.square(v) for v in parts))
    slope = np.sqrt(np.square(parts[0] / thick) + np.square(parts[1] / high) + np.square(parts[2] / thick))
    return float(((value - 1) * value / np.maximum(slope, np.float32(1e-6))).min())


def _organs(chest: Chest) -> dict[str, float]:
    """Gaps between solids that are known as distances, on a lattice: the least of the larger of two distances."""
    shape, heart = chest.shape, chest.heart
    wide, front, back = thorax_shape.extent(shape)
    grid = grid_around((-wide, front, -205 * shape.scale[2]), (wide, back, 150 * shape.scale[2]), 8.0)
    lungs = grid.evaluate(lambda x, y, z: thorax_organs.lungs(shape, heart, (x, y, z)))
    beside = Union.empty(grid)
    thorax_vessels.beside_the_lungs(beside, shape, heart, chest.aorta)
    lungs = np.maximum(lungs, -beside.distance)
    sack = grid.evaluate(lambda x, y, z: thorax_heart.pericardium(heart, (x, y, z)))
    room = grid.evaluate(lambda x, y, z: thorax_organs.room(shape, heart, (x, y, z)))
    liver = np.maximum(grid.evaluate(lambda x, y, z: thorax_organs.liver(shape, (x, y, z))), room)
    pairs = {"lungs_heart": (lungs, sack), "liver_lungs": (liver, lungs), "liver_heart": (liver, sack)}
    return {name: float(np.maximum(a, b).min()) for name, (a, b) in pairs.items()}


def _shoulders(shape: ChestShape) -> float:
    """Ribs against the bones of the shoulder girdle, on a lattice."""
    low, high = shape.place(np.array([(-200.0, -125, -70), (200.0, 130, 160)]))
    grid = grid_around(low, high, 5.0)
    ribs, girdle = Union.empty(grid), Union.empty(grid)
    for name, draw in thorax_bones.skeleton(shape).items():
        if name.startswith("rib"):
            draw(ribs, 1)
        elif name.startswith(("scapula", "clavicula", "humerus")):
            draw(girdle, 1)
    return float(np.maximum(ribs.distance, girdle.distance).min())
