"""What a radiologist would measure on a trunk, from its bones: the traits of a subject."""

from __future__ import annotations

import numpy as np

from raylign.simulation.phantoms.trunk_soft import Skeleton
from raylign.simulation.phantoms.trunk_webs import Points


def pelvis_traits(bones: Skeleton) -> dict[str, float]:
    """Distances between points of the bony pelvis in mm, angles in degrees."""
    p, shape = bones.pelvis.points, bones.shape
    ips = (p["hip_left/ips"] + p["hip_right/ips"]) / 2
    return {
        "hip_distance_mm": shape.pelvis.hip_distance,
        "asis_distance_mm": float(np.linalg.norm(p["hip_left/asis"] - p["hip_right/asis"])),
        "bicristal_mm": _width(bones),
        "hip_height_mm": float(np.linalg.norm(p["hip_left/crest"] - p["hip_left/ischial_tuberosity"])),
        "subpubic_deg": _arch(bones, ips),
        "pelvic_tilt_deg": shape.pelvis.tilt,
        "sacral_slope_deg": bones.pelvis.slope,
        "acetabulum_mm": 2 * bones.pelvis.cup_radius,
    }


def _width(bones: Skeleton) -> float:
    low, high = (bones.pelvis.webs[f"hip_{side}"].bounds() for side in ("right", "left"))
    return float(high[1][0] - low[0][0])


def _arch(bones: Skeleton, ips: Points) -> float:
    """The angle at the lower end of the symphysis between the lower borders of the pubic rami, seen from the front."""
    ends = [bones.pelvis.points[f"hip_{side}/ramus"] - ips for side in ("left", "right")]
    return sum(float(np.degrees(np.arctan2(abs(e[0]), -e[2]))) for e in ends)


def femur_traits(bones: Skeleton) -> dict[str, float]:
    """Sizes of the left femur in mm and degrees."""
    size = bones.femora[0].size
    canal = 2 * (size.shaft_radius - size.cortex)
    return {
        "head_diameter_mm": 2 * size.head_radius,
        "neck_shaft_deg": size.neck_shaft,
        "anteversion_deg": size.anteversion,
        "offset_mm": size.offset,
        "shaft_mm": 2 * size.shaft_radius,
        "canal_mm": canal,
        "joint_space_mm": bones.pelvis.cup_radius - size.head_radius,
    }


def lumbar_traits(bones: Skeleton) -> dict[str, float]:
    """Sizes of the bodies and discs in mm, curves in degrees."""
    size = bones.shape.spine
    levels = ("L5", "L4", "L3", "L2", "L1")
    out = {"sacral_slope_deg": bones.pelvis.slope, "lordosis_deg": float(size.disc_wedge[:5].sum() + size.body_wedge[:5].sum())}
    out["scoliosis_deg"] = float(np.ptp(size.sideways[:5]))
    for i, level in enumerate(levels):
        out |= {
            f"{level}_width_mm": float(size.width[i]),
            f"{level}_depth_mm": float(size.depth[i]),
            f"{level}_height_mm": float(size.height[i]),
            f"{level}_disc_mm": float(size.disc[i]),
        }
    return out
