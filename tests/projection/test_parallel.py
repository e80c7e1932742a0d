"""Parallel beams render what they should: analytic integrals, landmarks under their pixels, exact gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylign import InputError, Rigid, View, Volume, project
from raylign.geometry import convert, se3
from raylign.projection.rays import voxel_rays
from tests.projection.scene import gaussian_integrals, smooth_volume
from tests.projection.scene import view as cone

D = torch.float64


def beam(shape: tuple[int, int] = (20, 24), pitch: float = 4.0, reach: float = 80.0) -> View:
    return View.from_parallel(primary=25, secondary=-10, pixel_spacing=(pitch, 0.9 * pitch), shape=shape, reach=reach)


def test_line_integrals_of_a_gaussian_are_exact() -> None:
    width, pitch, n = 12.0, 2.0, 65
    axis = (torch.arange(n, dtype=D) - (n - 1) / 2) * pitch
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    affine = torch.diag(torch.tensor([pitch, pitch, pitch, 1.0], dtype=D))
    centre = torch.tensor([3.0, -4.0, 5.0], dtype=D)
    affine[:3, 3] = axis[0] + centre
    volume = Volume(torch.exp(-(x**2 + y**2 + z**2) / (2 * width**2)).float(), affine)
    exact = gaussian_integrals(beam(), centre, width)
    for model in ("trilinear", "joseph", "siddon"):
        image = project(volume, beam(), model=model)[0, 0]
        assert float((image - exact).abs().max() / exact.max()) < (0.02 if model == "siddon" else 0.006), model


def chords(view: View, low: Tensor, high: Tensor) -> Tensor:
    """Length of every ray within an axis-aligned box, by slabs."""
    begin, rays = view.rays()
    t = torch.stack([(low - begin) / rays, (high - begin) / rays])
    enter, leave = t.amin(0).amax(-1).clamp(0, 1), t.amax(0).amin(-1).clamp(0, 1)
    return (leave - enter).clamp_min(0) * rays.norm(dim=-1)


@pytest.mark.parametrize("reach", [80.0, 9.0])
def test_a_box_has_its_chords(reach: float) -> None:
    """Exactly, by voxels of constant value; also where rays begin and end within the box."""
    data = torch.zeros(12, 14, 16, dtype=D)
    data[2:9, 3:10, 4:14] = 0.5
    affine = torch.diag(torch.tensor([2.0, 1.5, 2.5, 1.0], dtype=D))
    affine[:3, 3] = torch.tensor([-17.0, -9.0, -14.0])
    pitch = torch.tensor([2.0, 1.5, 2.5], dtype=D)
    low = affine[:3, 3] + (torch.tensor([4, 3, 2], dtype=D) - 0.5) * pitch
    high = affine[:3, 3] + (torch.tensor([14, 10, 9], dtype=D) - 0.5) * pitch
    view = beam((18, 22), 2.0, reach)
    exact = chords(view, low, high)
    assert 20 < int((exact > 0).sum()) < exact.numel()  # rays that hit and rays that miss
    image = project(Volume(data, affine), view, model="siddon")[0, 0]
    assert float((image - 0.5 * exact).abs().max()) < 1e-10


@settings(max_examples=12, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(-90, 90),
    st.tuples(st.integers(0, 6), st.integers(0, 6)),
    st.tuples(st.integers(30, 60), st.integers(30, 60)),
    st.integers(0, 3),
    st.booleans(),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_the_rendering_of_a_marker_lies_under_its_projection(
    primary: float,
    secondary: float,
    corner: tuple[int, int],
    shape: tuple[int, int],
    turns: int,
    flipped: bool,
    twist: list[float],
) -> None:
    view = View.from_parallel(primary=primary, secondary=secondary, pixel_spacing=(1.3, 1.1), shape=(50, 50), reach=60)
    view = view.crop(slice(corner[0], None), slice(corner[1], None)).resample(shape).rotate(turns).flip(rows=flipped)
    motion = se3.exp(torch.tensor(twist, dtype=D) * torch.tensor([1, 1, 1, 30, 30, 30]))
    view = view.transformed(motion)
    k, j, i = torch.meshgrid(*(torch.arange(11, dtype=D) for _ in range(3)), indexing="ij")
    data = torch.exp(-((i - 5) ** 2 + (j - 5) ** 2 + (k - 5) ** 2) / (2 * 1.4**2)).float()
    affine = torch.diag(torch.tensor([1.4, 1.6, 1.5, 1.0], dtype=D))
    affine[:3, 3] = torch.tensor([-4.0, -11.0, -6.0])
    marker = se3.transform(motion @ affine, torch.full((1, 3), 5.0, dtype=D))
    image = project(Volume(data, affine), view, motion)[0, 0].to(D)
    h, w = view.shape
    centroid = torch.stack([(image.sum(0) * torch.arange(w)).sum(), (image.sum(1) * torch.arange(h)).sum()]) / image.sum()
    assert float((centroid - view.project(marker)[0]).abs().max()) < 0.05


def test_cones_and_parallel_beams_share_a_batch() -> None:
    volume, shape = smooth_volume(D), (10, 12)
    views = [cone(shape, 9.0), beam(shape, 6.0), cone(shape, 7.0)]
    poses = se3.exp(torch.tensor([[0.1, -0.2, 0.05, 3.0, -5.0, 8.0], [0.0, 0.3, 0.1, 0.0, 10.0, -4.0]], dtype=D))
    together = project(volume, views, poses, step=2.0)
    assert together.shape == (2, 3, *shape)
    for p in range(2):
        for v in range(3):
            alone = project(volume, views[v], poses[p], step=2.0)[0, 0]
            assert torch.allclose(together[p, v], alone, rtol=1e-6, atol=1e-7 * float(alone.max()))


def test_rays_of_a_cone_stay_four_vectors() -> None:
    volume, pose = smooth_volume(), torch.eye(4, dtype=D)
    assert voxel_rays(volume, cone(), pose).shape == (4, 3) and voxel_rays(volume, beam(), pose).shape == (6, 3)


# Angles, pixel sizes, reach, then the twist of the pose; steps as in test_project.
_AT = [25.0, -10.0, 4.0, 3.7, 80.3, 0.1, -0.2, 0.05, 3.0, -5.0, 8.0]
_STEPS = [1e-6, 1e-6, 1e-7, 1e-7, 2e-6, 2e-8, 2e-8, 2e-8, 1e-6, 1e-6, 1e-6]


def _loss(numbers: Tensor, volume: Volume) -> Tensor:
    at = View.from_parallel(
        primary=numbers[0], secondary=numbers[1], pixel_spacing=numbers[2:4], shape=(14, 16), reach=numbers[4]
    )
    image = project(volume, at, se3.exp(numbers[5:11]), step=3.1)[0, 0]
    r, c = torch.meshgrid(*(torch.arange(n, dtype=D) for n in image.shape), indexing="ij")
    return (image.to(D) * (1 + 0.1 * r - 0.07 * c + 0.004 * r * c)).sum()


def test_gradients_equal_finite_differences() -> None:
    """Of pose, angles, pixel size and reach."""
    exact, at = smooth_volume(D, (10, 12, 14)), torch.tensor(_AT, dtype=D)
    exact = replace(exact, affine=exact.affine @ torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=D)))
    expected = []
    with torch.no_grad():
        for i, h in enumerate(_STEPS):
            e = torch.zeros(len(_AT), dtype=D)
            e[i] = h
            expected.append((_loss(at + e, exact) - _loss(at - e, exact)) / (2 * h))
    wanted = torch.stack(expected)
    for volume, tolerance in ((exact, 1e-6), (replace(exact, data=exact.data.float()), 1e-3)):
        numbers = at.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(_loss(numbers, volume), numbers)
        assert float(((slopes - wanted).abs() / wanted.abs()).max()) < tolerance


_RTK = View.from_parallel(primary=35, secondary=-20, pixel_spacing=(2.5, 3.0), shape=(90, 100), reach=300)
REDRAWN = _RTK.crop(slice(3, None), slice(0, 80)).flip(columns=True).rotate(1)


@pytest.mark.filterwarnings("ignore:builtin type [sS]wig")
@pytest.mark.parametrize("at", [_RTK, REDRAWN], ids=["centred", "redrawn"])
def test_rtk_projects_the_same(at: View) -> None:
    """Its matrices put points under our pixels, and its Joseph projector gives our image."""
    pytest.importorskip("itk")
    from tests.peers import test_rtk as rtk

    projection, image = convert.to_rtk(at)
    m = rtk.itk.array_from_matrix(rtk.geometry(projection).GetMatrix(0))
    assert np.abs(m - convert.rtk_matrix(projection).numpy()).max() < 1e-9
    points = (torch.rand(50, 3, dtype=D, generator=torch.Generator().manual_seed(0)) - 0.5) * 200
    uvw = se3.transform(convert.iec_from_lps(), points).numpy() @ m[:, :3].T + m[:, 3]
    pixels = (uvw[:, :2] / uvw[:, 2:] - image.origin) / image.spacing / image.direction
    assert np.abs(pixels - at.project(points).numpy()).max() < 1e-9
    pose = Rigid(se3.exp(torch.tensor([0.1, -0.2, 0.05, 3.0, -5.0, 8.0], dtype=D)))
    theirs = torch.from_numpy(rtk.joseph(rtk.smooth_phantom(), at, pose))
    ours = project(rtk.smooth_phantom(), at, pose, model="joseph")[0, 0]
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-4  # measured: 1.6e-5, both in float32


def test_rtks_parallel_beams_come_back() -> None:
    for at in (_RTK, REDRAWN):
        projection, image = convert.to_rtk(at)
        assert projection.source_to_detector_distance == 0
        (read,) = convert.parse_rtk_xml(convert.rtk_xml([projection]))
        assert convert.from_rtk(read, image).isclose(at, 1e-6)
    longer = replace(_RTK, source=_RTK.source - 0.5 * (_RTK.origin - _RTK.source))
    assert convert.to_rtk(longer)[0].source_to_isocenter_distance == pytest.approx(600)  # rays must not be cut short
    slanted = replace(_RTK, source=_RTK.source + 10 * _RTK.column_step)
    with pytest.raises(InputError, match="not perpendicular to the detector"):
        convert.to_rtk(slanted)
    with pytest.raises(InputError, match="parallel rays no length"):
        convert.from_rtk(convert.RTKProjection(0.0, 0.0), image)
