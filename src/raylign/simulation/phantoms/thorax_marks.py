"""Points of a chest that can be found again, and what is measured on it."""

from __future__ import annotations

import numpy as np

from raylign.simulation.phantoms import thorax_bones, thorax_heart, thorax_shape, thorax_vessels
from raylign.simulation.phantoms.thorax_draw import Chest
from raylign.simulation.phantoms.thorax_heart import Heart
from raylign.simulation.phantoms.thorax_shape import LEVELS, ChestShape, Points


def points(chest: Chest) -> dict[str, Points]:
    """Points by ``structure/point``, anatomical mm. ``apex``, ``mitral`` and ``aortic_valve`` lie on a surface, others inside."""
    shape, heart, out = chest.shape, chest.heart, {}
    for level in LEVELS:
        z = shape.height(level)
        x, y = thorax_shape.spine_line(shape, z)
        out[f"vertebrae_{level}/body"] = np.array([float(x), float(y), z])
    for side, s in thorax_bones.SIDES:
        for i in range(2, min(shape.ribs, 11) + 1):
            line, _ = thorax_bones.rib_line(shape, i, s)
            out[f"rib_{side}_{i}/middle"] = (line[len(line) // 2] + line[len(line) // 2 + 1]) / 2
        out[f"humerus_{side}/head"] = thorax_bones.humerus_line(shape, s)[0]
    out["heart_ventricle_left/middle"] = heart.along(heart.length / 2)
    for name, outside in (("heart_ventricle_left/apex", False), ("heart_myocardium/apex", True)):
        out[name] = heart.left_points(2, 1, outside)[-1]
    out["heart_ventricle_left/mitral"] = thorax_vessels.mitral(heart)
    out["aorta/valve"] = thorax_vessels.valve(heart)
    out["heart_ventricle_right/middle"] = _in_the_right_ventricle(heart)
    for name in ("heart_atrium_left", "heart_atrium_right"):
        out[f"{name}/middle"] = np.asarray(heart.cavities[name].centre)
    line, _ = thorax_vessels.aorta_line(shape, heart, chest.aorta)
    out["aorta/arch"] = line[int(np.argmax(line[:, 2]))]
    return out


def _in_the_right_ventricle(heart: Heart) -> Points:
    """The middle of the crescent: on the line from the left ventricle's axis through the right one's centre."""
    solid = heart.cavities["heart_ventricle_right"]
    centre, axis = np.asarray(solid.centre), np.asarray(heart.axis)
    foot = np.asarray(heart.base) + axis * float((centre - heart.base) @ axis)
    out = (centre - foot) / np.linalg.norm(centre - foot)
    steps = np.linspace(0, 100, 201)
    line = foot + steps[:, None] * out
    x, y, z = (c.astype(np.float32) for c in line.T)
    free = (solid.distance(x, y, z) < 0) & (thorax_heart.left_outside(heart, (x, y, z)) > 0)
    middle: Points = line[free].mean(0) if free.any() else centre
    return middle


def traits(chest: Chest) -> dict[str, float]:
    """Who the patient is, and what a radiologist would measure; closed forms of the parameters, not counts of voxels."""
    shape, heart = chest.shape, chest.heart
    low, high = heart.extent
    wide = float(high[0] - low[0])
    axis = heart.axis
    return {
        **chest.person.traits(),
        "lv_volume_ml": heart.volume_ml(),
        "lv_mass_g": heart.mass_g(),
        "lv_long_axis_mm": heart.length,
        "lv_diameter_mm": 2 * heart.radius,
        "wall_thickness_mm": heart.wall,
        "apex_thickness_mm": heart.apex_wall,
        "lv_frontal_tilt_deg": float(np.degrees(np.arctan2(-axis[2], axis[0]))),
        "heart_width_mm": wide,
        "chest_width_mm": thorax_shape.inner_width(shape),
        "cardiothoracic_ratio": wide / thorax_shape.inner_width(shape),
        "ascending_aorta_mm": chest.aorta.ascending,
        "descending_aorta_mm": chest.aorta.descending,
        "rib_pairs": float(shape.ribs),
        "kyphosis_deg": kyphosis_deg(shape),
        "subcutaneous_fat_mm": shape.fat,
        "trabecular_hu": shape.bone_hu,
    }


def kyphosis_deg(shape: ChestShape) -> float:
    """Angle between the spine's directions at T4 and T12, in the sagittal plane."""
    angles = [np.degrees(np.arctan(thorax_shape.tilt(shape, shape.height(level))[1])) for level in ("T4", "T12")]
    return float(angles[1] - angles[0])
