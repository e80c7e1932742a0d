"""``raylign reproduce gao2024``: rows, figures and page, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.evaluation import gao2024 as gao
from raylign.evaluation.gao2024_figures import CLASSICAL, LEARNED, Correlation, Figures, FiguresConfig, correlated, figures
from raylign.evaluation.gao2024_page import report_html
from raylign.evaluation.protocol import SEARCHED, load_protocol
from raylign.evaluation.record import Record
from tests.methods.test_convex_registrar import learned

PROST = gao.Network("ProST", "convex-similarity", None, "pelvis")


def record(case: int, mtre: float | None, *, trusted: bool = False) -> Record:
    end = {"mtre": mtre, "in_plane": 3.0, "depth": -4.0, "angle": 2.0} if mtre is not None else {}
    return Record(
        case, f"case {case}", f"s{case % 2}", "none", "any", 0, start_mtre=200.0, start_in_plane=60.0, start_depth=80.0,
        start_angle=30.0, trusted=trusted, seconds={"cpu": 1.0 + case}, **end,
    )  # fmt: skip


def part(config: gao.ReproduceConfig, name: str = "pelvis") -> gao.Part:
    fast, slow = gao.wanted(config, name)
    found = {label: [record(0, 1.0, trusted=True), record(1, 50.0, trusted=True), record(2, None)] for label in {**fast, **slow}}
    return gao.Part(name, "Pelvis", {gao.START: [record(n, 1.0) for n in range(3)], **found})


def drawn() -> Figures:
    grid = np.linspace(0.0, 1.0, 12).reshape(2, 6)
    along = np.stack([np.linspace(-60, 60, 5)] * 6)
    landscape = dict.fromkeys((LEARNED, CLASSICAL), along**2)
    return Figures(along, landscape, grid, {LEARNED: grid, CLASSICAL: grid**2}, {LEARNED: Correlation(0.9, 0.8, 0.7)})


def test_rows_are_those_of_the_paper_and_ours() -> None:
    other = gao.Network("other", "convex-similarity", Path("w.safetensors"), "pelvis")
    spine = gao.Network("spine", "convex-similarity", Path("s.safetensors"), "lumbar")
    config = gao.ReproduceConfig((PROST, other, spine))
    fast, slow = gao.wanted(config, "pelvis")
    assert fast["ProST"] == "convex-similarity-alone" and fast["ProST + direct"] == "convex-similarity"
    assert fast["other"] == f"convex-similarity-alone@{Path('w.safetensors').resolve()}"
    assert fast[gao.SEARCH] == SEARCHED and "spine" not in fast
    assert fast["other + direct"] == f"convex-similarity@{Path('w.safetensors').resolve()}"
    # minutes a case: after the first network alone
    assert slow == {gao.CMAES: "xreg-wide", "ProST + CMA-ES": "convex-similarity+xreg-wide"}
    assert fast[gao.NO_NETWORK] == "convex-similarity-skipped"
    assert set(gao.wanted(config, "spine")[0]) == {"spine", "spine + direct", gao.NO_NETWORK, gao.SEARCH}
    assert config.parts == ("pelvis", "tool", "spine")
    assert gao.ReproduceConfig((PROST,), data=Path()).parts == ("pelvis", "tool", "scans")
    for name in ("tool", "scans"):
        assert load_protocol(f"gao2024_{name}").success_mm == gao.SUCCESS_MM


def test_a_row_counts_what_failed_and_what_was_trusted_all_the_same() -> None:
    found = {row["method"]: row for row in gao.rows(part(gao.ReproduceConfig((PROST,))))}
    start, one = found[gao.START], found["ProST + direct"]
    assert (start["tre_p50"], start["shift_p50"], start["angle_p50"]) == (200.0, 100.0, 30.0)
    assert "silent" not in start
    assert one["success"] == pytest.approx(1 / 3) and one["silent"] == 1 and one["trusted"] == pytest.approx(2 / 3)
    assert one["tre_p50"] == 50.0 and one["tre_p95"] == np.inf and one["shift_p25"] == 5.0
    assert one["success_low"] <= one["success"] <= one["success_high"]


def test_the_page_has_all_tables_and_figures() -> None:
    config = gao.ReproduceConfig((PROST,))
    page = report_html(gao.Reproduced(config, (part(config), part(config, "tool")), drawn()))
    for words in (
        "Figure 4",
        "Figure 5",
        "Figure 6",
        "As published",
        "ProST + CMA-ES",
        "turn about z",
        "0.90",
        "CMA-ES: 33.3 % over 3 cases; direct about the start: 33.3 %",
    ):
        assert words in page, words
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": 0}, "give 1 or more"),
        ({"slow": 0}, "give 1 or more"),
        ({"seed": -1}, "is negative"),
        ({"networks": (PROST, PROST)}, "two networks are called ProST"),
        ({"networks": (replace(PROST, phantom="lumbar"),)}, "no network of pelves"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gao.ReproduceConfig(**{"networks": (PROST,), **changes})  # type: ignore[arg-type]


def test_weights_name_their_row(tmp_path: Path) -> None:
    said = {
        "name": "gao2024",
        "preset": "small-plain",
        "settings": {"data": {"phantom": "lumbar", "structures": ["vertebra_L1"]}},
    }
    replace(learned(), about=said).save(tmp_path / "one.safetensors")
    learned().save(tmp_path / "two.safetensors")
    assert gao.network(tmp_path / "one.safetensors") == gao.Network(
        "ProST (small-plain)", "convex-similarity", tmp_path / "one.safetensors", "lumbar"
    )
    assert gao.network(tmp_path / "two.safetensors").label == "ProST (two)"
    with pytest.raises(InputError, match="there are no weights"):
        gao.network(tmp_path / "three.safetensors")


def test_a_similarity_that_is_the_distance_follows_it_best() -> None:
    distance = np.random.default_rng(0).uniform(0, 2, (5, 9))
    perfect = correlated(distance, 3 * distance + 1)
    assert (perfect.over_all, perfect.within, perfect.ordered) == pytest.approx((1.0, 1.0, 1.0))
    # of another scale in each exposure: right within, not over all
    scaled = correlated(distance, distance + 10 * np.arange(5)[:, None])
    assert scaled.within == pytest.approx(1.0) and scaled.over_all < 0.5
    assert correlated(distance, -distance).ordered == pytest.approx(0.0)


def test_figures_are_of_the_network_and_of_gradient_ncc_at_the_same_poses(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    learned().save(file)
    found = figures(file, FiguresConfig(exposures=1, poses=3, steps=2), 0)
    assert found.along.shape == (6, 5) and found.landscape[LEARNED].shape == (6, 5)
    assert found.along[0].tolist() == [-60, -30, 0, 30, 60] and found.along[4, -1] == 240
    # in the middle every degree of freedom is at the true pose
    assert np.ptp(found.landscape[CLASSICAL][:, 2]) < 1e-6 and found.landscape[CLASSICAL][0, 2] < found.landscape[CLASSICAL].max()
    assert found.distance.shape == found.values[LEARNED].shape == (1, 6)
    assert set(found.correlations) >= {LEARNED, CLASSICAL, f"{LEARNED}, starts"}
    assert torch.isfinite(torch.from_numpy(found.values[LEARNED])).all()
