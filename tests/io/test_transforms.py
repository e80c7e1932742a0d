from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from raylign import InputError
from raylign.geometry import Rigid, se3
from raylign.io.transforms import read_pose, write_pose, write_pose_itk


@pytest.fixture
def pose(generator: torch.Generator) -> Rigid:
    twist = torch.randn(6, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 1, 80, 80, 80])
    return Rigid(se3.exp(twist))


@pytest.mark.parametrize("name", ["pose.json", "pose.tfm", "pose.txt", "pose.h5"])
def test_a_pose_comes_back(tmp_path: Path, pose: Rigid, name: str) -> None:
    write_pose(pose, tmp_path / name)
    assert torch.allclose(read_pose(tmp_path / name).matrix, pose.matrix, atol=1e-9)


def test_the_file_maps_the_world_to_the_volume_as_resampling_wants(tmp_path: Path, pose: Rigid) -> None:
    """A bright voxel of the volume must appear at its world place when SimpleITK resamples with the file."""
    write_pose_itk(pose, tmp_path / "pose.tfm", centre=(10.0, -20.0, 30.0))
    transform = sitk.ReadTransform(str(tmp_path / "pose.tfm"))
    point = torch.tensor([[12.0, -7.0, 33.0]], dtype=torch.float64)
    in_world = pose.apply(point)[0].tolist()
    assert transform.TransformPoint(in_world) == pytest.approx(point[0].tolist(), abs=1e-9)
    assert transform.GetInverse().TransformPoint(point[0].tolist()) == pytest.approx(in_world, abs=1e-9)
    assert transform.GetFixedParameters() == (10.0, -20.0, 30.0)

    volume = sitk.Image(9, 9, 9, sitk.sitkFloat32)
    volume.SetOrigin([c - 4 for c in point[0].tolist()])
    volume[4, 4, 4] = 1.0
    reference = sitk.Image(9, 9, 9, sitk.sitkFloat32)
    reference.SetOrigin([c - 4 for c in in_world])
    moved = sitk.Resample(volume, reference, transform)
    assert moved[4, 4, 4] == pytest.approx(1.0, abs=1e-5)


def test_rotation_about_a_centre_and_composites_are_read(tmp_path: Path) -> None:
    euler = sitk.Euler3DTransform((5.0, 6.0, 7.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    versor = sitk.VersorRigid3DTransform((0.0, 0.0, 1.0), 0.5, (3.0, 4.0, 5.0), (9.0, 8.0, 7.0))
    both = sitk.CompositeTransform([euler, versor])
    for name, transform in {"euler.tfm": euler, "versor.h5": versor, "both.tfm": both}.items():
        sitk.WriteTransform(transform, str(tmp_path / name))
        back = read_pose(tmp_path / name)
        world = (31.0, -17.0, 5.0)
        volume = torch.tensor([transform.TransformPoint(world)], dtype=torch.float64)
        assert back.apply(volume)[0].tolist() == pytest.approx(world, abs=1e-8)


@pytest.mark.parametrize(
    "wrap", [lambda m: {"matrix": m}, lambda m: {"pose": {"matrix": m}}, lambda m: {"T_world_from_volume": m}]
)
def test_every_json_key_is_understood(tmp_path: Path, pose: Rigid, wrap: object) -> None:
    (tmp_path / "p.json").write_text(json.dumps(wrap(pose.matrix.tolist())))  # type: ignore[operator]
    assert torch.allclose(read_pose(tmp_path / "p.json").matrix, pose.matrix, atol=1e-12)


def test_few_digits_become_a_true_rotation(shared: Path) -> None:
    pose = read_pose(shared / "xray" / "wrist_biplane" / "start_radius_0099.json")
    r = pose.matrix[:3, :3]
    assert torch.allclose(r @ r.T, torch.eye(3, dtype=torch.float64), atol=1e-13)
    assert pose.matrix[0, 3] == 132.16824


SCALED = [[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]]
MIRROR = [[-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]
SINGULAR = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.0, 0], [0, 0, 0, 1]]
NAN = [[math.nan, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("matrix", [SCALED, MIRROR, SINGULAR, NAN, [[1.0]], "no", {"a": 1}])
def test_what_is_no_rigid_pose_is_refused_by_name(tmp_path: Path, matrix: object) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"matrix": matrix}))
    with pytest.raises(InputError, match=r"bad\.json"):
        read_pose(tmp_path / "bad.json")


def test_itk_transforms_that_are_no_pose_are_refused(tmp_path: Path) -> None:
    scale = sitk.ScaleTransform(3, (2.0, 2.0, 2.0))
    flat = sitk.AffineTransform(3)
    flat.SetMatrix((1.0, 0, 0, 0, 1.0, 0, 0, 0, 0.0))
    warp = sitk.DisplacementFieldTransform(3)
    warp.SetDisplacementField(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64))
    two = sitk.Euler2DTransform()
    for name, transform in {"scale.tfm": scale, "flat.tfm": flat, "warp.h5": warp, "two.tfm": two}.items():
        sitk.WriteTransform(transform, str(tmp_path / name))
        with pytest.raises(InputError, match=name):
            read_pose(tmp_path / name)


@pytest.mark.parametrize("name", ["x.json", "x.tfm", "x.h5", "x.png"])
def test_garbage_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\xffgarbage")
    with pytest.raises(InputError) as caught:
        read_pose(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
