"""Labels of the chest, by number and name (TotalSegmentator's where it names the structure), and what tissue measures."""

from __future__ import annotations

from raylign.simulation.phantoms.thorax_shape import LEVELS

_SOFT = (
    "skin", "subcutaneous_fat", "muscle", "lung_left", "lung_right", "trachea", "heart_myocardium", "heart_ventricle_left",
    "heart_ventricle_right", "heart_atrium_left", "heart_atrium_right", "aorta", "pulmonary_artery", "pulmonary_vein",
    "superior_vena_cava", "inferior_vena_cava", "arch_branches", "liver", "stomach", "spleen", "kidney_left", "kidney_right",
    "colon", "spinal_cord", "lung_vessels", "intervertebral_discs", "costal_cartilages",
)  # fmt: skip
BONES = (
    *(f"vertebrae_{level}" for level in LEVELS),
    *(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)),
    "sternum", "clavicula_left", "clavicula_right", "scapula_left", "scapula_right", "humerus_left", "humerus_right",
)  # fmt: skip
# heart_myocardium is the wall of the left ventricle; heart_walls those of the other chambers
NAMES = {i + 1: name for i, name in enumerate((*_SOFT, *BONES, "heart_walls", "rib_left_13", "rib_right_13"))}
NUMBER = {name: i for i, name in NAMES.items()}
BONES = (*BONES, "rib_left_13", "rib_right_13")

# HU at about 120 kV: Schneider et al. 1996 and Bushong, rounded; blood is added to by contrast_hu
BLOOD, MUSCLE, FAT, SKIN = 42.0, 52.0, -98.0, 5.0
ORGANS = {"liver": 58.0, "stomach": 22.0, "spleen": 50.0, "kidney_left": 32.0, "kidney_right": 32.0, "colon": 18.0}
# cortex in mm, its HU, HU of the trabecular bone within where that of the vertebrae is 190
BONE_KINDS = {
    "vertebrae": (0.9, 900.0, 190.0),
    "rib": (1.5, 1150.0, 280.0),
    "sternum": (1.0, 700.0, 120.0),
    "clavicula": (1.8, 1200.0, 250.0),
    "scapula": (1.4, 1150.0, 230.0),
    "humerus": (2.2, 1250.0, 180.0),
}
