"""Correspondence, shape models, free-form deformations, solids from meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from raylign import View
from raylign.data import LabelMap, Mesh, Volume
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.projection.mesh import project_mesh
from raylign.simulation.correspondence import Surface, aligned, correspond, corresponding
from raylign.simulation.freeform import INJECTIVE, FreeForm
from raylign.simulation.phantoms.field import Grid
from raylign.simulation.shapes import ShapeModel, generalisation, onto, procrustes, specificity
from raylign.simulation.solids import FillingConfig, cut, inside, resampled, signed_distance, subject_from_mesh


def _sphere(subdivisions: int = 4, radii: tuple[float, float, float] = (20.0, 14.0, 33.0)) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions)
    return Mesh(torch.from_numpy(np.asarray(made.vertices) * radii), torch.from_numpy(np.asarray(made.faces)), "bean")


def _bean(subdivisions: int = 4) -> Mesh:
    """A bent, lopsided ellipsoid: no symmetry that a mirror image could hide in."""
    mesh = _sphere(subdivisions)
    x, y, z = mesh.vertices.unbind(1)
    return Mesh(torch.stack([x + 0.008 * z**2, y + 0.012 * x * z + 0.005 * z**2, z + 0.012 * x**2], 1), mesh.faces, "bean")


def _moved(mesh: Mesh, pose: torch.Tensor) -> Mesh:
    faces = mesh.faces.flip(1) if torch.linalg.det(pose[:3, :3]) < 0 else mesh.faces
    return Mesh(mesh.vertices @ pose[:3, :3].T + pose[:3, 3], faces, mesh.name)


def _grid(low: float, high: float, pitch: float) -> Grid:
    axis = np.arange(low, high, pitch, dtype=np.float32)
    return Grid(axis, axis, axis, pitch)


# -- free form


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(8, 40), st.floats(0.0, 0.33))
def test_free_forms_never_fold_and_are_undone(seed: int, spacing: float, part: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    form = FreeForm.random((0, 0, 0), (60, 50, 40), spacing, part * spacing, generator)
    points = torch.rand(100, 3, generator=generator, dtype=torch.float64) * 90 - 20
    assert float(torch.linalg.det(form.jacobian(points)).min()) > 0
    assert torch.allclose(form.pull(form.points(points)), points, atol=1e-6)
    assert torch.allclose(form.points(form.pull(points)), points, atol=1e-5)


def test_the_bound_is_sharp_enough_to_matter() -> None:
    """Coefficients beyond the bound are refused; the worst pattern within it nearly folds."""
    sign = torch.tensor([[[(-1.0) ** (i + j + k) for i in range(6)] for j in range(6)] for k in range(6)], dtype=torch.float64)
    worst = sign[..., None].expand(6, 6, 6, 3).contiguous()
    with pytest.raises(InputError, match="fold"):
        FreeForm(torch.zeros(3, dtype=torch.float64), 10.0, worst * 5.0)
    form = FreeForm(torch.zeros(3, dtype=torch.float64), 10.0, worst * 10.0 * INJECTIVE * 0.999)
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30 + 10
    assert 0 < float(torch.linalg.det(form.jacobian(points)).min()) < 0.95


def test_the_jacobian_is_that_of_finite_differences(generator: torch.Generator) -> None:
    form = FreeForm.random((0, 0, 0), (60, 50, 40), 15, 4, generator)
    points = torch.rand(20, 3, generator=generator, dtype=torch.float64) * 40
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([(form.pull(points + e) - form.pull(points - e)) / 2e-5 for e in step], 2)
    assert torch.allclose(form.jacobian(points), numeric, atol=1e-6)


def test_far_away_nothing_moves(generator: torch.Generator) -> None:
    form = FreeForm.random((0, 0, 0), (60, 50, 40), 15, 4, generator)
    far = torch.tensor([[-60.0, 20, 20], [30, 120, 10]], dtype=torch.float64)
    assert torch.equal(form.pull(far), far) and torch.allclose(form.points(far), far, atol=1e-9)


def test_scans_and_meshes_move_alike(generator: torch.Generator) -> None:
    """A ball in a scan and the same ball as a mesh have the same middle, volume and labels after the deformation."""
    grid = _grid(-40, 40, 2.0)
    ball = _sphere(4, (18.0, 18.0, 18.0))
    distance = signed_distance(ball, grid)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = float(grid.x[0])
    smooth = torch.from_numpy(np.clip(0.5 - distance / 2.0, 0, 1))
    form = FreeForm.random((-40, -40, -40), (40, 40, 40), 25, 6, generator)
    moved = form.volume(Volume(smooth, affine, unit="raw")).data.double()
    mesh = form.mesh(ball)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert abs(solid.volume - trimesh.Trimesh(ball.vertices.numpy(), ball.faces.numpy()).volume) > 100
    assert float(moved.sum()) * 2.0**3 == pytest.approx(solid.volume, rel=0.01)
    k, j, i = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in moved.shape], indexing="ij")
    middle = torch.stack([(moved * c).sum() / moved.sum() for c in (i, j, k)]) * 2.0 + affine[:3, 3]
    assert np.linalg.norm(middle.numpy() - solid.center_mass) < 0.2
    labels = form.labels(LabelMap(torch.from_numpy((distance < 0).astype(np.uint8)), affine, {1: "ball"}))
    assert float(labels.data.sum()) * 2.0**3 == pytest.approx(solid.volume, rel=0.02)


def test_a_turned_grid_gives_what_a_straight_one_does(generator: torch.Generator) -> None:
    """The quick sums along the axes and the general ones agree."""
    form = FreeForm.random((0, 0, 0), (30, 30, 30), 12, 3, generator)
    data = torch.rand(20, 18, 16, generator=generator)
    affine = torch.diag(torch.tensor([1.6, 1.7, 1.5, 1.0], dtype=torch.float64))
    almost = affine.clone()
    almost[0, 1] = 1e-11
    a, b = (form.volume(Volume(data, m, unit="raw")).data for m in (affine, almost))
    assert torch.allclose(a, b, atol=1e-5) and not torch.allclose(a, data, atol=0.05)


# -- solids


def test_the_inside_of_a_ball_and_its_distance() -> None:
    ball, grid = _sphere(5, (15.0, 15.0, 15.0)), _grid(-20, 20, 1.0)
    x, y, z = grid.coordinates(grid.whole)
    radius = np.sqrt(x**2 + y**2 + z**2)
    sure = np.abs(radius - 15) > 0.05
    assert ((inside(ball, grid) == (radius < 15))[sure]).all()
    error = np.abs(signed_distance(ball, grid) - (radius - 15))
    assert error[np.abs(radius - 15) < 1.5].max() < 0.04
    assert error.max() < 1.2


def test_resampled_meshes_are_even_and_the_same_surface() -> None:
    bean = _bean(5)
    coarse = resampled(bean, 3.0)
    made = trimesh.Trimesh(coarse.vertices.numpy(), coarse.faces.numpy(), process=False)
    before = trimesh.Trimesh(bean.vertices.numpy(), bean.faces.numpy(), process=False)
    assert made.is_watertight and made.volume == pytest.approx(before.volume, rel=0.03)
    assert made.edges_unique_length.std() < 0.35 * made.edges_unique_length.mean()
    back, _ = Surface(coarse.vertices.numpy(), coarse.faces.numpy()).nearest(bean.vertices.numpy())
    gap = np.linalg.norm(back - bean.vertices.numpy(), axis=1)
    assert gap.mean() < 0.2 and gap.max() < 1.5  # the sharp ends are rounded off


def test_a_cut_mesh_ends_at_the_plane() -> None:
    half = cut(_sphere(5, (15.0, 15.0, 15.0)), (0, 0, 3), (0, 0, 1), 1.0)
    made = trimesh.Trimesh(half.vertices.numpy(), half.faces.numpy(), process=False)
    assert made.is_watertight and float(half.vertices[:, 2].max()) == pytest.approx(3, abs=0.1)
    cap = np.pi * 12**2 * (3 * 15 - 12) / 3  # of a ball of 15 mm, 12 mm high
    assert made.volume == pytest.approx(4 / 3 * np.pi * 15**3 - cap, rel=0.02)


def test_a_mesh_becomes_a_patient() -> None:
    bean = _bean(4)
    patient = subject_from_mesh(
        bean, "bean-000003", FillingConfig(voxel_mm=1.5, noise_hu=0, margin_mm=15), {"bean/tip": (0, 0, 30)}, 3
    )
    assert patient.id == "bean-000003" and set(patient.labels.present().values()) == {"subcutaneous_fat", "muscle", "bean"}
    volume = trimesh.Trimesh(bean.vertices.numpy(), bean.faces.numpy(), process=False).volume
    assert float(patient.labels.mask(["bean"]).sum()) * 1.5**3 == pytest.approx(volume, rel=0.02)
    hu = patient.volume.data
    assert (
        float(hu[patient.labels.mask(["bean"])].max()) > 1000 and 120 < float(hu[patient.labels.mask(["bean"])].median()) < 1000
    )
    assert float(hu[:, 0, 0].max()) < -900
    again = subject_from_mesh(bean, "bean-000003", FillingConfig(voxel_mm=1.5, noise_hu=0, margin_mm=15), seed=3)
    assert torch.equal(again.volume.data, hu)
    with pytest.raises(InputError, match="encloses"):
        subject_from_mesh(Mesh(bean.vertices, bean.faces[:1], "bean"), "x")


# -- correspondence


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_pose_is_found_from_anywhere(mirrored: bool, generator: torch.Generator) -> None:
    bean = _bean()
    for _ in range(3):
        twist = torch.randn(6, generator=generator, dtype=torch.float64) * torch.tensor([1.5, 1.5, 1.5, 90, 90, 90])
        pose = se3.exp(twist)
        if mirrored:
            pose = pose @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
        found = aligned(bean, _moved(bean, pose))
        assert torch.allclose(found @ pose, torch.eye(4, dtype=torch.float64), atol=0.02)


def test_a_known_deformation_is_recovered(generator: torch.Generator) -> None:
    """The mesh is a finer one, deformed by a free form: where each vertex of the template went is known."""
    template, fine = resampled(_bean(5), 2.5), _bean(5)
    form = FreeForm.random((-40, -40, -50), (40, 40, 50), 30, 4, generator)
    found = correspond(template, form.mesh(fine))
    truth = form.points(template.vertices)
    pose = found.alignment
    error = (found.mesh.vertices - (truth @ pose[:3, :3].T + pose[:3, 3])).norm(dim=1)
    assert found.distance_mm < 0.15
    assert float(error.mean()) < 2.0  # sliding along a surface without features is not seen by any method of this kind
    normals = torch.from_numpy(Surface(found.mesh.vertices.numpy(), found.mesh.faces.numpy()).normals)
    across = ((found.mesh.vertices - (truth @ pose[:3, :3].T + pose[:3, 3])) * normals).sum(1).abs()
    assert float(across.mean()) < 0.15


def test_another_part_is_refused() -> None:
    ball = _sphere(4, (20.0, 20.0, 20.0))
    flipped = Mesh(ball.vertices, ball.faces.flip(1), "inside out")
    with pytest.raises(InputError, match="partner"):
        correspond(ball, flipped)


# -- shape models


def _family(count: int, generator: torch.Generator) -> tuple[list[Mesh], torch.Tensor]:
    """Meshes with two known modes, in random poses; and the modes' weights."""
    base = _bean(3)
    x, y, z = base.vertices.unbind(1)
    stretch, bulge = torch.stack([0 * x, 0 * y, 0.1 * z], 1), torch.stack([0.05 * x, -0.05 * y, 0 * z], 1)
    weights = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    out = []
    for a, b in weights:
        pose = se3.exp(torch.randn(6, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 0.5, 0.5, 20, 20, 20]))
        out.append(_moved(Mesh(base.vertices + a * stretch + b * bulge, base.faces, "bean"), pose))
    return out, weights


def test_two_modes_are_found_as_two(generator: torch.Generator) -> None:
    meshes, weights = _family(30, generator)
    model = ShapeModel.fit(meshes, 0.999)
    assert len(model.variances) <= 4
    assert float(model.variances[:2].sum() / model.variances.sum()) > 0.98
    flat = model.modes.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(len(flat), dtype=torch.float64), atol=1e-9)
    found = torch.stack([model.project(m) for m in meshes])
    assert abs(float(torch.corrcoef(torch.stack([found[:, 0], weights[:, 0]]))[0, 1])) > 0.97
    assert float(found.std(0)[0]) == pytest.approx(1.0, abs=0.02)
    assert max(model.error(m) for m in meshes) < 0.1


def test_samples_vary_as_the_meshes_do(generator: torch.Generator) -> None:
    meshes, _ = _family(25, generator)
    model = ShapeModel.fit(meshes)
    a, b = (model.sample(torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(a.vertices, b.vertices)
    made = torch.stack([model.project(model.sample(generator)) for _ in range(300)])
    assert float(made.abs().max()) <= 2.5 + 1e-6
    assert torch.allclose(made.std(0), torch.ones(made.shape[1], dtype=torch.float64), atol=0.12)  # 0.96 with the tails cut
    assert torch.allclose(model.mesh().vertices, model.mean)


def test_generalisation_falls_with_more_people(generator: torch.Generator) -> None:
    meshes, _ = _family(16, generator)
    few, many = generalisation(meshes[:4], keep=1.0), generalisation(meshes, keep=1.0)
    assert np.mean(many) < 0.5 * np.mean(few)
    model = ShapeModel.fit(meshes)
    near = np.mean(specificity(model, meshes, 20, generator))
    spread = np.mean([float((onto(m.vertices, model.mean) - model.mean).norm(dim=1).mean()) for m in meshes])
    assert 0 < near < 2 * spread
    with pytest.raises(InputError, match="three"):
        generalisation(meshes[:3], ["a", "a", "b"])


def test_models_are_kept_in_files(tmp_path: Path, generator: torch.Generator) -> None:
    model = ShapeModel.fit(_family(8, generator)[0], name="bean")
    model.save(tmp_path / "bean.npz")
    again = ShapeModel.load(tmp_path / "bean.npz")
    assert again.name == "bean" and torch.equal(again.faces, model.faces)
    assert torch.allclose(again.mesh(torch.ones(2)).vertices, model.mesh(torch.ones(2)).vertices, atol=1e-4)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="no shape model"):
        ShapeModel.load(tmp_path / "other.npz")


def test_meshes_out_of_correspondence_are_refused() -> None:
    with pytest.raises(InputError, match="correspondence"):
        ShapeModel.fit([_bean(3), _bean(4)])
    with pytest.raises(InputError, match="at least two"):
        ShapeModel.fit([_bean(3)])
    with pytest.raises(InputError, match=r"fold|third"):
        FreeForm.random((0, 0, 0), (10, 10, 10), 5, 4, torch.Generator())


def test_procrustes_keeps_size(generator: torch.Generator) -> None:
    meshes, _ = _family(5, generator)
    shapes = torch.stack([m.vertices for m in meshes])
    posed = procrustes(shapes)
    before, after = (s - s.mean(1, keepdim=True) for s in (shapes, posed))
    assert torch.allclose(before.norm(dim=(1, 2)), after.norm(dim=(1, 2)), atol=1e-6)
    assert float(posed.mean(1).abs().max()) < 1e-9


# -- real femurs


def test_femurs_of_several_people(shared: Path) -> None:
    """Proximal femurs of two people, one of them from both sides: correspondence to a fraction of a millimetre."""
    from raylign.io.meshes import read_mesh

    meshes = []
    for name in ("m4_lfemur_mm.stl", "m4_rfemur_mm.stl", "m3_lfemur_mm.stl"):
        mesh = read_mesh(shared / "meshes" / "femur" / name)
        meshes.append(cut(mesh, (0, 0, float(mesh.vertices[:, 2].max()) - 110), (0, 0, -1), 2.5))
    found = corresponding(meshes, resampled(meshes[0], 4.5))
    assert [c.mirrored for c in found] == [False, True, False]
    assert max(c.distance_mm for c in found) < 0.6
    assert all(trimesh.Trimesh(c.mesh.vertices.numpy(), c.mesh.faces.numpy(), process=False).is_watertight for c in found)
    model = ShapeModel.fit([c.mesh for c in found], 1.0, "femur")
    made = model.sample(torch.Generator().manual_seed(4), 1.5)
    solid = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False)
    low, high = (f([trimesh.Trimesh(c.mesh.vertices.numpy(), c.mesh.faces.numpy()).volume for c in found]) for f in (min, max))
    assert 0.6 * low < solid.volume < 1.5 * high
    view = View.from_carm(sid=1000, sod=800, pixel_spacing=(2.0, 2.0), shape=(64, 64))
    assert float(project_mesh(made, view)[0, 0].max()) > 30
