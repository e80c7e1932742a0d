"""Labels of the pelvis, the lumbar spine and the thigh, and what their tissues measure in HU at about 120 kV."""

from __future__ import annotations

SOFT = (
    "skin", "subcutaneous_fat", "muscle", "visceral_fat", "iliopsoas_left", "iliopsoas_right", "urinary_bladder", "prostate",
    "uterus", "colon", "rectum", "small_bowel", "bowel_gas", "kidney_left", "kidney_right", "liver", "spleen", "aorta",
    "inferior_vena_cava", "iliac_artery_left", "iliac_artery_right", "spinal_cord", "intervertebral_discs", "pubic_symphysis",
    "cartilage",
)  # fmt: skip
BONES = (
    "hip_left", "hip_right", "sacrum", "femur_left", "femur_right",
    *(f"vertebrae_{level}" for level in ("L5", "L4", "L3", "L2", "L1", "T12", "T11")),
    *(f"rib_{side}_{i}" for side in ("left", "right") for i in (11, 12)),
)  # fmt: skip
NAMES = {i + 1: name for i, name in enumerate((*SOFT, *BONES))}
NUMBER = {name: i for i, name in NAMES.items()}

# Schneider et al. 1996 and ICRU 44 compositions at about 70 keV, rounded
SKIN, FAT, MUSCLE, BLOOD, GAS, STOOL = 5.0, -98.0, 52.0, 42.0, -960.0, 10.0
HU = {
    "urinary_bladder": 6.0, "prostate": 42.0, "uterus": 42.0, "colon": 28.0, "rectum": 30.0, "small_bowel": 28.0,
    "bowel_gas": GAS, "kidney_left": 32.0, "kidney_right": 32.0, "liver": 56.0, "spleen": 48.0, "aorta": BLOOD,
    "inferior_vena_cava": BLOOD, "iliac_artery_left": BLOOD, "iliac_artery_right": BLOOD, "spinal_cord": 22.0,
    "intervertebral_discs": 84.0, "pubic_symphysis": 88.0, "cartilage": 70.0, "iliopsoas_left": 54.0, "iliopsoas_right": 54.0,
}  # fmt: skip
BLOOD_FILLED = ("aorta", "inferior_vena_cava", "iliac_artery_left", "iliac_artery_right")  # where contrast agent goes
# mottling: standard deviations of the coarse and the fine lattice, HU, and the share of fat that streaks it
MOTTLE = {
    "muscle": (9.0, 4.0, 1.0), "iliopsoas_left": (7.0, 4.0, 0.4), "iliopsoas_right": (7.0, 4.0, 0.4),
    "visceral_fat": (22.0, 8.0, 0.0),
    "subcutaneous_fat": (6.0, 3.0, 0.0), "colon": (16.0, 14.0, 0.0), "rectum": (10.0, 8.0, 0.0), "small_bowel": (9.0, 6.0, 0.0),
}  # fmt: skip
