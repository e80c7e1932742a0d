"""Subjects from scans, their copies, and splits that do not leak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import raylign
from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError
from raylign.simulation.anchors import BONES
from raylign.simulation.deformation import DeformationConfig
from raylign.simulation.poses.laws import Uniform, fixed
from raylign.simulation.resolution import cropped, cut_faces, resampled
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject
from raylign.simulation.subjects import label_surface, part_of, split, subject_from_ct
from raylign.simulation.variation import VariationConfig, recoloured, scaled, vary
from raylign.simulation.velocity import Scale

STILL = VariationConfig(None, fixed(0), fixed(0), fixed(1), fixed(0), None, fixed(0))
NAMES = {1: "vertebrae_L1", 2: "aorta", 3: "muscle", 4: "heart"}


def patient(shape: tuple[int, int, int] = (40, 44, 48), id: str = "made") -> Subject:
    """A box of muscle with a bone, a filled vessel and a heart of muscle and blood, cut at its first and last slice."""
    hu = torch.full(shape, -1000.0)
    numbers = torch.zeros(shape, dtype=torch.uint8)
    for number, value, box in (
        (3, 50.0, np.s_[:, 6:-6, 6:-6]),
        (1, 400.0, np.s_[10:20, 10:20, 10:22]),
        (2, 300.0, np.s_[4:34, 26:34, 12:20]),
        (4, 60.0, np.s_[8:30, 12:28, 26:40]),
    ):
        hu[box], numbers[box] = value, number
    hu[12:26, 16:24, 30:36] = 300.0
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.diag(torch.tensor([2.0, 1.5, -2.5], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-40.0, 10.0, 120.0], dtype=torch.float64)
    volume = Volume(hu, affine, unit="HU")
    return subject_from_ct(volume, LabelMap(numbers, affine, NAMES), ["aorta"], id=id)


def test_a_scan_becomes_a_subject() -> None:
    s = patient()
    assert s.volume.truncated == ((False, False), (False, False), (True, True)) == cut_faces(s.volume)
    assert s.labels.names == NAMES and (s.id, s.copy) == ("made", 0)
    index = torch.tensor([15.5, 29.5, 18.5], dtype=torch.float64)  # the middle of the aorta's box
    assert torch.allclose(s.landmarks["aorta/centroid"], s.volume.affine[:3, :3] @ index + s.volume.affine[:3, 3])
    bare = subject_from_ct(s.volume, id="x")
    assert bare.landmarks.names == () and int(bare.labels.data.max()) == 0
    low = s.volume.data.clone()
    low[0] = -3024
    assert float(subject_from_ct(Volume(low, s.volume.affine, unit="HU"), id="x").volume.data.min()) == -1024
    with pytest.raises(InputError, match="HU"):
        subject_from_ct(Volume(s.volume.data, s.volume.affine), id="x")
    with pytest.raises(InputError, match="no voxel is labelled 'spleen'"):
        subject_from_ct(s.volume, s.labels, ["spleen"], id="x")


def test_the_surface_of_a_label_encloses_its_voxels() -> None:
    import trimesh

    k, j, i = torch.meshgrid(*(torch.arange(40.0) for _ in range(3)), indexing="ij")
    for flip in (1.0, -1.0):  # right-handed and left-handed grids
        affine = torch.diag(torch.tensor([1.2, 1.2 * flip, 1.5, 1.0], dtype=torch.float64))
        place = torch.stack([(i - 20) * 1.2, (j - 20) * 1.2, (k - 20) * 1.5], -1)
        labels = LabelMap((place.norm(dim=-1) < 18).to(torch.uint8), affine, {1: "ball"})
        mesh = label_surface(labels, "ball")
        made = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
        assert made.is_watertight and made.is_winding_consistent
        assert made.volume == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.02)  # positive: normals point outwards
        middle = torch.tensor([24.0, 24 * flip, 30], dtype=torch.float64)
        away = (mesh.vertices - middle).norm(dim=1) - 18
        assert float(away.abs().max()) < 0.8 and abs(float(away.mean())) < 0.1


def test_copies_keep_their_parent_s_id_and_carry_everything_along() -> None:
    s = replace(patient(), traits={"age_years": 61.0, "height_mm": 1700.0, "lv_volume_ml": 120.0})
    config = VariationConfig(deformation=DeformationConfig((Scale(60.0, 4.0),), 4.0, 20.0, BONES))
    a, b, c = vary(s, config, 3, 1), vary(s, config, 3, 1), vary(s, config, 3, 2)
    assert torch.equal(a.volume.data, b.volume.data) and torch.equal(a.volume.affine, b.volume.affine)
    assert not torch.equal(a.labels.data, c.labels.data)
    assert {x.id for x in (a, b, c)} == {"made"} and (a.copy, c.copy) == (1, 2)
    assert a.traits["age_years"] == 61 and not {"height_mm", "lv_volume_ml"} & set(a.traits) and a.traits["copy_size"] != 1
    other = vary(replace(s, id="another"), config, 3, 1)
    assert not torch.equal(a.labels.data, other.labels.data)
    # the aorta's mesh, centroid and label are still one structure
    number = a.labels.number("aorta")
    index = (a.labels.data == number).nonzero().flip(1).double()
    centroid = (index @ a.volume.affine[:3, :3].T + a.volume.affine[:3, 3]).mean(0)
    assert float((centroid - a.landmarks["aorta/centroid"]).norm()) < 4  # pushed, of a vessel that was stretched unevenly
    low, high = a.meshes["aorta"].vertices.amin(0), a.meshes["aorta"].vertices.amax(0)
    place = index @ a.volume.affine[:3, :3].T + a.volume.affine[:3, 3]
    half = torch.tensor(a.volume.spacing, dtype=torch.float64)
    assert bool(((place.amin(0) - low).abs() < half).all() and ((place.amax(0) - high).abs() < half).all())
    for wrong, words in ((0, "copy 0"), (-1, "copy -1")):
        with pytest.raises(InputError, match=words):
            vary(s, config, 0, wrong)
    with pytest.raises(InputError, match="of originals"):
        vary(a, config, 0, 1)


def test_a_config_that_varies_nothing_changes_nothing() -> None:
    s = patient()
    same = vary(s, STILL, 0, 1)
    assert torch.equal(same.volume.data, s.volume.data) and torch.equal(same.labels.data, s.labels.data)
    assert torch.allclose(same.volume.affine, s.volume.affine, atol=1e-12)
    assert torch.equal(same.meshes["aorta"].vertices, s.meshes["aorta"].vertices)


def test_a_larger_patient_is_larger_in_all_he_has() -> None:
    s = patient()
    big = scaled(s, (1.1, 1.0, 0.9))
    assert big.volume.spacing == pytest.approx((2.2, 1.5, 2.25))
    assert torch.allclose(big.volume.centre, s.volume.centre)
    for name in s.landmarks.names:
        inside = [torch.linalg.solve(x.volume.affine[:3, :3], x.landmarks[name] - x.volume.affine[:3, 3]) for x in (s, big)]
        assert torch.allclose(*inside)
    size = [m.vertices.amax(0) - m.vertices.amin(0) for m in (s.meshes["aorta"], big.meshes["aorta"])]
    assert torch.allclose(size[1] / size[0], torch.tensor([1.1, 1.0, 0.9], dtype=torch.float64))
    with pytest.raises(InputError, match="positive"):
        scaled(s, (1.0, 0.0, 1.0))


def _made(**changes: object) -> tuple[Subject, torch.Tensor]:
    s = patient()
    return s, vary(s, replace(STILL, **changes), 0, 1).volume.data  # type: ignore[arg-type]


def test_tissues_change_by_what_was_asked() -> None:
    s, hu = _made(bone_gain=fixed(1.2))
    bone = s.labels.mask(["vertebrae_L1"])
    assert torch.allclose(hu[bone], torch.full_like(hu[bone], 100 + 1.2 * 300)) and torch.equal(hu[~bone], s.volume.data[~bone])
    s, hu = _made(soft_hu=fixed(6.0))
    muscle = s.labels.mask(["muscle"])
    assert torch.allclose(hu[muscle], torch.tensor(56.0)) and torch.equal(hu[bone], s.volume.data[bone])
    assert float(hu[s.labels.data == 0].max()) == -1000
    s, hu = _made(blood_hu=fixed(150.0))
    core = torch.zeros_like(bone)
    core[6:32, 28:32, 14:18] = True
    assert torch.allclose(hu[core], torch.tensor(150.0))
    heart = s.labels.mask(["heart"])
    assert torch.allclose(hu[heart & (s.volume.data == 300)], torch.tensor(150.0))  # the blood of the heart follows the aorta
    assert torch.equal(hu[heart & (s.volume.data == 60)], torch.full_like(hu[heart & (s.volume.data == 60)], 60.0))
    s, hu = _made(noise_hu=fixed(12.0))
    added = (hu - s.volume.data)[:, 6:-6, 6:-6]
    assert float(added.std()) == pytest.approx(12, rel=0.03) and abs(float(added.mean())) < 0.3
    near = float((added[:, 1:] * added[:, :-1]).mean() / added.square().mean())
    across = float((added[1:] * added[:-1]).mean() / added.square().mean())
    assert near == pytest.approx(2 / 3, abs=0.03) and abs(across) < 0.03  # (1, 2, 1) has 4 of 6 with its neighbour, slices none


def test_draws_stay_within_the_laws() -> None:
    s = patient((8, 40, 40))
    config = VariationConfig(None, bone_gain=Uniform(0.9, 1.1), noise_hu=Uniform(3, 9), field=Uniform(0.5, 0.9))
    copies = [vary(s, config, 1, k) for k in range(1, 30)]
    gains = [c.traits["copy_bone_gain"] for c in copies]
    assert 0.9 <= min(gains) < 0.94 and 1.06 < max(gains) <= 1.1
    assert all(3 <= c.traits["copy_noise_hu"] <= 9 for c in copies)
    assert {c.volume.data.shape[0] for c in copies} <= {4, 5, 6, 7}
    assert recoloured.__doc__ and len({float(c.volume.affine[2, 3]) for c in copies}) > 3  # cut at different places


def test_other_voxels_show_the_same_patient() -> None:
    """A wave that the new voxels can carry keeps its place; one that they cannot is averaged away, not folded."""
    n = 120
    i = torch.arange(n, dtype=torch.float32)
    for period, kept in ((40.0, True), (2.5, False)):
        data = torch.cos(2 * np.pi * (i + 0.5) / period).expand(6, 6, n).contiguous()
        s = Subject(
            Volume(data, torch.eye(4, dtype=torch.float64), unit="HU"),
            LabelMap((data > 0).to(torch.uint8), torch.eye(4, dtype=torch.float64)),
            Landmarks((), torch.zeros(0, 3)),
        )
        new = resampled(s, (3.0, 1.0, 0.5))
        v = new.volume
        assert v.data.shape == (12, 6, 40) and v.spacing == pytest.approx((3, 1, 0.5))
        assert torch.equal(v.affine, new.labels.affine)
        # the outer faces stay
        for t, index in ((-0.5, -0.5), (39.5, 119.5)):
            assert float(v.affine[0, 0] * t + v.affine[0, 3]) == pytest.approx(index)
        x = v.affine[0, 0] * torch.arange(40) + v.affine[0, 3]
        if kept:
            assert float((v.data[3, 3, 2:-2] - torch.cos(2 * np.pi * (x + 0.5) / period)[2:-2].float()).abs().max()) < 0.05
        else:
            assert float(v.data[3, 3, 2:-2].abs().max()) < 0.12  # every third sample alone would be +-1
    constant = replace(s, volume=replace(s.volume, data=torch.full_like(data, 7.0)))
    assert torch.allclose(resampled(constant, (1.7, 2.3, 3.1)).volume.data, torch.tensor(7.0))
    for wrong, words in (((0.0, 1.0, 1.0), "positive"), ((100.0, 1.0, 1.0), "leaves")):
        with pytest.raises(InputError, match=words):
            resampled(s, wrong)


def test_a_shorter_scan_knows_where_it_was_cut() -> None:
    s = patient()
    whole = replace(s, volume=replace(s.volume, truncated=((False, False), (False, False), (False, False))))
    part = cropped(whole, 5, 30)
    assert part.volume.truncated == ((False, False), (False, False), (True, True))
    assert torch.equal(part.volume.data, s.volume.data[5:35]) and torch.equal(part.labels.data, s.labels.data[5:35])
    assert torch.allclose(
        part.volume.affine @ torch.tensor([0.0, 0, 0, 1]).double(), s.volume.affine @ torch.tensor([0.0, 0, 5, 1]).double()
    )
    assert cropped(whole, 0, 30).volume.truncated[2] == (False, True)
    assert part.landmarks is whole.landmarks
    for first, count in ((-1, 5), (0, 1), (30, 20)):
        with pytest.raises(InputError, match="slices"):
            cropped(s, first, count)


def test_no_copy_leaves_its_patient_s_part() -> None:
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    one = patient()
    originals = [replace(one, id=f"thorax-{n:06d}", person="") for n in range(400)]
    copies = [replace(s, copy=k) for s in originals for k in (1, 2)]
    parts = split([*originals, *copies], fractions, seed=4)
    ids = {name: {s.id for s in part} for name, part in parts.items()}
    assert sum(len(part) for part in parts.values()) == 1200 and sum(map(len, ids.values())) == 400
    assert not ids["train"] & ids["test"] and not ids["train"] & ids["validation"] and not ids["test"] & ids["validation"]
    for name, share in fractions.items():  # four standard deviations of a binomial
        assert abs(len(ids[name]) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5
    # whoever comes or goes, nobody moves; another seed is another split
    fewer = split(originals[100:200][::-1], fractions, seed=4)
    assert all(s.id in ids[name] for name, part in fewer.items() for s in part)
    assert any(part_of(s.id, fractions, 5) != part_of(s.id, fractions, 4) for s in originals)
    # a chest and a pelvis of one seed are one person
    pelvises = [replace(s, id=f"pelvis-{s.id}", person=s.person) for s in originals]
    assert all(
        part_of(a.person, fractions, 4) == part_of(b.person, fractions, 4) for a, b in zip(originals, pelvises, strict=True)
    )
    assert {s.person for part in split(pelvises, fractions, seed=4).values() for s in part} == {s.person for s in originals}
    assert part_of("thorax-000007", {"train": 0.0, "test": 1.0}) == "test"
    for wrong in ({}, {"train": 0.5}, {"train": 1.5, "test": -0.5}):
        with pytest.raises(InputError, match="add up to 1"):
            part_of("x", wrong)


def test_a_chest_scan_is_deformed_and_its_bones_keep_their_shape(shared: Path) -> None:
    volume = raylign.read_volume(shared / "ct" / "lidc0001_chest")
    labels = raylign.read_labels(shared / "ct" / "lidc0001_chest_seg.nii.gz")
    s = resampled(subject_from_ct(volume, labels, id="lidc-0001"), (3.0, 3.0, 3.0))
    copy = vary(s, VariationConfig(size=fixed(0), stretch=fixed(0)), 0, 1)
    assert copy.traits["copy_deformation_mm"] > 4
    for name in ("lung_lower_lobe_left", "aorta", "heart", "vertebrae_T8", "liver"):
        index = (copy.labels.data == copy.labels.number(name)).nonzero().flip(1).double()
        centroid = (index @ copy.volume.affine[:3, :3].T + copy.volume.affine[:3, 3]).mean(0)
        # the pushed centroid of a large organ is not the centroid of the pushed organ, but near it
        assert float((centroid - copy.landmarks[f"{name}/centroid"]).norm()) < (3 if name == "vertebrae_T8" else 6)
        before, after = (x.volume.data[x.labels.mask([name])].mean() for x in (s, copy))
        assert abs(float(before - after)) < 60
    inertia = []
    for x in (s, copy):  # a rigid bone keeps its principal moments
        index = (x.labels.data == x.labels.number("vertebrae_T8")).nonzero().flip(1).double()
        place = index @ x.volume.affine[:3, :3].T
        inertia.append(torch.linalg.eigvalsh(torch.cov(place.T)))
    assert float((inertia[1].sqrt() / inertia[0].sqrt() - 1).abs().max()) < 0.06


def test_a_pelvis_without_names_is_deformed_about_its_hips(shared: Path) -> None:
    volume = raylign.read_volume(shared / "ct" / "totalseg_pelvis_3mm_ct.nii.gz", unit="HU")
    labels = raylign.read_labels(shared / "ct" / "totalseg_pelvis_3mm_seg.nii.gz")
    s = subject_from_ct(volume, labels, id="totalseg-pelvis")
    config = VariationConfig(deformation=DeformationConfig(rigid=("label 77", "label 78")))
    copy = vary(s, config, 1, 1)
    assert set(copy.labels.present()) == set(s.labels.present())
    assert copy.volume.truncated == s.volume.truncated and copy.volume.data.shape == s.volume.data.shape
    assert float(copy.volume.data.min()) >= -1024


def test_meshes_given_by_hand_stay_the_subject_s() -> None:
    s = patient()
    mesh = Mesh(torch.rand(4, 3, generator=generator(1)), torch.tensor([[0, 1, 2], [0, 2, 3]]), "given")
    given = subject_from_ct(s.volume, s.labels, {"given": mesh}, Landmarks(("a/b",), torch.zeros(1, 3)), id="x")
    assert given.meshes["given"] is mesh and given.landmarks.names == ("a/b",)
