"""Who the patients are: distributions against the survey's figures, and formulas against worked values."""

from __future__ import annotations

import numpy as np
import pytest

from raylign.errors import InputError
from raylign.simulation.phantoms.population import Person, draw_person, patient


@pytest.fixture(scope="module")
def people() -> list[Person]:
    rng = np.random.default_rng(5)
    return [draw_person(rng) for _ in range(6000)]


@pytest.mark.parametrize(("female", "height", "sd", "median"), [(True, 1613, 71, 28.3), (False, 1753, 75, 28.3)])
def test_height_and_mass_index_are_those_of_the_survey(
    people: list[Person], female: bool, height: float, sd: float, median: float
) -> None:
    """NHANES 2015-2018: adults of all ages; ours are older, hence a little shorter."""
    some = [p for p in people if p.female == female]
    heights, index = np.array([p.height_mm for p in some]), np.array([p.bmi for p in some])
    assert heights.mean() == pytest.approx(height, abs=15) and heights.std() == pytest.approx(sd, abs=8)
    assert np.median(index) == pytest.approx(median, abs=1.0)
    assert index.min() >= 17.5 and index.max() <= 40 and np.percentile(index, 5) == pytest.approx(20.3, abs=1.2)


def test_the_old_are_shorter_and_the_sexes_even(people: list[Person]) -> None:
    female = np.array([p.female for p in people])
    assert female.mean() == pytest.approx(0.5, abs=0.02)
    for sex in (True, False):
        some = [p for p in people if p.female == sex]
        young, old = ([p.height_mm for p in some if low <= p.age_years < low + 15] for low in (25, 70))
        assert 15 < np.mean(young) - np.mean(old) < 55
    assert all(20 <= p.age_years <= 90 for p in people)


def test_surface_fat_and_bone_follow_from_the_person() -> None:
    someone = Person(age_years=40, female=False, height_mm=1700, weight_kg=70)
    assert someone.bmi == pytest.approx(24.22, abs=0.01)
    assert someone.bsa_m2 == pytest.approx(1.81, abs=0.005)  # the textbook case of Du Bois' formula
    assert someone.fat_fraction == pytest.approx((1.2 * 24.22 + 0.23 * 40 - 10.8 - 5.4) / 100, abs=1e-3)
    assert someone.lean_kg == pytest.approx(70 * (1 - someone.fat_fraction))
    assert Person(25, True, 1600, 55).trabecular_hu == 226 and Person(90, True, 1600, 55).trabecular_hu == pytest.approx(
        89, abs=3
    )
    assert someone.traits()["female"] == 0.0 and someone.traits()["bsa_m2"] == someone.bsa_m2


def test_a_seed_is_a_person() -> None:
    assert patient(3) == patient(3) != patient(4)
    with pytest.raises(InputError, match="seed"):
        patient(-1)
