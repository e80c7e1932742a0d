"""Symmetries of surfaces, errors modulo them, and what they do to a result."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.evaluation.metrics import mtre, symmetric_error
from raylign.geometry import Rigid, View, se3
from raylign.registration import Confidence, Problem, Result
from raylign.registration.symmetry import Symmetry, symmetry_of
from raylign.registration.symmetry_search import closed, rotations
from raylign.registration.symmetry_views import (
    ambiguity_of,
    apart,
    mirror_pose,
    nearest_equivalent,
    opened_turns,
    outlines_off,
    settled,
)
from raylign.simulation.instruments import BoneScrew
from raylign.simulation.instruments.surfaces import box_mesh, moved, turned_mesh

TURN = se3.exp(torch.tensor([0.3, -0.8, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64))[:3, :3].numpy()
SHIFT = (12.0, -40.0, 7.0)


def anywhere(mesh: Mesh) -> Mesh:
    """The mesh turned and shifted, so that nothing lies along an axis."""
    return moved(mesh, TURN, SHIFT)


def both(*meshes: Mesh) -> Mesh:
    count = np.cumsum([0] + [len(m.vertices) for m in meshes])
    faces = torch.cat([m.faces + int(c) for m, c in zip(meshes, count[:-1], strict=True)])
    return Mesh(torch.cat([m.vertices for m in meshes]), faces)


def cylinder() -> Mesh:
    return anywhere(turned_mesh([(-20.0, 8.0), (20.0, 8.0)], sides=48))


def stem() -> Mesh:
    """A tapered shaft with a neck to one side: a plane of symmetry, no rotation."""
    tilt = math.radians(45)
    turn = np.array([[math.cos(tilt), 0, math.sin(tilt)], [0, 1, 0], [-math.sin(tilt), 0, math.cos(tilt)]])
    neck = moved(turned_mesh([(0.0, 6.0), (40.0, 6.5)]), turn)
    return anywhere(both(turned_mesh([(-120.0, 4.0), (0.0, 10.0)]), neck))


def as_group(maps: torch.Tensor) -> set[tuple[float, ...]]:
    """Rotations as rounded numbers in the mesh's own axes."""
    own = torch.from_numpy(TURN)
    return {tuple((own.T @ m[:3, :3] @ own).round().flatten().tolist()) for m in maps}


def test_a_cube_has_24_rotations_and_they_are_its_own() -> None:
    mesh = anywhere(box_mesh((-10, -10, -10), (10, 10, 10)))
    found = symmetry_of(mesh)
    signed = {
        tuple((np.eye(3)[list(p)] * np.array(s)[:, None]).flatten())
        for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        for s in ((a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1))
        if np.linalg.det(np.eye(3)[list(p)] * np.array(s)[:, None]) > 0
    }
    assert len(signed) == 24 and as_group(found.maps) == signed
    assert found.axis is None and not found.ball and found.mirror is not None
    corners = mesh.vertices[:8]
    assert float(torch.cdist(se3.transform(found.maps, corners), corners.expand(24, 8, 3)).amin(-1).max()) < 0.02


@pytest.mark.parametrize(("half", "count"), [((10, 10, 20), 8), ((10, 15, 20), 4)])
def test_boxes(half: tuple[int, int, int], count: int) -> None:
    low, high = tuple(-h for h in half), half
    assert len(symmetry_of(anywhere(box_mesh(low, high))).maps) == count


def test_a_cylinder_turns_about_its_axis_and_over() -> None:
    found = symmetry_of(cylinder())
    assert found.axis is not None and found.free == 1 and len(found.maps) == 2
    axis = torch.from_numpy(TURN[:, 2].copy())
    assert float(torch.linalg.cross(found.axis, axis).norm()) < 1e-6
    assert torch.allclose(found.centre, torch.tensor(SHIFT, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(found.maps[1, :3, :3] @ axis, -axis, atol=1e-6)
    # every equivalent keeps the distances to axis and to both ends
    points = cylinder().vertices - found.centre
    for m in found.equivalents(7):
        images = se3.transform(m, cylinder().vertices) - found.centre
        assert torch.allclose((images @ axis).abs(), (points @ axis).abs(), atol=1e-6)
        assert torch.allclose(torch.linalg.cross(images, axis.expand_as(images)).norm(dim=1),
                              torch.linalg.cross(points, axis.expand_as(points)).norm(dim=1), atol=1e-6)  # fmt: skip
    assert len(found.words) == 2


def test_a_cone_does_not_turn_over_and_a_ball_is_a_ball() -> None:
    cone = symmetry_of(anywhere(turned_mesh([(-20.0, 8.0), (20.0, 3.0)], sides=48)))
    assert cone.axis is not None and len(cone.maps) == 1
    angles = np.linspace(0, math.pi, 40)
    ball = symmetry_of(anywhere(turned_mesh([(-12 * math.cos(a), max(1e-3, 12 * math.sin(a))) for a in angles], sides=48)))
    assert ball.ball and ball.free == 3


def test_a_prism_turns_by_sixths() -> None:
    assert len(symmetry_of(anywhere(turned_mesh([(-20.0, 20.0), (20.0, 20.0)], sides=6))).maps) == 12


def test_a_stem_has_none_but_a_plane() -> None:
    found = symmetry_of(stem())
    assert found.trivial and found.words == ()
    assert found.mirror is not None and float(torch.linalg.det(found.mirror[:3, :3])) == pytest.approx(-1)
    # the plane in which shaft and neck lie
    normal = torch.from_numpy(TURN[:, 1].copy())
    assert torch.allclose(found.mirror[:3, :3] @ normal, -normal, atol=2e-3)


def test_a_screw_is_one_without_its_thread_only() -> None:
    screw = anywhere(both(*(part.mesh for part in BoneScrew().instrument().fixed)))  # type: ignore[union-attr]
    fine, coarse = symmetry_of(screw), symmetry_of(screw, tolerance=1.2)
    assert fine.trivial and fine.nearly is not None
    assert coarse.axis is not None and len(coarse.maps) == 1
    for axis in (fine.nearly, coarse.axis):
        assert float(torch.linalg.cross(axis, torch.from_numpy(TURN[:, 2].copy())).norm()) < 0.02


def test_wrong_words() -> None:
    with pytest.raises(InputError, match="mm"):
        symmetry_of(cylinder(), tolerance=0)
    with pytest.raises(InputError, match="no mirror symmetry"):
        mirror_pose(replace(symmetry_of(cylinder()), mirror=None), Rigid(torch.eye(4, dtype=torch.float64)), view())


def test_rotations_are_even() -> None:
    many = rotations(2000)
    assert np.allclose(many @ many.transpose(0, 2, 1), np.eye(3), atol=1e-12) and np.allclose(np.linalg.det(many), 1)
    # by random rotations: none is farther from all of them than a few spacings
    random = se3.exp(torch.randn(100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2)[:, :3, :3].numpy()
    angle = np.degrees(np.arccos(np.clip((np.einsum("kij,nij->kn", random, many) - 1) / 2, -1, 1))).min(1)
    assert angle.max() < 20


def pose(*numbers: float) -> Rigid:
    return Rigid(se3.exp(torch.tensor(numbers, dtype=torch.float64)))


def test_errors_are_the_least_over_the_symmetries() -> None:
    mesh = cylinder()
    found = symmetry_of(mesh)
    gold = pose(0.4, 0.2, -0.3, 10.0, 5.0, 3.0)
    off_by = torch.eye(4, dtype=torch.float64)
    off_by[:3, 3] = torch.tensor([0.3, 0.0, 0.4])
    turned = gold.matrix @ found.maps[1] @ found.equivalents(5)[3]

    def error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return mtre(a, b, mesh.vertices)

    assert float(mtre(turned, gold, mesh.vertices)) > 5
    assert symmetric_error(error, turned, gold, found)[0] < 1e-2
    value, equivalent = symmetric_error(error, off_by @ turned, gold, found)
    assert value == pytest.approx(0.5, abs=1e-2) and float(mtre(equivalent, gold, mesh.vertices)) == pytest.approx(value)
    nothing = Symmetry(found.centre, torch.eye(4, dtype=torch.float64)[None], found.points, found.normals)
    assert symmetric_error(error, turned, gold, nothing)[0] == pytest.approx(float(mtre(turned, gold, mesh.vertices)))


def test_the_error_of_a_ball_is_that_of_its_centre() -> None:
    angles = np.linspace(0, math.pi, 40)
    mesh = anywhere(turned_mesh([(-12 * math.cos(a), max(1e-3, 12 * math.sin(a))) for a in angles], sides=48))
    found = symmetry_of(mesh)
    gold = pose(0.4, 0.2, -0.3, 10.0, 5.0, 3.0)
    other = Rigid(gold.matrix @ found.about_centre(se3.exp(torch.tensor([1.0, 2, -1, 0, 0, 0], dtype=torch.float64))[:3, :3]))
    assert symmetric_error(lambda a, b: mtre(a, b, mesh.vertices), other, gold, found)[0] < 1e-9


def test_of_equivalent_poses_the_nearest_is_stated() -> None:
    found = symmetry_of(cylinder())
    gold = pose(0.4, 0.2, -0.3, 10.0, 5.0, 3.0)
    tilted = Rigid(pose(0.1, 0.0, 0.0, 0.0, 0.0, 0.0).matrix @ gold.matrix)
    away = Rigid(tilted.matrix @ found.maps[1] @ found.equivalents(5)[2])
    back = nearest_equivalent(found, away, gold)
    assert apart(found, gold, away) <= math.degrees(0.1) + 1e-6
    # by brute force over the turns
    relative = gold.matrix[:3, :3].T @ (away.matrix @ found.equivalents(3600))[:, :3, :3]
    least = float(torch.rad2deg(torch.arccos(((relative.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))).min())
    assert math.degrees(float(se3.log_rotation(gold.matrix[:3, :3].T @ back.matrix[:3, :3]).norm())) == pytest.approx(
        least, abs=0.02
    )


def view() -> View:
    return View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=1.0, shape=(200, 200))


def test_the_mirror_pose_casts_nearly_the_same_shadow() -> None:
    """Seen from far away the same: points of the surface project to where points of it did."""
    mesh = stem()
    found = symmetry_of(mesh)
    at = torch.eye(4, dtype=torch.float64)
    at[:3, 3] = -found.centre
    here = Rigid(pose(0.3, 0.2, 0.4, 5.0, -6.0, 7.0).matrix @ at)
    shadows = []
    for sod in (700.0, 70_000.0):
        look = View.from_carm(primary=0, secondary=0, sid=1000 / 700 * sod, sod=sod, pixel_spacing=1.0, shape=(200, 200))
        other = mirror_pose(found, here, look)
        assert se3.is_rigid(other.matrix) and apart(found, here, other) > 10
        a, b = (look.project(p.apply(mesh.vertices)).detach() for p in (here, other))
        shadows.append(float(torch.cdist(a, b).amin(0).max()))
    assert shadows[1] < 0.3 and 1 < shadows[0] < 20  # pixels: perspective tells the two apart


def test_outlines_that_all_lie_outwards_look_nearer() -> None:
    """Of a ball of radius r at z, the depth that makes its outline wider by e is z e / r."""
    angles = np.linspace(0, math.pi, 60)
    ball = turned_mesh([(-16 * math.cos(a), max(1e-3, 16 * math.sin(a))) for a in angles], sides=90)
    found = symmetry_of(ball)
    here = pose(0.0, 0, 0, 0, 0, 0)
    blur = outlines_off(found, here, found.centre, [view()], mm=0.1)
    beam = view().normal.detach()
    assert abs(float(blur[3:] @ beam)) == pytest.approx(700 * 0.1 / 16, rel=0.1)
    across = blur[3:] - (blur[3:] @ beam) * beam
    assert float(across.norm()) < 0.05


def test_a_result_without_symmetry_stays_as_it_is() -> None:
    mesh = stem()
    found = replace(symmetry_of(mesh), mirror=None)
    eye = torch.eye(4, dtype=torch.float64)
    result = Result(
        Rigid(eye), Rigid(eye), torch.eye(6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0, Confidence(1.0, True)
    )
    assert settled(Problem.__new__(Problem), result, found) is result
    assert "ambiguity" not in result.to_dict()
    said = replace(result, ambiguity=ambiguity_of(symmetry_of(cylinder()), result.transform)).to_dict()["ambiguity"]
    assert said["free_turns"] == 1 and said["equivalent_poses"] == 1 and len(said["words"]) == 2


def _moves(point: torch.Tensor, centre: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """[3, 3] covariance, mm^2, of a world point that twists about a centre carry along."""
    x, y, z = (point - centre).tolist()
    cross = torch.tensor([[0, z, -y], [-z, 0, x], [y, -x, 0]], dtype=torch.float64)  # w x arm
    lever = torch.cat([cross, torch.eye(3, dtype=torch.float64)], 1)
    return lever @ covariance @ lever.T


def test_a_free_turn_is_one_about_the_axis_wherever_the_twists_are_counted_from() -> None:
    symmetry = symmetry_of(cylinder())
    pose = Rigid(se3.exp(torch.tensor([0.4, 0.1, -0.3, 20.0, -5.0, 9.0], dtype=torch.float64)))
    ambiguity = ambiguity_of(symmetry, pose)
    assert ambiguity.free == 1 and ambiguity.axis is not None
    point, direction = ambiguity.axis
    aside = point + torch.tensor([15.0, -8.0, 4.0], dtype=torch.float64)  # the volume's centre is seldom on the axis
    covariance = 1e-4 * torch.eye(6, dtype=torch.float64)
    free, known = opened_turns(covariance, aside, ambiguity, point)
    for along in (-20.0, 0.0, 30.0):  # what lies on the axis stays where it is
        on_axis = _moves(point + along * direction, aside, free)
        assert float(on_axis.trace()) < 3 * float(_moves(point + along * direction, aside, covariance).trace()) + 1e-6
    across = torch.linalg.cross(direction, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    rim = _moves(point + 8 * across / across.norm(), aside, free)
    assert float(rim.trace()) == pytest.approx((8 * math.pi) ** 2, rel=0.01)
    assert float(torch.linalg.eigvalsh(known)[-1]) < 1.0


def test_only_maps_whose_products_are_maps_stay() -> None:
    """Sixths of a turn, and a stray one: the sixths are a group without it."""
    angles = [*np.arange(0, 360, 60.0), 25.0]
    maps = [se3.exp(torch.tensor([0, 0, math.radians(a), 0, 0, 0], dtype=torch.float64)).numpy() for a in angles]
    kept = closed(maps, 2.0)
    assert len(kept) == 6 and all(k is m for k, m in zip(kept, maps, strict=False))
    assert len(closed([maps[0], maps[-1]], 2.0)) == 1
    assert len(closed(maps[:1], 2.0)) == 1
