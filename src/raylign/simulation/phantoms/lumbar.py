"""A parametric lumbar spine, L1 to L5 with T12, T11, their ribs and the top of the sacrum, in its soft tissue."""

from __future__ import annotations

from dataclasses import dataclass

from raylign.simulation.phantoms import trunk, trunk_measures
from raylign.simulation.phantoms.pelvis import check_sampling, check_values
from raylign.simulation.subject import Subject

_Z = (-60.0, 340.0)


@dataclass(frozen=True)
class LumbarConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    voxel_mm: isotropic voxel pitch, 0.5 to 8 mm.
    z_range: lowest and highest slice in mm above the centres of the hips, within -60 and 340.
    contrast_hu: HU added to the blood in arteries and the vena cava (a contrast agent).
    noise_hu: standard deviation of the scan's noise.
    origin: patient LPS mm of the point midway between the hips' centres: what a scanner's table position decides.
    meshes: whether surfaces of the bones are made. mesh_pitch_mm: their sampling.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    voxel_mm: float = 2.0
    z_range: tuple[float, float] = (45.0, 310.0)
    contrast_hu: float = 0.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (2.5, -148.0, -640.0)
    meshes: bool = True
    mesh_pitch_mm: float = 1.5

    def __post_init__(self) -> None:
        check_sampling(self.voxel_mm, self.z_range, _Z, self.mesh_pitch_mm)
        check_values(self.contrast_hu, self.noise_hu)


def lumbar(config: LumbarConfig | None = None, seed: int = 0) -> Subject:
    """A lumbar spine on the scanner's table, head first and supine: the same patient as ``pelvis`` of this seed.

    L5 to L1, T12 and T11 with their ribs, discs, the top of the sacrum and of the hip bones; muscles along the spine, kidneys,
    bowel with gas, aorta and vena cava. Lordosis follows the sacral slope; bodies and discs are wedged, turned and worn one by
    one.

    Parameters
    ----------
    config: sampling.
    seed: which patient.

    Returns
    -------
    Subject: as ``pelvis``; landmarks ``vertebrae_L3/body``, ``superior``, ``inferior``, ``pedicle_left``, ``pedicle_right``.

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or LumbarConfig()
    bones = trunk.skeleton(seed)
    width, front, back = trunk.half_width(bones)
    v = config.voxel_mm
    sampling = trunk.Sampling(
        (v, v, v),
        (-width - 10, front - 10, config.z_range[0]),
        (width + 10, back + 10, config.z_range[1]),
        config.contrast_hu,
        config.noise_hu,
        config.origin,
        config.meshes,
        config.mesh_pitch_mm,
        ((False, False), (False, False), (True, True)),
    )
    return trunk.scanned("lumbar", bones, sampling, trunk_measures.lumbar_traits(bones))
