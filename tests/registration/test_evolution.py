"""CMA-ES repeats itself without touching anybody else's random numbers; registrars chain."""

from __future__ import annotations

import numpy as np
import torch

from raylign.registration import Direct, DirectConfig, Evolution, EvolutionConfig, Pipeline, Problem, SearchConfig
from tests.registration import scene


def _problem() -> Problem:
    return Problem(scene.chest(), (scene.exposure(),), scene.centre_start())


def test_two_runs_in_one_process_agree_and_numpy_is_left_alone() -> None:
    config = EvolutionConfig(generations=6, levels=1, seed=11)
    np.random.seed(42)  # noqa: NPY002
    expected = np.random.default_rng(0).random(3), np.random.random(3)  # noqa: NPY002
    np.random.seed(42)  # noqa: NPY002
    first = Evolution(config).register(_problem())
    assert np.array_equal(np.random.random(3), expected[1])  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    second = Evolution(config).register(_problem())
    assert torch.equal(first.transform.matrix, second.transform.matrix)
    other = Evolution(EvolutionConfig(generations=6, levels=1, seed=12)).register(_problem())
    assert not torch.equal(first.transform.matrix, other.transform.matrix)


def test_evolution_then_direct() -> None:
    near = DirectConfig(search=SearchConfig(degrees=3, mm=6, hypotheses=16))
    result = Pipeline((Evolution(EvolutionConfig(population=24, generations=25, levels=2)), Direct(near))).register(_problem())
    assert result.settings["cut_faces"] == result.settings["2 direct"]["cut_faces"]  # for those who go on from the result
    assert scene.error(result.transform) < 1.0
    assert result.method == "cmaes+direct"
    assert torch.equal(result.start.matrix, scene.centre_start().matrix)
    assert {k.split(":")[0] for k in result.timings} == {"1 cmaes", "2 direct"}
