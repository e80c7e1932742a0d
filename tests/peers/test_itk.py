"""ITK's transforms and images mean what our converters say, in memory and through .tfm and .h5 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from raylign import Rigid
from raylign.geometry import convert, se3

D = torch.float64
POSE = Rigid(se3.exp(torch.tensor([0.4, -0.7, 1.1, 30.0, -50.0, 20.0], dtype=D)))
CENTRE = (12.0, -7.0, 101.0)


def itk_transform(kind: type) -> sitk.Transform:
    t = convert.pose_to_itk(POSE, CENTRE)
    made = kind(3) if kind is sitk.AffineTransform else kind()
    made.SetCenter(t.centre.tolist())
    made.SetMatrix(t.matrix.flatten().tolist())
    made.SetTranslation(t.translation.tolist())
    return made


@pytest.mark.parametrize("kind", [sitk.AffineTransform, sitk.Euler3DTransform, sitk.VersorRigid3DTransform])
@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_a_transform_through_a_file(tmp_path: Path, kind: type, suffix: str) -> None:
    file = str(tmp_path / f"pose{suffix}")
    sitk.WriteTransform(itk_transform(kind), file)
    read = kind(sitk.ReadTransform(file))
    found = convert.ITKTransform(
        torch.tensor(read.GetMatrix(), dtype=D).reshape(3, 3),
        torch.tensor(read.GetCenter(), dtype=D),
        torch.tensor(read.GetTranslation(), dtype=D),
    )
    assert float((convert.pose_from_itk(found).matrix - POSE.matrix).abs().max()) < 1e-9
    point = torch.tensor([[3.0, 4.0, 5.0]], dtype=D)
    assert read.TransformPoint(POSE.apply(point)[0].tolist()) == pytest.approx([3.0, 4.0, 5.0], abs=1e-9)


def test_resampling_with_it_puts_the_volume_into_the_world() -> None:
    ct = sitk.Image(40, 40, 40, sitk.sitkFloat32)
    ct.SetOrigin((-20.0, -20.0, -20.0))
    ct[25, 12, 30] = 1000.0
    at = torch.tensor([[5.0, -8.0, 10.0]], dtype=D)  # LPS mm of that voxel
    world = sitk.Image(100, 100, 100, sitk.sitkFloat32)
    origin = np.array([-20.0, -100.0, -30.0])
    world.SetOrigin(origin.tolist())
    moved = sitk.GetArrayFromImage(sitk.Resample(ct, world, itk_transform(sitk.AffineTransform), sitk.sitkLinear))
    k, j, i = np.indices(moved.shape)
    centroid = np.array([(a * moved).sum() / moved.sum() for a in (i, j, k)]) + origin
    assert np.abs(centroid - POSE.apply(at)[0].numpy()).max() < 0.1
