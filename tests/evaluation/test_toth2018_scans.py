"""The part of ``raylign reproduce toth2018`` that real CTs have: the shipped list, records, table, page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.evaluation import toth2018 as t
from raylign.evaluation import toth2018_scans as s
from raylign.evaluation.toth2018_page import report_html
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.comparison import METHODS, CompareConfig
from raylign.methods.imitation_agent.lv import epicardium, heart_of
from raylign.methods.imitation_agent.network import make_network
from raylign.methods.imitation_agent.pool import Pool, PoolConfig
from raylign.methods.imitation_agent.robustness import RobustConfig
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.methods.imitation_agent.scans import FIRST, Scan, expose_scan, read_scans
from raylign.methods.imitation_agent.world import WorldConfig
from tests.methods.test_imitation_agent import SMALL
from tests.methods.test_imitation_comparison import PEOPLE, QUICK
from tests.methods.test_imitation_mdp import scene


def listed() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(s.LISTED.read_text())["scans"]
    return found


def test_the_shipped_list_holds_ventricles_and_no_voxels() -> None:
    for entry in listed():
        heart = heart_of(entry["heart"])
        assert 40 < heart.volume_ml() < 250
        assert 60 < heart.mass_g() < 250
        assert heart.volume_ml() == pytest.approx(entry["cavity_ml"], rel=0.01)
        assert len(epicardium(heart).faces) > 1000
        assert "source" in entry
        assert float(entry["outside_mm"]) < 1.5  # type: ignore[arg-type]
    assert s.LISTED.stat().st_size < 10_000


def made(path: Path, config: PoolConfig, scan: Scan, count: int) -> None:
    """In place of ``write_scan``: a made-up scene, some of it unseen."""
    exposures = scene()
    mesh = exposures.meshes[0]
    images = exposures.images.repeat(count, 1, 1).to(torch.float16).numpy()
    images[:, :, :20] = np.nan
    vectors, poses = (x.repeat(count, 1, 1).numpy() for x in (exposures.vectors, exposures.base))
    np.savez(
        path, images=images, vectors=vectors, poses=poses,
        vertices=mesh.vertices.to(torch.float32).numpy(), faces=mesh.faces.to(torch.int32).numpy(),
        centre=exposures.centres[0].numpy(),
    )  # fmt: skip


def test_scans_leave_records_a_table_and_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "write_scan", made)
    heart = heart_of(listed()[0]["heart"])
    scan = Scan("somebody", FIRST, tmp_path / "ct.nii", "made up", heart)
    agent = Agent(make_network(SMALL, 32, 0).eval(), WorldConfig(pixels=32))
    walk = RolloutConfig((4.0,), limit=4)
    settings = (
        CompareConfig(cases=1, data=PEOPLE, search=replace(QUICK, step_mm=10), rollout=walk, walks=3),
        RobustConfig(exposures=0, data=PEOPLE, ring=3, step_mm=30, rollout=walk),
    )
    config = s.ScansConfig((scan,), cases=2, grids=1)
    told: list[float] = []
    (found,) = s.on_scans(agent, config, settings, tmp_path, lambda said, share: told.append(share))
    assert told == sorted(told)
    assert [r["subject"] for r in found.cases] == [FIRST, FIRST]
    assert set(found.cases[0]["methods"]) == set(METHODS)
    starts = [r["methods"]["start"]["end"] for r in found.cases]
    assert starts[0] != starts[1]
    assert np.abs(starts).max() <= 35
    assert len(found.grids[0]["ends"]) == 9
    assert found.shown == pytest.approx((220 / 240, 220 / 240), abs=0.01)
    table = (tmp_path / "scans.csv").read_text().splitlines()
    assert table[0].startswith("scan,method,n")
    assert len(table) == 1 + len(METHODS)
    # the page shows them, and says whose they are
    nobody = Pool(tmp_path / "pool", PEOPLE)
    done = t.Reproduced(found.cases, (), *settings, nobody, nobody, {}, (found,))
    monkeypatch.setattr("raylign.evaluation.toth2018_page.failure", lambda records: None)
    page = report_html(done)
    assert "Real chests" in page
    assert "made up" in page
    # what is there is not made again; another fit is another folder's
    kept = found.exposures.stat().st_mtime_ns
    (again,) = s.on_scans(agent, config, settings, tmp_path, lambda said, share: None)
    assert again.exposures.stat().st_mtime_ns == kept
    assert again.cases == found.cases
    other = s.ScansConfig((replace(scan, heart=replace(heart, wall=heart.wall + 1)),), cases=2, grids=1)
    with pytest.raises(InputError, match="other scans or other fits"):
        s.on_scans(agent, other, settings, tmp_path, lambda said, share: None)
    (tmp_path / "ct.nii").write_text("another scan in its place")
    with pytest.raises(InputError, match="other scans or other fits"):
        s.on_scans(agent, config, settings, tmp_path, lambda said, share: None)


def test_a_scans_name_is_that_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ct.nii").touch()
    for name in ("../cases", "", "a/b", "."):
        entry = {**listed()[0], "name": name, "ct": "ct.nii", "labels": None, "label_names": None}
        (tmp_path / "list.json").write_text(json.dumps({"scans": [entry]}))
        with pytest.raises(InputError, match="is no name for a folder"):
            read_scans(tmp_path / "list.json", tmp_path)


def test_a_real_ct_is_exposed_within_its_sides(shared: Path) -> None:
    """The small cardiac CT: what it holds is seen, and to the sides of it nothing."""
    scan = read_scans(s.LISTED, shared)[1]
    arrays = expose_scan(replace(PoolConfig(), pixels=64), scan, 1)
    seen = np.isfinite(arrays["images"][0])
    assert 0.15 < seen.mean() < 0.9
    assert seen[32, 32]
    assert not seen[32, :4].any() or not seen[32, -4:].any()
    values = arrays["images"][0][seen].astype(float)
    assert values.std() > 0.05
