"""A parametric pelvis with both hips, sacrum and coccyx, the lowest vertebrae and the upper femora, in its soft tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raylign.errors import InputError
from raylign.simulation.phantoms import trunk, trunk_measures
from raylign.simulation.subject import Subject

_Z = (-210.0, 260.0)


@dataclass(frozen=True)
class PelvisConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    voxel_mm: isotropic voxel pitch, 0.5 to 8 mm.
    z_range: lowest and highest slice in mm above the centres of the hips, within -210 and 260.
    half_width_mm: half of the scan's width; 0 fits it to the patient.
    contrast_hu: HU added to the blood in arteries and the vena cava (a contrast agent).
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the point midway between the hips' centres: what a scanner's table position decides.
    meshes: whether surfaces of the bones are made. mesh_pitch_mm: their sampling.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    voxel_mm: float = 2.0
    z_range: tuple[float, float] = (-110.0, 170.0)
    half_width_mm: float = 0.0
    contrast_hu: float = 0.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (2.5, -148.0, -640.0)
    meshes: bool = True
    mesh_pitch_mm: float = 2.0

    def __post_init__(self) -> None:
        check_sampling(self.voxel_mm, self.z_range, _Z, self.mesh_pitch_mm)
        check_values(self.contrast_hu, self.noise_hu)
        if self.half_width_mm and not 20 <= self.half_width_mm <= 400:
            raise InputError(
                f"half_width_mm {self.half_width_mm}", field="half_width_mm", remedy="give 20 to 400 mm, or 0 to fit"
            )


def check_sampling(voxel: float, z_range: tuple[float, float], within: tuple[float, float], mesh_pitch: float) -> None:
    """
    Raises
    ------
    InputError: a pitch or a range that no scan has.
    """
    if not 0.5 <= voxel <= 8:
        raise InputError(f"{voxel} mm voxels", field="voxel_mm", remedy="choose 0.5 to 8 mm")
    low, high = z_range
    if not (within[0] <= low and low + 4 * voxel <= high <= within[1]):
        raise InputError(
            f"z_range {z_range}", field="z_range", remedy=f"give (low, high) within {within[0]:g} and {within[1]:g} mm"
        )
    if not 0.4 <= mesh_pitch <= 6:
        raise InputError(f"surfaces sampled every {mesh_pitch} mm", field="mesh_pitch_mm", remedy="choose 0.4 to 6 mm")


def check_values(contrast: float, noise: float) -> None:
    """
    Raises
    ------
    InputError: HU that are not finite, negative noise.
    """
    if not (math.isfinite(contrast) and math.isfinite(noise) and noise >= 0):
        raise InputError("contrast_hu and noise_hu must be finite, noise_hu not negative", field="contrast_hu, noise_hu")


def pelvis(config: PelvisConfig | None = None, seed: int = 0) -> Subject:
    """A pelvis on the scanner's table, head first and supine.

    Hip bones with their acetabula, sacrum and coccyx, L5 and L4 (more with a longer ``z_range``), the femora in their sockets at
    angles of their own; discs and symphysis; skin, fat, muscle, iliopsoas, bladder, uterus or prostate, rectum and bowel with
    gas, vessels with the calcium of their age. The patient goes on beyond the first and last slice, and the volume says so.

    The same seed gives the same patient at any resolution and extent, and in ``lumbar`` and ``proximal_femur`` too.

    Parameters
    ----------
    config: sampling.
    seed: which patient.

    Returns
    -------
    Subject: volume (HU, [D, H, W], LPS affine), labels (TotalSegmentator's names where it has the structure), landmarks, surfaces
    of the bones, traits (the person and ``trunk_measures``). Landmarks that DeepFluoro names too: ``hip_left/asis``, ``sps``,
    ``ips``, ``gsn``, ``iof``, ``mof``, ``femur_left/fh``, and the same of the right side.

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or PelvisConfig()
    bones = trunk.skeleton(seed)
    width, front, back = trunk.half_width(bones)
    half = config.half_width_mm or width + 10
    v = config.voxel_mm
    sampling = trunk.Sampling(
        (v, v, v),
        (-half, front - 10, config.z_range[0]),
        (half, back + 10, config.z_range[1]),
        config.contrast_hu,
        config.noise_hu,
        config.origin,
        config.meshes,
        config.mesh_pitch_mm,
        ((half < width,) * 2, (False, False), (True, True)),
    )
    return trunk.scanned("pelvis", bones, sampling, trunk_measures.pelvis_traits(bones) | trunk_measures.femur_traits(bones))
