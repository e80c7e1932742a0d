"""Regressors of pose: geometry, losses, training; analytic references, and networks that learn nothing of use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.methods.cubes import CubeConfig, bones, centred, cube_of
from raylign.methods.geodesic import between, downhill, moved, squared
from raylign.methods.looks import Looks, compared, look, shadows
from raylign.methods.pairs import Laws, make_pairs, mean_tre, nearer
from raylign.methods.pose_regression.cameras import Cameras, in_camera, straight, tangled, untangled
from raylign.methods.pose_regression.iterate import IterateConfig, iterate
from raylign.methods.pose_regression.model import Regressor, flow_off, gradient_off, matched
from raylign.methods.pose_regression.network import DenseConfig, FlowConfig, NetworkConfig, RegressionNetwork, Said, make_network
from raylign.methods.pose_regression.registrar import PoseRegression
from raylign.methods.pose_regression.training import OptimiserConfig, RegressionTraining, TrainingConfig
from raylign.methods.pose_regression.weights import Learned, read_learned
from raylign.registration import Direct, DirectConfig, Pipeline, Problem, SearchConfig
from raylign.training.loop import LoopConfig, train
from raylign.training.recipes import read_training
from raylign.training.run import RunConfig, run
from tests.registration import scene

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "gao2024_regression.yaml"
CUBE = CubeConfig(voxels=24, voxel_mm=14.0, pixels=32)
DEEPIM = NetworkConfig("deepim", FlowConfig((8, 8, 16), 8), hidden=16, groups=4)
DMW = NetworkConfig("dmw", dense=DenseConfig(8, 4, (1, 2)), hidden=16, groups=4)
KINDS = (DEEPIM, DMW)
VIEW = View.from_carm(sid=1020.0, sod=800.0, pixel_spacing=8.704, shape=(32, 32))
MIRRORED = View(VIEW.source, VIEW.origin + 31 * VIEW.column_step, -VIEW.column_step, VIEW.row_step, (32, 32))
ASKEW = View(VIEW.source, VIEW.origin, VIEW.column_step, VIEW.row_step + 0.2 * VIEW.column_step, (32, 32))


def poses(seed: int, count: int = 2, turn: float = 0.3, shift: float = 40.0) -> Tensor:
    """Poses of the cube near the isocentre."""
    stream = torch.Generator().manual_seed(seed)
    motion = torch.randn(count, 6, generator=stream, dtype=torch.float64) * torch.tensor([turn] * 3 + [shift / 100] * 3)
    return moved(torch.eye(4, dtype=torch.float64).expand(count, 4, 4), motion, 100.0)


def cameras(*views: View) -> Cameras:
    return Cameras.of(torch.stack([view.vectors for view in views]), 32)


def body() -> Tensor:
    """[24, 24, 24] something smooth and not symmetric, air around it."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, 24),) * 3, indexing="ij")
    inside = torch.exp(-((x / 0.5) ** 2 + (y / 0.35) ** 2 + (z / 0.6) ** 2)) + 0.7 * torch.exp(
        -(((x - 0.4) / 0.2) ** 2 + (y / 0.2) ** 2 + ((z + 0.3) / 0.2) ** 2)
    )
    return (inside * (inside > 0.05)).to(torch.float32)


def seen_at(truth: Tensor) -> Looks:
    """The body's own shadows under poses as exposures."""
    empty = Looks(torch.zeros(len(truth), 1, 32, 32), VIEW.vectors.expand(len(truth), 4, 3))
    shown = shadows(body()[None], empty, truth, CUBE)
    return replace(empty, images=compared(shown, torch.ones_like(shown)))


# -- geometry -----------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_motions_of_a_camera_lead_there_and_back(seed: int) -> None:
    for view in (VIEW, MIRRORED):
        a, b, seen = poses(seed, 2, 0.8, 120.0), poses(seed + 1, 2, 0.8, 120.0), cameras(view, view)
        torch.testing.assert_close(tangled(a, untangled(a, b, seen), seen), b)
        motion = in_camera(a, b, seen, 100.0)
        torch.testing.assert_close(straight(a, motion, seen, 100.0), b)
        # as long as in the world's axes, and as far from another
        torch.testing.assert_close((motion**2).sum(-1), squared(a, b, 100.0))
        torch.testing.assert_close(
            between(motion, in_camera(b, a, seen, 100.0)), between(downhill(a, b, 100.0), downhill(b, a, 100.0))
        )


def test_an_untangled_motion_is_what_the_image_shows() -> None:
    seen, still = cameras(VIEW, MIRRORED, ASKEW), poses(3, 3)
    side = 32 * 8.704
    middle = still[:, None, :3, 3]
    before = seen.projected(middle)[:, 0]
    # a turn alone leaves the middle where it is, in space
    turn = torch.tensor([[0.4, -0.2, 0.3, 0, 0, 0]], dtype=torch.float64).expand(3, 6)
    torch.testing.assert_close(tangled(still, turn, seen)[:, :3, 3], still[:, :3, 3])
    # a shift by a tenth of the side along a row of the detector is 3.2 columns, at any depth
    across = torch.tensor([[0, 0, 0, 0.1, 0, 0]], dtype=torch.float64).expand(3, 6)
    after = seen.projected(tangled(still, across, seen)[:, None, :3, 3])[:, 0]
    torch.testing.assert_close(after - before, torch.tensor([[3.2, 0]], dtype=torch.float64).expand(3, 2), atol=1e-9, rtol=0)
    # depth alone: the same place in the image, and a shadow that is larger by the factor
    depth = torch.tensor([[0, 0, 0, 0, 0, 0.2]], dtype=torch.float64).expand(3, 6)
    nearer_ = tangled(still, depth, seen)
    torch.testing.assert_close(seen.projected(nearer_[:, None, :3, 3])[:, 0], before)
    far, near = (seen.seen(pose[:, None, :3, 3])[:, 0, 2] for pose in (still, nearer_))
    torch.testing.assert_close(far / near, torch.full((3,), 0.2, dtype=torch.float64).exp())
    torch.testing.assert_close(seen.side, torch.full((3,), side, dtype=torch.float64))


def test_points_show_where_views_show_them() -> None:
    points = 80 * torch.randn(3, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = cameras(VIEW, MIRRORED, ASKEW).projected(points)
    for view, at, in_space in zip((VIEW, MIRRORED, ASKEW), found, points, strict=True):
        pixels = view.origin + at[:, :1] * view.column_step + at[:, 1:] * view.row_step
        ray, way = pixels - view.source, in_space - view.source
        torch.testing.assert_close(ray / ray.norm(dim=-1, keepdim=True), way / way.norm(dim=-1, keepdim=True))
    # behind the source nothing is divided by zero
    assert bool(cameras(VIEW).projected(2 * VIEW.source.expand(1, 1, 3)).isfinite().all())


def test_a_mirrored_image_asks_for_the_mirrored_motion() -> None:
    """What the network says of a mirrored image is the mirrored motion: x of shifts changes its sign, y and z of turns do."""
    a, b = poses(1, 1), poses(2, 1)
    plain, mirrored = (untangled(a, b, cameras(view)) for view in (VIEW, MIRRORED))
    sign = torch.tensor([1, -1, -1, -1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(mirrored, plain * sign)
    plain, mirrored = (in_camera(a, b, cameras(view), 100.0) for view in (VIEW, MIRRORED))
    torch.testing.assert_close(mirrored, plain * sign)


# -- losses -------------------------------------------------------------------------------------------------------------------


def test_losses_vanish_at_the_truth_and_nowhere_else() -> None:
    a, b, seen = poses(1), poses(2), cameras(VIEW, MIRRORED)
    points = 60 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(matched(b, b, points, seen), torch.zeros(2, dtype=torch.float64))
    aside = b.clone()
    aside[:, :3, 3] += 3.0 * seen.axes[:, 0] - 4.0 * seen.axes[:, 2]
    torch.testing.assert_close(matched(aside, b, points, seen), torch.full((2,), 7.0, dtype=torch.float64))
    tre = (se3.transform(a, points) - se3.transform(b, points)).norm(dim=-1).mean(-1)
    off = matched(a, b, points, seen)
    assert bool((off >= tre).all()) and bool((off <= 3**0.5 * tre).all())
    right = Said(in_camera(a, b, seen, 100.0))
    torch.testing.assert_close(gradient_off(a, right, b, seen, 100.0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        gradient_off(a, Said(torch.zeros(2, 6, dtype=torch.float64)), b, seen, 100.0), squared(a, b, 100.0)
    )


def test_flow_is_that_of_the_points() -> None:
    at = 4 + 24 * torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    flow = torch.stack([0.5 + 0.1 * rows, -0.2 * columns]).expand(2, 2, 32, 32)  # linear: interpolated exactly
    moves = torch.stack([0.5 + 0.1 * at[..., 1], -0.2 * at[..., 0]], -1) * 3.2
    assert float(flow_off(flow, at, at + moves, 32)) < 1e-5
    # what does not show is not asked for; a pixel too many in both directions is 20/32 of a tenth of the side
    both, gone = torch.cat([at, at + 100.0], 1), torch.cat([at + moves + 1, at], 1)
    assert float(flow_off(flow, both, gone, 32)) == pytest.approx(2 * 10 / 32, rel=1e-4)
    # a coarser flow has its pixels' centres where the finer one has blocks'
    coarse = torch.nn.functional.avg_pool2d(flow, 4)
    inside = at.clamp(6, 25)
    moves = torch.stack([0.5 + 0.1 * inside[..., 1], -0.2 * inside[..., 0]], -1) * 3.2
    assert float(flow_off(coarse, inside, inside + moves, 32)) < 1e-5


# -- what is shown, and said --------------------------------------------------------------------------------------------------


def test_both_images_are_alike() -> None:
    """An exposure that is the model's shadow under another contrast looks as the shadow does."""
    truth = poses(5)
    network = Regressor(make_network(DMW, 32, 0), CUBE)
    given = seen_at(truth)
    shown = shadows(body()[None], given, truth, CUBE)[:, 0]
    valid = torch.ones_like(shown, dtype=torch.bool)
    exposures = look(40.0 * shown + 7.0, valid, [VIEW, VIEW], 32)
    images = network.images(body(), exposures, truth)
    torch.testing.assert_close(images[:, 0], images[:, 1], atol=2e-3, rtol=0)
    assert not images.requires_grad and float(images.abs().max()) <= 3
    away = truth.clone()
    away[:, 0, 3] += 5000.0
    assert not network.images(body(), exposures, away)[:, 0].any()


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_what_is_said_is_of_one_pair_alone(config: NetworkConfig) -> None:
    network = make_network(config, 32, 3)
    assert torch.equal(next(network.parameters()), next(make_network(config, 32, 3).parameters()))
    for head in (network.turn, network.shift):
        torch.nn.init.normal_(head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    regressor, at, given = Regressor(network.eval(), CUBE), poses(4, 3), seen_at(poses(5, 3))
    together = regressor.motion(body(), given, at).detach()
    one = torch.tensor([1])
    torch.testing.assert_close(regressor.motion(body(), given.repeated(one), at[one]), together[one], atol=1e-5, rtol=1e-4)
    # the motion leads where the network's numbers do
    led = regressor.led(at, regressor.said(body(), given, at), given).detach()
    torch.testing.assert_close(moved(at, together, CUBE.unit_mm), led)
    assert float(together.norm(dim=-1).min()) > 0.01
    assert len(network(regressor.images(body(), given, at)).flows) == 0
    flows = network.train()(regressor.images(body(), given, at)).flows
    assert [tuple(flow.shape) for flow in flows] == ([(3, 2, 4, 4), (3, 2, 8, 8)] if config.kind == "deepim" else [])


def test_sizes_that_do_not_fit_are_refused() -> None:
    for wrong in ({"flow": FlowConfig((8, 0))}, {"flow": FlowConfig(())}, {"hidden": 0}, {"groups": -1}):
        with pytest.raises(InputError, match="sizes are positive"):
            NetworkConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 groups do not divide"):
        NetworkConfig("dmw", groups=3)
    with pytest.raises(InputError, match="32 pixels are halved 6 times"):
        RegressionNetwork(NetworkConfig("deepim", FlowConfig((8,) * 6)), 32)
    for wrong_ in ({"rate": 0.0}, {"least": -1.0}, {"steps": 0}, {"longest": float("nan")}):
        with pytest.raises(InputError, match="iterate"):
            IterateConfig(**wrong_)  # type: ignore[arg-type]
    for rate in ({"rate": 0.0}, {"fall": 1.5}, {"momentum": 1.0}, {"every": 0}):
        with pytest.raises(InputError, match="optimiser"):
            OptimiserConfig(**rate)  # type: ignore[arg-type]
    for setting in ({"flow": -1.0}, {"rounds": 0}, {"batch": 0}):
        with pytest.raises(InputError, match="settings"):
            TrainingConfig(**setting)  # type: ignore[arg-type]


def test_the_rate_falls_as_the_paper_says() -> None:
    paper = read_training(RECIPE, "dmw-paper").settings
    assert (paper.batch, paper.iterations, paper.optimiser.momentum) == (16, 150 * 50, 0.8)
    rates = [paper.optimiser.at(n) for n in (0, 999, 1000, 7499)]
    assert rates == pytest.approx([1e-4, 1e-4, 0.9e-4, 0.9**7 * 1e-4])
    assert OptimiserConfig(warm_up=10).at(4) == pytest.approx(0.5e-4)


# -- iterations ---------------------------------------------------------------------------------------------------------------


class Knows(Regressor):
    """Says a part of the way to the pose at the isocentre."""

    part = 0.5

    def motion(self, voxels: Tensor, looks: Looks, poses: Tensor) -> Tensor:
        return self.part * downhill(poses, torch.eye(4, dtype=torch.float64).expand(len(poses), 4, 4), 100.0)


def test_iterations_end_where_the_network_says_nothing_more() -> None:
    begun, given = poses(6, 3, 0.5, 150.0), seen_at(poses(6, 3))
    knows = Knows(make_network(DMW, 32, 0), CUBE)
    found = iterate(knows, body(), given, begun, IterateConfig(steps=30, least=1e-3))
    assert found.paths.shape == (3, 31, 4, 4) and torch.equal(found.paths[:, 0], begun)
    off = squared(found.poses, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), 100.0).sqrt()
    assert bool((off < 1e-3).all()) and bool((found.lengths < 1e-3).all()) and bool((off > 0.4e-3 / 2).all())
    torch.testing.assert_close(found.lengths, off)  # the last half of the way was as long as what is left
    # arrived ones stay, and what is too long is cut
    assert torch.equal(found.paths[:, -1], found.paths[:, -5])
    slow = iterate(knows, body(), given, begun, IterateConfig(steps=1, longest=0.1))
    torch.testing.assert_close(downhill(begun, slow.poses, 100.0).norm(dim=-1), torch.full((3,), 0.1, dtype=torch.float64))
    assert bool((slow.lengths > 0.1).all())
    half = iterate(knows, body(), given, begun, IterateConfig(rate=0.5, steps=1))
    torch.testing.assert_close(half.poses, moved(begun, 0.25 * downhill(begun, torch.eye(4).to(begun), 100.0), 100.0))


def test_a_motion_that_is_not_finite_is_none() -> None:
    class Lost(Regressor):
        def motion(self, voxels: Tensor, looks: Looks, poses: Tensor) -> Tensor:
            return torch.full((len(poses), 6), float("nan"), dtype=torch.float64)

    begun = poses(6)
    found = iterate(Lost(make_network(DMW, 32, 0), CUBE), body(), seen_at(begun), begun)
    assert torch.equal(found.poses, begun)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_a_network_that_learns_one_pair_reaches_it(config: NetworkConfig) -> None:
    """From where it began, and through the pose in between that it saw as well."""
    truth, begun = poses(11, 1, 0.15, 20.0), poses(12, 1, 0.25, 30.0)
    given = seen_at(truth)
    regressor = Regressor(make_network(replace(config, hidden=64), 32, 0), CUBE)
    optimiser = torch.optim.Adam(regressor.network.parameters(), lr=3e-3, betas=(0.8, 0.999))
    points = 60 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both, looks = torch.cat([begun, truth]), given.repeated(torch.tensor([0, 0]))
    for _ in range(80):
        optimiser.zero_grad()
        said, seen = regressor.said(body(), looks, both), cameras(VIEW, VIEW)
        goal = truth.expand(2, 4, 4)
        loss = (
            gradient_off(both, said, goal, seen, 100.0).mean()
            if config.kind == "dmw"
            else matched(regressor.led(both, said, looks), goal, points, seen).mean() / 100.0
        )
        loss.backward()
        optimiser.step()
    regressor.network.eval()
    found = iterate(regressor, body(), given, begun)
    before, after = (float(mean_tre(at, truth, points)) for at in (begun, found.poses))
    assert before > 20 and after < 0.15 * before


# -- training -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pelves")
    chosen = read_training(RECIPE, "smoke")
    chosen.make(chosen.settings, chosen.seed, folder).prepare(1)
    return folder


def task(pool: Path, **changes: object) -> RegressionTraining:
    chosen = read_training(RECIPE, "smoke")
    made: RegressionTraining = chosen.make(replace(chosen.settings, **changes), chosen.seed, pool)
    return made


def test_pools_are_those_of_the_convex_similarity() -> None:
    beside = RECIPE.with_name("gao2024.yaml")
    for one, other in (("deepim-small", "small"), ("dmw-small", "small"), ("dmw-paper", "paper"), ("smoke", "smoke")):
        a, b = read_training(RECIPE, one).settings, read_training(beside, other).settings
        assert a.data.fingerprint(a.cube) == b.data.fingerprint(b.cube) and a.cube == b.cube
        assert (a.moving, a.start, a.appearance) == (b.moving, b.start, b.appearance)


def test_minibatches_follow_from_seed_and_number(pool: Path) -> None:
    one, other = task(pool), task(pool)
    for number in (0, 7):
        a, b = one.batch(number), other.batch(number)
        assert torch.equal(a.looks.images, b.looks.images) and torch.equal(a.moving, b.moving)
        assert torch.equal(one.loss(a), other.loss(b))
    assert not torch.equal(one.batch(0).moving, one.batch(1).moving)


def test_a_loss_is_made_of_its_parts(pool: Path) -> None:
    """At first the network moves nothing: the loss is that of the moving poses themselves."""
    for config in KINDS:
        made = task(pool, network=config, flow=0.0)
        for head in (made.network.turn, made.network.shift):
            torch.nn.init.zeros_(head.weight)
        batch = made.batch(0)
        seen = Cameras.of(batch.looks.vectors, 32)
        wanted = (
            squared(batch.moving, batch.truth, 100.0)
            if config.kind == "dmw"
            else matched(batch.moving, batch.truth, batch.points, seen) / 100.0
        )
        torch.testing.assert_close(made.loss(batch), wanted.mean())
        torch.testing.assert_close(task_of(made, rounds=3).loss(batch), wanted.mean())
    plain, with_flow = (task(pool, network=DEEPIM, flow=weight) for weight in (0.0, 0.5))
    batch = plain.batch(0)
    more = with_flow.loss(batch) - plain.loss(batch)
    at = [Cameras.of(batch.looks.vectors, 32).projected(se3.transform(p, batch.points)) for p in (batch.moving, batch.truth)]
    flows = with_flow.regressor.said(batch.cube, batch.looks, batch.moving).flows
    torch.testing.assert_close(more, 0.5 * sum(flow_off(flow, at[0], at[1], 32) for flow in flows).to(more) / 2)  # type: ignore[union-attr]


def task_of(made: RegressionTraining, **changes: object) -> RegressionTraining:
    """The same training with the same network under other settings."""
    other = RegressionTraining(replace(made.config, **changes), made.seed, made.pool.folder)  # type: ignore[arg-type]
    other.network.load_state_dict(made.network.state_dict())
    return other


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_all_weights_learn(pool: Path, config: NetworkConfig) -> None:
    made = task(pool, network=config, rounds=2)
    for head in (made.network.turn, made.network.shift):
        torch.nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    made.loss(made.batch(0)).backward()
    for name, weights in made.network.named_parameters():
        assert weights.grad is not None and bool(weights.grad.isfinite().all()), name
        assert bool(weights.grad.any()) or name.endswith("bias"), name


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_a_killed_training_ends_with_the_same_weights(pool: Path, tmp_path: Path, config: NetworkConfig) -> None:
    whole, broken, again = (task(pool, network=config) for _ in range(3))
    train(whole, LoopConfig(tmp_path / "whole", "it"))
    train(broken, LoopConfig(tmp_path / "broken", "it", save_every=5, until=5))
    train(again, LoopConfig(tmp_path / "broken", "it", save_every=5))
    for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(whole.network.parameters()), next(task(pool, network=config).network.parameters()))


def test_weights_card_and_refusals(pool: Path, tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke")
    done = run(chosen, RunConfig(tmp_path / "out", pool))
    assert done.finished and done.weights == "regressor.safetensors"
    assert done.said.startswith("2 registrations of test patients: mean TRE from ")
    learned = read_learned(tmp_path / "out" / done.weights)
    assert learned.cube == chosen.settings.cube and learned.iterate == chosen.settings.iterate and not learned.whole
    assert learned.network.config == chosen.settings.network and not learned.network.training
    card = (tmp_path / "out" / "card.md").read_text()
    said = json.loads((tmp_path / "out" / "card.json").read_text())
    assert "DeepIM" in card and "recipes/gao2024_regression.yaml" in card and said["sha256"] in card
    assert "share whose last motion was below the threshold" in card and said["figures"]["test"]["cases"] == 2
    # figures are those of iterations from the starts of the test patients
    made = task(pool)
    made.network.load_state_dict(learned.network.state_dict())
    again = made.figures("test", 2, 5)
    assert again == said["figures"]["test"]
    patient = made.patients("test")[0]
    (held,) = made.held("test", 2, 5)
    found = iterate(learned.regressor, patient.cube, held.begun.looks, held.begun.moving, learned.iterate)
    after = mean_tre(found.poses, held.begun.truth, patient.points)
    assert again["tre_median"] == float(after.median())
    from raylign.methods.convex_similarity.weights import read_learned as read_similarity

    with pytest.raises(InputError, match="not a convex-similarity"):
        read_similarity(tmp_path / "out" / done.weights)
    with pytest.raises(InputError, match="not a pose-regression"):
        read_learned(Path("src/raylign/methods/imitation_agent/weights/agent.safetensors").resolve())


def test_shares_are_of_all_cases() -> None:
    found = nearer(torch.tensor([100.0, 50.0, 30.0, 8.0]), torch.tensor([5.0, 15.0, 40.0, 9.0]))
    assert (found["cases"], found["under_10"], found["under_20"], found["nearer"]) == (4, 0.5, 0.75, 0.5)


def test_what_is_wrong_with_a_recipe_is_said_before_patients_are_made(tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke")
    small = replace(chosen.settings.cube, pixels=8)
    for wrong in (
        {"moving": "nolaw"},
        {"appearance": "nolook"},
        {"network": replace(DEEPIM, flow=FlowConfig((8,) * 4)), "cube": small},
    ):
        with pytest.raises(InputError):
            chosen.make(replace(chosen.settings, **wrong), 0, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


# -- as a registrar -----------------------------------------------------------------------------------------------------------


def problem() -> Problem:
    return Problem(scene.chest(), (scene.exposure(),), scene.truth())


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_a_regression_is_a_result_that_is_never_trusted(config: NetworkConfig) -> None:
    network = make_network(config, 32, 0)
    for head in (network.turn, network.shift):
        torch.nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    asked, method = problem(), PoseRegression(Learned(network.eval(), CUBE, IterateConfig(steps=3)))
    result = method.register(asked)
    assert result.method == "pose-regression" and result.renders == 3 and len(result.trajectory) == 4
    assert result.settings["kind"] == config.kind
    assert not result.confidence.trusted and "refine it by another method" in result.confidence.reasons[0]
    torch.testing.assert_close(result.trajectory[0].matrix, asked.start.matrix)
    assert se3.is_rigid(result.transform.matrix) and result.confidence.evidence["last_motion"] > 0.005
    many, middle = method.iterations(asked.model, asked.xrays[0], asked.start.matrix.expand(3, 4, 4))
    torch.testing.assert_close(many.poses, many.poses[:1].expand(3, 4, 4), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(many.poses[0], centred(result.transform.matrix, middle), atol=1e-3, rtol=1e-5)
    with pytest.raises(InputError, match="a regressor that looks at one"):
        method.register(replace(asked, xrays=(scene.exposure(), scene.exposure(90.0))))


def test_what_follows_refines_it() -> None:
    near, truth = Direct(DirectConfig(search=SearchConfig(degrees=10.0, mm=15.0))), scene.truth().matrix
    _, middle = cube_of(bones(scene.chest()), CUBE)

    class Way(Regressor):
        def motion(self, voxels: Tensor, looks: Looks, poses: Tensor) -> Tensor:
            return 0.7 * downhill(poses, centred(truth, middle).expand(len(poses), 4, 4), CUBE.unit_mm)

    class Sure(Learned):
        @property
        def regressor(self) -> Regressor:
            return Way(self.network, self.cube)

    aside = truth.clone()
    aside[0, 3] += 60.0
    made = Sure(make_network(DMW, 32, 0).eval(), CUBE, IterateConfig(steps=3))
    result = Pipeline((PoseRegression(made), near)).register(replace(problem(), start=Rigid(aside)))
    assert result.method == "pose-regression+direct"
    assert float(se3.geodesic(result.transform.matrix, truth, mm_per_radian=100.0)) < 3


def test_moving_poses_of_training_are_far_from_the_truth(pool: Path) -> None:
    """Else a network that says nothing would look good."""
    patient = task(pool).patients("train")[0]
    pairs = make_pairs(patient, torch.arange(3), Laws("gao2024/moving", "plain", 32), torch.Generator().manual_seed(0))
    assert float(mean_tre(pairs.moving, pairs.truth, patient.points).mean()) > 30
    torch.testing.assert_close(pairs.points, patient.points)
