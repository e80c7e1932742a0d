"""A bone-like model found in two exposures, however it is turned."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from raylign import InputError
from raylign.data import Volume, XRay
from raylign.evaluation.metrics import mtre
from raylign.geometry import Rigid, View
from raylign.projection import project
from raylign.registration import Anywhere, AnywhereConfig, Problem, centred
from raylign.registration.anywhere_scan import Axis, Region, crossing, scan, spiral_turns

VIEWS = tuple(
    View.from_carm(primary=p, secondary=s, sid=1000, sod=650, pixel_spacing=2.4, shape=(96, 96)) for p, s in ((0, 0), (80, 10))
)
SMALL = AnywhereConfig(turns=600, again=0.15, places=2, pixels=10, lattice=8.0, tried=120, refined=24, finalists=3)


@lru_cache(maxsize=1)
def bone() -> Volume:
    """A shaft 70 mm long that bends, with a broad end, a knob on one side of it and a spur on another."""
    n = torch.arange(-20, 21, dtype=torch.float64) * 2.0
    z, y, x = torch.meshgrid(n, n, n, indexing="ij")
    bend = 0.003 * (z + 20) ** 2
    shaft = ((x - bend) ** 2 + y**2 < (5 + 0.004 * (z.clamp_min(-30) - 30) ** 2) ** 2) & (z.abs() < 35)
    knob = (x + 12) ** 2 + (y - 4) ** 2 + (z + 24) ** 2 < 64
    spur = ((x - 4).abs() < 4) & (y < 0) & (y > -20) & ((z - 12).abs() < 4)
    data = 0.03 * (shaft | knob | spur).float()
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    affine[:3, 3] = -40
    return Volume(data, affine, unit="1/mm")


def exposures(pose: Rigid) -> tuple[XRay, ...]:
    """With a disc and a wire in them that the model does not know."""
    found = []
    for view in VIEWS:
        image = project(bone(), view, pose.matrix, step=1.0)[0, 0].float()
        r, c = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
        image = image + 0.6 * ((r - 70) ** 2 + (c - 20) ** 2 < 80) + 0.8 * ((r - 8).abs() < 1)
        noise = 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(3))
        found.append(XRay(image + noise, view, torch.ones(96, 96, dtype=torch.bool)))
    return tuple(found)


def posed(seed: int) -> Rigid:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(Rotation.random(rng=np.random.default_rng(seed)).as_matrix())
    matrix[:3, 3] = torch.tensor([10.0, -14.0, 8.0])
    return Rigid(matrix)


def test_turns_cover_all_of_so3_evenly() -> None:
    turns = Rotation.from_matrix(spiral_turns(600))
    nearest = [float(np.degrees((turns * r.inv()).magnitude().min())) for r in Rotation.random(200, rng=np.random.default_rng(0))]
    # a cubic grid of as many has neighbours 29 degrees apart, and its holes' middles 25 from the nearest
    assert max(nearest) < 29 and float(np.mean(nearest)) < 17


def test_where_beams_cross() -> None:
    assert np.allclose(crossing(VIEWS), 0, atol=4)  # the middles of even detectors lie half a pixel beside the isocentre
    with pytest.raises(InputError, match="two exposures"):
        crossing(VIEWS[:1])
    with pytest.raises(InputError, match="different directions"):
        crossing((VIEWS[0], VIEWS[0]))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bone_is_found_however_it_is_turned(seed: int) -> None:
    truth = posed(seed)
    result = Anywhere(SMALL).register(Problem(bone(), exposures(truth), centred(bone())))
    points = torch.tensor([[0.0, 0, -30], [0, 0, 30], [10, 0, 0], [0, 10, 0]], dtype=torch.float64)
    assert float(mtre(result.transform, truth, points)) < 1.0


def test_what_is_known_narrows_the_search() -> None:
    truth = posed(3)
    z = truth.matrix[:3, 2].numpy()
    at = truth.apply(bone().centre[None])[0].numpy()
    known = replace(SMALL, turns=300, again=0.0, region=Region(at, 20.0), axis=Axis(np.array([0, 0, 1.0]), z, 30.0))
    found = scan(Problem(bone(), exposures(truth), centred(bone())), known)
    assert found
    for _, matrix in found:
        assert matrix[:3, 2] @ z > math.cos(math.radians(30.1))
        assert np.linalg.norm(matrix[:3, :3] @ bone().centre.numpy() + matrix[:3, 3] - at) < 25
    with pytest.raises(InputError, match="no turn"):
        narrow = replace(known, axis=Axis(np.array([0, 0, 1.0]), z, 0.01))
        scan(Problem(bone(), exposures(truth), centred(bone())), narrow)


def test_a_joint_and_two_directions_narrow_it_further() -> None:
    truth = posed(3)
    tip = np.array([-2.0, 4.0, 34.0])  # a point of the bone far from its middle, in the model's frame
    at = truth.apply(torch.from_numpy(tip)[None])[0].numpy()
    axes = tuple(Axis(v, truth.matrix[:3, :3].numpy() @ v, 35.0) for v in np.eye(3)[[0, 2]])
    joined = replace(SMALL, turns=2500, again=0.0, lattice=3.0, region=Region(at, 6.0, tip), axis=axes)
    found = scan(Problem(bone(), exposures(truth), centred(bone())), joined)
    for _, matrix in found:
        assert matrix[:3, 0] @ truth.matrix[:3, 0].numpy() > math.cos(math.radians(35.1))
        assert matrix[:3, 2] @ truth.matrix[:3, 2].numpy() > math.cos(math.radians(35.1))
        assert np.linalg.norm(matrix[:3, :3] @ tip + matrix[:3, 3] - at) < 6.1
    best = Rigid(torch.from_numpy(found[0][1]))
    points = torch.tensor([[0.0, 0, -30], [0, 0, 30]], dtype=torch.float64)
    assert float(mtre(best, truth, points)) < 15.0  # one of a grid 19 degrees apart


def test_a_refined_pose_still_agrees_with_what_is_known() -> None:
    axis, point, middle = np.array([0.0, 0, 1]), np.array([0.0, 0, 30]), np.zeros(3)
    known = replace(SMALL, region=Region(np.array([0.0, 0, 30]), 10.0, point), axis=(Axis(axis, axis, 20.0),))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_rotvec([math.radians(28), 0, 0]).as_matrix()
    turned[:3, 3] = point - turned[:3, :3] @ point  # about the point
    assert known.allows(turned, middle)
    assert not replace(known, axis=Axis(axis, axis, 18.0)).allows(turned, middle)
    moved = np.eye(4)
    moved[0, 3] = 14.0
    assert known.allows(moved, middle)
    assert not replace(known, region=Region(point, 9.0, point)).allows(moved, middle)
    assert replace(known, region=None).allows(moved, middle)
    assert not replace(known, region=Region(point, 10.0)).allows(moved, middle)  # of the middle, which lies 30 mm away


def test_a_result_that_strayed_from_what_is_known_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct method, about a finalist, knows nothing of regions: what it moves out of one is dropped."""
    truth = posed(1)
    at = truth.apply(bone().centre[None])[0].numpy()
    problem = Problem(bone(), exposures(truth), centred(bone()))
    near = truth.matrix.numpy().copy()
    near[:3, 3] += (3.0, -4.0, 0.0)  # where a coarse level might have left it
    monkeypatch.setattr("raylign.registration.anywhere.scan", lambda problem, config: [(1.0, near)])
    monkeypatch.setattr(Anywhere, "coarse", lambda self, problem, found: [(-1.0, near)])
    around = replace(SMALL, region=Region(at, 5.0))
    assert around.allows(Anywhere(around).register(problem).transform.matrix.numpy(), bone().centre.numpy())
    # the shadow draws it out of a region about where it started
    beside = replace(
        SMALL, region=Region(at + np.array([3.0, -4.0, 0]) * 2, 5.0), axis=Axis(np.eye(3)[2], truth.matrix[:3, 2].numpy(), 30.0)
    )
    assert beside.allows(near, bone().centre.numpy())
    with pytest.raises(InputError, match="against what is known") as told:
        Anywhere(beside).register(problem)
    assert told.value.field == "region, axis"
    monkeypatch.setattr(Anywhere, "coarse", lambda self, problem, found: [])
    with pytest.raises(InputError, match="against what is known") as told:
        Anywhere(around).register(problem)
    assert told.value.field == "region"


def test_a_joint_that_is_not_shown_still_holds_its_bone() -> None:
    """The joint lies outside the first exposure's diaphragm; the middle of the bone does not."""
    truth = posed(3)
    tip = np.array([-2.0, 4.0, 34.0])
    at = truth.apply(torch.from_numpy(tip)[None])[0].numpy()
    first, second = exposures(truth)
    pixel = VIEWS[0].project(torch.from_numpy(at)[None])[0]
    columns, rows = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="xy")
    hidden = (columns - pixel[0]) ** 2 + (rows - pixel[1]) ** 2 < 10**2
    problem = Problem(bone(), (replace(first, mask=first.mask & ~hidden), second), centred(bone()))
    axes = tuple(Axis(v, truth.matrix[:3, :3].numpy() @ v, 35.0) for v in np.eye(3)[[0, 2]])
    found = scan(problem, replace(SMALL, turns=2500, again=0.0, lattice=3.0, region=Region(at, 6.0, tip), axis=axes))
    best = Rigid(torch.from_numpy(found[0][1]))
    assert float(mtre(best, truth, torch.tensor([[0.0, 0, -30], [0, 0, 30]], dtype=torch.float64))) < 15.0
    with pytest.raises(InputError, match="nothing like the model"):
        scan(problem, replace(SMALL, turns=50, again=0.0, region=Region(at + 500.0, 6.0, tip)))


def test_a_known_body_no_longer_draws() -> None:
    """Two copies of one bone: once one is known, nothing is left to find where it is, and the other is found as before."""
    first, second = posed(4), posed(4)
    first.matrix[:3, 3] += torch.tensor([0.0, 14.0, 28.0])
    second.matrix[:3, 3] += torch.tensor([0.0, 14.0, -44.0])
    pairs = zip(exposures(first), exposures(second), strict=True)
    problem = Problem(bone(), tuple(replace(a, image=a.image + b.image) for a, b in pairs), centred(bone()))

    def score(around: Rigid, known: tuple[Rigid, ...]) -> float:
        region = Region(around.apply(bone().centre[None])[0].numpy(), 8.0)
        axis = Axis(np.array([0, 0, 1.0]), first.matrix[:3, 2].numpy(), 12.0)
        few = replace(SMALL, axis=axis, turns=2000, again=0.0, places=1, lattice=4.0, region=region)
        return scan(problem, replace(few, known=tuple((bone(), pose) for pose in known)))[0][0]

    for known, other in ((first, second), (second, first)):
        assert score(known, (known,)) < 0.4 * score(known, ())
        assert score(other, (known,)) > 0.8 * score(other, ())


def test_a_pose_that_one_exposure_puts_elsewhere_is_found_at_another_depth() -> None:
    """Right in the second exposure, 16 mm off along its beam, where the first shows a fainter shadow like the bone's."""
    truth = posed(2)
    off = truth.matrix.numpy().copy()
    off[:3, 3] += 16.0 * VIEWS[1].directions(truth.apply(bone().centre[None]))[0].numpy()
    first, second = exposures(truth)
    fainter = 0.6 * project(bone(), VIEWS[0], torch.from_numpy(off), step=1.0)[0, 0].float()
    xrays = (replace(first, image=first.image + fainter), second)
    problem = Problem(bone(), xrays, centred(bone()))
    points = torch.tensor([[0.0, 0, -30], [0, 0, 30], [10, 0, 0], [0, 10, 0]], dtype=torch.float64)

    def ends(finer: int) -> float:
        _, matrix = Anywhere(replace(SMALL, finer=finer)).coarse(problem, [(1.0, off)])[0]
        return float(mtre(Rigid(torch.from_numpy(matrix)), truth, points))

    assert ends(0) > 8.0
    assert ends(4) < 2.0


def test_one_exposure_is_not_enough() -> None:
    with pytest.raises(InputError, match="two exposures"):
        Anywhere(SMALL).register(Problem(bone(), exposures(posed(1))[:1], centred(bone())))
    with pytest.raises(InputError, match="too few"):
        AnywhereConfig(turns=0)
