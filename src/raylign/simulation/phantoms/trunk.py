"""One person's trunk, from which the pelvis, the lumbar spine and the upper femur are cut: bones, soft tissue, scan, surfaces.

Frame: mm, patient LPS directions, origin midway between the centres of the hips, until ``origin`` moves it to the scanner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.simulation.phantoms import trunk_soft
from raylign.simulation.phantoms.femur_shape import upper_femur
from raylign.simulation.phantoms.field import FAR, Array, Box, Canvas, Grid, Union
from raylign.simulation.phantoms.lumbar_shape import last_ribs, spine
from raylign.simulation.phantoms.pelvis_shape import bony_pelvis
from raylign.simulation.phantoms.population import person_id
from raylign.simulation.phantoms.surfaces import moved
from raylign.simulation.phantoms.thorax_texture import noise
from raylign.simulation.phantoms.trunk_bones import Compact, compact_bones
from raylign.simulation.phantoms.trunk_names import BLOOD_FILLED, FAT, GAS, HU, MUSCLE, NAMES, NUMBER, SKIN
from raylign.simulation.phantoms.trunk_shape import SIDES, draw_trunk
from raylign.simulation.phantoms.trunk_soft import Skeleton
from raylign.simulation.phantoms.trunk_texture import mottle
from raylign.simulation.phantoms.trunk_webs import Points
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject


@dataclass(frozen=True)
class Sampling:
    """How a part of the trunk is scanned. The anatomy depends on the seed alone.

    Parameters
    ----------
    voxel_mm: pitch of (columns, rows, slices).
    low, high: [3] corners of the scan in the trunk's frame, mm.
    contrast_hu: HU added to arteries and the vena cava.
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the trunk's origin.
    meshes: whether surfaces are made. mesh_pitch_mm: their sampling.
    truncated: at which faces the patient goes on, as ``Volume.truncated``.
    """

    voxel_mm: tuple[float, float, float]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    contrast_hu: float
    noise_hu: float
    origin: tuple[float, float, float]
    meshes: bool
    mesh_pitch_mm: float
    truncated: tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]


def skeleton(seed: int) -> Skeleton:
    """The bones of the person of a seed.

    Raises
    ------
    InputError: a negative seed.
    """
    shape = draw_trunk(seed)
    pelvis = bony_pelvis(shape)
    half = shape.pelvis.hip_distance / 2
    left, right = (upper_femur(shape, s, np.array([s * half, 0.0, 0.0])) for _, s in SIDES)
    return Skeleton(shape, pelvis, (left, right), spine(shape, pelvis.endplate, pelvis.slope, list(pelvis.webs.values())[::-1]))


def half_width(bones: Skeleton) -> tuple[float, float, float]:
    """Half width, front and back of the person's skin, mm."""
    skin = trunk_soft.envelope(bones).skin
    return float(skin[:, 1].max()), float(skin[:, 2].min()), float(skin[:, 3].max())


def scanned(name: str, bones: Skeleton, sampling: Sampling, traits: Mapping[str, float]) -> Subject:
    """The subject: volume, labels, landmarks and surfaces of what lies in the sampled box."""
    grid = _grid(sampling)
    canvas = Canvas.of_air(grid)
    shape = bones.shape
    cavity = _tissue(canvas, bones)
    _organs(canvas, bones, cavity, sampling.contrast_hu)
    solids = compact_bones(bones)
    _discs(canvas, bones)
    _ribs(canvas, bones)
    for solid in solids:
        made = solid.web.on(grid)
        if made is not None:
            paint_bone(canvas, *made, solid)
    rng = numpy_generator(shape.seed, 9)
    mottle(canvas, rng)
    noise(canvas.hu, sampling.noise_hu, rng)
    return _handed_over(name, canvas, bones, sampling, traits, solids)


def _grid(sampling: Sampling) -> Grid:
    axes = [
        (np.arange(round((high - low) / v)) * v + low + v / 2).astype(np.float32)
        for low, high, v in zip(sampling.low, sampling.high, sampling.voxel_mm, strict=True)
    ]
    return Grid(axes[0], axes[1], axes[2], float(np.prod(sampling.voxel_mm)) ** (1 / 3))


def _tissue(canvas: Canvas, bones: Skeleton) -> Array:
    """Skin, fat, muscle, and the cavity with its fat; returns the distance to the cavity."""
    grid, layers = canvas.grid, trunk_soft.envelope(bones)
    xyz = grid.coordinates(grid.whole)
    muscle, skin = trunk_soft.outlines(bones, layers, xyz)
    canvas.fill(skin, SKIN, NUMBER["skin"])
    canvas.fill(skin + np.float32(2.0), FAT, NUMBER["subcutaneous_fat"])
    canvas.fill(np.maximum(muscle, skin + np.float32(3.5)), MUSCLE, NUMBER["muscle"])
    inside = np.full(grid.shape, FAR, np.float32)
    above = np.flatnonzero(grid.z > -45)
    if len(above):
        box = (slice(int(above[0]), len(grid.z)), *grid.whole[1:])
        low = grid.coordinates(box)
        cavity = np.maximum(trunk_soft.oval(layers.cavity, 0.5, low), -np.float32(36) - low[2])
        inside[box] = np.maximum(cavity, muscle[box] + np.float32(8))
        canvas.fill(inside[box], FAT + 38, NUMBER["visceral_fat"], box)
    return inside


def _organs(canvas: Canvas, bones: Skeleton, cavity: Array, contrast: float) -> None:
    """Muscles along the spine, organs, bowel, vessels, the dural sac."""
    grid = canvas.grid
    table = np.zeros(256, np.float32)
    for name, hu in HU.items():
        table[NUMBER[name]] = hu + (contrast if name in BLOOD_FILLED else 0.0)
    walls, gas = Union.empty(grid), Union.empty(grid)
    trunk_soft.bowel(walls, gas, bones)
    np.maximum(walls.distance, cavity + np.float32(1), out=walls.distance)
    np.maximum(gas.distance, cavity + np.float32(3), out=gas.distance)
    canvas.paint(walls, table)
    canvas.paint(gas, GAS)
    deep = Union.empty(grid)
    trunk_soft.iliopsoas(deep, bones)
    canvas.paint(deep, table)
    solid = Union.empty(grid)
    trunk_soft.organs(solid, bones)
    canvas.paint(solid, table)
    chalk = Union.empty(grid)
    trunk_soft.plaques(chalk, bones, NUMBER["aorta"])
    canvas.paint(chalk, 700.0, labelled=False)
    sac = Union.empty(grid)
    line = [v.at((0.0, v.size[1] / 2 + 9.0, 0.0))[0] for v in bones.spine.vertebrae]
    sac.tube(np.stack([bones.pelvis.endplate + np.array([0, 24, -14]), *line]), 7.0, NUMBER["spinal_cord"])
    canvas.paint(sac, table)


def _discs(canvas: Canvas, bones: Skeleton) -> None:
    """Discs, and the one between the pubic bones."""
    soft = Union.empty(canvas.grid)
    for disc in bones.spine.discs:
        made = disc.on(canvas.grid)
        if made is not None:
            soft.add(*made, NUMBER["intervertebral_discs"])
    points = bones.pelvis.points
    up, down = ((points[f"hip_left/{name}"] + points[f"hip_right/{name}"]) / 2 for name in ("sps", "ips"))
    middle = np.stack([up + (down - up) * 0.12, down + (up - down) * 0.12]) + np.array([0, 2, 0])
    soft.band(middle, np.array([[3.2, 8.0]] * 2), np.tile([1.0, 0, 0], (2, 1)), NUMBER["pubic_symphysis"])
    for femur in bones.femora:
        soft.tube(np.stack([femur.centre, femur.centre + 0.01]), bones.pelvis.cup_radius, NUMBER["cartilage"])
    table = np.zeros(256, np.float32)
    for name, hu in HU.items():
        table[NUMBER[name]] = hu
    canvas.paint(soft, table)


def _ribs(canvas: Canvas, bones: Skeleton) -> None:
    """The last two pairs."""
    union = Union.empty(canvas.grid)
    for _, s in SIDES:
        for name, line in last_ribs(bones.spine, s).items():
            normal = line - line.mean(0) * [0, 1, 0]
            normal[:, 2] = 0
            sizes = np.stack([np.full(len(line), 3.2), np.interp(np.linspace(0, 1, len(line)), [0, 0.2, 1], [4.0, 5.6, 4.2])], 1)
            union.band(line, sizes, normal, NUMBER[name])
    shell, cortex, marrow = (np.full(256, v, np.float32) for v in (1.4, 1050.0, 0.9 * bones.shape.trabecular + 60))
    canvas.paint_bone(union, shell, cortex * np.float32(bones.shape.cortical), marrow)


def paint_bone(canvas: Canvas, box: Box, distance: Array, solid: Compact) -> None:
    """Compact bone of the thickness that the solid states, spongy bone within."""
    shell, marrow = solid.inside(canvas.grid.coordinates(box), distance)
    where = distance < canvas.grid.voxel
    d = distance[where]
    scale = np.float32(1 / canvas.grid.voxel)
    whole = np.clip(np.float32(0.5) - d * scale, 0, 1)
    core = np.clip(np.float32(0.5) - (d + _picked(shell, where)) * scale, 0, 1)
    under = canvas.hu[box]
    under[where] = under[where] * (1 - whole) + solid.cortex * (whole - core) + _picked(marrow, where) * core
    canvas.labels[box][distance < 0] = NUMBER[solid.name]


def _picked(values: Array | float, where: NDArray[np.bool_]) -> Array | float:
    return values[where] if isinstance(values, np.ndarray) else values


def _handed_over(
    name: str, canvas: Canvas, bones: Skeleton, sampling: Sampling, traits: Mapping[str, float], solids: Sequence[Compact]
) -> Subject:
    """The nouns, in patient LPS mm."""
    grid, origin = canvas.grid, np.asarray(sampling.origin)
    affine = np.diag([*sampling.voxel_mm, 1.0])
    affine[:3, 3] = np.array([grid.x[0], grid.y[0], grid.z[0]], float) + origin
    affine_t = torch.from_numpy(affine)
    volume = Volume(torch.from_numpy(canvas.hu), affine_t, unit="HU", truncated=sampling.truncated, meta={"phantom": name})
    labels = LabelMap(torch.from_numpy(canvas.labels), affine_t, NAMES)
    points = {
        n: p for n, p in landmarks(bones).items() if bool(((p > np.array(sampling.low)) & (p < np.array(sampling.high))).all())
    }
    at = torch.from_numpy(np.array(list(points.values())).reshape(-1, 3) + origin)
    meshes = _meshes(solids, sampling, canvas.labels) if sampling.meshes else {}
    seed = bones.shape.seed
    known = bones.shape.person.traits() | dict(traits)
    marks = Landmarks(tuple(points), at)
    return Subject(volume, labels, marks, meshes, id=f"{name}-{seed:06d}", traits=known, person=person_id(seed))


def _meshes(solids: Sequence[Compact], sampling: Sampling, painted: NDArray[np.uint8]) -> dict[str, Mesh]:
    """Surfaces of the bones within the scan, closed flat where they leave it."""
    out, count = {}, np.bincount(painted.reshape(-1), minlength=256)
    low, high = np.array(sampling.low), np.array(sampling.high)
    for solid in solids:
        a, b = solid.web.bounds(0.5)
        a, b = np.maximum(a, low), np.minimum(b, high)
        if count[NUMBER[solid.name]] > 60 and (b > a).all():
            out[solid.name] = moved(solid.web.mesh(sampling.mesh_pitch_mm, solid.name, a, b), (1, 1, 1), sampling.origin)
    return out


def landmarks(bones: Skeleton) -> dict[str, Points]:
    """Named points of a trunk in its own frame, mm. Those of the pelvis are the points that DeepFluoro's annotations name."""
    out = dict(bones.pelvis.points)
    for femur, (side, _) in zip(bones.femora, SIDES, strict=True):
        out |= {f"femur_{side}/{n}": p for n, p in femur.points.items()}
    for v in bones.spine.vertebrae:
        out[f"vertebrae_{v.level}/body"] = v.centre
        w, d, h = v.size
        for n, p in (
            ("superior", (0.0, 0.0, h / 2)),
            ("inferior", (0.0, 0.0, -h / 2)),
            ("pedicle_left", (w * 0.37, d * 0.55, h * 0.2)),
            ("pedicle_right", (-w * 0.37, d * 0.55, h * 0.2)),
        ):
            out[f"vertebrae_{v.level}/{n}"] = v.at(p)[0]
    return out
