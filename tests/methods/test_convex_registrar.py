"""The learned similarity as a registrar: what it is given, what it says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay, restricted
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.methods.convex_similarity.descent import DescentConfig
from raylign.methods.convex_similarity.model import Similarity
from raylign.methods.convex_similarity.network import BranchConfig, NetworkConfig, make_network
from raylign.methods.convex_similarity.registrar import ConvexSimilarity
from raylign.methods.convex_similarity.weights import Learned, read_learned
from raylign.methods.cubes import BONE_HU, CubeConfig, bones, centred, cube_of
from raylign.methods.geodesic import downhill
from raylign.methods.looks import Looks, seen
from raylign.registration import Direct, DirectConfig, Pipeline, Problem, SearchConfig
from tests.registration import scene

SIZES = NetworkConfig(features=(2, 3), fine=BranchConfig(8, 12), coarse=BranchConfig(16, 16), heads=2, blocks=1)
CUBE = CubeConfig(voxels=24, voxel_mm=14.0, pixels=32)


def learned() -> Learned:
    return Learned(make_network(SIZES, 32, 0).eval(), CUBE, DescentConfig(steps=3))


def problem() -> Problem:
    return Problem(scene.chest(), (scene.exposure(),), scene.truth())


def test_bones_of_a_scan_are_what_is_denser_than_water_by_so_much() -> None:
    data = torch.full((8, 8, 8), -1000.0)
    data[2:6, 2:6, 2:6] = 40.0
    data[3:5, 3:5, 3:5] = 1000.0
    volume = Volume(data, torch.eye(4, dtype=torch.float64), "HU")
    found = bones(volume)
    assert found.unit == "1/mm" and int((found.data > 0).sum()) == 8
    water, bone = (volume.attenuation().data[place] for place in ((2, 2, 2), (3, 3, 3)))
    assert float(found.data.max()) == pytest.approx(float(bone) - float(water) / 1.04, rel=1e-3)
    assert bones(found) is found
    with pytest.raises(InputError, match=f"nothing is {BONE_HU:g} HU"):
        bones(replace(volume, data=data.clamp(max=100.0)))
    with pytest.raises(InputError, match="the volume is in raw"):
        bones(replace(volume, unit="raw"))


def test_the_middle_square_is_seen_in_its_own_geometry() -> None:
    view = View.from_carm(sid=1000.0, sod=700.0, pixel_spacing=1.0, shape=(70, 100))
    image = torch.rand(70, 100, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(70, 100, dtype=torch.bool)
    looks = seen(XRay(image, view, everywhere), 32)
    assert looks.images.shape == (1, 1, 32, 32)
    inner = view.crop(slice(3, 67), slice(18, 82)).resample((32, 32))
    torch.testing.assert_close(looks.vectors[0], inner.vectors)
    hidden = torch.ones(70, 100, dtype=torch.bool)
    hidden[:, :40] = False
    shown = seen(XRay(torch.where(hidden, image, torch.tensor(1e9)), view, hidden), 32)
    assert not shown.images[0, 0, :, :11].any() and bool(shown.images.isfinite().all())
    with pytest.raises(InputError, match="fewer than 32 x 32"):
        seen(XRay(image[:30, :30], view.crop(slice(0, 30), slice(0, 30)), everywhere[:30, :30]), 32)


def test_a_descent_is_a_result_that_is_never_trusted() -> None:
    asked, method = problem(), ConvexSimilarity(learned())
    result = method.register(asked)
    assert result.method == "convex-similarity" and result.renders == 3 and len(result.trajectory) == 4
    assert not result.confidence.trusted and "refine it by another method" in result.confidence.reasons[0]
    torch.testing.assert_close(result.trajectory[0].matrix, asked.start.matrix)
    torch.testing.assert_close(result.trajectory[-1].matrix, result.transform.matrix)
    assert se3.is_rigid(result.transform.matrix)
    again = method.register(asked)
    assert torch.equal(result.transform.matrix, again.transform.matrix)
    many, middle = method.descents(asked.model, asked.xrays[0], asked.start.matrix.expand(3, 4, 4))
    torch.testing.assert_close(many.poses, many.poses[:1].expand(3, 4, 4), atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(many.poses[0], centred(result.transform.matrix, middle), atol=1e-4, rtol=1e-6)
    with pytest.raises(InputError, match="looks at one"):
        method.register(replace(asked, xrays=(scene.exposure(), scene.exposure(90.0))))


def test_what_follows_refines_it() -> None:
    """From 60 mm aside, where the direct method alone does not reach; a network that knows the way stands for a trained one."""
    near, truth = Direct(DirectConfig(search=SearchConfig(degrees=10.0, mm=15.0))), scene.truth().matrix
    _, middle = cube_of(bones(scene.chest()), CUBE)

    class Knows(Similarity):
        def gradient(self, channels: Tensor, looks: Looks, poses: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(poses)), -downhill(poses, centred(truth, middle).expand(len(poses), 4, 4), CUBE.unit_mm)

    class Sure(Learned):
        @property
        def similarity(self) -> Similarity:
            return Knows(self.network, self.cube)

    aside = truth.clone()
    aside[0, 3] += 60.0
    asked = replace(problem(), start=Rigid(aside))
    made = Sure(learned().network, CUBE, DescentConfig(steps=20))

    def off(matrix: Tensor) -> float:
        return float(se3.geodesic(matrix, truth, mm_per_radian=100.0))

    result = Pipeline((ConvexSimilarity(made), near)).register(asked)
    assert result.method == "convex-similarity+direct" and off(result.transform.matrix) < 3
    assert off(near.register(asked).transform.matrix) > 20
    assert torch.equal(result.start.matrix, aside)


def test_what_shows_nothing_is_refused() -> None:
    view = View.from_carm(sid=1000.0, sod=700.0, pixel_spacing=4.0, shape=(64, 64))
    everywhere = torch.ones(64, 64, dtype=torch.bool)
    with pytest.raises(InputError, match="shows nothing"):
        seen(XRay(torch.ones(64, 64), view, everywhere), 32)
    corner = torch.zeros(64, 64, dtype=torch.bool)
    corner[0, 0] = True
    with pytest.raises(InputError, match="shows nothing"):
        seen(XRay(torch.rand(64, 64), view, corner), 32)


def test_a_similarity_of_whole_scans_is_given_them() -> None:
    whole = replace(learned(), about={"settings": {"data": {"structures": []}}})
    assert whole.whole and not learned().whole
    asked = problem()
    found = [
        ConvexSimilarity(one).descents(asked.model, asked.xrays[0], asked.start.matrix[None])[1] for one in (whole, learned())
    ]
    torch.testing.assert_close(found[0], cube_of(asked.model, CUBE)[1])
    torch.testing.assert_close(found[1], cube_of(bones(asked.model), CUBE)[1])
    with pytest.raises(InputError, match="raw numbers"):
        ConvexSimilarity(whole).descents(replace(asked.model, unit="raw"), asked.xrays[0], asked.start.matrix[None])


def test_files_keep_what_is_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = learned()
    file = tmp_path_factory.mktemp("weights") / "similarity.safetensors"
    made.save(file)
    again = read_learned(file)
    assert again.cube == made.cube and again.descent == made.descent and again.network.config == made.network.config
    cube, _ = cube_of(bones(scene.chest()), CUBE)
    assert torch.equal(again.network.expanded(cube), made.network.expanded(cube))


def test_bones_that_labels_name_are_shown_in_place_of_all_that_is_dense() -> None:
    asked = problem()
    dense = asked.model.decoded().data >= BONE_HU
    some = dense.clone()
    some[: len(some) // 2] = False
    labels = LabelMap(torch.where(some, 3, 0).to(torch.uint8), asked.model.affine, {3: "these"})
    method = ConvexSimilarity(learned())
    given = method.register(replace(asked, bones=labels))
    alone = method.register(replace(asked, model=restricted(asked.model, labels, ["these"])))
    torch.testing.assert_close(given.transform.matrix, alone.transform.matrix)
    assert not torch.allclose(given.centre, method.register(asked).centre)
