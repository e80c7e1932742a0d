"""From HU and labels to materials."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylign.data import LabelMap, Landmarks, Volume
from raylign.errors import InputError
from raylign.simulation.physics import materials, spectrum
from raylign.simulation.physics.materials import Matter, as_water_and_bone, at_ct, blood_hu, fractions
from raylign.simulation.subject import Subject


def volume(hu: torch.Tensor | float, unit: str = "HU") -> Volume:
    data = torch.as_tensor(hu, dtype=torch.float32)
    return Volume(data.expand(3, 4, 5).clone() if data.ndim == 0 else data, torch.eye(4, dtype=torch.float64), unit=unit)


def mu_at_ct(matter: Matter) -> torch.Tensor:
    return sum(at_ct(name) * data for name, data in matter.amounts.items())


@pytest.mark.parametrize(
    ("name", "published"),
    # ICRU-44 tissues at the 70 keV or so of a 120 kV scanner, within what Schneider, Pedroni and Lomax (1996) list
    [("lung", -741), ("adipose", -85), ("soft", 43), ("blood", 56), ("bone", 1560)],
)
def test_tissues_have_the_hu_that_scanners_show(name: str, published: float) -> None:
    assert 1000 * (at_ct(name) / at_ct("water") - 1) == pytest.approx(published, abs=0.02 * abs(published) + 12)


def test_every_hu_keeps_its_attenuation_at_the_scanners_energy() -> None:
    hu = torch.linspace(-1000, 2999, 60).reshape(3, 4, 5)
    mu = mu_at_ct(Matter.of(volume(hu)))
    assert torch.allclose(mu, at_ct("water") * (1 + hu / 1000), rtol=1e-5, atol=1e-8)


def test_air_is_nothing_and_pure_tissues_are_pure() -> None:
    hu = torch.tensor([-1100.0, -1000.0, *materials.knots()[0][1:]])
    shares = fractions(hu)
    stacked = torch.stack([shares[name] for name in materials.TISSUES], 1)
    assert torch.allclose(stacked[:2], torch.zeros(2, 5))
    assert torch.allclose(stacked[2:], torch.eye(5), atol=1e-5)
    matter = Matter.of(volume(-1000.0))
    assert set(matter.amounts) == {"water", "bone"}
    assert all(float(data.abs().max()) < 1e-7 for data in matter.amounts.values())


def test_between_soft_tissue_and_bone_volumes_add_up() -> None:
    shares = fractions(torch.linspace(-740, 1550, 50))
    assert torch.allclose(sum(shares.values()), torch.ones(50), atol=1e-5)


@pytest.mark.parametrize(("name", "most"), [("soft", 0.003), ("blood", 0.004), ("lung", 0.002), ("adipose", 0.007)])
def test_water_and_bone_stand_for_a_tissue(name: str, most: float) -> None:
    energies = np.arange(25.0 if name == "adipose" else 20.0, 149.0)
    w, b = as_water_and_bone(name)
    made = w * spectrum.attenuation("water", energies) + b * spectrum.attenuation("bone", energies)
    assert np.abs(made / spectrum.attenuation(name, energies) - 1).max() < most


def labelled(names: dict[int, str], hu: torch.Tensor, labels: torch.Tensor) -> tuple[Volume, LabelMap]:
    v = volume(hu)
    return v, LabelMap(labels, v.affine, names)


def test_contrast_agent_is_iodine_in_vessels_and_bone_elsewhere() -> None:
    hu = torch.full((4, 4, 4), 356.0)
    labels = torch.zeros(4, 4, 4, dtype=torch.uint8)
    labels[:2], labels[2] = 1, 2
    v, names = labelled({1: "aorta", 2: "vertebrae_T12"}, hu, labels)
    matter = Matter.of(v, names)
    # 26 HU for each mg/ml at 70 keV
    assert float(matter.amounts["iodine"][0, 0, 0]) * 4930 == pytest.approx((356 - blood_hu()) / 26.0, rel=0.01)
    assert float(matter.amounts["iodine"][2:].abs().max()) == 0
    assert float(matter.amounts["bone"][3, 0, 0]) > 0.15 > float(matter.amounts["bone"][0, 0, 0])
    assert torch.allclose(mu_at_ct(matter), torch.full_like(hu, at_ct("water") * 1.356), rtol=1e-5)
    assert "iodine" not in Matter.of(v).amounts


def test_a_vessel_without_contrast_agent_is_blood() -> None:
    v, names = labelled({1: "heart_ventricle_left"}, torch.full((4, 4, 4), 60.0), torch.ones(4, 4, 4, dtype=torch.uint8))
    assert "iodine" not in Matter.of(v, names).amounts


def test_what_scanners_cannot_store_is_metal() -> None:
    hu = torch.full((3, 4, 5), 40.0)
    hu[1, 2, 3] = 3071
    for metal in ("titanium", "steel"):
        amounts = Matter.of(volume(hu), metal=metal).amounts
        assert float(amounts[metal].sum()) == float(amounts[metal][1, 2, 3]) == 1
        assert float(amounts["water"][1, 2, 3]) == float(amounts["bone"][1, 2, 3]) == 0


def test_a_subject_brings_its_labels_and_mass_has_a_centre() -> None:
    hu = torch.full((6, 6, 6), -1000.0)
    hu[4, 1:3, 5] = 400.0
    labels = torch.where(hu > 0, 1, 0).to(torch.uint8)
    v, names = labelled({1: "aorta"}, hu, labels)
    subject = Subject(v, names, Landmarks((), torch.zeros(0, 3, dtype=torch.float64)))
    matter = Matter.of(subject)
    assert matter.shape == (6, 6, 6)
    assert torch.allclose(matter.mass_centre, torch.tensor([5.0, 1.5, 4.0], dtype=torch.float64), atol=1e-6)
    assert matter.to("cpu").amounts.keys() == matter.amounts.keys()


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(InputError, match="HU"):
        Matter.of(volume(0.02, unit="1/mm"))
    with pytest.raises(InputError, match="unobtainium"):
        Matter.of(volume(0.0), metal="unobtainium")
    with pytest.raises(InputError, match="grid"):
        Matter.of(volume(0.0), LabelMap(torch.zeros(2, 2, 2, dtype=torch.uint8), torch.eye(4, dtype=torch.float64)))


def test_contrast_agent_in_thin_and_small_structures_is_found() -> None:
    hu = torch.full((20, 20, 20), -800.0)
    labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
    labels[7, 7, 7], hu[7, 7, 7] = 1, 400.0
    # a vessel of which two thirds share their voxels with lung
    labels[10:16, 10:13] = 2
    hu[10:16, 10:13] = torch.tensor([-200.0, 300.0, -100.0])[None, :, None]
    affine = torch.eye(4, dtype=torch.float64)
    found = materials.enhancing(hu, LabelMap(labels, affine, {1: "aorta", 2: "lung_vessels"}))
    assert bool(found[7, 7, 7]) and bool(found[12, 11, 5])
