"""Chests at random: every parameter from a distribution, tied to the patient's age, sex, height and weight.

What is published is cited where it is used; the other spreads are ours, chosen so that what is measured on the phantoms agrees
with what is measured on people (docs/phantoms.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from raylign.simulation.phantoms import thorax_heart, thorax_shape
from raylign.simulation.phantoms.population import Person
from raylign.simulation.phantoms.thorax_heart import Heart
from raylign.simulation.phantoms.thorax_shape import ChestShape, Points
from raylign.simulation.phantoms.thorax_vessels import Aorta

CLEARANCE = 8.0  # mm between the pericardium and the middle of the ribs and the sternum


@dataclass(frozen=True)
class Chest:
    """One patient's chest, whole."""

    person: Person
    shape: ChestShape
    heart: Heart
    aorta: Aorta


def draw_chest(person: Person, rng: np.random.Generator) -> Chest:
    """A chest that this person might have."""
    shape = draw_shape(person, rng)
    aorta = draw_aorta(person, rng)
    heart = settled(draw_heart(person, shape, rng), shape)
    for _ in range(50):
        if _healthy(heart, shape, person.female) and crowding(heart, shape) <= 0.5:
            break
        heart = settled(draw_heart(person, shape, rng), shape)
    return Chest(person, shape, heart, aorta)


# what healthy women and men have: millilitres (Kawel-Boehm et al. 2015), diameter (Lang et al. 2005), length (1.4 outer
# diameters, Stoylen et al. 2016), heart's width and its share of the chest's (Brakohiapa et al. 2017); a heart beyond these
# is drawn again
_HEALTHY = (
    ((86.0, 178.0), (106.0, 214.0)),
    ((39.0, 53.0), (42.0, 59.0)),
    ((70.0, 95.0), (76.0, 107.0)),
    ((103.0, 145.0), (106.8, 154.8)),
    ((0.382, 0.574), (0.388, 0.544)),
)


def _healthy(heart: Heart, shape: ChestShape, female: bool) -> bool:
    low, high = heart.extent
    wide = float(high[0] - low[0])
    measured = heart.volume_ml(), 2 * heart.radius, heart.length, wide, wide / thorax_shape.inner_width(shape)
    return all(a[0] <= v <= a[1] for v, a in zip(measured, (w if female else m for w, m in _HEALTHY), strict=True))


def _normal(rng: np.random.Generator, mean: float, sigma: float, reach: float = 2.5) -> float:
    """A normal number, not further than ``reach`` standard deviations from its mean."""
    return mean + sigma * float(np.clip(rng.standard_normal(), -reach, reach))


def draw_shape(person: Person, rng: np.random.Generator) -> ChestShape:
    """Cage, spine, diaphragm and what covers them."""
    female, age, bmi = person.female, person.age_years, person.bmi
    tall = person.height_mm / (1625 if female else 1760) - 1
    heavy, old = bmi - 27, age - 55
    wide = (0.93 if female else 1.01) * (1 + 0.35 * tall + 0.003 * heavy + _normal(rng, 0, 0.03))
    deep = (0.94 if female else 1.02) * (1 + 0.30 * tall + 0.004 * heavy + 0.0010 * old + _normal(rng, 0, 0.035))
    long = (person.height_mm / 1715) ** 0.9 * (1 + _normal(rng, 0, 0.015))
    # subcutaneous fat of the chest wall follows body fat; women carry more of it there
    fat = np.clip((4.0 if female else 2.5) + 30 * person.fat_fraction + _normal(rng, 0, 1.8), 4.5, 30)
    high = 0.5 * heavy + _normal(rng, 0, 5)  # obesity lifts the diaphragm
    modes = [_normal(rng, 0, s) for s in (0.020, 0.014, 0.009, 0.022, 0.016, 0.010)]
    trend = np.cumsum(rng.standard_normal(12)) * 0.012
    bows = np.clip(trend - trend.mean() + rng.standard_normal(12) * 0.012, -0.08, 0.08)
    pairs = rng.random()  # 12 pairs in all but a few: Bergman, Encyclopedia of Human Anatomic Variation
    z = _normal(rng, 0, 1)
    return ChestShape(
        scale=(float(np.clip(wide, 0.82, 1.18)), float(np.clip(deep, 0.82, 1.2)), float(np.clip(long, 0.82, 1.16))),
        # grows with age (Zappala et al. 2021), smaller on the back than standing; 0.75 of this are degrees from T4 to T12
        kyphosis=float(np.clip(_normal(rng, 35 + 0.2 * old, 5.5), 18, 54)),
        scoliosis=(_normal(rng, 0, 2.5), float(rng.uniform(0, 2 * math.pi))),
        widths=tuple(modes[:3]),
        depths=tuple(modes[3:]),
        square=float(np.clip(_normal(rng, 0.35, 0.08), 0.15, 0.55)),
        fat=float(fat),
        muscle=float(np.clip(_normal(rng, 0.92 if female else 1.08, 0.12), 0.7, 1.35)),
        breast=float(np.clip(0.9 + 0.022 * heavy + _normal(rng, 0, 0.09), 0.55, 1.35)) if female else 0.0,
        belly=float(np.clip(2.0 * (bmi - 25) + 0.15 * old + _normal(rng, 0, 4), 0, 38)),
        diaphragm=(high + _normal(rng, 0, 3), high + _normal(rng, 0, 4)),
        rib_slope=float(np.clip(_normal(rng, 1.0 - 0.006 * heavy, 0.05), 0.82, 1.14)),
        rib_bows=tuple(float(b) for b in bows),
        rib_size=float(np.clip((0.93 if female else 1.03) * (1 + 0.4 * tall) + _normal(rng, 0, 0.03), 0.84, 1.14)),
        ribs=11 if pairs < 0.05 else 13 if pairs > 0.99 else 12,
        sternum=float(np.clip(_normal(rng, 0.94 if female else 1.02, 0.035), 0.85, 1.1)),
        shoulder=_normal(rng, 0, 6),
        # thoracic bodies are denser than L1
        bone_hu=float(np.clip(1.12 * (person.trabecular_hu + 38 * z), 60, 330)),
        cortex=float(np.clip(1.03 - 0.002 * old + 0.03 * z, 0.85, 1.12)),
        calcified=float(np.clip(0.008 * (age - 30) + _normal(rng, 0, 0.10), 0, 0.6)),
    )


def draw_heart(person: Person, shape: ChestShape, rng: np.random.Generator) -> Heart:
    """A heart at the end of diastole.

    Volumes of the left ventricle by body surface and sex as Petersen et al. 2017 (about 85 and 74 ml/m2; less in the old); its
    length 1.40 times its outer diameter (Stoylen et al. 2016); its wall as Kawel et al. 2012 (6.3 and 5.3 mm, 1.1 mm more for
    each m2); the tilt of its axis in the frontal plane as Sathananthan et al. 2015 (38 degrees, 25 in the obese).
    """
    female, bmi = person.female, person.bmi
    # the reference cohorts are lean; ventricles grow with fat mass only weakly
    lean = replace(person, weight_kg=(24.5 + 0.35 * (bmi - 24.5)) * (person.height_mm / 1000) ** 2)
    index = (74.0 if female else 85.0) * (1 - 0.004 * (person.age_years - 58))
    ml = index * lean.bsa_m2 * math.exp(_normal(rng, 0, 0.125, 2.0))
    slender = _normal(rng, 0.582, 0.032, 2.0)
    taper = _normal(rng, 0.0, 0.08, 2.0)
    lobes = tuple(_normal(rng, 0, s, 2.0) for s in (0.036, 0.036, 0.02, 0.02) * 2)
    length = thorax_heart.length_for(ml, slender, taper, lobes)
    wall = (5.3 if female else 6.3) + 1.1 * (person.bsa_m2 - (1.75 if female else 2.0)) + _normal(rng, 0, 0.6, 2.0)
    tilt = math.radians(float(np.clip(_normal(rng, 38.1 - 1.12 * (bmi - 22.4), 6.0), 14, 56)))
    forward = math.radians(_normal(rng, 34, 6))
    left = math.cos(tilt)
    axis = np.array([left, -left * math.tan(forward), -math.sin(tilt)])
    axis /= np.linalg.norm(axis)
    lift = sum(shape.diaphragm) / 2
    base = shape.place(np.array([5.0, -15, -7])) + [0, 0, 0.6 * lift] + [_normal(rng, 0, 3) for _ in range(3)]
    return Heart(
        base=(float(base[0]), float(base[1]), float(base[2])),
        axis=(float(axis[0]), float(axis[1]), float(axis[2])),
        length=length,
        radius=length * slender / 2,
        oval=_normal(rng, 1.03, 0.02),
        roll=float(rng.uniform(0, math.pi)),
        taper=taper,
        bend=(_normal(rng, 0, 3.0), _normal(rng, 0, 3.0)),
        lobes=lobes,
        wall=float(np.clip(wall, 3.6, 9.0)),
        apex_wall=float(np.clip(wall, 3.6, 9.0) * _normal(rng, 0.55, 0.06)),
        size=(ml / 150) ** (1 / 3),
        right=_normal(rng, 1.0, 0.035),
        atria=(_normal(rng, 1.0, 0.06), _normal(rng, 1.0, 0.06) * (1 + 0.0015 * (person.age_years - 58))),
    )


def draw_aorta(person: Person, rng: np.random.Generator) -> Aorta:
    """Diameters as Rogers et al. 2013 (34.1 and 31.9 mm, 25.8 and 23.1 mm); 1 mm more for ten years or 0.23 m2 (MESA: Turkbey et
    al. 2013).
    """
    female = person.female
    size = (person.age_years - 58) / 10 + (person.bsa_m2 - (1.75 if female else 2.0)) / 0.23
    common = _normal(rng, 0, 1)
    up = (31.9 if female else 34.1) + size + 1.8 * common + _normal(rng, 0, 1.5)
    down = (23.1 if female else 25.8) + 0.7 * size + 1.1 * common + _normal(rng, 0, 1.0)
    return Aorta(
        root=float(np.clip(up + _normal(rng, 0.8, 1.2), 25, 44)),
        ascending=float(np.clip(up, 24, 43)),
        descending=float(np.clip(down, 17, 33)),
        unfolded=float(np.clip(0.25 * (person.age_years - 55) + _normal(rng, 0, 3), -6, 14)),
    )


def settled(heart: Heart, shape: ChestShape) -> Heart:
    """The heart moved, and where that is not enough its right side made smaller, until chest wall and spine leave it room."""
    for attempt in range(40):
        depth, push = _crowding(heart, shape)
        if depth <= 0.2:
            break
        x, y, z = np.asarray(heart.base) + (depth + 0.3) * push
        heart = replace(heart, base=(float(x), float(y), float(z)))
        if attempt >= 8:
            heart = replace(heart, right=heart.right * 0.99, atria=(heart.atria[0] * 0.985, heart.atria[1] * 0.985))
    return heart


def crowding(heart: Heart, shape: ChestShape) -> float:
    """How far the pericardium comes nearer than its clearance to ribs, sternum or spine, mm; 0 or less where there is room."""
    return _crowding(heart, shape)[0]


def _crowding(heart: Heart, shape: ChestShape) -> tuple[float, Points]:
    points = _outline(heart)
    x, y, z = (c.astype(np.float32) for c in points.T)
    wall = thorax_shape.cage(shape, (x, y, z)) + CLEARANCE
    sx, sy = thorax_shape.spine_line(shape, points[:, 2])
    reach = 19.0 * (shape.scale[0] + shape.scale[1]) / 2
    away = points[:, :2] - np.stack([sx, sy], 1)
    spine = reach - np.linalg.norm(away, axis=1)
    i, j = int(np.argmax(wall)), int(np.argmax(spine))
    if wall[i] >= spine[j]:
        step = 2.0
        at = [np.repeat(c, 3) for c in points[i]]
        ahead = np.stack(at, 1) + step * np.eye(3)
        gradient = thorax_shape.cage(shape, tuple(c.astype(np.float32) for c in ahead.T)) + CLEARANCE - wall[i]
        return float(wall[i]), -gradient / max(float(np.linalg.norm(gradient)), 1e-6)
    out = np.append(away[j], 0.0)
    return float(spine[j]), out / max(float(np.linalg.norm(out)), 1e-6)


def _outline(heart: Heart) -> Points:
    """Points of the chambers' outer surfaces, fat and pericardium included."""
    i = np.arange(160) + 0.5
    z, turn = 1 - 2 * i / 160, i * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - z * z)
    sphere = np.stack([r * np.cos(turn), r * np.sin(turn), z], 1)
    parts = [s.centre + sphere * (np.asarray(s.radii) + 2.5) @ s.frame for s in heart.chambers.values()]
    left = heart.left_points(10, 16, True)
    return np.concatenate(
        [left + 2.5 * (left - heart.centre) / np.linalg.norm(left - heart.centre, axis=1, keepdims=True), *parts]
    )
