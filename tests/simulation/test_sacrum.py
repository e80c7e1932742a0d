"""The designed sacrum, measured on its surface."""

from __future__ import annotations

import numpy as np
import pytest

from raylign.errors import InputError
from raylign.simulation.phantoms import trunk
from raylign.simulation.phantoms.sacrum import SacrumSize, sacrum
from raylign.simulation.phantoms.trunk_webs import Points


@pytest.fixture(scope="module", params=[0, 5], ids=["man", "woman"])
def bone(request: pytest.FixtureRequest) -> tuple[trunk.Skeleton, object]:
    import trimesh

    bones = trunk.skeleton(request.param)
    assert bones.shape.person.female == (request.param == 5)
    mesh = bones.pelvis.webs["sacrum"].mesh(1.2, "sacrum")
    return bones, trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def test_it_is_one_closed_piece_with_canal_and_foramina(bone: tuple) -> None:
    """18 openings into one cavity make a surface of genus 17; a spicule may add a handle or two."""
    _, solid = bone
    assert solid.is_watertight and solid.is_winding_consistent and len(solid.split(only_watertight=False)) == 1
    assert -38 <= solid.euler_number <= -32


def test_its_joints_are_narrow_and_long(bone: tuple) -> None:
    bones, solid = bone
    for side, s in (("left", 1.0), ("right", -1.0)):
        middle = solid.triangles_center
        distance = bones.pelvis.webs[f"hip_{side}"].at(middle[s * middle[:, 0] > 20])
        assert 1.7 < distance.min() < 2.1
        touching = solid.area_faces[s * middle[:, 0] > 20][distance < 2.7]
        assert 700 < touching.sum() < 2600  # mm2


def test_it_measures_what_sacra_measure(bone: tuple) -> None:
    """Sections and extents in the frame of the upper face; limits three published standard deviations around."""
    bones, solid = bone
    slope = np.radians(bones.pelvis.slope)
    back, up = np.array([0, np.cos(slope), np.sin(slope)]), np.array([0, -np.sin(slope), np.cos(slope)])
    own = (solid.vertices - bones.pelvis.endplate) @ np.stack([[1.0, 0, 0], back, up], 1)
    face = own[(np.abs(own[:, 2]) < 0.6) & (np.abs(own[:, 0]) < 3) & (np.abs(own[:, 1]) < 22)]
    assert 24 < np.ptp(face[:, 1]) < 39
    assert 88 < np.ptp(solid.vertices[:, 0]) < 126
    assert 95 < np.ptp(solid.vertices[:, 2]) < 160  # with articular processes and coccyx
    # hollow in front: the line from the promontory to the coccyx passes before the bone's middle
    middle = solid.vertices[np.abs(solid.vertices[:, 0]) < 2]
    front = bones.pelvis.endplate - back * np.ptp(face[:, 1]) / 2
    tip = middle[middle[:, 2].argmin()]
    along = (tip - front) / np.linalg.norm(tip - front)
    half = middle[np.abs((middle - front) @ along - 0.55 * np.linalg.norm(tip - front)) < 3]
    before = np.array([0.0, along[2], -along[1]])
    assert ((half - front) @ before * np.sign(before[1])).min() > 10


def test_women_have_the_shorter_broader_bone() -> None:
    index: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(60):
        bones = trunk.skeleton(seed)
        line = bones.pelvis.webs["sacrum"].balls[:24]  # the bodies
        long = float(np.linalg.norm(line[0, :3] - line[11, :3]))
        index[bones.shape.person.female].append(bones.shape.pelvis.hip_distance / long)
    assert np.mean(index[True]) > 1.05 * np.mean(index[False])


def test_left_mirrors_right_before_a_person_bends_it() -> None:
    balls = sacrum(SacrumSize(female=True)).web.balls

    def sides(points: Points) -> Points:
        return np.array(sorted(np.round(points, 6).tolist()))

    assert np.allclose(sides(balls), sides(balls * [-1, 1, 1, 1]))


def test_more_bend_brings_the_apex_forward_and_a_piece_less_is_shorter() -> None:
    low, high = (sacrum(SacrumSize(bend=b)).web.balls for b in (-1.5, 1.5))
    tip = [b[b[:, 2].argmin(), 1] for b in (low, high)]
    assert tip[1] < tip[0] - 6
    assert sacrum(SacrumSize(segments=3)).web.bounds()[0][2] > sacrum().web.bounds()[0][2] + 2


@pytest.mark.parametrize("segments", [0, 2, 5])
def test_a_coccyx_has_three_or_four_pieces(segments: int) -> None:
    with pytest.raises(InputError, match="coccyx"):
        sacrum(SacrumSize(segments=segments))
