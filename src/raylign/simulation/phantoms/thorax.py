"""A parametric chest: bones and organs at realistic HU, another patient for every seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from raylign.data import LabelMap, Landmarks, Volume
from raylign.errors import InputError
from raylign.simulation.phantoms import thorax_marks, thorax_shape, thorax_texture
from raylign.simulation.phantoms.field import Grid
from raylign.simulation.phantoms.population import patient, person_id
from raylign.simulation.phantoms.thorax_draw import Chest, draw_chest
from raylign.simulation.phantoms.thorax_meshes import ThoraxMeshes
from raylign.simulation.phantoms.thorax_names import NAMES
from raylign.simulation.phantoms.thorax_paint import painted
from raylign.simulation.seeds import numpy_generator
from raylign.simulation.subject import Subject

_Z = (-240.0, 210.0)  # what the anatomy fills, mm at scale 1


@dataclass(frozen=True)
class ThoraxConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    voxel_mm: isotropic voxel pitch, 0.5 to 8 mm.
    z_range: lowest and highest slice, within -240 and 210 (L3 to the neck): mm from the middle of T7 in an adult of 1715 mm,
        more in a taller one, so that the same range shows the same vertebrae of everybody.
    contrast_hu: HU added to blood in the heart, the great vessels and the lungs (a contrast agent).
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the anatomical origin (midline, middle of T7): what a scanner's table position decides.
    meshes: whether the subject has meshes; each is made when it is first asked for.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    voxel_mm: float = 2.0
    z_range: tuple[float, float] = (-165.0, 165.0)
    contrast_hu: float = 0.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (4.5, -171.0, -312.0)
    meshes: bool = True

    def __post_init__(self) -> None:
        if not 0.5 <= self.voxel_mm <= 8:
            raise InputError(f"{self.voxel_mm} mm voxels", field="voxel_mm", remedy="choose 0.5 to 8 mm")
        low, high = self.z_range
        if not (_Z[0] <= low and low + 4 * self.voxel_mm <= high <= _Z[1]):
            raise InputError(f"z_range {self.z_range}", field="z_range", remedy="give (low, high) within -240 and 210 mm")
        if not (math.isfinite(self.contrast_hu) and math.isfinite(self.noise_hu) and self.noise_hu >= 0):
            raise InputError("contrast_hu and noise_hu must be finite, noise_hu not negative", field="ThoraxConfig")


def thorax(config: ThoraxConfig | None = None, seed: int = 0) -> Subject:
    """A chest on the scanner's table, head first and supine, arms raised, at the end of diastole and of breathing in.

    Skin, fat, breasts and muscle; lungs with vessel trees and airways; heart chambers and great vessels; diaphragm, liver,
    stomach with a gas bubble, spleen, kidneys; C6 to L3 with discs and processes, 11 to 13 pairs of ribs with cartilage,
    sternum, clavicles, scapulae, humeri, each bone with its cortex. The patient goes on beyond the first and last slice, and
    the volume says so.

    The same seed gives the same patient at any resolution and extent: scan one at 2 mm and expose the same one at 1.3 mm over
    a longer range, and the exposure knows more than the scan. How patients are drawn: docs/phantoms.md.

    Parameters
    ----------
    config: sampling.
    seed: which patient (``population.patient(seed)`` is the same person in every phantom).

    Returns
    -------
    Subject: volume (HU, [D, H, W], LPS affine), labels (names as TotalSegmentator's where it has the structure), landmarks,
    meshes (made when first asked for), traits (who the patient is, and what was measured on the anatomy).

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or ThoraxConfig()
    chest = chest_of(seed)
    streams = [numpy_generator(seed, 2, i) for i in range(1, 4)]
    grid = _grid(config, chest)
    canvas = painted(grid, chest, config.contrast_hu, streams[:2])
    thorax_texture.noise(canvas.hu, config.noise_hu, streams[2])
    affine = np.diag([config.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = np.array([grid.x[0], grid.y[0], grid.z[0]], float) + config.origin
    volume = Volume(
        torch.from_numpy(canvas.hu),
        torch.from_numpy(affine),
        unit="HU",
        truncated=((False, False), (False, False), (True, True)),
        meta={"phantom": "thorax"},
    )
    points = {n: p for n, p in thorax_marks.points(chest).items() if grid.z[0] + 2 < p[2] < grid.z[-1] - 4}
    return Subject(
        volume,
        LabelMap(torch.from_numpy(canvas.labels), torch.from_numpy(affine), NAMES),
        Landmarks(tuple(points), torch.from_numpy(np.array(list(points.values())).reshape(-1, 3) + config.origin)),
        ThoraxMeshes(chest, config.origin) if config.meshes else {},
        id=f"thorax-{seed:06d}",
        traits=thorax_marks.traits(chest),
        person=person_id(seed),
    )


def chest_of(seed: int) -> Chest:
    """The parameters behind a seed's chest, and nothing painted.

    Raises
    ------
    InputError: a negative seed.
    """
    return draw_chest(patient(seed), numpy_generator(seed, 2, 0))


def _grid(config: ThoraxConfig, chest: Chest) -> Grid:
    """Voxel centres in anatomical mm around the whole patient."""
    v, long = config.voxel_mm, chest.shape.scale[2]
    wide, front, back = thorax_shape.extent(chest.shape)
    low, high = config.z_range
    x, y, z = (
        (np.arange(math.floor((b - a) / v)) * v + a).astype(np.float32)
        for a, b in ((-wide, wide), (front, back), (low * long, high * long))
    )
    return Grid(x, y, z, v)
