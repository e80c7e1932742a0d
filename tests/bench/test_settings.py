"""Which setting is timed, and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from raylign.bench.cases import Case, Entry
from raylign.bench.process import Failed
from raylign.bench.scene import RENDERERS, cameras, poses, scene
from raylign.bench.settings import Setting, Trial, choose, described

LADDERS = [[{"model": "trilinear", "step": s} for s in (4.0, 2.0, 1.0, 0.5)], [{"model": "joseph"}]]


def trials(errors: dict[Any, float], ms: dict[Any, float]) -> Any:
    """A measurement that looks its answers up, by step or by model."""

    def measure(setting: Setting) -> Trial | None:
        key = setting.get("step", setting["model"])
        return Trial(setting, errors[key], ms[key]) if key in errors else None

    return measure


def test_the_cheapest_that_is_good_enough() -> None:
    errors = {4.0: 0.04, 2.0: 0.02, 1.0: 0.009, 0.5: 0.008, "joseph": 0.007}
    ms = {4.0: 1.0, 2.0: 2.0, 1.0: 4.0, 0.5: 8.0, "joseph": 5.0}
    choice, tried = choose(LADDERS, 0.01, trials(errors, ms))
    assert choice.setting == {"model": "trilinear", "step": 1.0} and choice.reached
    assert choice.finer == ({"model": "trilinear", "step": 0.5},)
    assert 0.5 not in [t.setting.get("step") for t in tried]  # nothing finer than needed is computed
    choice, _ = choose(LADDERS, 0.01, trials(errors, ms | {"joseph": 3.0}))
    assert choice.setting == {"model": "joseph"} and choice.finer == ()


def test_one_that_cannot_is_taken_at_its_best() -> None:
    errors = {4.0: 0.04, 2.0: 0.0201, 1.0: 0.02, 0.5: 0.02, "joseph": 0.03}
    ms = {4.0: 1.0, 2.0: 2.0, 1.0: 4.0, 0.5: 8.0, "joseph": 0.5}
    choice, _ = choose(LADDERS, 0.01, trials(errors, ms))
    # within 1 % of its best, at a quarter of the cost
    assert choice.setting == {"model": "trilinear", "step": 2.0} and not choice.reached


def test_a_ladder_is_left_where_it_brings_nothing_more() -> None:
    ladder = [{"model": "trilinear", "step": float(s)} for s in range(20, 0, -1)]
    _, tried = choose([ladder], 0.01, lambda setting: Trial(setting, 0.02, 1.0))
    assert len(tried) == 4


def test_settings_that_fail() -> None:
    choice, _ = choose(LADDERS, 0.01, trials({"joseph": 0.005}, {"joseph": 1.0}))
    assert choice.setting == {"model": "joseph"}
    with pytest.raises(Failed, match="no setting"):
        choose(LADDERS, 0.01, lambda setting: None)


def test_settings_in_words() -> None:
    assert described({"model": "trilinear", "step": 1.25}) == "trilinear, step 1.25 voxels"
    assert described({"model": "trilinear", "samples": 200}) == "trilinear, 200 samples"
    assert described({"model": "siddon", "algorithm": "exact"}) == "siddon"


def test_short_calls_are_repeated_often_and_long_ones_once() -> None:
    short = Entry({"model": "joseph"}, 9.0, [0.01], 12.0)
    assert short.calls == 1  # how long it takes is not known
    short.ms = [10.0]
    assert short.wanted == 20 and short.calls == 7
    short.ms = [10.0] * 20
    assert short.done and short.calls == 1  # it goes on beside a peer that is not done
    slow = Entry({"model": "joseph"}, 2000.0, [0.01], 12.0, ms=[2000.0])
    assert slow.wanted == 1 and slow.done and slow.calls == 0
    long = Entry({"model": "joseph"}, 5000.0, [0.01], 12.0)
    assert long.ms == [5000.0] and long.done  # the first call was time enough
    assert Entry({"model": "joseph"}, 5000.0, [0.01], 12.0, compiles=True).ms == []


def test_a_row_has_what_scripts_read() -> None:
    entry = Entry({"model": "joseph"}, 1030.0, [0.01, 0.02], 12.0, ms=[30.0, 10.0, 20.0], peak_mb=7.0)
    row = entry.row("rtk", Case("forward", 8, 64), 0.02, 0.5)
    assert {"who": "rtk", "what": "forward", "batch": 8, "size": 64, "ms": 20.0, "error": 0.01}.items() <= row.items()
    assert row["ms_min"] == 10.0 and row["repeats"] == 3 and row["reached"] and row["compile_s"] == pytest.approx(1.51)
    assert "last image" in row["warning"]  # a batch whose images are not those asked for


def test_a_longer_batch_begins_as_a_shorter_one() -> None:
    many = poses(64)
    assert torch.equal(many[:8], poses(8))
    assert len({tuple(m.flatten().tolist()) for m in many}) == 64


@pytest.mark.parametrize("who", RENDERERS)
def test_every_renderer_is_told_in_plain_numbers(who: str) -> None:
    told = json.loads(json.dumps(cameras(who, scene(8), 6, 3)))
    assert told["shape"] == [6, 6] and told["batch"] == 3
    assert any(isinstance(value, list) and len(value) == 3 for key, value in told.items() if key != "shape")


def test_air_about_the_body_changes_no_voxel_of_it() -> None:
    tight, wide = scene(16), scene(16, margin=2.0)
    assert wide.volume.data.shape == (32, 32, 32)
    assert torch.equal(wide.volume.data[8:24, 8:24, 8:24], tight.volume.data)
    assert float(wide.volume.data.sum()) == pytest.approx(float(tight.volume.data.sum()))
