"""The trunk that the arteries run through: spine line, vertebral sizes, pelvic points, girth.

Anatomical mm: x to the left, y to the back, z to the head; the origin is the middle of the body of L4. Vertebral heights and
widths are typical adult values (Gray's Anatomy, 41st ed.; Panjabi et al. 1991, 1992, Spine), rounded, and scale with stature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.population import Person

Points = NDArray[np.float64]
LEVELS = (*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
# body and disc (mm) at a height of 1720 mm
_PITCH = (19.5, 20.3, 21, 21.5, 22, 22.5, 23, 23.8, 24.8, 26, 27.5, 29.5, 33, 34.5, 35.5, 36, 34)
_EDGES = np.concatenate([[0.0], np.cumsum(_PITCH)])
_MIDDLES = (_EDGES[1:] + _EDGES[:-1]) / 2
_HEIGHTS = dict(zip(LEVELS, (_MIDDLES[LEVELS.index("L4")] - _MIDDLES).tolist(), strict=True))
# the line of the vertebral bodies: z, y; a lordosis, a kyphosis
_LINE = np.array(
    [(-175, 66), (-120, 52), (-90, 36), (-68, 17), (-36, 3), (0, 0), (36, 0), (71, 4), (105, 11), (137, 18), (192, 31), (242, 39),
     (288, 41), (330, 35), (371, 20), (391, 10), (440, -16)], float
)  # fmt: skip


@dataclass(frozen=True)
class TrunkShape:
    """What differs from one trunk to the next.

    Parameters
    ----------
    stature: length along z in units of a person of 1720 mm.
    kyphosis: depth of the thoracic curve, in units of the average.
    scoliosis: sideways bend, mm.
    girth: half width and half depth of the waist, mm.
    fat: subcutaneous fat, mm.
    pelvis: width of the pelvis in units of the average.
    chest: width and depth of the rib cage in units of the average.
    """

    stature: float
    kyphosis: float
    scoliosis: float
    girth: tuple[float, float]
    fat: float
    pelvis: float
    chest: float

    def height(self, level: str) -> float:
        """z of the middle of a vertebral body."""
        return _HEIGHTS[level] * self.stature

    def pitch(self, level: str) -> float:
        """Height of a vertebral body with its disc."""
        return _PITCH[LEVELS.index(level)] * self.stature

    def spine(self, z: Points | float) -> tuple[Points, Points]:
        """x and y of the line through the vertebral bodies and the sacrum at height z."""
        from scipy.interpolate import PchipInterpolator

        u = np.clip(np.asarray(z, float) / self.stature, _LINE[0, 0], _LINE[-1, 0])
        y = PchipInterpolator(_LINE[:, 0], _LINE[:, 1])(u)
        y = np.where(u > 36, y * self.kyphosis, y)
        return self.scoliosis * np.sin(np.clip(u, -40, 400) / 110.0) * np.clip((u + 40) / 60, 0, 1), y

    def vertebra(self, z: Points | float) -> tuple[Points, Points]:
        """Half width and half depth of a vertebral body at height z."""
        u = np.asarray(z, float) / self.stature
        return np.interp(u, [-36, 0, 105, 192, 330, 391], [26, 24.5, 21, 17, 14, 15]), np.interp(u, [0, 137, 330], [17, 15, 11])

    def hip(self, side: float) -> Points:
        """Middle of a femoral head; ``side`` is 1 on the left, -1 on the right."""
        return np.array([side * 85 * self.pelvis, 5.0, -140 * self.stature])


def draw_trunk(person: Person, rng: np.random.Generator) -> TrunkShape:
    """A trunk at random for a person."""
    index = np.sqrt(np.clip(person.bmi, 17, 42) / 26)
    stature = person.height_mm / 1720
    return TrunkShape(
        stature=float(stature * (1 + 0.012 * np.clip(rng.normal(), -2, 2))),
        kyphosis=float(np.clip(1 + 0.006 * (person.age_years - 55) + 0.15 * rng.normal(), 0.6, 1.5)),
        scoliosis=float(2.5 * np.clip(rng.normal(), -2, 2)),
        girth=(float(152 * index**1.15 * (1 + 0.03 * rng.normal())), float(108 * index**1.6 * (1 + 0.04 * rng.normal()))),
        fat=float(np.clip((24 if person.female else 17) * index**3 * (1 + 0.15 * rng.normal()), 7, 55)),
        pelvis=float((1.03 if person.female else 1.0) * stature**0.5 * (1 + 0.03 * np.clip(rng.normal(), -2, 2))),
        chest=float(stature**0.6 * index**0.35 * (0.95 if person.female else 1.0) * (1 + 0.025 * np.clip(rng.normal(), -2, 2))),
    )
