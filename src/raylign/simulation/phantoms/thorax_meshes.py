"""Surfaces of a chest's structures, from the distances that its voxels are painted from; each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from raylign.data import Mesh
from raylign.simulation.phantoms import thorax_bones, thorax_heart, thorax_organs, thorax_shape, thorax_vessels
from raylign.simulation.phantoms.field import Array, Grid, Union
from raylign.simulation.phantoms.surfaces import drawn_surface, grid_around, isosurface, moved, surface, swept_surface
from raylign.simulation.phantoms.thorax_draw import Chest
from raylign.simulation.phantoms.thorax_shape import LEVELS, Points

_GAP = 0.4  # mm left between structures that touch
_BLOOD = (
    "heart_ventricle_right", "heart_atrium_left", "heart_atrium_right", "aorta", "pulmonary_artery", "superior_vena_cava",
    "inferior_vena_cava",
)  # fmt: skip


class ThoraxMeshes(Mapping[str, Mesh]):
    """Closed surfaces by name, outward normals, patient LPS mm. What lies beyond the scan's slices has meshes too.

    Parameters
    ----------
    chest: whose.
    origin: patient LPS mm of the anatomical origin.
    """

    def __init__(self, chest: Chest, origin: tuple[float, float, float]) -> None:
        self._chest, self._origin = chest, origin
        self._names = _names(chest)
        self._made: dict[str, Mesh] = {}

    def __getitem__(self, name: str) -> Mesh:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = moved(_made(self._chest, name), (1.0, 1.0, 1.0), self._origin)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _names(chest: Chest) -> tuple[str, ...]:
    ribs = tuple(f"rib_{side}_{i}" for side, _ in thorax_bones.SIDES for i in range(1, chest.shape.ribs + 1))
    pairs = tuple(f"{bone}_{side}" for bone in ("clavicula", "scapula", "humerus") for side, _ in thorax_bones.SIDES)
    soft = ("heart_ventricle_left", "heart_lv_epicardium", *_BLOOD, "lung_left", "lung_right", "liver", "body")
    return (*soft, *(f"vertebrae_{level}" for level in LEVELS), *ribs, "sternum", *pairs)


def _made(chest: Chest, name: str) -> Mesh:
    shape, heart = chest.shape, chest.heart
    if name in ("heart_ventricle_left", "heart_lv_epicardium"):
        solid = thorax_heart.left_cavity if name == "heart_ventricle_left" else thorax_heart.left_outside
        around = heart.left_points(24, 32, True)
        return surface(lambda x, y, z: solid(heart, (x, y, z)), around.min(0) - 1, around.max(0) + 1, 1.5, name)
    if name in _BLOOD:
        return _blood(chest, name)
    if name.startswith("lung_"):
        return _lung(chest, name)
    _sx, _sy, sz = shape.scale
    if name == "liver":
        low, high = shape.place(np.array([(-150.0, -106, -205), (80.0, 100, -20)]))
        top = np.add(high, (0, 0, max(shape.diaphragm[0], 0)))

        def organ(x: Array, y: Array, z: Array) -> Array:
            return np.maximum(thorax_organs.liver(shape, (x, y, z)), thorax_organs.room(shape, heart, (x, y, z)))

        return _largest(grid_around(low, top, 2.5), organ, name)
    if name == "body":
        wide, front, back = thorax_shape.extent(shape)
        return surface(
            lambda x, y, z: thorax_shape.skin(shape, (x, y, z)), (-wide, front, -240 * sz), (wide, back, 205 * sz), 4.0, name
        )
    if name.startswith("rib_"):
        _, side, number = name.split("_")
        line, normal = thorax_bones.rib_line(shape, int(number), dict(thorax_bones.SIDES)[side])
        return swept_surface(line, thorax_bones.rib_radii(shape, int(number), len(line)), normal, name)
    low, high = _bone_box(chest, name)
    draw = thorax_bones.skeleton(shape)[name]
    return drawn_surface(lambda union: draw(union, 1), low, high, 1.5, name)


def _bone_box(chest: Chest, name: str) -> tuple[Points, Points]:
    """A box in which a bone lies; arms end where the anatomy ends."""
    shape = chest.shape
    if name.startswith("vertebrae"):
        level = name.split("_")[1]
        z = shape.height(level)
        x, y = thorax_shape.spine_line(shape, z)
        at, half = np.array([float(x), float(y), z]), shape.pitch(level)
        return np.subtract(at, (48, 24, 0.7 * half + 42)), np.add(at, (48, 92, 0.7 * half + 14))
    if name == "sternum":
        line, _, _ = thorax_bones.sternum_line(shape)
        return np.subtract(line.min(0), (36, 12, 9)), np.add(line.max(0), (36, 12, 9))
    s = dict(thorax_bones.SIDES)[name.split("_")[1]]
    rows = {
        "clavicula": [(s * 5, -110, 80), (s * 168, 90, 140)],
        "scapula": [(s * 58, -20, -52), (s * 172, 122, 140)],
        "humerus": [(s * 122, -12, 68), (s * 194, 62, 208)],
    }[name.split("_")[0]]
    corners = shape.place(np.array(rows, float))
    return np.subtract(corners.min(0), (18, 18, 18)), np.add(corners.max(0), (18, 24, 18 if name[0] != "h" else 0))


def _blood(chest: Chest, name: str) -> Mesh:
    """A chamber's or vessel's blood, less what takes its place: the left ventricle, and all that comes later in the order."""
    shape, heart = chest.shape, chest.heart
    if name.startswith("heart"):
        solid = heart.cavities[name]
        reach = np.sqrt((np.square(solid.frame) * np.square(solid.radii)[:, None]).sum(0)) + 1
        low, high = np.asarray(solid.centre) - reach, np.asarray(solid.centre) + reach
    else:
        low, high = _vessel_box(chest, name)
    grid = grid_around(low, high, 1.5 if name.startswith("heart") else 2.0)
    drawn = thorax_vessels.blood(shape, heart, chest.aorta)
    order = list(drawn)
    mine = Union.empty(grid)
    drawn[name](mine, 1)
    d = mine.distance
    left = grid.evaluate(lambda x, y, z: thorax_heart.left_outside(heart, (x, y, z)))
    np.maximum(d, np.float32(_GAP) - left, out=d)
    for later in order[order.index(name) + 1 : -1]:
        other = Union.empty(grid)
        drawn[later](other, 1)
        np.maximum(d, np.float32(_GAP) - other.distance, out=d)
    return isosurface(grid, _one_piece(d), name)


def _vessel_box(chest: Chest, name: str) -> tuple[Points, Points]:
    probe = _Probe()
    thorax_vessels.blood(chest.shape, chest.heart, chest.aorta)[name](probe, 1)  # type: ignore[arg-type]
    low, high = probe.low - 1, probe.high + 1
    low[2] = max(low[2], -245 * chest.shape.scale[2])
    return low, high


class _Probe:
    """Stands in for a union and only notes how far tubes reach."""

    def __init__(self) -> None:
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)

    def tube(self, points: Points, radii: Points | float, label: int) -> None:
        r = np.broadcast_to(np.asarray(radii, float), len(points))[:, None]
        self.low = np.minimum(self.low, (points - r).min(0))
        self.high = np.maximum(self.high, (points + r).max(0))


def _lung(chest: Chest, name: str) -> Mesh:
    """A lung without the great vessels and airways that run beside it; those within it are part of it."""
    shape, heart = chest.shape, chest.heart
    s = 1.0 if name == "lung_left" else -1.0
    wide, _, _ = thorax_shape.extent(shape)
    low, high = shape.place(np.array([(0.0, -110, -172), (0.0, 112, 172)]))
    ends = (2.0, wide) if s > 0 else (-wide, 4.0)
    grid = grid_around((ends[0], low[1] - 8, low[2]), (ends[1], high[1] + 8, high[2]), 3.0)

    def lung(x: Array, y: Array, z: Array) -> Array:
        return np.maximum(thorax_organs.lungs(shape, heart, (x, y, z)), (np.float32(3) - x) * np.float32(s))

    d = grid.evaluate(lung)
    beside = Union.empty(grid)
    thorax_vessels.beside_the_lungs(beside, shape, heart, chest.aorta)
    np.maximum(d, -beside.distance, out=d)
    return isosurface(grid, _one_piece(d), name)


def _largest(grid: Grid, distance: object, name: str) -> Mesh:
    return isosurface(grid, _one_piece(grid.evaluate(distance)), name)  # type: ignore[arg-type]


def _one_piece(distance: Array) -> Array:
    """The largest connected part of a solid alone."""
    from scipy.ndimage import label

    parts, count = label(distance < 0)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        keep = int(np.argmax(sizes))
        distance = np.where((parts > 0) & (parts != keep), np.float32(1.0), distance)
    return distance
