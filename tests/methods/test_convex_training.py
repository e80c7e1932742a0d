"""The convex similarity's training: data, minibatches, resumption, files; nothing here learns anything of use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.data.restrict import restricted
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.methods.convex_similarity.training import OptimiserConfig, SimilarityTraining, TrainingConfig
from raylign.methods.convex_similarity.weights import read_learned
from raylign.methods.cubes import cube_of, uncentred
from raylign.methods.looks import shadows
from raylign.methods.pairs import Laws, left, left_open, make_pairs
from raylign.methods.patients import Pool, PoolConfig, case_recipe, read_patient
from raylign.simulation.datasets.cases import make_cases
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.residents import reside
from raylign.training.loop import LoopConfig, train
from raylign.training.recipes import Weights, read_training
from raylign.training.run import RunConfig, join, run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "gao2024.yaml"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pelves")
    chosen = read_training(RECIPE, "smoke")
    chosen.make(chosen.settings, chosen.seed, folder).prepare(1)
    return folder


def task(pool: Path, **changes: object) -> SimilarityTraining:
    chosen = read_training(RECIPE, "smoke")
    made: SimilarityTraining = chosen.make(replace(chosen.settings, **changes), chosen.seed, pool)
    return made


def test_patients_are_what_they_are_said_to_be(pool: Path) -> None:
    config = read_training(RECIPE, "smoke").settings
    files = sorted(path.name for path in pool.glob("*.npz"))
    assert files == ["000000-3.npz", "000001-3.npz", "000060-2.npz", "990000-2.npz"]
    patient = read_patient(pool / files[0])
    assert patient.cube.shape == (24, 24, 24) and patient.images.shape == (3, 128, 128) and len(patient.views) == 3
    # bones at most twice as dense as the unit, air around them
    assert 0.3 < float(patient.cube.max()) < 3 and float((patient.cube > 0).float().mean()) < 0.4
    assert not patient.cube[[0, -1]].any() and not patient.cube[:, [0, -1]].any() and not patient.cube[..., [0, -1]].any()
    # where the model's middle lies, within what the law of exposures says of a point of the patient not far from it
    assert float(patient.truth[:, :3, 3].norm(dim=-1).max()) < 120
    # the true pose shows the model where the exposure shows bone: shadows and image agree better there than 60 mm aside
    laws = Laws("gao2024/moving", "plain", config.cube.pixels)
    pairs = make_pairs(patient, torch.arange(3), laws, torch.Generator().manual_seed(0))
    aside = patient.truth.clone()
    aside[:, 0, 3] += 60.0
    agreement = []
    for at in (patient.truth, aside):
        shadow = shadows(patient.cube[None], pairs.looks, at, config.cube)[:, 0]
        shadow = shadow - torch.nn.functional.avg_pool2d(shadow, 9, 1, 4)
        agreement.append((shadow * pairs.looks.images[:, 0]).flatten(1).sum(1))
    assert bool((agreement[0] > agreement[1]).all()) and bool((agreement[0] > 0).all())
    # points lie on the bones
    voxel = (se3.transform(torch.linalg.inv(config.cube.affine), patient.points)).round().long()
    near = torch.nn.functional.max_pool3d(patient.cube[None, None], 3, 1, 1)[0, 0]
    assert float((near[voxel[:, 2], voxel[:, 1], voxel[:, 0]] > 0).double().mean()) > 0.95
    # poses of the cube are the patient's about the middle of his bones: points show where they show under his own
    recipe = case_recipe(config.data, 0)
    plan = Plan(recipe)
    resident = reside(recipe, plan.roster[0])
    subject = resident.subject
    _, middle = cube_of(restricted(subject.volume, subject.labels, config.data.structures), config.cube)
    own = make_cases(plan, [0, 1, 2], [resident] * 3).labelled.poses
    torch.testing.assert_close(se3.transform(own, resident.targets), se3.transform(patient.truth, patient.points))
    torch.testing.assert_close(uncentred(patient.truth, middle), own)


def test_minibatches_follow_from_seed_and_number(pool: Path) -> None:
    one, other = task(pool), task(pool)
    for number in (0, 7):
        a, b = one.batch(number), other.batch(number)
        assert torch.equal(a.looks.images, b.looks.images) and torch.equal(a.moving, b.moving) and torch.equal(a.cube, b.cube)
        assert torch.equal(one.loss(a), other.loss(b))
    assert not torch.equal(one.batch(0).moving, one.batch(1).moving)
    assert a.looks.images.shape == (4, 1, 32, 32) and a.moving.shape == (4, 4, 4)


def test_poses_from_afar_are_among_the_moving_ones(pool: Path) -> None:
    near, far, all_of_them = task(pool), task(pool, far=0.5), task(pool, far=1.0)
    apart = {name: [] for name in ("near", "far", "all")}  # type: dict[str, list[float]]
    kept = 0
    for number in range(12):
        batches = {"near": near.batch(number), "far": far.batch(number), "all": all_of_them.batch(number)}
        assert torch.equal(batches["near"].looks.images, batches["far"].looks.images)
        kept += int((batches["near"].moving == batches["far"].moving).flatten(1).all(1).sum())
        for name, batch in batches.items():
            apart[name] += batch.moving[:, :3, 3].norm(dim=-1).tolist()
    assert 12 < kept < 36
    means = {name: sum(values) / len(values) for name, values in apart.items()}
    assert means["near"] < means["far"] < means["all"] and means["all"] > 180
    with pytest.raises(InputError, match=r"1\.5 is no share"):
        TrainingConfig(far=1.5)


@pytest.mark.parametrize("change", [{"loss": "value"}, {"distance": "euclidean"}, {"appearance": "plain"}])
def test_variants_of_the_loss(pool: Path, change: dict[str, str]) -> None:
    variant = task(pool, **change)
    loss = variant.loss(variant.batch(0))
    loss.backward()
    assert float(loss.detach()) > 0
    assert any(p.grad is not None and bool(p.grad.any()) for p in variant.network.parameters())


def test_a_killed_training_ends_with_the_same_weights(pool: Path, tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke")
    whole, broken, again = task(pool), task(pool), task(pool)
    train(whole, LoopConfig(tmp_path / "whole", chosen.fingerprint()))
    train(broken, LoopConfig(tmp_path / "broken", chosen.fingerprint(), save_every=5, until=5))
    train(again, LoopConfig(tmp_path / "broken", chosen.fingerprint(), save_every=5))
    for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "broken")]
    assert [row.split(",")[::2][:2] for row in logs[0]] == [row.split(",")[::2][:2] for row in logs[1]]  # iterations and rates


def test_weights_card_and_refusals(pool: Path, tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke")
    done = run(chosen, RunConfig(tmp_path / "out", pool))
    assert done.finished and done.weights == "similarity.safetensors"
    assert done.said.startswith("2 descents for test patients: mean TRE from ")
    learned = read_learned(tmp_path / "out" / done.weights)
    assert learned.cube == chosen.settings.cube and learned.descent == chosen.settings.descent
    said = json.loads((tmp_path / "out" / "card.json").read_text())
    assert said["figures"]["test"]["cases"] == 2 and said["settings"]["data"]["test"] == [990_000, 990_000]
    card = (tmp_path / "out" / "card.md").read_text()
    assert "seeds 0 to 1 for training" in card and said["sha256"] in card
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    # the same by the same seed, other weights by another
    training = task(pool)
    assert not torch.equal(next(training.network.parameters()), next(task_of_seed(pool, 1).network.parameters()))
    with pytest.raises(InputError, match="not an imitation-agent"):
        from raylign.methods.imitation_agent.agent import read_agent

        read_agent(tmp_path / "out" / done.weights)
    with pytest.raises(InputError, match="not a convex-similarity"):
        read_learned(Path("src/raylign/methods/imitation_agent/weights/agent.safetensors").resolve())
    with pytest.raises(InputError, match="begins from random weights"):
        run(replace(chosen, begin=Weights.of(tmp_path / "out" / done.weights)), RunConfig(tmp_path / "more", pool))
    with pytest.raises(InputError, match="are not joined"):
        join(replace(chosen, members=(Weights.of(tmp_path / "out" / done.weights),)), RunConfig(tmp_path / "joined", pool))


def task_of_seed(pool: Path, seed: int) -> SimilarityTraining:
    chosen = read_training(RECIPE, "smoke", seed)
    made: SimilarityTraining = chosen.make(chosen.settings, chosen.seed, pool)
    return made


@pytest.mark.parametrize("change", [{"structures": ()}, {"phantom": "lumbar", "structures": ("vertebrae_L3", "vertebrae_L4")}])
def test_other_models_are_made(change: dict[str, object], tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke").settings
    data = replace(chosen.data, **change, train=(0, 0), train_exposures=1)
    Pool(tmp_path, data, chosen.cube).make(("train",))
    (patient,) = Pool(tmp_path, data, chosen.cube).read("train")
    share = float((patient.cube > 0).float().mean())
    assert share > 0.3 if not data.structures else 0 < share < 0.1
    assert len(patient.points) == 200


def test_what_is_wrong_with_a_recipe_is_said_before_patients_are_made(tmp_path: Path) -> None:
    chosen = read_training(RECIPE, "smoke")
    for wrong in (
        {"moving": "nolaw"},
        {"start": "nolaw"},
        {"appearance": "nolook"},
        {"cube": replace(chosen.settings.cube, pixels=48)},
    ):
        with pytest.raises(InputError):
            chosen.make(replace(chosen.settings, **wrong), 0, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_wrong_data_are_refused(pool: Path, tmp_path: Path) -> None:
    config = read_training(RECIPE, "smoke").settings
    with pytest.raises(InputError, match="is a pool of other settings"):
        Pool(pool, replace(config.data, phantom_mm=4.0), config.cube)
    with pytest.raises(InputError, match="is a pool of other settings"):
        Pool(pool, config.data, replace(config.cube, voxels=26))
    with pytest.raises(InputError, match="in two of train"):
        PoolConfig(train=(0, 60))
    with pytest.raises(InputError, match="held out for evaluation"):
        PoolConfig(train=(0, 20), validation=(990_200, 990_201))
    with pytest.raises(InputError, match="cannot be read"):
        read_patient(tmp_path / "nobody.npz")
    np.savez(tmp_path / "torn.npz", cube=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="the same command makes it again"):
        read_patient(tmp_path / "torn.npz")
    for wrong in ({"rate": 0.0}, {"least": 1.0}, {"momentum": 1.0}):
        with pytest.raises(InputError, match="optimiser"):
            OptimiserConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="settings"):
        TrainingConfig(batch=0)


def test_rates_go_up_and_down() -> None:
    paper, adam = OptimiserConfig(), OptimiserConfig("adam", rate=1e-3, least=1e-5, warm_up=10)
    assert paper.at(0, 15_000) == pytest.approx(1e-5) and paper.at(100, 15_000) == pytest.approx(1e-3)
    assert paper.at(200, 15_000) == pytest.approx(1e-5) and paper.at(50, 15_000) == pytest.approx(5.05e-4)
    assert adam.at(0, 100) < 2e-4 and adam.at(9, 100) > 9e-4 and adam.at(99, 100) < 2e-5


def test_each_variant_of_the_paper_changes_one_thing_of_brief() -> None:
    base = read_training(RECIPE, "brief").settings
    changes = {
        "scan": {"data": replace(base.data, structures=())},
        "plain": {"appearance": "plain"},
        "flat": {"network": replace(base.network, expand=False)},
        "value": {"loss": "value"},
        "residual": {"network": replace(base.network, encoder="residual")},
        "spine": {"data": replace(base.data, phantom="lumbar", structures=tuple(f"vertebrae_L{n}" for n in range(1, 6)))},
    }
    for name, change in changes.items():
        assert read_training(RECIPE, f"brief-{name}").settings == replace(base, **change)


def test_what_is_left_is_told_in_the_exposures_own_axes(pool: Path) -> None:
    patient = read_patient(sorted(pool.glob("*.npz"))[0])
    laws = Laws("gao2024/moving", "plain", 32)
    pairs = make_pairs(patient, torch.arange(3), laws, torch.Generator().manual_seed(0))
    columns = pairs.looks.vectors[:, 2]
    beam = torch.nn.functional.normalize(torch.linalg.cross(columns, pairs.looks.vectors[:, 3]), dim=-1)
    poses = pairs.truth.clone()
    # 10 mm along the columns and 20 along the beam off, and turned by 0.3 radians about the beam
    away = 10 * torch.nn.functional.normalize(columns, dim=-1) + 20 * beam
    turn = se3.exp(torch.cat([0.3 * beam, torch.zeros_like(beam)], -1).to(poses))
    poses[:, :3, :3] = turn[:, :3, :3] @ poses[:, :3, :3]
    poses[:, :3, 3] += away
    expected = torch.tensor([np.degrees(0.3), 10.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(left(poses, pairs), expected.expand(3, 3), atol=1e-3, rtol=0)
    said = left_open(torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [100.0, 300.0, 500.0]]))
    assert said == {"open_degrees": 4.0, "open_mm": 8.0, "open_depth": 12.0}
