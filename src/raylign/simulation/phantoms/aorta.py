"""Parametric arteries: from the aortic root to the thighs in one tree, inside a plain trunk, another patient for every seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError
from raylign.projection.threads import pool, threads
from raylign.simulation.phantoms import aorta_body, aorta_bones, aorta_lumen
from raylign.simulation.phantoms.aorta_builder import SIDES, Tree
from raylign.simulation.phantoms.aorta_course import draw_tree, walled
from raylign.simulation.phantoms.aorta_frame import LEVELS, TrunkShape, draw_trunk
from raylign.simulation.phantoms.aorta_sizes import draw_sizes
from raylign.simulation.phantoms.aorta_tubes import Tube, arc_length, distance
from raylign.simulation.phantoms.field import Canvas, Grid, Union
from raylign.simulation.phantoms.population import Person, patient, person_id
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

Region = Literal["whole", "upper", "abdomen", "lower"]
ARTERIES = (
    "aorta", "brachiocephalic_trunk", "common_carotid_artery_left", "common_carotid_artery_right", "subclavian_artery_left",
    "subclavian_artery_right", "vertebral_artery_left", "coronary_artery_left", "coronary_artery_right", "celiac_trunk",
    "superior_mesenteric_artery", "inferior_mesenteric_artery", "renal_artery_left", "renal_artery_right", "iliac_artery_left",
    "iliac_artery_right", "internal_iliac_artery_left", "internal_iliac_artery_right", "femoral_artery_left",
    "femoral_artery_right",
)  # fmt: skip
NAMES = {i + 1: name for i, name in enumerate((*aorta_body.SOFT, *aorta_body.BONES, *ARTERIES, "calcification"))}
NUMBER = {name: i for i, name in NAMES.items()}
_BELONGS = {
    "circumflex": "coronary_artery_left", "splenic": "celiac_trunk", "hepatic": "celiac_trunk", "common_iliac": "iliac_artery",
    "external_iliac": "iliac_artery",
    "gluteal": "internal_iliac_artery", "pudendal": "internal_iliac_artery", "femoral": "femoral_artery",
}  # fmt: skip
_SURFACES = (("arteries_lumen", False), ("arteries_wall", True))
_BLOOD, _WALL, _CALCIUM = 42.0, 48.0, 850.0


@dataclass(frozen=True)
class AortaConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    voxel_mm: isotropic voxel pitch, 0.5 to 8 mm.
    region: which slices: ``upper`` from below the root to the neck, ``abdomen`` from T11 to the pelvic brim, ``lower`` from L1 to
        the thighs, ``whole`` from the neck to the thighs.
    half_width_mm: columns and rows kept to each side of the middle line; ``None`` keeps the whole body.
    contrast_hu: HU added to the arteries' blood (a contrast agent; 250 to 400 in CT angiography).
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the anatomical origin, the middle of the body of L4.
    meshes: whether surfaces are made too.
    mesh_mm: edge of the cells that the surfaces are cut from, 0.6 to 2 mm.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    voxel_mm: float = 2.5
    region: Region = "lower"
    half_width_mm: float | None = None
    contrast_hu: float = 300.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (-3.0, -148.0, -655.0)
    meshes: bool = True
    mesh_mm: float = 1.5

    def __post_init__(self) -> None:
        if not 0.5 <= self.voxel_mm <= 8:
            raise InputError(f"{self.voxel_mm} mm voxels", field="voxel_mm", remedy="choose 0.5 to 8 mm")
        if self.region not in get_args(Region):
            raise InputError(f"no region is called {self.region!r}", field="region", remedy=f"use {', '.join(get_args(Region))}")
        if self.half_width_mm is not None and not 40 <= self.half_width_mm <= 400:
            raise InputError(
                f"a half width of {self.half_width_mm} mm", field="half_width_mm", remedy="give 40 to 400 mm, or None"
            )
        if not (math.isfinite(self.contrast_hu) and math.isfinite(self.noise_hu) and self.noise_hu >= 0):
            raise InputError("contrast_hu and noise_hu must be finite, noise_hu not negative", field="AortaConfig")
        if not 0.6 <= self.mesh_mm <= 2:
            raise InputError(f"cells of {self.mesh_mm} mm", field="mesh_mm", remedy="choose 0.6 to 2 mm")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What a seed stands for, anatomical mm: the person, the trunk, the arteries and their calcified plaques."""

    person: Person
    trunk: TrunkShape
    tree: Tree
    plaques: tuple[Tube, ...]


@lru_cache(maxsize=8)
def anatomy(seed: int) -> Anatomy:
    """The anatomy behind a seed, before it is sampled.

    Raises
    ------
    InputError: a negative seed.
    """
    person = patient(seed)
    trunk = draw_trunk(person, numpy_generator(seed, 4, 0))
    sizes = draw_sizes(person, numpy_generator(seed, 4, 1))
    tree = draw_tree(trunk, sizes, numpy_generator(seed, 4, 2))
    return Anatomy(person, trunk, tree, tuple(aorta_lumen.plaques(tree, numpy_generator(seed, 4, 3))))


def vessels(seed: int, config: AortaConfig | None = None) -> tuple[Tube, ...]:
    """Every artery of a patient as a curve with lumen radii, patient LPS mm, parents before children.

    Raises
    ------
    InputError: a negative seed.
    """
    origin = np.asarray((config or AortaConfig()).origin)
    return tuple(replace(t, points=t.points + origin) for t in anatomy(seed).tree.tubes)


def centrelines(seed: int, config: AortaConfig | None = None) -> dict[str, Float[Tensor, "N 3"]]:
    """The middle lines of the arteries by name, [N, 3] patient LPS mm every 1.5 to 2 mm, from the parent outwards.

    Raises
    ------
    InputError: a negative seed.
    """
    return {t.name: torch.from_numpy(t.points.copy()) for t in vessels(seed, config)}


def aorta(config: AortaConfig | None = None, seed: int = 0) -> Subject:
    """A patient's arteries on the scanner's table, head first and supine.

    Aortic root with its sinuses and coronary ostia, ascending aorta, arch with its branches, descending and abdominal aorta with
    coeliac trunk, mesenteric and renal arteries, iliac and femoral arteries down to the thighs, each with wall and lumen, some
    with calcified plaques or an aneurysm; around them a plain trunk. The same seed gives the same patient at any resolution and
    region.

    Parameters
    ----------
    config: sampling.
    seed: which patient.

    Returns
    -------
    Subject: volume (HU, [D, H, W], LPS affine), labels, landmarks; meshes ``arteries_lumen`` and ``arteries_wall``, each one
        closed surface of the whole tree whatever the region.

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or AortaConfig()
    made = anatomy(seed)
    grid = _grid(config, made)
    canvas = Canvas.of_air(grid)
    aorta_body.paint_body(canvas, made.trunk, NUMBER, numpy_generator(seed, 4, 4))
    aorta_bones.paint_bones(canvas, made.trunk, NUMBER, made.person.trabecular_hu)
    _paint_arteries(canvas, made, config)
    _noise(canvas.hu, config.noise_hu, numpy_generator(seed, 4, 5))
    meshes = _meshes(made, config) if config.meshes else {}
    affine = np.diag([config.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = np.array([grid.x[0], grid.y[0], grid.z[0]], float) + config.origin
    beside = config.half_width_mm is not None
    volume = Volume(
        torch.from_numpy(canvas.hu),
        torch.from_numpy(affine),
        unit="HU",
        truncated=((beside, beside), (beside, beside), (True, True)),
        meta={"phantom": "aorta"},
    )
    low, high = (np.array([axis[i] for axis in (grid.x, grid.y, grid.z)]) for i in (0, -1))
    points = {n: p for n, p in _points(made).items() if bool(((p > low) & (p < high)).all())}
    at = torch.from_numpy(np.array(list(points.values())).reshape(-1, 3) + config.origin)
    labels = LabelMap(torch.from_numpy(canvas.labels), torch.from_numpy(affine), NAMES)
    return Subject(
        volume, labels, Landmarks(tuple(points), at), meshes, f"aorta-{seed:06d}", traits=_traits(made), person=person_id(seed)
    )


def _meshes(made: Anatomy, config: AortaConfig) -> dict[str, Mesh]:
    """Lumen and wall, each on a thread of its own where there are two."""
    origin = np.asarray(config.origin)

    def cut(name: str, outer: bool) -> Mesh:
        return aorta_lumen.surface(made.tree, outer, config.mesh_mm, origin, name)

    if threads() == 1:
        return {name: cut(name, outer) for name, outer in _SURFACES}
    futures = {name: pool(threads()).submit(cut, name, outer) for name, outer in _SURFACES}
    return {name: future.result() for name, future in futures.items()}


def _grid(config: AortaConfig, made: Anatomy) -> Grid:
    """Voxel centres in anatomical mm."""
    t, tree, v = made.trunk, made.tree, config.voxel_mm
    apex = float(tree["aorta"].points[:, 2].max())
    low, high = {
        "whole": (-232.0 * t.stature, apex + 100),
        "upper": (float(tree.root.centre[2]) - 75, apex + 100),
        "abdomen": (-70.0, t.height("T11")),
        "lower": (-232.0 * t.stature, t.height("L1")),
    }[config.region]
    wide = config.half_width_mm or max(t.girth[0], 168 * t.pelvis + t.fat, 200 * t.chest + 0.4 * t.fat) + 12
    deep = config.half_width_mm or max(t.girth[1] + 16, 118 + t.fat) + 12
    axes = [np.arange(math.floor((b - a) / v) + 1) * v + a for a, b in ((-wide, wide), (-deep, deep), (low, high))]
    x, y, z = (axis.astype(np.float32) for axis in axes)
    return Grid(x, y, z, v)


def _label(name: str) -> int:
    """The label of a vessel: small branches belong to the one they leave."""
    for part, owner in _BELONGS.items():
        if part in name:
            return NUMBER[owner if owner in NUMBER else f"{owner}_{name.rsplit('_', 1)[1]}"]
    return NUMBER[name]


def _paint_arteries(canvas: Canvas, made: Anatomy, config: AortaConfig) -> None:
    """Wall, blood, calcium."""
    grid, tree = canvas.grid, made.tree
    labels = {t.name: _label(t.name) for t in tree.tubes}
    reach = 2.0 * grid.voxel
    outer = aorta_lumen.solid(tree, walled(tree), grid, labels, reach, tree.root.sizes.wall)
    canvas.paint(Union(grid, *outer), _WALL)
    lumen = Union(grid, *aorta_lumen.solid(tree, tree.tubes, grid, labels, reach))
    if made.plaques:
        calcium, _ = distance(grid, made.plaques, {p.name: 1 for p in made.plaques}, reach)
        shell = np.maximum(-lumen.distance - np.float32(0.8), outer[0])  # it bulges a little into the lumen, never outwards
        canvas.paint(lumen, _BLOOD + config.contrast_hu)
        owner = np.full(grid.shape, NUMBER["calcification"], np.uint8)
        canvas.paint(Union(grid, np.maximum(calcium, shell), owner), _CALCIUM)
    else:
        canvas.paint(lumen, _BLOOD + config.contrast_hu)


def _noise(hu: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Scan noise, correlated over neighbouring voxels of a slice as a reconstruction filter leaves it."""
    if sigma > 0:
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        white[:, :, 1:] += np.float32(0.5) * white[:, :, :-1]
        white[:, 1:] += np.float32(0.5) * white[:, :-1]
        hu += white * np.float32(sigma / 1.25)
    np.clip(hu, -1024, 3071, out=hu)


def _points(made: Anatomy) -> dict[str, NDArray[np.float64]]:
    """Named points, anatomical mm. Ostia lie on the middle line of the branch where it leaves its parent's lumen."""
    tree, trunk = made.tree, made.trunk
    out = {f"aorta/{name}": p for name, p in tree.root.landmarks().items()}
    line = tree["aorta"].points
    out["aorta/arch_apex"], out["aorta/bifurcation"] = line[int(np.argmax(line[:, 2]))], line[-1]
    for cusp, side in ((0, "right"), (1, "left")):
        out[f"coronary_artery_{side}/ostium"] = tree.root.ostium(cusp)
    for tube in tree.tubes:
        if (
            tube.parent
            and tube.parent != "aorta_root"
            and NAMES.get(_label(tube.name)) == tube.name
            and "coronary" not in tube.name
        ):
            out[f"{tube.name}/ostium"] = _leaves(tube, tree[tube.parent])
    for side, s in SIDES:
        out[f"iliac_artery_{side}/bifurcation"] = tree[f"common_iliac_artery_{side}"].points[-1]
        out[f"femoral_artery_{side}/bifurcation"] = tree[f"common_femoral_artery_{side}"].points[-1]
        out[f"femur_{side}/head"] = trunk.hip(s)
    for level in LEVELS:
        z = trunk.height(level)
        x, y = trunk.spine(z)
        out[f"vertebrae_{level}/body"] = np.array([float(x), float(y), z])
    return out


def _leaves(tube: Tube, parent: Tube) -> NDArray[np.float64]:
    """The first point of a branch that lies outside its parent's lumen."""
    gap = np.linalg.norm(tube.points[:, None] - parent.points[None], axis=2) - parent.radii
    outside = np.flatnonzero(gap.min(1) > 0)
    point: NDArray[np.float64] = tube.points[int(outside[0]) if len(outside) else -1]
    return point


def _traits(made: Anatomy) -> dict[str, float]:
    """The person, and diameters of the lumen and lengths in mm."""
    tree, sizes = made.tree, made.tree.root.sizes
    line = tree["aorta"]
    s = arc_length(line.points)
    top = float(s[int(np.argmax(line.points[:, 2]))])
    chord = float(np.linalg.norm(line.points[-1] - line.points[0]))
    diameters = {f"{name}_diameter_mm": 2 * r for name, r in sizes.radius.items()}
    return {
        **made.person.traits(),
        **diameters,
        "aortic_wall_mm": sizes.wall,
        "aorta_length_mm": float(s[-1]) + 0.58 * sizes.root_height,
        "annulus_to_apex_mm": top + 0.58 * sizes.root_height,
        "aorta_tortuosity": float(s[-1]) / chord,
        "widest_abdominal_mm": 2 * float(line.radii[len(line.radii) * 3 // 4 :].max()),
        "bovine_arch": float(tree.bovine),
        "aneurysm": float(sizes.aneurysm > 0),
        "plaques": float(len(made.plaques)),
    }
