"""Two bones in one image: recovered, tied, judged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.registration.objects import (
    Body,
    Joint,
    Objects,
    ObjectsConfig,
    ObjectsProblem,
    ObjectsResult,
    joint_scales,
    relative_motion,
)
from raylign.registration.objects_contact import ball_between
from raylign.registration.objects_search import hung, order
from raylign.registration.objects_trust import ObjectEvidence, Sought, before_others, judge_object, judged_body
from raylign.registration.settings import SearchConfig
from raylign.registration.structure_trust import gains_of
from tests.registration import jointed


@lru_cache(maxsize=1)
def of_two_views() -> ObjectsResult:
    """From a start 4 degrees and 5 mm off for the socket, none for the shaft."""
    given = jointed.problem(10.0, 100.0)
    start = jointed.off(jointed.truth()["socket"], (0.05, -0.04, 0.04, 4.0, -3.0, 5.0))
    bodies = (replace(given.bodies[0], start=start, search=SearchConfig(degrees=10, mm=10)), given.bodies[1])
    return Objects().register(replace(given, bodies=bodies))


def test_both_are_found_about_their_joint() -> None:
    result = of_two_views()
    assert jointed.error("socket", result.results["socket"].transform) < 0.5
    assert jointed.error("shaft", result.results["shaft"].transform) < 0.5
    assert result.trusted


def test_the_motion_between_them_is_that_of_the_joint() -> None:
    motion = of_two_views().motions["socket", "shaft"]
    turn = motion.matrix[:3, :3]
    gold = (jointed.truth()["socket"].inverse().matrix @ jointed.truth()["shaft"].matrix)[:3, :3]
    angle = torch.rad2deg(torch.arccos(((turn.T @ gold).trace() - 1).clamp(-2, 2) / 2))
    assert float(angle) < 1.0
    assert motion.degrees == pytest.approx(math.degrees(np.linalg.norm([0.28, 0.24, -0.12])), abs=1.0)
    assert motion.certain


def test_the_joint_step_alone_from_given_starts() -> None:
    given = jointed.problem(10.0, 100.0)
    result = Objects().together(given)
    for name in ("socket", "shaft"):
        before = jointed.error(name, given.bodies[given.index(name)].start)
        assert jointed.error(name, result.results[name].transform) < 0.5 < before
    assert result.covariance.shape == (12, 12)
    assert float(torch.linalg.eigvalsh(result.covariance)[0]) > -1e-9


def test_one_view_is_tied_in_depth_by_the_joint_and_says_so() -> None:
    tied = Objects().together(jointed.problem(10.0))
    free = Objects().together(replace(jointed.problem(10.0), joints=()))
    own, alone = tied.results["shaft"], free.results["shaft"]
    assert own.confidence.evidence["depth"] < 0.8 * own.confidence.evidence["depth_images"]
    assert own.confidence.evidence["tied"] > 0.2
    assert alone.confidence.evidence["tied"] == pytest.approx(0, abs=1e-6)
    assert jointed.error("shaft", own.transform) < jointed.error("shaft", alone.transform) + 0.3
    beam = jointed.exposure(10.0).view.normal
    apart = {}
    for name, result in (("tied", tied), ("free", free)):
        ends = [result.results[n].transform.apply(jointed.CENTRE[None])[0] for n in ("socket", "shaft")]
        apart[name] = abs(float(beam @ (ends[0] - ends[1])))
    assert apart["tied"] <= apart["free"] + 1e-6


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = jointed.problem(10.0, 100.0)
    config = ObjectsConfig(pixels=64, levels=1)
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("RAYLIGN_THREADS", count)
        found.append(Objects(config).together(given).results["shaft"].transform.matrix)
    assert torch.equal(*found)


def test_what_is_fixed_is_rendered_behind() -> None:
    """A body left out misleads the other where they overlap; rendered behind, at its true pose, it does not."""
    given = jointed.problem(10.0, 100.0)
    alone = replace(given, bodies=given.bodies[1:], joints=())
    behind = replace(alone, fixed=((jointed.model("socket"), jointed.truth()["socket"]),))
    errors = [jointed.error("shaft", Objects().together(p).results["shaft"].transform) for p in (alone, behind)]
    assert errors[1] < 0.5
    assert errors[1] < errors[0]


def test_without_the_joint_step_the_poses_are_those_found_before() -> None:
    given = replace(jointed.problem(10.0, 100.0), joints=())
    result = Objects(ObjectsConfig(joint=False)).together(given)
    for body in given.bodies:
        assert torch.equal(result.results[body.name].transform.matrix, body.start.matrix)


def test_the_result_is_plain_numbers() -> None:
    said = json.loads(json.dumps(of_two_views().to_dict(), allow_nan=True))
    assert said["schema"] == "raylign.objects/1"
    assert list(said["bodies"]) == ["socket", "shaft"]
    assert said["covariance"]["order"] == ["socket", "shaft"]
    assert len(said["covariance"]["matrix"]) == 12
    assert said["motions"][0]["first"] == "socket"
    assert said["collisions"][0]["bodies"] == ["socket", "shaft"]


def test_relative_deviations_know_what_both_share() -> None:
    """A common motion of both, however uncertain, is no motion of one against the other."""
    result = of_two_views()
    first, second = (result.results[n] for n in ("socket", "shaft"))
    arm = (second.centre - first.centre).numpy()
    carried = np.eye(6)
    for axis in range(3):
        carried[3:, axis] = np.cross(np.eye(3)[axis], arm)
    both = np.concatenate([np.eye(6), carried])
    common = torch.from_numpy(both @ np.diag([0.1] * 3 + [50.0] * 3) @ both.T)
    motion = relative_motion(result.results, common, ("socket", "shaft"))
    assert float(motion.shift_sd.max()) < 1e-6
    assert float(motion.turn_sd.max()) < 1e-4


# --- joints and bodies


def test_the_ball_of_two_bones_in_one_frame() -> None:
    ball = ball_between(jointed.model("socket"), jointed.model("shaft"))
    assert float((ball.centre - jointed.CENTRE).norm()) < 1.0
    assert ball.radius == pytest.approx(11.0, abs=1.0)


def test_bones_that_do_not_meet_have_no_ball() -> None:
    far = jointed.model("shaft")
    affine = far.affine.clone()
    affine[0, 3] += 200
    with pytest.raises(InputError, match="at hardly a point"):
        ball_between(jointed.model("socket"), replace(far, affine=affine))


def test_hung_on_either_of_its_bodies() -> None:
    """From a pose to the other's and back, neutral turn and shared point included."""
    generator = torch.Generator().manual_seed(0)
    neutral = jointed.off(Rigid(torch.eye(4, dtype=torch.float64)), (0.4, -0.2, 0.7, 0, 0, 0)).matrix[:3, :3]
    centre = torch.randn(3, generator=generator, dtype=torch.float64)
    other = 5 * torch.randn(3, generator=generator, dtype=torch.float64)
    joint = Joint("a", "b", centre, other, neutral=neutral)
    pose = jointed.truth()["shaft"].matrix.numpy()
    second = hung(joint, "b", pose)
    assert np.allclose(second[:3, :3] @ other.numpy() + second[:3, 3], pose[:3, :3] @ centre.numpy() + pose[:3, 3])
    assert np.allclose(pose[:3, :3].T @ second[:3, :3], neutral.numpy())
    assert np.allclose(hung(joint, "a", second), pose)


def test_the_larger_body_first_then_what_hangs_on_it() -> None:
    given = jointed.problem(10.0)
    small = Body("chip", replace(jointed.model("shaft"), data=0.1 * jointed.model("shaft").data), given.bodies[0].start)
    bodies = (small, *given.bodies[::-1])
    assert order(ObjectsProblem(bodies, given.xrays, given.joints)) == ["socket", "shaft", "chip"]
    joined = (Joint("socket", "chip", jointed.CENTRE),)
    assert order(ObjectsProblem(bodies, given.xrays, joined)) == ["socket", "chip", "shaft"]


def test_what_is_sought_about_a_joint_alone_waits_for_the_other_end_however_heavy_it_is() -> None:
    given = jointed.problem(10.0)
    free = {b.name: replace(b, search=SearchConfig() if b.name == "shaft" else None) for b in given.bodies}
    assert order(ObjectsProblem(tuple(free.values()), given.xrays, given.joints)) == ["shaft", "socket"]


def _evidence(**changed: float | bool) -> ObjectEvidence:
    return replace(ObjectEvidence(0.4, 0.8, 0.01, 0.3, 1.0, 0.3, 1.0, 1.2, 0.1, True), **changed)  # type: ignore[arg-type]


def test_confidence_names_what_lowers_it() -> None:
    assert judge_object(_evidence(), 0.6).trusted
    poor = judge_object(_evidence(gain=0.05, rival=0.95), 0.6)
    assert not poor.trusted
    assert "explains 5 %" in poor.reasons[0]
    tied = judge_object(_evidence(tied=0.8, depth=1.5, depth_images=9.0), 0.6)
    assert tied.trusted
    assert "rests on what it is joined to" in tied.reasons[-1]
    assert judge_object(_evidence(visible=0.1), 0.6).probability < judge_object(_evidence(), 0.6).probability


def test_with_a_scan_the_exposure_that_shows_most_speaks_and_a_wrong_pose_shows_in_none() -> None:
    """What is nearly all noise lowers the share that a right pose explains; it does not make it less right."""
    given = jointed.problem(10.0, 100.0)
    clean, other = given.xrays
    noise = 12 * float(other.image.std()) * torch.randn(other.image.shape, generator=torch.Generator().manual_seed(5))
    given = replace(given, xrays=(clean, replace(other, image=other.image + noise)))
    config = ObjectsConfig()
    right = [jointed.truth()[b.name].matrix.numpy() for b in given.bodies]
    wrong = [right[0], jointed.off(jointed.truth()["shaft"], (0.0, 0.3, 0.0, 9.0, 0.0, -12.0)).matrix.numpy()]
    scale = joint_scales(given, right, config)[0]
    spread = np.eye(6), np.eye(6)
    gain = {}
    for name, poses in (("right", right), ("wrong", wrong)):
        behind = before_others(scale, poses, 1, config.direct.match)
        each = gains_of(behind, poses[1], config.direct.match)
        for scan in (True, False):
            gain[name, scan] = judged_body(behind, poses[1], spread, Sought(), config, scan=scan)[0].gain
        assert gain[name, True] == pytest.approx(max(each) + min(0.0, *each))
        alone = replace(behind, images=behind.images[:1])
        assert judged_body(alone, poses[1], spread, Sought(), config, scan=True)[0].gain == pytest.approx(each[0], abs=1e-6)
    assert gain["right", True] > 0.5 and gain["right", False] < 0.8 * gain["right", True]
    assert gain["wrong", True] < 0.4 * gain["right", True]


def test_refusals() -> None:
    given = jointed.problem(10.0)
    a, b = given.bodies
    with pytest.raises(InputError, match="no body"):
        ObjectsProblem((), given.xrays)
    with pytest.raises(InputError, match="two bodies are called 'socket'"):
        ObjectsProblem((a, a), given.xrays)
    with pytest.raises(InputError, match="'spine'; the bodies are socket, shaft"):
        ObjectsProblem((a, b), given.xrays, (Joint("socket", "spine", jointed.CENTRE),))
    with pytest.raises(InputError, match="joined to itself"):
        Joint("a", "a", jointed.CENTRE)
    with pytest.raises(InputError, match="positive"):
        Joint("a", "b", jointed.CENTRE, mm=0)
    with pytest.raises(InputError, match="orthonormal"):
        Joint("a", "b", jointed.CENTRE, axes=torch.zeros(3, 3))
    with pytest.raises(InputError, match="32 pixels"):
        ObjectsConfig(pixels=4)
