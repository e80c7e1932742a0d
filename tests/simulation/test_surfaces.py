"""Surfaces of implicit solids against analytic volumes and areas, with trimesh as the judge of what is closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.simulation.phantoms.field import Ellipsoid, Union
from raylign.simulation.phantoms.surface_checks import self_intersections
from raylign.simulation.phantoms.surfaces import drawn_surface, mesh_volume, moved, surface, swept_surface


def _closed(mesh: Mesh) -> trimesh.Trimesh:
    out = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert out.is_watertight and out.is_winding_consistent and out.euler_number % 2 == 0
    assert out.area_faces.min() > 0
    assert out.volume > 0 and mesh_volume(mesh) == pytest.approx(out.volume, rel=1e-9)
    return out


def test_a_sphere_has_the_area_and_volume_of_a_sphere() -> None:
    mesh = surface(lambda x, y, z: np.sqrt((x - 3) ** 2 + y**2 + (z + 40) ** 2) - 20, (-18, -21, -61), (24, 21, -19), 1.0, "ball")
    ball = _closed(mesh)
    assert ball.euler_number == 2 and mesh.name == "ball"
    r = np.linalg.norm(ball.vertices - [3, 0, -40], axis=1)
    assert abs(r - 20).max() < 1.0 / (8 * 20) * 1.5  # a chord's sag, with a little room
    assert ball.volume == pytest.approx(4 / 3 * math.pi * 20**3, rel=2e-3) and ball.area == pytest.approx(
        4 * math.pi * 400, rel=3e-3
    )
    outward = np.einsum("ij,ij->i", ball.face_normals, ball.triangles_center - [3, 0, -40])
    assert outward.min() > 0


def test_x_y_and_z_are_not_mixed_up() -> None:
    solid = Ellipsoid((10, -20, 30), (5, 8, 12), (0.3, 0.0, 1.0))
    made = _closed(surface(solid.distance, (-8, -34, 14), (28, -6, 46), 0.8, "egg"))
    np.testing.assert_allclose(made.center_mass, solid.centre, atol=0.02)
    assert made.volume == pytest.approx(4 / 3 * math.pi * 5 * 8 * 12, rel=0.02)


def test_a_drawn_solid_and_one_that_leaves_the_box_are_closed() -> None:
    def draw(union: Union) -> None:
        union.tube(np.array([[0.0, 0, -50], [0, 0, 50]]), 6.0, 1)

    rod = _closed(drawn_surface(draw, (-8, -8, -20), (8, 8, 20), 0.7, "rod"))
    assert rod.volume == pytest.approx(math.pi * 36 * (rod.bounds[1, 2] - rod.bounds[0, 2]), rel=0.03)
    assert rod.bounds[1, 2] == pytest.approx(20, abs=1.5)


def test_a_flat_face_between_samples_makes_no_triangle_without_area() -> None:
    _closed(
        surface(lambda x, y, z: np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - np.float32(5), (-6,) * 3, (6,) * 3, 1.0, "box")
    )


def test_a_moved_mesh_keeps_its_sides() -> None:
    mesh = surface(Ellipsoid((0, 0, 0), (6, 6, 6)).distance, (-7,) * 3, (7,) * 3, 1.0, "ball")
    other = moved(mesh, (1.0, 2.0, 0.5), (5.0, 6.0, 7.0))
    assert mesh_volume(other) == pytest.approx(mesh_volume(mesh)) and torch.equal(other.faces, mesh.faces)
    np.testing.assert_allclose(_closed(other).center_mass, (5, 6, 7), atol=0.05)


@pytest.mark.parametrize(
    ("low", "high", "pitch"), [((0,) * 3, (9,) * 3, 0.0), ((5, 0, 0), (5, 9, 9), 1.0), ((50,) * 3, (60,) * 3, 1.0)]
)
def test_an_empty_box_or_pitch_is_refused(low: tuple[float, ...], high: tuple[float, ...], pitch: float) -> None:
    with pytest.raises(InputError):
        surface(Ellipsoid((0, 0, 0), (6, 6, 6)).distance, low, high, pitch, "ball")


def test_a_swept_rod_has_the_volume_of_a_rod() -> None:
    line = np.stack([np.zeros(30), np.zeros(30), np.linspace(0, 100, 30)], 1)
    mesh = swept_surface(line, np.tile([3.0, 6.0], (30, 1)), np.tile([1.0, 0, 0], (30, 1)), "rod", 48)
    rod = _closed(mesh)
    assert rod.volume == pytest.approx(math.pi * 18 * 100 + 4 / 3 * math.pi * 3 * 6 * 3, rel=0.02)
    np.testing.assert_allclose(rod.extents, (6, 12, 106), atol=0.1)
    assert self_intersections(mesh) == 0


def test_a_surface_that_runs_through_itself_is_found() -> None:
    ball = surface(Ellipsoid((0, 0, 0), (6, 6, 6)).distance, (-7,) * 3, (7,) * 3, 1.0, "ball")
    assert self_intersections(ball) == 0

    def both(shift: float) -> Mesh:
        other = ball.vertices + torch.tensor([shift, 0.3, 0.1])
        return Mesh(torch.cat([ball.vertices, other]), torch.cat([ball.faces, ball.faces + len(ball.vertices)]), "two")

    assert self_intersections(both(20.0)) == 0
    crossed = self_intersections(both(9.0))
    assert 20 < crossed < len(ball.faces) / 2  # a ring on each of the two
    bent = swept_surface(
        np.array([[0.0, 0, 0], [10, 0, 0], [20, 0, 0], [20, 2, 0], [10, 2, 0], [0, 2, 0]]),
        np.full((6, 2), 3.0), np.tile([0.0, 0, 1], (6, 1)), "hairpin",
    )  # fmt: skip
    assert self_intersections(bent) > 0
