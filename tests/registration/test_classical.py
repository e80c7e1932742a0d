"""Classical registration: what a level renders, compares and follows; presets; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.projection import project
from raylign.registration import METHODS, Problem, SearchConfig, registrar
from raylign.registration.classical import (
    Classical,
    ClassicalConfig,
    Coordinates,
    Level,
    described,
    left_jacobian,
    objective_of,
)
from raylign.registration.comparison import LOCAL_VARIANCE, Comparison, Measure, Sampling, build
from raylign.registration.levels import centre_under
from raylign.registration.optimisers import CMAES, Adam, TrustRegion
from raylign.registration.presets import PRESETS, preset
from raylign.registration.priors import Frame, PerAxis, Reprojection
from raylign.registration.search import camera_axes, moved
from raylign.similarity import ncc
from tests.registration import scene

UNIT = (4.0, 4.0, 4.0, 8.0, 8.0, 20.0)


@lru_cache(maxsize=2)
def problem(views: int = 1) -> Problem:
    return Problem(scene.chest(), tuple(scene.exposure(10.0 + 60 * i) for i in range(views)), scene.centre_start())


def near_start() -> Rigid:
    """A few degrees and millimetres from the truth."""
    truth = scene.truth().matrix.numpy()
    twist = np.concatenate([np.radians([2.0, -1.5, 2.5]), [3.0, -4.0, 6.0]])
    return Rigid(torch.from_numpy(moved(truth, twist, np.zeros(3))))


def comparison(measure: Measure, views: int = 1, **options: object) -> Comparison:
    sampling = Sampling(pixels=40, **options)  # type: ignore[arg-type]
    start = near_start()
    return Comparison(build(replace(problem(views), start=start), [sampling], 20.0)[0], measure, sampling, start.matrix.numpy())


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    twists = generator.uniform(-1, 1, (count, 6)) * np.concatenate([np.radians([5.0] * 3), [10.0] * 3])
    return np.stack([moved(near_start().matrix.numpy(), t, np.zeros(3)) for t in twists])


def test_values_are_those_of_the_projector_and_the_similarity() -> None:
    """The same images from ``project`` on the level's own grid, one at a time."""
    compared = comparison(Measure("ncc"), answered=False)
    level, image = compared.scale.model, compared.scale.images[0]
    poses = random_poses(3)
    assert compared.fixed[0].shape == image.shape
    volume = replace(
        problem().model,
        data=torch.from_numpy(np.ascontiguousarray(level.data)),
        affine=torch.from_numpy(level.affine),
        unit="1/mm",
    )
    rendered = torch.cat([project(volume, image.view, Rigid(torch.from_numpy(p))) for p in poses])[:, 0]
    mask = torch.from_numpy(image.valid)
    expected = ncc(rendered, compared.fixed[0], mask)
    assert np.allclose(compared.values(poses), expected.numpy(), atol=2e-3)
    assert compared.renders == 3


def test_the_mean_over_views_and_no_influence_of_batches() -> None:
    compared = comparison(Measure("gradient-ncc"), views=2)
    poses = random_poses(5)
    together = compared.values(poses)
    assert np.allclose(together, [compared.values(p[None])[0] for p in poses], atol=1e-6)


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = comparison(Measure("ncc"))
    poses = random_poses(4)
    found = []
    before = torch.get_num_threads()
    try:
        for n in (1, 3):
            monkeypatch.setenv("RAYLIGN_THREADS", str(n))
            torch.set_num_threads(n)
            found.append((compared.values(poses), compared.values(poses[:1]), compared.value_and_slope(poses[0])))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])
    assert found[0][2][0] == found[1][2][0] and np.array_equal(found[0][2][1], found[1][2][1])


def test_fewer_answering_pixels_never_make_a_pose_better() -> None:
    compared = comparison(Measure("ssd"))
    mask = compared.scale.images[0].valid.copy()
    mask[3:] = False
    assert compared._factor(0, mask, np.array(-2.0)) > 1 > compared._factor(0, mask, np.array(0.5)) > 0
    assert compared._factor(0, compared.scale.images[0].valid, np.array(0.5)) == 1


@pytest.mark.parametrize("name", ["ncc", "gradient-ncc"])
def test_the_gradient_in_scaled_coordinates(name: str) -> None:
    """Against differences of the similarity, rays sampled finely; in depth too, where summed derivatives are far off."""
    compared = comparison(Measure(name), views=2, answered=False, step=0.25)
    start = near_start().matrix.numpy()
    axes = camera_axes(problem().xrays[0].view)
    centre = centre_under(compared.scale, start)
    unit = np.array(UNIT) * np.array([np.pi / 180] * 3 + [1.0] * 3)
    coordinates = Coordinates(start, centre, axes, unit)
    frame = Frame(start, axes, centre)
    objective = objective_of(compared, coordinates, (PerAxis(),), 0.1, frame)
    x = np.array([0.3, -0.2, 0.5, 0.4, -0.3, 0.6])  # not small: the rotation's own derivative matters
    assert objective.slope is not None
    cost, gradient = objective.slope(x)
    h = 0.02
    steps = np.concatenate([x + h * np.eye(6), x - h * np.eye(6)])
    values = objective.costs(steps)
    expected = (values[:6] - values[6:]) / (2 * h)
    assert cost == pytest.approx(float(objective.costs(x[None])[0]), abs=1e-5)
    assert np.abs(gradient - expected).max() < 0.08 * np.abs(expected).max()


def test_the_left_jacobian_of_rotations() -> None:
    generator = np.random.default_rng(3)
    for scale in (1e-6, 0.3, 2.5):
        r, d = scale * generator.standard_normal(3) / 2, generator.standard_normal(3)
        h = 1e-6
        ahead = Rotation.from_rotvec(r + h * d) * Rotation.from_rotvec(r).inv()
        assert np.allclose(ahead.as_rotvec() / h, left_jacobian(r) @ d, atol=1e-5)


def config(*levels: Level, **options: object) -> ClassicalConfig:
    return ClassicalConfig(levels, **options)  # type: ignore[arg-type]


def level(optimiser: object, name: str = "gradient-ncc", **options: object) -> Level:
    sampling = options.pop("sampling", Sampling(pixels=48, step=1.5))
    return Level(Measure(name), sampling, optimiser, UNIT, **options)  # type: ignore[arg-type]


def test_without_derivatives_then_along_the_gradient() -> None:
    """Three quite different optimisers end within a millimetre; the result says how."""
    told: list[tuple[str, float]] = []
    levels = (
        level(CMAES(population=20, generations=14), weight=0.05),
        level(Adam(rate=0.05, iterations=25, halving=8), bound=1.0),
        level(TrustRegion(tolerance=0.01), bound=0.5, budget=40, sampling=Sampling(pixels=110)),
    )
    chosen = Classical(config(*levels, priors=(PerAxis((20, 20, 20), (40, 40, 40)),), seed=3), lambda s, x: told.append((s, x)))
    result = chosen.register(replace(problem(), start=near_start()))
    assert scene.error(near_start()) > 6 > 1.0 > scene.error(result.transform)
    assert result.method == "classical" and 200 < result.renders <= 1 + 20 * 14 + 25 + 40 + 1
    assert [s for _, s in told] == sorted(s for _, s in told) and told[0][0] == "pyramids"
    assert [s.level for s in result.trajectory] == sorted((s.level for s in result.trajectory), reverse=True)
    errors = [scene.error(Rigid(s.matrix)) for s in result.trajectory]
    assert errors[-1] == pytest.approx(scene.error(result.transform))
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["renders"] == result.renders
    assert [lvl["optimiser"]["name"] for lvl in stored["settings"]["levels"]] == ["cma-es", "adam", "cobyqa"]
    assert stored["settings"]["priors"][0] == {"name": "PerAxis", "degrees": [20, 20, 20], "mm": [40, 40, 40]}
    again = Classical(chosen.config).register(replace(problem(), start=near_start()))
    assert torch.equal(again.transform.matrix, result.transform.matrix)


def test_a_strong_prior_holds_the_pose_and_landmarks_pull_it() -> None:
    start = near_start()
    coarse = Sampling(pixels=24, step=2.0)
    stiff = config(
        level(CMAES(population=12, generations=30), weight=0.9, sampling=coarse), priors=(PerAxis((0.1,) * 3, (0.1,) * 3),)
    )
    held = Classical(stiff).register(replace(problem(), start=start))
    assert max(held.moved) < 0.5
    points = scene.targets()
    view = problem().xrays[0].view
    seen = view.project(scene.truth().apply(points)).detach()
    pulled = config(
        level(CMAES(population=16, generations=25), weight=0.9, sampling=coarse),
        priors=(Reprojection(points, (seen,), (view,), sd=1.0),),
    )
    result = Classical(pulled).register(replace(problem(), start=start))
    off = (view.project(result.transform.apply(points)).detach() - seen).norm(dim=1).mean()
    assert off < 0.5 < 2 < (view.project(start.apply(points)).detach() - seen).norm(dim=1).mean()


def test_interruption_comes_through() -> None:
    class Stop(Exception):
        pass

    def progress(stage: str, share: float) -> None:
        if stage.startswith("level"):
            raise Stop

    with pytest.raises(Stop):
        Classical(config(level(CMAES(population=8, generations=3))), progress).register(replace(problem(), start=near_start()))


def test_every_preset_is_a_method_and_xregs_is_as_published() -> None:
    assert set(PRESETS) < set(METHODS)
    for name in PRESETS:
        made = registrar(name, search=SearchConfig(degrees=10, mm=20), seed=5)
        assert isinstance(made, Classical) and made.config.name == name and made.config.seed == 5
    first, second = preset("xreg").levels
    assert first.unit == (15, 15, 30, 50, 50, 100) and first.weight == 0.1 and first.optimiser.population == 100  # type: ignore[attr-defined]
    assert second.unit == (2.5, 2.5, 2.5, 5, 5, 10) and second.bound == 1 and second.optimiser.name == "cobyqa"
    for lvl, scale in ((first, 1 / 8), (second, 1 / 4)):
        assert lvl.sampling.pitch == pytest.approx(0.194 / scale)
        assert lvl.measure.function(lvl.sampling.pitch).keywords["radius"] == round(scale * 41)  # type: ignore[attr-defined, arg-type]
    with pytest.raises(InputError, match="no preset"):
        preset("powell")


def test_scales_follow_the_detector() -> None:
    """A detector of 1.56 mm pixels is not split at 1/4 of xReg's scale, and its patches keep their millimetres."""
    (coarse, _), (fine, _) = build(problem(), [lvl.sampling for lvl in preset("xreg").levels], 30.0)
    assert coarse.images[0].shape == fine.images[0].shape
    given = [Sampling(pitch=3.1, crop=False), Sampling(pixels=100)]
    (half, _), (cropped, fixed) = build(problem(), given, 10.0)
    assert half.images[0].shape[0] == pytest.approx(problem().xrays[0].mask.any(1).sum() // 2, abs=1)
    assert fixed[0].shape == cropped.images[0].shape


def test_a_start_that_shows_the_model_nowhere() -> None:
    """It is worth nothing and not to be trusted; and it may be registered all the same, by who looks that far."""
    far = scene.truth().matrix.clone()
    far[:3, 3] += torch.tensor([450.0, 0.0, 300.0], dtype=torch.float64)
    lost = replace(problem(), start=Rigid(far))
    settings = config(level(CMAES(population=8, generations=2), sampling=Sampling(pixels=24, step=2.0)))
    result = Classical(settings).register(lost)
    assert not result.confidence.trusted and result.confidence.probability < 0.1
    assert torch.isfinite(result.covariance).all()


def test_refusals() -> None:
    with pytest.raises(InputError, match="no similarity"):
        Measure("nncc")
    with pytest.raises(InputError, match="no patches"):
        Measure("ncc", patch_mm=8.0)
    with pytest.raises(InputError, match="no options"):
        Measure(LOCAL_VARIANCE, {"radius": 3})
    with pytest.raises(InputError, match="needs a gradient"):
        level(Adam(), name=LOCAL_VARIANCE)
    with pytest.raises(InputError, match="needs bounds"):
        level(TrustRegion())
    with pytest.raises(InputError, match="one of the two"):
        Sampling()
    with pytest.raises(InputError, match="no level"):
        config()
    with pytest.raises(InputError, match="weight"):
        config(level(CMAES()), priors=(PerAxis(),))
    with pytest.raises(InputError, match="weight"):
        level(CMAES(), weight=1.0)
    with pytest.raises(InputError, match="no gradient"):
        comparison(Measure(LOCAL_VARIANCE)).value_and_slope(near_start().matrix.numpy())


def test_a_pose_is_judged_as_the_direct_method_judges_its_own() -> None:
    """The mirror image is looked at, and so is the last box."""
    start = near_start()
    stage = level(TrustRegion(tolerance=0.05), bound=1.0, budget=60, sampling=Sampling(pixels=48))
    right = Classical(config(stage)).register(replace(problem(), start=start)).confidence.evidence
    assert right["mirror"] < 0.9 and right["held"] and right["drift"] < 0.02
    narrow = replace(stage, unit=tuple(u / 10 for u in UNIT))  # the truth lies outside
    wrong = Classical(config(narrow)).register(replace(problem(), start=start)).confidence.evidence
    assert not wrong["held"] and wrong["drift"] > 0.02 and wrong["mirror"] > 0


@pytest.mark.parametrize("name", ["patch-ncc", "patch-gradient-ncc", "multiscale-ncc"])
def test_patches_fit_a_narrow_exposure(name: str) -> None:
    whole = problem().xrays[0]
    mask = torch.zeros_like(whole.mask)
    middle = mask.shape[1] // 2
    mask[:, middle - 9 : middle + 9] = True
    narrow = replace(problem(), xrays=(replace(whole, mask=mask & whole.mask),), start=near_start())
    for sampling in (Sampling(pixels=24), Sampling(pitch=50.0, crop=False)):
        measure = Measure(name)
        compared = Comparison(build(narrow, [sampling], 20.0)[0], measure, sampling, near_start().matrix.numpy())
        assert np.isfinite(compared.values(random_poses(2))).all()
    assert Measure(name).function(1.0, 200).keywords == {}  # type: ignore[attr-defined]


def test_a_pose_of_which_no_ray_counts_is_the_worst() -> None:
    compared = comparison(Measure("ssd"))
    compared.cut = True
    nothing = np.zeros(compared.scale.images[0].shape, np.bool_)
    assert float(compared._weighed(0, nothing, np.array(0.0))) < -1e6
    some = compared._weighed(0, compared.scale.images[0].valid, np.array(-0.2))
    assert float(some) == pytest.approx(-0.2)


def test_widths_of_zero_and_options_from_a_registry() -> None:
    """Nothing open along some coordinate is little open; what is stored can be written whatever held the options."""
    closed = SearchConfig(degrees=0, mm=0, depth=0)
    for name in ("gi+", "ncc-adam", "cmaes"):
        made = registrar(name, search=closed)
        levels = made.config.levels if isinstance(made, Classical) else made.config.classical().levels  # type: ignore[attr-defined]
        assert all(min(lvl.unit) >= 0.1 for lvl in levels)
    frozen = Level(Measure("patch-ncc", MappingProxyType({"radius": 3})), Sampling(pixels=40), CMAES(), UNIT)
    assert json.loads(json.dumps(described(config(frozen))))["levels"][0]["similarity"]["options"] == {"radius": 3}


def test_the_crop_holds_what_is_searched_across_the_beam() -> None:
    assert level(CMAES()).margin == 16.0  # two standard deviations; depth is not across
    assert level(CMAES(), bound=3.0).margin == 16.0 and level(CMAES(), bound=0.5).margin == 4.0
