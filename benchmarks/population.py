"""Made exposures of the five parametric anatomies, two people each, as a C-arm shows them: the picture of the README.

``python benchmarks/population.py [--seeds 3,4] [-o docs/images/population.png]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from raylign.geometry import View, se3
from raylign.simulation import (
    AortaConfig,
    Collimator,
    Display,
    Dose,
    ExposureConfig,
    FemurConfig,
    LumbarConfig,
    Matter,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    Tube,
    aorta,
    displayed,
    expose_batch,
    generator,
    lumbar,
    pelvis,
    proximal_femur,
    thorax,
)

SHAPE = (288, 288)


def bodies(seed: int) -> list[tuple[Subject, str, float, float, float]]:
    """Each anatomy, the landmark in the picture's middle (none: the volume's), angles in degrees, the detector's side in mm."""
    chest = thorax(ThoraxConfig(voxel_mm=1.6, z_range=(-230.0, 200.0), meshes=False), seed)
    hips = pelvis(PelvisConfig(voxel_mm=1.6, meshes=False), seed)
    spine = lumbar(LumbarConfig(voxel_mm=1.6, meshes=False), seed)
    arteries = aorta(AortaConfig(voxel_mm=1.6, region="lower", contrast_hu=1500.0, meshes=False), seed)
    thigh = proximal_femur(FemurConfig(meshes=False), seed)
    return [
        (chest, "heart_ventricle_left/middle", -12, 4, 360.0),
        (hips, "", 0, 0, 330.0),
        (spine, "vertebrae_L3/body", 90, 0, 230.0),
        (arteries, "aorta/bifurcation", 0, 0, 330.0),
        (thigh, "femur_left/neck", 0, 0, 125.0),
    ]


def picture(subject: Subject, landmark: str, angles: tuple[float, float], side: float, seed: int) -> torch.Tensor:
    """One exposure on a screen, [H, W] in 0 to 1."""
    view = View.from_carm(primary=angles[0], secondary=angles[1], sid=1100, sod=750, pixel_spacing=side / SHAPE[0], shape=SHAPE)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -(subject.landmarks[landmark] if landmark else subject.volume.centre)
    turned = se3.exp(0.03 * torch.randn(6, generator=generator(seed, 1), dtype=torch.float64)) @ pose
    config = ExposureConfig(tube=Tube(kv=80), dose=Dose(photons=4000), collimator=Collimator.round(0.98), rays=2)
    made = expose_batch([Matter.of(subject)], [0], [view], turned[None], config, generator(seed, 2))
    pitch = torch.full((1, 2), side / SHAPE[0])
    return displayed(made.image, made.valid, pitch, Display(window=(1.0, 97.0)))[0]


def main() -> None:
    """Expose, show, write."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="3,4", help="of the people, separated by commas")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/population.png"))
    given = parser.parse_args()
    seeds = [int(s) for s in given.seeds.split(",")]
    figure, axes = plt.subplots(len(seeds), 5, figsize=(12.5, 2.5 * len(seeds)), squeeze=False)
    for row, seed in zip(axes, seeds, strict=True):
        for axis, (subject, landmark, primary, secondary, side) in zip(row, bodies(seed), strict=True):
            axis.imshow(picture(subject, landmark, (primary, secondary), side, seed), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    figure.savefig(given.output, dpi=88)


if __name__ == "__main__":
    main()
