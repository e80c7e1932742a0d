"""Who the patient is: sex, age, height and weight of adults, correlated as in people, and what follows from them.

All phantoms draw their patient here, so that one seed is one person in a chest and in a pelvis.

Sources. Height and body mass index of adults in the United States by sex and age group: NHANES (Fryar et al. 2021, Vital and
Health Statistics 3(46); Fryar et al. 2018, National Health Statistics Reports 122), here as a normal and a log-normal
distribution. Ages are our choice: those of people who are imaged, older than the population. A body mass index below 17.5 and
above 40 kg/m2 is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raylign.simulation.seeds import numpy_generator

_AGE = (58.0, 15.0, 20.0, 90.0)  # mean, standard deviation, youngest, oldest
_INDEX = (17.5, 40.0)  # kg/m2
_PLACE = 9  # in the seed's tree; seed 0, the one for examples, is an average man of 52


@dataclass(frozen=True)
class Person:
    """An adult.

    Parameters
    ----------
    age_years: 20 to 90.
    female: sex.
    height_mm: standing height.
    weight_kg: body weight.
    """

    age_years: float
    female: bool
    height_mm: float
    weight_kg: float

    @property
    def bmi(self) -> float:
        """Body mass index, kg/m2."""
        return self.weight_kg / (self.height_mm / 1000) ** 2

    @property
    def bsa_m2(self) -> float:
        """Body surface area (Du Bois and Du Bois 1916)."""
        return 0.007184 * self.weight_kg**0.425 * (self.height_mm / 10) ** 0.725

    @property
    def fat_fraction(self) -> float:
        """Body fat by weight (Deurenberg et al. 1991), within 0.06 and 0.55."""
        percent = 1.2 * self.bmi + 0.23 * self.age_years - (0.0 if self.female else 10.8) - 5.4
        return min(max(percent / 100, 0.06), 0.55)

    @property
    def lean_kg(self) -> float:
        """Weight without fat."""
        return self.weight_kg * (1 - self.fat_fraction)

    @property
    def trabecular_hu(self) -> float:
        """Mean attenuation at 120 kV of trabecular bone in L1 at this age: 226 HU below 30 years, 89 HU at 90, a line between.

        People of one age differ by a standard deviation of about 40 HU (Jang et al. 2019, Radiology 291:360).
        """
        return 226 - 2.2 * max(self.age_years - 28, 0.0)

    def traits(self) -> dict[str, float]:
        """The numbers for ``Subject.traits``; ``female`` is 0 or 1."""
        return {
            "age_years": self.age_years,
            "female": float(self.female),
            "height_mm": self.height_mm,
            "weight_kg": self.weight_kg,
            "bmi_kg_per_m2": self.bmi,
            "bsa_m2": self.bsa_m2,
        }


def draw_person(rng: np.random.Generator) -> Person:
    """An adult at random.

    Men 1760 mm (standard deviation 73) until 50, 1.3 mm a year less after it; women 1625 mm (68), 1.6 mm a year less. The median
    body mass index is 28.9 kg/m2 at 55, lower at both ends of life; its logarithm's standard deviation 0.20 in men and 0.24 in
    women.
    """
    mean, spread, young, old = _AGE
    age = _within(rng, mean, spread, young, old)
    female = bool(rng.random() < 0.5)
    top, shrink, sigma = (1625.0, 1.6, 68.0) if female else (1760.0, 1.3, 73.0)
    height = _within(rng, top - shrink * max(age - 50, 0.0), sigma, top - 230, top + 230)
    middle = math.log(28.9) - 0.06 * ((age - 55) / 25) ** 2
    index = math.exp(_within(rng, middle, 0.24 if female else 0.20, *(math.log(i) for i in _INDEX)))
    return Person(age, female, height, index * (height / 1000) ** 2)


def patient(seed: int) -> Person:
    """The person whom a phantom's seed stands for, the same in every phantom.

    Raises
    ------
    InputError: a negative seed.
    """
    return draw_person(numpy_generator(seed, _PLACE))


def person_id(seed: int) -> str:
    """What splits call the person whom a seed stands for: a chest and a pelvis of one seed are never parted."""
    return f"seed-{seed:06d}"


def _within(rng: np.random.Generator, mean: float, sigma: float, low: float, high: float) -> float:
    """A normal number cut off at both ends, by drawing again."""
    while True:
        value = float(rng.normal(mean, sigma))
        if low <= value <= high:
            return value
