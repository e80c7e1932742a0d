"""A volume restricted to labelled structures."""

from __future__ import annotations

import pytest
import torch

from raylign.data import LabelMap, Volume, restricted
from raylign.errors import InputError

AFFINE = torch.tensor([[2.0, 0, 0, -10], [0, 3.0, 0, 5], [0, 0, 4.0, 100], [0, 0, 0, 1]], dtype=torch.float64)


def scene() -> tuple[Volume, LabelMap]:
    data = torch.zeros(20, 24, 30)
    data[5:9, 6:12, 7:17] = 1000.0  # bone
    data[12:16, 6:12, 7:17] = -800.0  # lung
    labels = torch.zeros(20, 24, 30, dtype=torch.uint8)
    labels[5:9, 6:12, 7:17] = 3
    labels[12:16, 6:12, 7:17] = 5
    return Volume(data, AFFINE, "HU"), LabelMap(labels, AFFINE, {3: "femur", 5: "lung"})


def test_bone_keeps_what_it_attenuates_above_water() -> None:
    volume, labels = scene()
    bone = restricted(volume, labels, ["Femur"])
    _, slope = volume.attenuation_coefficients()
    assert bone.unit == "1/mm"
    assert torch.allclose(bone.data.max(), torch.tensor(slope * 1000.0))
    assert int((bone.data > 0).sum()) == 4 * 6 * 10
    assert bone.truncated == ((False, False), (False, False), (False, False))
    # in its place: the centre of what is not empty is where the label's is
    index = (bone.data > 0).nonzero().to(torch.float64).mean(0).flip(0)
    expected = torch.tensor([11.5, 8.5, 6.5], dtype=torch.float64)
    assert torch.allclose(bone.affine[:3, :3] @ index + bone.affine[:3, 3], AFFINE[:3, :3] @ expected + AFFINE[:3, 3])
    assert bone.data.numel() == 6 * 8 * 12


def test_a_label_map_on_another_grid() -> None:
    volume, labels = scene()
    fine = LabelMap(labels.data.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2), AFFINE, labels.names)
    affine = AFFINE.clone()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3].sum(1) / 2  # the first of eight voxels lies half a small voxel before the big one's centre
    same = restricted(volume, LabelMap(fine.data, affine, labels.names), ["femur"])
    assert torch.equal(same.data, restricted(volume, labels, ["femur"]).data)


def test_a_structure_cut_off_by_the_scan_says_so() -> None:
    volume, labels = scene()
    data, marks = volume.data.clone(), labels.data.clone()
    data[:6, 6:12, 7:17], marks[:6, 6:12, 7:17] = 900.0, 3
    cut = restricted(Volume(data, AFFINE, "HU"), LabelMap(marks, AFFINE, labels.names), [3])
    assert cut.truncated == ((False, False), (False, False), (True, False))
    whole = Volume(data, AFFINE, "HU", truncated=((False, False),) * 3)  # it is known that the patient ends there
    assert restricted(whole, LabelMap(marks, AFFINE, labels.names), [3]).truncated == ((False, False),) * 3


def test_what_cannot_be_restricted() -> None:
    volume, labels = scene()
    with pytest.raises(InputError, match="more than water"):
        restricted(volume, labels, ["lung"])
    with pytest.raises(InputError, match="no voxel is labelled 'spleen'"):
        restricted(volume, labels, ["spleen"])
    with pytest.raises(InputError, match="no structure is named"):
        restricted(volume, labels, [])
    away = AFFINE.clone()
    away[:3, 3] += 1000
    with pytest.raises(InputError, match="inside the volume"):
        restricted(volume, LabelMap(labels.data, away, labels.names), ["femur"])


def test_raw_numbers_are_kept() -> None:
    volume, labels = scene()
    raw = restricted(Volume(volume.data + 800, AFFINE, "raw"), labels, ["femur"])
    assert raw.unit == "raw" and float(raw.data.max()) == 1800
