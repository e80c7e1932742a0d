"""The joint system's derivatives, against finite differences in double precision and against a solution by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from raylign.data import Volume
from raylign.registration.collision import CollisionConfig, collisions, deepest, distances, penalty_of, solid_of
from raylign.registration.matching import Comparison, Rendering
from raylign.registration.objects import Joint, ObjectsConfig, linked
from raylign.registration.objects_joint import (
    Linked,
    Together,
    centres_under,
    compared,
    joint_penalty,
    joint_residuals,
    settled,
    shown,
    weighed,
)
from raylign.registration.objects_levels import answered_by_all, corners_of, framing, object_scales, stumps
from raylign.registration.search import moved
from tests.registration import jointed


def _turned(seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(scale * rng.normal(size=3)).as_matrix()
    out[:3, 3] = 20 * rng.normal(size=3)
    return out


def _joint() -> Joint:
    axes = Rotation.from_rotvec([0.3, 0.2, -0.5]).as_matrix()
    neutral = Rotation.from_rotvec([-0.2, 0.4, 0.1]).as_matrix()
    a, b = (torch.tensor(p, dtype=torch.float64) for p in ([3.0, -2.0, 5.0], [-4.0, 1.0, 7.0]))
    return Joint("a", "b", a, b, 2.0, (10.0, 20.0, float("inf")), torch.from_numpy(axes), torch.from_numpy(neutral))


def _differences(value, matrices, centres, h=1e-6):  # type: ignore[no-untyped-def]
    """Central differences [n, 6 N] of a function of poses by twists about centres."""
    columns = []
    for number in range(len(matrices)):
        for k in range(6):
            ends = []
            for sign in (1, -1):
                twist = np.zeros(6)
                twist[k] = sign * h
                changed = list(matrices)
                changed[number] = moved(matrices[number], twist, centres[number])
                ends.append(np.asarray(value(changed)))
            columns.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(columns, -1)


def test_a_joints_jacobian_is_its_derivative() -> None:
    matrices = [_turned(1), _turned(2), _turned(3)]
    centres = [np.array([1.0, 2, 3]), np.array([-5.0, 0, 4]), np.zeros(3)]
    link = Linked(2, 0, _joint())  # the first body stands third, one of no joint between
    residuals, jacobian, precision = joint_residuals(link, matrices, centres)
    assert len(residuals) == 5  # an infinite deviation is no residual
    expected = _differences(lambda m: joint_residuals(link, m, centres)[0], matrices, centres)
    assert np.allclose(jacobian, expected, atol=1e-6)
    assert np.allclose(precision, [0.25] * 3 + [np.radians(10) ** -2, np.radians(20) ** -2])
    penalty = joint_penalty([link], matrices, centres)
    slope = _differences(lambda m: joint_penalty([link], m, centres).value, matrices, centres)
    assert np.allclose(-2 * penalty.gradient, slope, rtol=1e-5, atol=1e-3)


def test_a_joint_at_rest_costs_nothing() -> None:
    joint = _joint()
    a = _turned(4)
    b = np.eye(4)
    b[:3, :3] = a[:3, :3] @ joint.turn
    b[:3, 3] = a[:3, :3] @ joint.centre.numpy() + a[:3, 3] - b[:3, :3] @ joint.point_in("b").numpy()
    assert joint_penalty([Linked(0, 1, joint)], [a, b], [np.zeros(3)] * 2).value < 1e-16


def _solids():  # type: ignore[no-untyped-def]
    solids = [solid_of(jointed.model(n), 2.0) for n in ("socket", "shaft")]
    inside = jointed.off(jointed.truth()["shaft"], (0, 0, 0, -1.0, 2.0, 7.0))  # 7 mm into its socket
    return solids, [jointed.truth()["socket"].matrix.numpy(), inside.matrix.numpy()]


def test_distances_are_those_of_the_shape() -> None:
    solid = solid_of(jointed.model("shaft", 1.2), 1.2)
    rng = np.random.default_rng(0)
    points = jointed.CENTRE.numpy() + 0.9 * 14 * rng.normal(size=(400, 3)) / 1.7
    away, slope = distances(solid, points, np.eye(4))
    arms = points - jointed.CENTRE.numpy()
    gold = np.linalg.norm(arms, axis=1) - 11.0
    known = (away < 100) & (np.abs(gold) < 4) & (arms[:, 0] < -2) & (arms[:, 2] > -4)  # the head where the neck is far
    assert known.sum() > 40
    assert np.abs(away - gold)[known].max() < 1.2
    assert abs(float((away - gold)[known].mean())) < 0.6
    assert np.linalg.norm(slope[known], axis=1).mean() > 0.8


def test_collisions_push_apart() -> None:
    solids, matrices = _solids()
    centres = [m[:3, 3] for m in matrices]
    config = CollisionConfig(slack_mm=0.5)
    penalty = collisions(solids, matrices, centres, config)
    assert penalty.value > 0
    slope = _differences(lambda m: collisions(solids, m, centres, config).value, matrices, centres, h=1e-5)
    assert np.allclose(-2 * penalty.gradient, slope, rtol=0.02, atol=0.02 * np.abs(slope).max())
    step = np.linalg.solve(penalty.hessian + 1e-3 * np.trace(penalty.hessian) * np.eye(12), penalty.gradient)
    after = [moved(m, step[6 * i : 6 * i + 6], c) for i, (m, c) in enumerate(zip(matrices, centres, strict=True))]
    assert collisions(solids, after, centres, config).value < 0.5 * penalty.value
    assert deepest(solids, matrices)[0, 1] > deepest(solids, after)[0, 1]


def test_a_contact_counts_once_and_not_from_each_side() -> None:
    """A block 2 mm deep in another over 20 by 20 mm, no slack: 4 cm^2 times the depth squared."""
    block = torch.zeros(24, 30, 30)
    block[2:22, 5:25, 5:25] = 0.02
    affine = torch.eye(4, dtype=torch.float64)
    solids = [solid_of(Volume(block, affine, "1/mm"), 1.0)] * 2
    there = np.eye(4)
    there[2, 3] = 18.0  # the first one's upper face is 20 mm above its lower one
    config = CollisionConfig(slack_mm=0.0, sd_mm=1.0)
    matrices = [np.eye(4), there]
    depth = deepest(solids, matrices)[0, 1]  # by voxels' centres: half a voxel less than by their faces
    assert depth == pytest.approx(1.5, abs=0.1)
    value = collisions(solids, matrices, [np.zeros(3)] * 2, config).value
    assert value == pytest.approx(4 * depth**2, rel=0.3)


def test_bodies_apart_do_not_collide() -> None:
    solids, matrices = _solids()
    matrices[1] = matrices[1].copy()
    matrices[1][:3, 3] += [0, 300, 0]
    assert collisions(solids, matrices, [np.zeros(3)] * 2, CollisionConfig()).value == 0
    assert deepest(solids, matrices)[0, 1] == 0


def _scale(*angles: float):  # type: ignore[no-untyped-def]
    given = jointed.problem(*angles)
    config = ObjectsConfig()
    matrices = [b.start.matrix.numpy() for b in given.bodies]
    moving = [(b.model, m) for b, m in zip(given.bodies, matrices, strict=True)]
    corners = np.concatenate([corners_of(*m) for m in moving])
    frame = replace(framing(given.xrays, corners, (corners, 8.0), (96, 18)), count=1)
    match = replace(config.direct.match, step=0.5)
    return object_scales(moving, [], given.xrays, frame, config.direct)[0], matrices, match


def test_the_joint_jacobian_is_the_derivative_of_the_image() -> None:
    """Of the sum of both bodies' line integrals, by all twelve parameters; each body's own block from its own rendering alone."""
    scale, matrices, match = _scale(10.0)
    centres = centres_under(scale, matrices)
    image = scale.images[0]
    seen = shown(scale, matrices, match)
    blocks = []
    for model, rendering in zip(scale.models, seen.renderings, strict=True):
        alone = Rendering(rendering.matrix, rendering.integrals, rendering.slopes)
        blocks.append(Comparison(model, [image], alone, (), match).derivatives()[0])
    jacobian = np.concatenate(blocks).astype(float)

    def total(poses):  # type: ignore[no-untyped-def]
        parts = shown(scale, poses, match, jacobian=False).renderings
        return sum(p.integrals[0].astype(float) for p in parts) * image.lengths

    for k in range(12):
        h = 0.01 if k % 6 < 3 else 0.5
        ends = []
        for sign in (1, -1):
            twist = np.zeros(6)
            twist[k % 6] = sign * h
            poses = list(matrices)
            poses[k // 6] = moved(matrices[k // 6], twist, centres[k // 6])
            ends.append(total(poses))
        expected = (ends[0] - ends[1]) / (2 * h)
        beam = abs(float(image.view.normal[k % 6 - 3])) > 0.9 if k % 6 > 2 else False
        off = np.sqrt(((jacobian[k] - expected) ** 2).mean() / (expected**2).mean())
        assert off < (0.5 if beam else 0.12), (k, off)


def test_the_gradient_of_the_cost_adds_both_bodies() -> None:
    scale, matrices, match = _scale(10.0, 100.0)
    centres = centres_under(scale, matrices)
    masks = answered_by_all(scale, matrices, match.window)
    floor = compared(scale, shown(scale, matrices, match), masks, np.zeros(2), match, full=False).noise
    normal = compared(scale, shown(scale, matrices, match), masks, floor, match, full=True)
    usable = sum(i.usable for i in scale.images)
    assert normal.hessian.shape == (12, 12)
    assert np.abs(normal.hessian[:6, 6:]).max() > 0  # they overlap

    def cost(poses):  # type: ignore[no-untyped-def]
        return usable * compared(scale, shown(scale, poses, match), masks, floor, match, full=False).cost

    for k in (0, 1, 3, 5, 6, 8, 9, 11):
        h = 0.01 if k % 6 < 3 else 0.4
        ends = []
        for sign in (1, -1):
            twist = np.zeros(6)
            twist[k % 6] = sign * h
            poses = list(matrices)
            poses[k // 6] = moved(matrices[k // 6], twist, centres[k // 6])
            ends.append(cost(poses))
        slope = (ends[0] - ends[1]) / (2 * h)
        size = np.sqrt(normal.hessian[k, k] * usable * 0.02)  # slopes that matter
        assert abs(-2 * normal.gradient[k] - slope) < 0.2 * abs(slope) + 0.1 * size, k


def _blotched(length: float, size: float, seed: int) -> torch.Tensor:
    """[160, 160] of that standard deviation, alike over that many pixels."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(160, 160)), length) if length else None
    plain = np.random.default_rng(seed).normal(size=(160, 160)) if noise is None else noise
    return torch.from_numpy((plain * size / plain.std()).astype(np.float32))


def _with(changes: tuple[torch.Tensor, torch.Tensor]):  # type: ignore[no-untyped-def]
    given = jointed.problem(10.0, 100.0, starts=jointed.truth())
    matrices = [b.start.matrix.numpy() for b in given.bodies]
    xrays = [replace(x, image=x.image + change) for x, change in zip(given.xrays, changes, strict=True)]
    moving = [(b.model, m) for b, m in zip(given.bodies, matrices, strict=True)]
    corners = np.concatenate([corners_of(*m) for m in moving])
    frame = replace(framing(xrays, corners, (corners, 8.0), (96, 18)), count=1)
    config = ObjectsConfig().direct
    return object_scales(moving, [], xrays, frame, config)[0], matrices, config.match


def test_an_exposure_whose_residuals_err_in_one_sense_counts_less() -> None:
    """Of one with noise and one with structure that no model holds, whichever of them is the first."""
    noise, structure = (_blotched(length, 0.25, 3) for length in (0.0, 4.0))
    for first in (True, False):
        scale, matrices, match = _with((noise, structure) if first else (structure, noise))
        weights = weighed(scale, matrices, match).weights
        assert weights is not None
        noisy, structured = weights if first else weights[::-1]
        assert noisy > 1.5 * structured
    one = replace(scale, images=scale.images[:1])
    assert weighed(one, matrices, match).weights is None


def test_weights_multiply_what_an_exposure_adds() -> None:
    scale, matrices, match = _scale(10.0, 100.0)
    masks = answered_by_all(scale, matrices, match.window)
    seen = shown(scale, matrices, match)
    plain = compared(scale, seen, masks, np.zeros(2), match, full=True)
    same = compared(replace(scale, weights=np.ones(2)), seen, masks, np.zeros(2), match, full=True)
    other = compared(replace(scale, weights=np.array([3.0, 0.0])), seen, masks, np.zeros(2), match, full=True)
    assert same.cost == pytest.approx(plain.cost) and np.allclose(same.hessian, plain.hessian)
    assert other.cost == pytest.approx(3 * plain.costs[0])
    alone = replace(scale, images=scale.images[:1])
    parts = [Rendering(r.matrix, r.integrals[:1], r.slopes[:1]) for r in seen.renderings]
    single = compared(alone, replace(seen, renderings=parts), masks[:1], np.zeros(1), match, full=True)
    assert np.allclose(other.hessian, 3 * single.hessian) and np.allclose(other.gradient, 3 * single.gradient)
    assert np.allclose(other.shares, plain.shares) and other.pixels == plain.pixels


def test_images_and_joints_weigh_as_normal_distributions_do() -> None:
    """Against the weighted least-squares solution of all equations at once."""
    rng = np.random.default_rng(5)
    link = Linked(0, 1, Joint("a", "b", torch.zeros(3, dtype=torch.float64), mm=2.0))
    matrices = [np.eye(4), np.eye(4)]
    matrices[1][:3, 3] = [3.0, -2.0, 1.0]
    root = rng.normal(size=(12, 12))
    covariance = 0.1 * root @ root.T + 0.1 * np.eye(12)
    centres = np.array([m[:3, 3] for m in matrices])
    done = Together.at(matrices)
    normal = replace(done.normal, hessian=np.eye(12), gradient=np.zeros(12), centre=centres)
    poses, left = settled(replace(done, normal=normal), covariance, [link])
    residuals, jacobian, precision = joint_residuals(link, matrices, list(centres))
    information = np.linalg.inv(covariance) + jacobian.T @ np.diag(precision) @ jacobian
    expected = np.linalg.solve(information, -jacobian.T @ (precision * residuals))
    assert np.allclose(left, np.linalg.inv(information), atol=1e-8)
    assert np.allclose([p[:3, 3] for p in poses], centres + np.stack([expected[3:6], expected[9:]]), atol=1e-6)
    assert np.linalg.eigvalsh(covariance - left).min() > -1e-9


def test_a_body_that_is_held_is_not_moved_by_its_joint_and_not_believed_either() -> None:
    """Against draws: poses from images and a joint's point, of which the second body alone is corrected."""
    rng = np.random.default_rng(5)
    link = Linked(0, 1, Joint("a", "b", torch.tensor([20.0, 5.0, -10.0], dtype=torch.float64), mm=0.5))
    matrices = [np.eye(4), np.eye(4)]
    root = 0.02 * rng.normal(size=(12, 12))
    covariance = root @ root.T + 1e-4 * np.eye(12)
    done = Together.at(matrices)
    normal = replace(done.normal, hessian=np.eye(12), gradient=np.zeros(12), centre=np.zeros((2, 3)))
    done = replace(done, normal=normal)
    _, left = settled(done, covariance, [link], held=[0])
    free = settled(done, covariance, [link])[1]
    assert np.allclose(left[:6, :6], covariance[:6, :6])
    assert np.trace(free[6:, 6:]) <= np.trace(left[6:, 6:]) + 1e-9 < np.trace(covariance[6:, 6:])
    _, jacobian, precision = joint_residuals(link, matrices, list(normal.centre))
    off = rng.multivariate_normal(np.zeros(12), covariance, 200_000)  # of the images' poses
    seen = off @ jacobian.T + rng.normal(size=(len(off), len(precision))) / np.sqrt(precision)
    weights = np.linalg.lstsq(seen, off[:, 6:], rcond=None)[0]  # the best that the joint can tell of the second body
    after = np.concatenate([off[:, :6], off[:, 6:] - seen @ weights], 1)
    assert np.allclose(np.cov(after.T), left, atol=0.03 * np.abs(covariance).max())
    shifted = [np.eye(4), np.eye(4)]
    shifted[1][:3, 3] = [3.0, 0.0, 0.0]
    held, moved_too = settled(replace(done, matrices=shifted), covariance, [link], held=[0])[0]
    assert np.array_equal(held, np.eye(4)) and not np.array_equal(moved_too, shifted[1])


def test_a_joint_does_not_undo_what_contact_did() -> None:
    """At rest between images that pull a body in and contact that holds it out; a joint that says nothing changes nothing."""
    link = Linked(0, 1, Joint("a", "b", torch.zeros(3, dtype=torch.float64), mm=1e6))
    matrices = [np.eye(4), np.eye(4)]
    done = Together.at(matrices)
    pull = np.zeros(12)
    pull[3] = 4.0
    normal = replace(done.normal, hessian=np.eye(12), gradient=pull, centre=np.zeros((2, 3)))
    held = penalty_of(np.array([2.0]), np.eye(12)[3:4], 1.0)  # gradient -2: twice as much at a temper of 2
    done = replace(done, normal=normal, temper=2.0)
    kept, _ = settled(done, np.eye(12), [link], held)
    assert abs(kept[0][0, 3]) < 1e-6
    assert settled(done, np.eye(12), [link])[0][0][0, 3] > 3


def test_pixels_where_a_cut_bone_goes_on_are_left_out() -> None:
    scale, matrices, match = _scale(10.0)
    whole = answered_by_all(scale, matrices, match.window)[0]
    cut = replace(jointed.model("shaft"), truncated=((False, False), (False, False), (True, False)))
    data = cut.data[14:].clone()
    affine = cut.affine.clone()
    affine[:3, 3] += affine[:3, 2] * 14
    cut = replace(cut, data=data, affine=affine)
    given = jointed.problem(10.0)
    moving = [(given.bodies[0].model, matrices[0]), (cut, matrices[1])]
    corners = np.concatenate([corners_of(*m) for m in moving])
    frame = replace(framing(given.xrays, corners, (corners, 8.0), (96, 18)), count=1)
    short = object_scales(moving, [], given.xrays, frame, ObjectsConfig().direct)[0]
    ends = stumps(short.models[1])
    assert len(ends) > 0
    mask = answered_by_all(short, matrices, match.window)[0]
    at = short.images[0].view.project(torch.from_numpy(ends @ matrices[1][:3, :3].T + matrices[1][:3, 3])).numpy()
    columns, rows = np.rint(at).astype(int).T
    assert not mask[rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)].any()
    assert mask.sum() > 0.5 * mask.size
    assert whole.all()


def test_linked_finds_bodies_by_name() -> None:
    given = jointed.problem(10.0)
    (link,) = linked(replace(given, joints=(Joint("shaft", "socket", jointed.CENTRE),)))
    assert (link.a, link.b) == (1, 0)
