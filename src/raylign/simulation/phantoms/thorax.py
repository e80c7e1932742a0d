"""A parametric chest: several bones and organs at realistic HU, another patient for every seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data import LabelMap, Landmarks, Volume
from raylign.errors import InputError
from raylign.simulation.phantoms import chest_bones, chest_organs, chest_shape
from raylign.simulation.phantoms.chest_shape import LEVELS, ChestShape
from raylign.simulation.phantoms.field import Array, Canvas, Ellipsoid, Grid, Union
from raylign.simulation.subject import Subject

_SOFT = (
    "skin", "subcutaneous_fat", "muscle", "lung_left", "lung_right", "trachea", "heart_myocardium", "heart_ventricle_left",
    "heart_ventricle_right", "heart_atrium_left", "heart_atrium_right", "aorta", "pulmonary_artery", "pulmonary_vein",
    "superior_vena_cava", "inferior_vena_cava", "arch_branches", "liver", "stomach", "spleen", "kidney_left", "kidney_right",
    "colon", "spinal_cord", "lung_vessels", "intervertebral_discs", "costal_cartilages",
)  # fmt: skip
_BONES = (
    *(f"vertebrae_{level}" for level in LEVELS),
    *(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)),
    "sternum", "clavicula_left", "clavicula_right", "scapula_left", "scapula_right", "humerus_left", "humerus_right",
)  # fmt: skip
NAMES = {i + 1: name for i, name in enumerate((*_SOFT, *_BONES))}
NUMBER = {name: i for i, name in NAMES.items()}

# HU at about 120 kV: Schneider et al. 1996 and Bushong, rounded; blood is added to by contrast_hu
_BLOOD, _MUSCLE, _FAT, _SKIN = 42.0, 52.0, -98.0, 5.0
_ORGANS = {"liver": 58.0, "stomach": 22.0, "spleen": 50.0, "kidney_left": 32.0, "kidney_right": 32.0, "colon": 18.0}
_X, _Y, _Z = (-192.0, 192.0), (-130.0, 130.0), (-240.0, 210.0)  # what the anatomy fills, mm


@dataclass(frozen=True)
class ThoraxConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    voxel_mm: isotropic voxel pitch, 0.5 to 8 mm.
    z_range: lowest and highest slice in anatomical mm from the middle of T7, within -240 and 210 (L3 to the neck).
    contrast_hu: HU added to blood in the heart and the great vessels (a contrast agent).
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the anatomical origin (midline, middle of T7): what a scanner's table position decides.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    voxel_mm: float = 2.0
    z_range: tuple[float, float] = (-165.0, 165.0)
    contrast_hu: float = 0.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (4.5, -171.0, -312.0)

    def __post_init__(self) -> None:
        if not 0.5 <= self.voxel_mm <= 8:
            raise InputError(f"{self.voxel_mm} mm voxels", field="voxel_mm", remedy="choose 0.5 to 8 mm")
        low, high = self.z_range
        if not (_Z[0] <= low and low + 4 * self.voxel_mm <= high <= _Z[1]):
            raise InputError(f"z_range {self.z_range}", field="z_range", remedy="give (low, high) within -240 and 210 mm")
        if not (math.isfinite(self.contrast_hu) and math.isfinite(self.noise_hu) and self.noise_hu >= 0):
            raise InputError("contrast_hu and noise_hu must be finite, noise_hu not negative", field="ThoraxConfig")


def thorax(config: ThoraxConfig | None = None, seed: int = 0) -> Subject:
    """A chest on the scanner's table, head first and supine, arms raised.

    Skin, fat and muscle; lungs with vessel trees and airways; heart chambers and great vessels; diaphragm, liver, stomach with
    a gas bubble, spleen, kidneys; C6 to L3 with discs and processes, twelve pairs of ribs with cartilage, sternum, clavicles,
    scapulae, humeri, each bone with its cortex. The patient goes on beyond the first and last slice, and the volume says so.

    The same seed gives the same patient at any resolution and extent: scan one at 2 mm and expose the same one at 1.3 mm over
    a longer range, and the exposure knows more than the scan.

    Parameters
    ----------
    config: sampling.
    seed: which patient.

    Returns
    -------
    Subject: volume (HU, [D, H, W], LPS affine), labels (names as TotalSegmentator's where it has the structure), landmarks.

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or ThoraxConfig()
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", field="seed", remedy="give 0, 1, 2, ...")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    shape = chest_shape.draw_shape(streams[0])
    grid = _grid(config, shape)
    canvas = Canvas.of_air(grid)
    xyz = grid.coordinates(grid.whole)
    cavity = chest_shape.cage(xyz)
    lungs = _soft_tissue(canvas, shape, cavity)
    _organs(canvas, shape, cavity)
    _lungs(canvas, lungs, streams[1])
    _vessels(canvas, shape, streams[1], config.contrast_hu)
    bones = _skeleton(canvas, shape)
    _texture(canvas, bones, streams[2])
    _noise(canvas.hu, config.noise_hu, streams[3])
    return _handed_over(canvas, shape, config, seed)


def _grid(config: ThoraxConfig, shape: ChestShape) -> Grid:
    """Voxel centres in anatomical mm. The patient's size is in the scale: coordinates are divided by it, the anatomy is not."""
    v = config.voxel_mm
    axes = [
        (np.arange(math.floor((high - low) * s / v)) * v / s + low).astype(np.float32)
        for (low, high), s in zip((_X, _Y, config.z_range), shape.scale, strict=True)
    ]
    return Grid(axes[0], axes[1], axes[2], v / float(np.mean(shape.scale)))


def _soft_tissue(canvas: Canvas, shape: ChestShape, cavity: Array) -> Array:
    """Skin, fat, muscle layers and the fat inside the cage; returns the distance to the lungs."""
    xyz = x, y, z = canvas.grid.coordinates(canvas.grid.whole)
    body = chest_shape.trunk(shape, xyz)
    canvas.fill(body, _SKIN, NUMBER["skin"])
    canvas.fill(body + np.float32(2.2), _FAT, NUMBER["subcutaneous_fat"])
    deep = body + np.float32(shape.fat)
    muscle = np.float32(_MUSCLE) - np.float32(110) * np.exp(-(((deep + np.float32(13 * shape.muscle)) / np.float32(1.6)) ** 2))
    canvas.fill(deep, muscle, NUMBER["muscle"])
    # the abdominal wall and the diaphragm are muscle; what they hold starts as fat
    inside = cavity + np.float32(7)
    under = chest_shape.dome(shape, x, y) - z
    canvas.fill(inside, np.where(under > 3.5, np.float32(_FAT), np.where(under > 0, np.float32(_MUSCLE), np.float32(-80))))
    canvas.labels[inside < 0] = 0
    # muscles along the spine, in the cage's own gutter and behind it
    sx, sy = (v.reshape(z.shape).astype(np.float32) for v in chest_shape.spine_line(shape, z.ravel()))
    beside = np.sqrt(((np.abs(x - sx) - 20) / 21) ** 2 + ((y - sy - 34) / 17) ** 2)
    canvas.fill(np.maximum((beside - 1) * np.float32(18), body + np.float32(5)), _MUSCLE, NUMBER["muscle"])
    return chest_shape.lungs(shape, xyz, cavity)


def _organs(canvas: Canvas, shape: ChestShape, cavity: Array) -> None:
    """Heart under its fat, and the abdomen under the diaphragm."""
    grid = canvas.grid
    x, y, z = xyz = grid.coordinates(grid.whole)
    low = np.flatnonzero(z.ravel() < -35)
    if len(low):
        box = (slice(0, int(low[-1]) + 1), *grid.whole[1:])
        xyz = x, y, z = grid.coordinates(box)
        room = np.maximum(cavity[box] + np.float32(9), (z + np.float32(4) - chest_shape.dome(shape, x, y)) * np.float32(0.75))
        canvas.fill(np.maximum(chest_organs.liver(shape, xyz), room), _ORGANS["liver"], NUMBER["liver"], box)
        for name, solid in chest_organs.abdomen(shape).items():
            _clipped(canvas, solid, room, name)
    heart = Union.empty(grid)
    for solid in chest_shape.heart_parts(shape).values():
        heart.ellipsoid(solid, NUMBER["heart_myocardium"])
    canvas.paint(heart, 54)


def _clipped(canvas: Canvas, solid: Ellipsoid, room: Array, name: str) -> None:
    """An organ cut off by the walls of its room; the stomach and the colon hold gas in front, as in a patient on the back."""
    reach = max(solid.radii) + 4
    centre = np.asarray(solid.centre)
    box = canvas.grid.box(centre - reach, centre + reach)
    if box is None or box[0].start >= len(room):
        return
    box = (slice(box[0].start, min(box[0].stop, len(room))), box[1], box[2])
    x, y, z = canvas.grid.coordinates(box)
    d = np.maximum(solid.distance(x, y, z), room[box])
    canvas.fill(d, _ORGANS[name], NUMBER[name], box)
    if name in ("stomach", "colon"):
        level = solid.centre[1] - (4 if name == "stomach" else 0)
        canvas.fill(np.maximum(d + np.float32(3), y - np.float32(level)), -1000.0, None, box)


def _lungs(canvas: Canvas, lungs: Array, rng: np.random.Generator) -> None:
    """Air and tissue: denser behind (a patient on the back) and mottled."""
    x, y, _ = canvas.grid.coordinates(canvas.grid.whole)
    hu = -855 + 0.35 * (y + 20) + 16 * _lattice(canvas.grid, 9.0, rng)
    canvas.fill(lungs, hu.astype(np.float32))
    inside = lungs < 0
    canvas.labels[inside] = np.where(np.broadcast_to(x, inside.shape)[inside] > 3, NUMBER["lung_left"], NUMBER["lung_right"])


def _vessels(canvas: Canvas, shape: ChestShape, rng: np.random.Generator, contrast: float) -> None:
    """Blood in chambers, great vessels and lungs, the airways, the cord in its canal."""
    grid = canvas.grid
    blood = Union.empty(grid)
    for name, solid in chest_organs.cavities(shape).items():
        blood.ellipsoid(solid, NUMBER[name])
    chest_organs.great_vessels(blood, shape, NUMBER)
    tree = Union.empty(grid)
    chest_organs.lung_tree(tree, shape, rng, NUMBER["lung_vessels"])
    canvas.paint(tree, _BLOOD + contrast)
    canvas.paint(blood, _BLOOD + contrast)
    lumen, wall = Union.empty(grid), Union.empty(grid)
    chest_organs.airways(lumen, wall, shape, NUMBER["trachea"])
    canvas.paint(wall, 20, labelled=False)
    canvas.paint(lumen, -995)
    z = np.arange(-260.0, 231.0, 10.0)
    x, y = chest_shape.spine_line(shape, z)
    canal = np.stack([x, y + np.interp(z, [-240, 170], [24.0, 17.0]), z], 1)
    sac, cord = Union.empty(grid), Union.empty(grid)
    sac.tube(canal, 8.5, 0)
    cord.tube(canal, 5.0, NUMBER["spinal_cord"])
    canvas.paint(sac, 8, labelled=False)
    canvas.paint(cord, 36)


def _skeleton(canvas: Canvas, shape: ChestShape) -> Union:
    """Discs and cartilage, then every bone."""
    soft, bones = Union.empty(canvas.grid), Union.empty(canvas.grid)
    chest_bones.costal_cartilage(soft, shape, NUMBER["costal_cartilages"])
    for level in LEVELS:
        chest_bones.disc(soft, shape, level, NUMBER["intervertebral_discs"])
        chest_bones.vertebra(bones, shape, level, NUMBER[f"vertebrae_{level}"])
    for side, s in chest_bones.SIDES:
        for i in range(1, 13):
            chest_bones.rib(bones, shape, i, s, NUMBER[f"rib_{side}_{i}"])
        chest_bones.clavicle(bones, shape, s, NUMBER[f"clavicula_{side}"])
        chest_bones.scapula(bones, s, NUMBER[f"scapula_{side}"])
        chest_bones.humerus(bones, s, NUMBER[f"humerus_{side}"])
    chest_bones.sternum(bones, shape, NUMBER["sternum"])
    hu = np.zeros(256, np.float32)
    hu[NUMBER["costal_cartilages"]], hu[NUMBER["intervertebral_discs"]] = 105, 88
    canvas.paint(soft, hu)
    shell, cortex, marrow = (np.zeros(256, np.float32) for _ in range(3))
    for name in _BONES:
        kind = name.split("_")[0]
        shell[NUMBER[name]], cortex[NUMBER[name]], marrow[NUMBER[name]] = _BONE_KINDS[kind]
    canvas.paint_bone(bones, shell, cortex, marrow)
    return bones


# cortex in mm, its HU, HU of the trabecular bone within
_BONE_KINDS = {
    "vertebrae": (0.9, 900.0, 190.0),
    "rib": (1.5, 1150.0, 280.0),
    "sternum": (1.0, 700.0, 120.0),
    "clavicula": (1.8, 1200.0, 250.0),
    "scapula": (1.4, 1150.0, 230.0),
    "humerus": (2.2, 1250.0, 180.0),
}


def _lattice(grid: Grid, pitch: float, rng: np.random.Generator) -> Array:
    """Smooth noise, of unit variance at the nodes of a lattice fixed in the anatomy: it does not change with the voxel size."""
    spans = (_Z, _Y, _X)
    nodes = [int((b - a) / pitch) + 3 for a, b in spans]
    out: Array = rng.standard_normal(nodes, dtype=np.float32)
    for axis, (values, (low, _)) in enumerate(zip((grid.z, grid.y, grid.x), spans, strict=True)):
        t = (values - np.float32(low)) / np.float32(pitch)
        i = np.clip(t.astype(int), 0, nodes[axis] - 2)
        weight = np.zeros((len(values), nodes[axis]), np.float32)
        weight[np.arange(len(values)), i] = 1 - (t - i)
        weight[np.arange(len(values)), i + 1] = t - i
        out = np.moveaxis(np.tensordot(weight, out, (1, axis)), 0, axis)
    return out


def _texture(canvas: Canvas, bones: Union, rng: np.random.Generator) -> None:
    """Mottling: fat in muscle, trabeculae in bone, little in organs."""
    hu, coarse, fine = canvas.hu, _lattice(canvas.grid, 7.0, rng), _lattice(canvas.grid, 2.6, rng)
    solid = hu > -300
    marrow = bones.distance < -1.5
    hu += np.where(marrow, 55 * fine + 25 * coarse, np.where(solid, 9 * coarse + 4 * fine, 0)).astype(np.float32)
    streak = np.clip(coarse + 0.6 * fine - 1.3, 0, 0.8) * (canvas.labels == NUMBER["muscle"])
    hu += streak * (np.float32(_FAT) - hu)


def _noise(hu: Array, sigma: float, rng: np.random.Generator) -> None:
    """Scan noise, correlated over neighbouring voxels of a slice as a reconstruction filter leaves it."""
    if sigma > 0:
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        white[:, :, 1:] += np.float32(0.5) * white[:, :, :-1]
        white[:, 1:] += np.float32(0.5) * white[:, :-1]
        hu += white * np.float32(sigma / 1.25)
    np.clip(hu, -1024, 3071, out=hu)


def _points(shape: ChestShape) -> dict[str, NDArray[np.float64]]:
    """Points inside their structures, anatomical mm."""
    out: dict[str, NDArray[np.float64]] = {}
    for level in LEVELS:
        z = chest_shape.HEIGHTS[level]
        x, y = chest_shape.spine_line(shape, z)
        out[f"vertebrae_{level}/body"] = np.array([float(x), float(y), z])
    for side, s in chest_bones.SIDES:
        for i in range(2, 12):
            line, _ = chest_bones.rib_line(shape, i, s)
            out[f"rib_{side}_{i}/middle"] = (line[len(line) // 2] + line[len(line) // 2 + 1]) / 2
        out[f"humerus_{side}/head"] = np.array([s * 153.0, 33.5, 99.0])
    for name, solid in chest_organs.cavities(shape).items():
        out[f"{name}/middle"] = np.asarray(solid.centre)
    line = chest_organs.aorta_line(shape)
    out["aorta/arch"] = line[int(np.argmax(line[:, 2]))]
    return out


def _handed_over(canvas: Canvas, shape: ChestShape, config: ThoraxConfig, seed: int) -> Subject:
    """The nouns, in patient LPS mm."""
    grid, scale = canvas.grid, np.asarray(shape.scale)
    first = np.array([grid.x[0], grid.y[0], grid.z[0]], float) * scale + config.origin
    affine = np.diag([config.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = first
    low, high = config.z_range
    points = {name: p for name, p in _points(shape).items() if low + 2 < p[2] < high - 6}
    volume = Volume(
        torch.from_numpy(canvas.hu),
        torch.from_numpy(affine),
        unit="HU",
        truncated=((False, False), (False, False), (True, True)),
        meta={"phantom": "thorax"},
    )
    labels = LabelMap(torch.from_numpy(canvas.labels), torch.from_numpy(affine), NAMES)
    at = np.stack(list(points.values())) * scale + config.origin
    return Subject(volume, labels, Landmarks(tuple(points), torch.from_numpy(at)), id=f"thorax-{seed:06d}")
