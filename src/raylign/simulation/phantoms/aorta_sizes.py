"""How wide and how long a person's arteries are: published distributions that go together by sex, age and size.

Means in mm of men / women, standard deviations in brackets:

- lumen of the annulus 24.4 (2.7) / 21.0 (1.8), the sinuses 32.4 (3.9) / 27.6 (2.9), the sinotubular junction 25.0 (3.7) / 21.8
  (2.7): Davis et al. 2014, J Cardiovasc Magn Reson 16:9;
- outer diameter of the ascending aorta 34.1 / 31.9, the descending 25.8 / 23.1, the infrarenal 19.3 / 16.7, the lower abdominal
  18.7 / 16.0: Rogers et al. 2013, Am J Cardiol 111:1510;
- 95th percentiles in men of the common, internal and external iliac and the femoral artery 11.8, 7.5, 10.3, 10.2: Lorbeer et al.
  2018, PLoS ONE 13:e0197559;
- from the coeliac trunk to the superior mesenteric artery 18.2 (6.6) / 15.5 (4.1): Rusu et al. 2021, Diagnostics 11:1111;
- right and left coronary ostium above the annulus 17.2 (3.3) and 14.4 (2.9): Tops et al. 2008, JACC Cardiovasc Imaging 1:321;
- length of the thoracic aorta from 20 to 80 years +59 / +66: Adriaans et al. 2018, Heart 104:1772.

Diameters grow with age and body surface (Wolak et al. 2008, JACC Cardiovasc Imaging 1:200; Sandgren et al. 1999, J Vasc Surg
29:503, for the femoral artery); the slopes here are rounded choices of that order. So are the spreads for which no source is
named.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raylign.simulation.phantoms.population import Person

# outer diameter in mm of men and women of the Framingham study, its spread within a sex, growth per year and per m2
_OUTER = {
    "ascending": (34.1, 31.9, 3.0, 0.12, 4.0),
    "descending": (25.8, 23.1, 2.1, 0.11, 4.0),
    "infrarenal": (19.3, 16.7, 1.9, 0.07, 3.0),
    "lower": (18.7, 16.0, 1.9, 0.07, 3.0),
}
_AGE, _BSA = 51.0, (2.08, 1.78)  # of that study's men and women, about
_ROOT = {"annulus": (24.4, 21.0, 1.8), "sinus": (32.4, 27.6, 2.8), "junction": (25.0, 21.8, 2.4)}
# lumen diameters, mm, men and women, spread
_SMALL = {
    "common_iliac": (10.0, 8.8, 1.0),
    "external_iliac": (8.6, 7.3, 0.9),
    "internal_iliac": (6.0, 5.4, 0.75),
    "femoral": (8.6, 7.3, 0.9),
    "renal": (5.6, 5.0, 0.6),
    "coeliac": (7.2, 6.6, 0.8),
    "mesenteric": (7.0, 6.4, 0.8),
    "brachiocephalic": (12.6, 11.6, 1.3),
    "carotid": (7.2, 6.6, 0.7),
    "subclavian": (9.2, 8.2, 0.9),
}


@dataclass(frozen=True)
class AortaSizes:
    """Lumen radii and lengths in mm, angles in degrees, of one person.

    Parameters
    ----------
    radius: lumen radius by place: annulus, sinus, junction, ascending, descending, infrarenal, lower, and the branches.
    wall: thickness of the aortic wall.
    root_height: annulus to sinotubular junction.
    root_angle: of the annulus' plane to the horizontal one.
    ostia: height of the right and of the left coronary ostium over the annulus.
    unfolding: how much wider and higher than at 50 years the arch is, as a fraction.
    bifurcation: height of the aortic bifurcation over the middle of L4.
    mesenteric_gap: coeliac trunk to superior mesenteric artery.
    tortuosity: how far vessels wander from the plain course, 1 at 60 years on average.
    aneurysm: extra radius of the infrarenal aorta where it is widest; 0 for most.
    plaques: number of calcified plaques.
    """

    radius: dict[str, float]
    wall: float
    root_height: float
    root_angle: float
    ostia: tuple[float, float]
    unfolding: float
    bifurcation: float
    mesenteric_gap: float
    tortuosity: float
    aneurysm: float
    plaques: int


def draw_sizes(person: Person, rng: np.random.Generator) -> AortaSizes:
    """Sizes at random for a person. Diameters of one person go together: two thirds of their variance is shared."""
    woman = int(person.female)
    shared = float(rng.normal())

    def together() -> float:
        return float(np.clip(0.82 * shared + 0.57 * rng.normal(), -2.3, 2.3))

    age, bsa = person.age_years - _AGE, float(np.clip(person.bsa_m2 - _BSA[woman], -0.4, 0.4))
    wall = float(
        np.clip((2.1 if woman else 2.3) + 0.008 * age + 0.15 * rng.normal(), 1.5, 3.0)
    )  # MESA: 2.1 and 2.3 mm, Li et al. 2004
    radius = {}
    for name, row in _OUTER.items():
        radius[name] = (row[woman] + row[3] * age + row[4] * bsa + row[2] * together()) / 2 - wall
    for name, root in _ROOT.items():
        grown = 0.0 if name == "annulus" else 0.08 * (age + 8)
        radius[name] = (root[woman] + grown + 3.0 * bsa + root[2] * together()) / 2
    for name, small in _SMALL.items():
        radius[name] = small[woman] * (1 + 0.003 * age + 0.08 * bsa) / 2 + small[2] * together() / 2
    radius["junction"] = float(np.clip(radius["junction"], 0.84 * radius["ascending"], 0.98 * radius["ascending"]))
    radius["sinus"] = float(np.clip(radius["sinus"], 1.12 * radius["junction"], 1.42 * radius["junction"]))
    radius["annulus"] = float(np.clip(radius["annulus"], 0.6 * radius["sinus"], 0.84 * radius["sinus"]))
    right, left = 17.2 + 2.2 * rng.normal(), 14.4 + 2.0 * rng.normal()
    height = float(np.clip(0.85 * radius["sinus"] + 6.5 + 1.3 * rng.normal(), 17, 28))
    gap = float(np.clip(rng.normal(*((15.5, 4.1) if woman else (18.2, 5.5))), 10, 32))
    ill = float(rng.random())
    # abdominal aneurysms: about one man in twenty and one woman in a hundred over 60; screening studies give 1 to 7 %
    sick = person.age_years > 60 and ill < (0.01 if woman else 0.05)
    old = max(person.age_years - 45, 0.0)
    return AortaSizes(
        radius=radius,
        wall=wall,
        root_height=height,
        root_angle=float(np.clip(47 + 8.7 * rng.normal(), 30, 64)),
        ostia=(float(np.clip(right, 10, height - 2)), float(np.clip(left, 9, height - 3))),
        unfolding=float(np.clip(0.0045 * (person.age_years - 50) + 0.04 * rng.normal(), -0.2, 0.28)),
        bifurcation=float(np.clip(-12 - 0.25 * (person.age_years - 55) + 10 * rng.normal(), -36, 16)),
        mesenteric_gap=gap,
        tortuosity=float(np.exp(0.022 * (person.age_years - 60) + 0.3 * rng.normal())),
        aneurysm=float(rng.uniform(7, 20)) if sick else 0.0,
        plaques=int(min(rng.poisson(0.5 * old * rng.gamma(1.2, 0.8)), 60)) if old > 0 else 0,
    )
