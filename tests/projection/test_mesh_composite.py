"""Solid bodies in a rendered volume: what they displace, against closed forms, and derivatives by all that moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raylign.data import Mesh, Volume
from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.projection import mesh_reference, project
from raylign.projection.mesh import project_mesh, seen
from raylign.projection.mesh_composite import Solid, composite, inside, stretches
from tests.projection import mesh_shapes as shapes
from tests.projection.mesh_shapes import D

SLOPE = torch.tensor([1e-4, 2e-4, -5e-5], dtype=D)
BEAMS = {"cone": shapes.cone((20, 22), 7.0), "parallel": shapes.parallel((20, 22), 5.0)}
POSE = se3.exp(torch.tensor([0.3, -0.2, 0.4, 2.0, -3.0, 1.0], dtype=D))


def tissue(slope: Tensor = SLOPE, dtype: torch.dtype = torch.float32) -> Volume:
    """A block of 120 mm about the origin whose attenuation rises linearly: trilinear interpolation is exact in it."""
    axis = torch.arange(61, dtype=D) * 2 - 60
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=D))
    affine[:3, 3] = -60
    return Volume((0.02 + x * slope[0] + y * slope[1] + z * slope[2]).to(dtype), affine)


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize(
    "mesh", [shapes.torus(), shapes.joined(shapes.box(20, 20, 20), shapes.moved(shapes.box(16, 16, 16), 25.0))]
)
def test_what_a_body_displaces_is_the_volume_within_it(mesh: Mesh, beam: str) -> None:
    """In a linear field a stretch's integral is its length times the value at its middle."""
    it = seen(mesh, BEAMS[beam], POSE)
    pixel, begin, end = stretches(it)
    assert len(pixel) > 30
    o, d = (x.reshape(-1, 3)[pixel] for x in shapes.begins(BEAMS[beam]))
    middle = o + ((begin + end) / 2)[:, None] * d
    values = (0.02 + middle @ SLOPE) * (end - begin) * d.norm(dim=1)
    expected = torch.zeros(20 * 22, dtype=D).index_add(0, pixel, values).reshape(20, 22)
    found = inside(tissue(), torch.eye(4, dtype=D)[None], it)[0, 0]
    assert float((found - expected).abs().max()) < 1e-6 * float(expected.max()) * 5
    lengths = torch.zeros(20 * 22, dtype=D).index_add(0, pixel, (end - begin) * d.norm(dim=1)).reshape(20, 22)
    assert float((lengths - project_mesh(mesh, BEAMS[beam], POSE)[0, 0]).abs().max()) < 1e-4


def test_overlapping_parts_displace_once() -> None:
    ball = shapes.sphere(2, 20.0)
    one, two = (inside(tissue(), POSE[None], seen(m, BEAMS["cone"])) for m in (ball, shapes.joined(ball, ball)))
    assert float(one.max()) > 0.3 and torch.allclose(one, two, atol=1e-6)


def test_a_body_of_what_it_displaces_cannot_be_seen() -> None:
    """In homogeneous tissue a body of the same attenuation leaves the image as it was."""
    even = tissue(torch.zeros(3, dtype=D))
    view = BEAMS["cone"]
    plain = project(even, view, POSE)
    assert float(plain.max()) > 2
    assert torch.allclose(composite(even, Solid(shapes.torus(), 0.02), view, POSE), plain, atol=1e-5)
    steel = composite(even, Solid(shapes.torus(), 0.5), view, POSE)
    added = composite(even, Solid(shapes.torus(), 0.48), view, POSE, replace=False)
    assert torch.allclose(steel, added, atol=2e-5)
    assert float((steel - plain).max()) > 5


def test_a_source_within_a_body_begins_inside() -> None:
    view = View.from_carm(sid=1000, sod=10, pixel_spacing=30.0, shape=(8, 8))
    it = seen(shapes.sphere(3, 25.0), view)
    pixel, begin, end = stretches(it)
    assert len(pixel) == 64 and float(begin.max()) == 0 and float(end.min()) > 0


def test_bodies_move_with_the_patient_or_on_their_own() -> None:
    view, mesh = BEAMS["cone"], shapes.torus()
    poses = torch.stack([POSE, torch.eye(4, dtype=D)])
    fixed = composite(tissue(), Solid(mesh, 0.4), view, poses)
    given = composite(tissue(), Solid(mesh, 0.4, poses), view, poses)
    assert fixed.shape == (2, 1, 20, 22) and torch.equal(fixed, given)
    still = composite(tissue(), Solid(mesh, 0.4, POSE), view, poses)
    assert torch.allclose(still[0], fixed[0], atol=1e-5) and not torch.allclose(still[1], fixed[1], atol=1e-2)
    shifted = shapes.moved(shapes.tetrahedron(10.0), 40.0, 5.0, 0.0)
    both = composite(tissue(), [Solid(mesh, 0.4), Solid(shifted, 0.1)], view, POSE)
    parts = composite(tissue(), Solid(mesh, 0.4), view, POSE) + composite(tissue(), Solid(shifted, 0.1), view, POSE)
    assert torch.allclose(both, parts - project(tissue(), view, POSE), atol=1e-5)


def test_gradients_equal_finite_differences() -> None:
    """By the patient's pose, the body's pose, its attenuation and a shift of its vertices."""
    view, mesh = shapes.cone((12, 14), 9.0), shapes.torus(12, 8)
    weights = 1 + 0.1 * torch.arange(12, dtype=D)[:, None] - 0.05 * torch.arange(14, dtype=D)
    toward = torch.randn(mesh.vertices.shape, dtype=D, generator=torch.Generator().manual_seed(6))

    def body(numbers: Tensor) -> Solid:
        return Solid(mesh, numbers[12], se3.exp(numbers[6:12]), mesh.vertices + numbers[13] * toward)

    def change(numbers: Tensor) -> Tensor:
        """What the body does to the image: the rest is the volume projector's."""
        pose = se3.exp(numbers[:6])
        return ((composite(tissue(), body(numbers), view, pose) - project(tissue(), view, pose))[0, 0] * weights).sum()

    def exact(numbers: Tensor) -> Tensor:
        """The same in double precision; the field is linear, so that the number of samples, which jumps, plays no part."""
        solid = body(numbers)
        it = seen(mesh, view, solid.poses, solid.vertices)
        thickness = mesh_reference.thickness(it.rays, it.vertices, it.faces, it.shape)[0] * it.lengths()[0]
        displaced = inside(double, se3.exp(numbers[:6])[None], it, step=20.0)[0, 0]
        return ((solid.attenuation * thickness - displaced) * weights).sum()

    double = tissue(dtype=torch.float64)
    at = torch.cat(
        [0.1 * torch.randn(12, dtype=D, generator=torch.Generator().manual_seed(5)), torch.tensor([0.3, 0.1], dtype=D)]
    )
    leaf = at.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(change(leaf), leaf)
    for i in range(14):
        e = torch.zeros(14, dtype=D)
        e[i] = 1e-6
        with torch.no_grad():
            expected = float(exact(at + e) - exact(at - e)) / 2e-6
        assert float(slopes[i]) == pytest.approx(expected, rel=1e-3, abs=1e-4 * float(slopes[[i % 6, 6 + i % 6]].abs().max())), i


def test_the_volume_receives_its_gradient() -> None:
    """The composite is linear in the volume where a body displaces it."""
    base = tissue(dtype=torch.float64)
    small = Volume(
        base.data[::6, ::6, ::6].clone().requires_grad_(), base.affine @ torch.diag(torch.tensor([6.0, 6, 6, 1], dtype=D))
    )
    view, body = shapes.cone((6, 7), 18.0), Solid(shapes.torus(12, 8), 0.3)
    image = composite(small, body, view)
    (slope,) = torch.autograd.grad(image.sum(), small.data)
    without = composite(Volume(torch.zeros_like(small.data), small.affine), body, view)
    assert float((slope * small.data.detach()).sum()) == pytest.approx(float((image - without).detach().sum()), rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    view = BEAMS["cone"]
    with pytest.raises(InputError, match="attenuation"):
        Solid(shapes.torus(), -0.1)
    with pytest.raises(InputError, match="2 poses of a solid for 3"):
        composite(tissue(), Solid(shapes.torus(), 0.1, POSE.expand(2, 4, 4)), view, POSE.expand(3, 4, 4))
    with pytest.raises(InputError, match="step"):
        composite(tissue(), Solid(shapes.torus(), 0.1), view, step=0.0)
