"""Diffeomorphic deformation: against the matrix exponential, SciPy's interpolation, and signed distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.linalg import expm

from raylign.data import LabelMap, Landmarks, Mesh, Volume
from raylign.errors import InputError
from raylign.simulation.anchors import Anchors
from raylign.simulation.deformation import Deformation, DeformationConfig, anchors_for, node_shape
from raylign.simulation.seeds import generator
from raylign.simulation.velocity import Scale, exponential, random_velocity, smallest_jacobian, within_box

SMALL = DeformationConfig(scales=(Scale(80.0, 5.0), Scale(40.0, 2.0)), node_mm=4.0, fade_mm=30.0)


def oblique(spacing: tuple[float, float, float]) -> torch.Tensor:
    """An affine whose axes are turned and reversed."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]])
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(turn * np.array(spacing))
    affine[:3, 3] = torch.tensor([-50.0, 20.0, 400.0], dtype=torch.float64)
    return affine


def ball(shape: tuple[int, int, int] = (60, 80, 70), spacing: tuple[float, float, float] = (1.5, 1.5, 2.0)) -> Volume:
    """Distance in mm from a sphere of 30 mm about the middle of an oblique grid."""
    affine = oblique(spacing)
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    place = torch.stack([i, j, k], -1) @ affine[:3, :3].T + affine[:3, 3]
    whole = Volume(torch.zeros(shape), affine, unit="HU")
    return Volume(((place - whole.centre).norm(dim=-1) - 30).float(), affine, unit="HU")


def sampled(volume: Volume, points: torch.Tensor, order: int = 1) -> np.ndarray:
    """The volume at LPS points, by SciPy."""
    index = (points - volume.affine[:3, 3]) @ torch.linalg.inv(volume.affine[:3, :3]).T
    return ndimage.map_coordinates(volume.data.double().numpy(), index.flip(1).T.numpy(), order=order, mode="nearest")


def sphere_points(volume: Volume, count: int = 500) -> torch.Tensor:
    p = torch.randn(count, 3, generator=generator(5), dtype=torch.float64)
    return volume.centre + 30 * p / p.norm(dim=1, keepdim=True)


def test_the_exponential_of_a_linear_field_is_that_of_its_matrix() -> None:
    a = np.array([[0.10, -0.30, 0.0], [0.25, -0.08, 0.05], [0.0, 0.06, 0.12]])
    spacing = (2.0, 2.5, 3.0)
    k, j, i = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (30, 36, 40)), indexing="ij")
    place = np.stack([i * spacing[0], j * spacing[1], k * spacing[2]])
    v = torch.from_numpy(np.einsum("ab,b...->a...", a, place)).float()
    u = exponential(v[None], spacing)[0].double().numpy()
    exact = np.einsum("ab,b...->a...", expm(a) - np.eye(3), place)
    inner = (slice(None), slice(10, -10), slice(12, -12), slice(14, -14))  # whose paths never leave the box
    assert np.abs(exact[inner]).max() > 3
    assert np.abs(u[inner] - exact[inner]).max() < 0.02  # the midpoint step's error: trilinear interpolation is exact here
    jacobian = smallest_jacobian(torch.from_numpy(exact)[None], spacing)
    assert float(jacobian) == pytest.approx(np.linalg.det(expm(a)), abs=1e-6)


def test_the_negative_field_undoes_the_deformation() -> None:
    volume = ball()
    d = Deformation.random(volume, SMALL, generator(1))
    p = sphere_points(volume)
    there = d.points(p)
    back = d.inverse().points(there)
    assert float((there - p).norm(dim=1).mean()) > 3
    assert float((back - p).norm(dim=1).max()) < 0.15 and float((back - p).norm(dim=1).mean()) < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_no_deformation_folds(seed: int) -> None:
    volume = ball()
    for factor in (1.0, 6.0):  # the second asks for far too much, and is taken in until it fits
        config = DeformationConfig(tuple(Scale(s.lattice_mm, s.sd_mm * factor) for s in SMALL.scales), 4.0, 30.0)
        d = Deformation.random(volume, config, generator(seed))
        u = d.pull.double().numpy()
        grad = [[np.gradient(u[a], d.spacing[b], axis=2 - b) for b in range(3)] for a in range(3)]
        jacobian = np.linalg.det(np.moveaxis(np.array(grad), (0, 1), (-2, -1)) + np.eye(3))
        assert 0.1 <= d.smallest_jacobian <= jacobian.min() + 0.15 and jacobian.min() > 0
        # the box goes onto itself: its faces stay in their planes
        for axis in range(3):
            ends = np.moveaxis(u[axis], 2 - axis, 0)[[0, -1]]
            assert np.abs(ends).max() < 1e-4


def test_a_surface_stays_where_the_voxels_have_it() -> None:
    """The deformed distance map is zero at the deformed sphere, far below a voxel."""
    volume = ball()
    d = Deformation.random(volume, SMALL, generator(2))
    p = sphere_points(volume)
    moved = d.points(p)
    assert float((moved - p).norm(dim=1).max()) > 5
    before, after = np.abs(sampled(volume, p)), np.abs(sampled(d.volume(volume), moved))
    assert before.max() < 0.03  # what trilinear interpolation makes of a sphere
    assert after.max() < 0.15 and after.mean() < 0.05  # mm; a voxel is 1.5 to 2 mm
    labels = LabelMap((volume.data < 0).to(torch.uint8), volume.affine, {1: "ball"})
    out = d.labels(labels)
    inward = moved - 2.2 * torch.nn.functional.normalize(moved - volume.centre, dim=1)  # half a voxel's diagonal is 1.5 mm
    outward = 2 * moved - inward
    mask = Volume(out.data.float(), volume.affine, unit="HU")
    assert sampled(mask, inward, order=0).mean() > 0.98 and sampled(mask, outward, order=0).mean() < 0.02
    assert out.names == labels.names and out.data.dtype == torch.uint8


def test_label_and_mesh_enclose_the_same() -> None:
    """A shell of a tenth of a voxel would be 1 % of this volume."""
    import trimesh

    volume = ball()
    d = Deformation.random(volume, SMALL, generator(6))
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=30.0)
    mesh = d.mesh(Mesh(torch.from_numpy(sphere.vertices) + volume.centre, torch.from_numpy(sphere.faces.copy())))
    enclosed = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).volume
    labels = LabelMap((volume.data < 0).to(torch.uint8), volume.affine)
    counted = float((d.labels(labels).data == 1).sum()) * float(torch.linalg.det(volume.affine[:3, :3]).abs())
    assert abs(enclosed / sphere.volume - 1) > 0.02  # it has changed
    assert counted == pytest.approx(enclosed, rel=0.01)


def test_points_are_the_inverse_of_what_the_voxels_did() -> None:
    volume = ball()
    d = Deformation.random(volume, SMALL, generator(3))
    p = sphere_points(volume)
    q = d.points(p)
    axes = volume.affine[:3, :3] / volume.affine[:3, :3].norm(dim=0)
    place = (q - volume.affine[:3, 3]) @ axes
    at = (place / torch.tensor(d.spacing, dtype=torch.float64)).flip(1).T.numpy()
    u = np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in d.pull.double().numpy()], 1)
    assert np.abs((place.numpy() + u) - ((p - volume.affine[:3, 3]) @ axes).numpy()).max() < 1e-3
    mesh = Mesh(p[:3], torch.tensor([[0, 1, 2]]), "m")
    assert torch.allclose(d.mesh(mesh).vertices, q[:3], atol=2e-3) and d.mesh(mesh).name == "m"
    marks = d.landmarks(Landmarks(("a", "b"), p[:2]))
    assert marks.names == ("a", "b") and torch.allclose(marks.points, q[:2], atol=2e-3)
    assert d.landmarks(Landmarks((), torch.zeros(0, 3))).points.shape == (0, 3)


def test_labels_go_where_most_of_the_weight_is() -> None:
    """Against one linear interpolation for each label."""
    volume = ball((20, 24, 22), (3.0, 3.0, 3.0))
    labels = LabelMap(torch.randint(0, 4, (20, 24, 22), generator=generator(1)), volume.affine)
    d = Deformation.random(volume, SMALL, generator(4))
    out = d.labels(labels).data
    shares = torch.stack([d.volume(Volume((labels.data == n).float(), volume.affine, unit="HU")).data for n in range(4)])
    best, second = shares.sort(0, descending=True).values[:2]
    clear = best - second > 1e-3
    assert float(clear.float().mean()) > 0.9
    assert torch.equal(out[clear], shares.argmax(0)[clear])


def test_bones_stay_nearly_rigid() -> None:
    """Two blocks as near to each other as vertebrae; how much distances within them change."""
    volume = ball((70, 60, 60), (2.0, 2.0, 2.0))
    data = torch.zeros(70, 60, 60, dtype=torch.uint8)
    data[16:34, 20:42, 18:40] = 1
    data[37:54, 20:42, 18:40] = 2
    data[:, :4] = 3
    labels = LabelMap(data, volume.affine, {1: "vertebrae_L1", 2: "vertebrae_L2", 3: "muscle"})
    config = DeformationConfig(scales=(Scale(80.0, 5.0),), node_mm=3.0, fade_mm=30.0, rigid=("vertebrae_*",))
    anchors = anchors_for(labels, config)
    assert anchors is not None and [r.name for r in anchors.regions] == ["vertebrae_L1", "vertebrae_L2"]
    changes = {True: [], False: []}
    for seed in range(4):
        for held in (True, False):
            d = Deformation.random(volume, config, generator(seed), anchors if held else None)
            for number in (1, 2):
                index = (data == number).nonzero().flip(1).double()[::7]
                p = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
                q = d.points(p)
                before, after = torch.pdist(p), torch.pdist(q)
                far = before > 10
                changes[held].append(float((after[far] / before[far] - 1).abs().mean()))
    assert np.mean(changes[False]) > 0.04
    assert np.mean(changes[True]) < 0.012 and max(changes[True]) < 0.03


def test_a_held_field_is_rigid_where_the_bone_is() -> None:
    """A rigid field is kept as it is; a bone's own field is the rigid one nearest to what was there."""
    labels = LabelMap(torch.zeros(40, 40, 40, dtype=torch.uint8), oblique((2.0, 2.0, 2.0)), {1: "hip_left"})
    labels.data[10:25, 12:28, 9:30] = 1
    anchors = Anchors.of(labels, (30, 30, 30))
    k, j, i = torch.meshgrid(*(torch.arange(30.0) * anchors.spacing[0] for _ in range(3)), indexing="ij")
    place, spin = torch.stack([i, j, k]), torch.tensor([0.02, -0.03, 0.05])
    rigid = torch.linalg.cross(spin[:, None, None, None].expand_as(place), place, dim=0) + 2
    assert torch.allclose(anchors.held(rigid), rigid, atol=1e-4)
    inside = anchors.regions[0].inside
    stretch = anchors.held(rigid + 0.1 * place)[(slice(None), *anchors.regions[0].box)][:, inside]
    wanted = rigid[(slice(None), *anchors.regions[0].box)][:, inside]
    assert float((stretch - wanted - (stretch - wanted).mean(1, keepdim=True)).abs().max()) < 0.05
    with pytest.raises(InputError, match="no label is called femur"):
        Anchors.of(labels, (30, 30, 30), ("femur*",))


def test_random_fields_have_the_spread_that_is_asked_for() -> None:
    v = random_velocity((200.0, 240.0, 300.0), (20, 16, 14), [Scale(40.0, 3.0), Scale(25.0, 4.0)], generator(1), 12)
    assert v.shape == (12, 3, 20, 16, 14)
    assert float(v.std()) == pytest.approx(5, rel=0.03) and abs(float(v.mean())) < 0.3
    # more nodes sample the same field
    fine = random_velocity((200.0, 240.0, 300.0), (39, 31, 27), [Scale(40.0, 3.0), Scale(25.0, 4.0)], generator(1), 12)
    assert torch.allclose(fine[..., ::2, ::2, ::2], v, atol=1e-3)
    faded = within_box(v, (10.0, 10.0, 10.0), 50.0)
    assert float(faded[:, 0, :, :, 0].abs().max()) == 0 and torch.equal(faded[:, 0, :, :, 5:-5], v[:, 0, :, :, 5:-5])


def test_one_seed_one_deformation_whatever_the_threads() -> None:
    volume = ball()
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            d = Deformation.random(volume, SMALL, generator(8))
            made.append((d.pull, d.volume(volume).data, d.points(sphere_points(volume))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
    assert not torch.equal(made[0][0], Deformation.random(volume, SMALL, generator(9)).pull)


def test_refusals() -> None:
    volume = ball((20, 20, 20))
    d = Deformation.random(volume, SMALL, generator(1))
    with pytest.raises(InputError, match="another grid"):
        d.volume(ball((21, 20, 20)))
    sheared = volume.affine.clone()
    sheared[0, 1] += 0.5
    with pytest.raises(InputError, match="sheared"):
        Deformation.random(Volume(volume.data, sheared, unit="HU"), SMALL, generator(1))
    with pytest.raises(InputError, match="folds"):
        Deformation(volume.affine, (20, 20, 20), d.velocity, d.pull, d.push, -0.1)
    with pytest.raises(InputError, match="without scales"):
        DeformationConfig(scales=())
    with pytest.raises(InputError, match="control points"):
        Scale(0.0, 1.0)
    labels = LabelMap(torch.ones(20, 20, 20, dtype=torch.uint8), volume.affine, {1: "hip_left"})
    wrong = Anchors.of(labels, (5, 5, 5))
    assert node_shape(volume, SMALL) != (5, 5, 5)
    with pytest.raises(InputError, match="other nodes"):
        Deformation.random(volume, SMALL, generator(1), wrong)
