"""A parametric proximal femur in its thigh."""

from __future__ import annotations

from dataclasses import dataclass

from raylign.errors import InputError
from raylign.simulation.phantoms import trunk, trunk_measures
from raylign.simulation.phantoms.pelvis import check_sampling, check_values
from raylign.simulation.subject import Subject


@dataclass(frozen=True)
class FemurConfig:
    """How the phantom is sampled. The anatomy depends on the seed alone, not on any of these.

    Parameters
    ----------
    side: "left" or "right".
    voxel_mm: pitch of (columns, rows, slices), 0.5 to 8 mm each.
    shape: (columns, rows, slices). The scan is centred on the femur: on the middle of the axis from head to shaft.
    drop_mm: how far below the head's centre the middle slice lies.
    contrast_hu, noise_hu, origin, meshes, mesh_pitch_mm: as of ``PelvisConfig``.

    Raises
    ------
    InputError: a value out of these ranges.
    """

    side: str = "left"
    voxel_mm: tuple[float, float, float] = (1.2, 1.2, 1.6)
    shape: tuple[int, int, int] = (128, 128, 128)
    drop_mm: float = 55.0
    contrast_hu: float = 0.0
    noise_hu: float = 9.0
    origin: tuple[float, float, float] = (2.5, -148.0, -640.0)
    meshes: bool = True
    mesh_pitch_mm: float = 1.5

    def __post_init__(self) -> None:
        if self.side not in ("left", "right"):
            raise InputError(f"side {self.side!r}", field="side", remedy='choose "left" or "right"')
        for v, n in zip(self.voxel_mm, self.shape, strict=True):
            check_sampling(v, (0.0, 8 * v), (0.0, 64.0), self.mesh_pitch_mm)
            if not 8 <= n <= 512:
                raise InputError(f"shape {self.shape}", field="shape", remedy="give 8 to 512 voxels along each axis")
        check_values(self.contrast_hu, self.noise_hu)

    @staticmethod
    def van_houtte(side: str = "left") -> FemurConfig:
        """The grid of Van Houtte et al. 2022: 192 x 128 x 192 voxels of 0.664 x 0.664 x 1 mm about the femur."""
        return FemurConfig(side=side, voxel_mm=(0.664, 0.664, 1.0), shape=(192, 128, 192), drop_mm=60.0)


def proximal_femur(config: FemurConfig | None = None, seed: int = 0) -> Subject:
    """An upper femur with what a scan cropped around it shows: its socket, its thigh. The patient of ``pelvis`` at this seed.

    Head, neck, trochanters and shaft; compact bone that is thick in the shaft and at the calcar; spongy bone in the groups that
    carry pressure and tension, thinning with age; a marrow canal.

    Parameters
    ----------
    config: sampling.
    seed: which patient.

    Returns
    -------
    Subject: as ``pelvis``; traits ``head_diameter_mm``, ``neck_shaft_deg``, ``anteversion_deg``, ``offset_mm``,
    ``canal_mm`` and the rest of ``trunk_measures.femur_traits``.

    Raises
    ------
    InputError: a negative seed.
    """
    config = config or FemurConfig()
    bones = trunk.skeleton(seed)
    femur = bones.femora[0 if config.side == "left" else 1]
    middle = (femur.centre + femur.points["shaft"]) / 2
    centre = (float(middle[0]), float(middle[1]) + 4.0, float(femur.centre[2]) - config.drop_mm)
    half = [v * n / 2 for v, n in zip(config.voxel_mm, config.shape, strict=True)]
    sampling = trunk.Sampling(
        config.voxel_mm,
        (centre[0] - half[0], centre[1] - half[1], centre[2] - half[2]),
        (centre[0] + half[0], centre[1] + half[1], centre[2] + half[2]),
        config.contrast_hu,
        config.noise_hu,
        config.origin,
        config.meshes,
        config.mesh_pitch_mm,
        ((True, True), (True, True), (True, True)),
    )
    return trunk.scanned("femur", bones, sampling, trunk_measures.femur_traits(bones))
