"""Registrars side by side: cases, starts, and failures that are counted."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from raylign.bench import registration
from raylign.bench.registration import Attempt, Plan, as_dict, attempt, compare, row, table
from raylign.bench.registration_cases import Start, Truth, exposure_of, folder, phantoms
from raylign.errors import InputError
from raylign.evaluation.metrics import mtre
from raylign.geometry import Rigid, se3
from raylign.registration import SearchConfig, centred
from raylign.registration.register import WIDE


@lru_cache(maxsize=1)
def lumbar() -> Truth:
    return next(iter(phantoms(1, 3, ("lumbar",))))


class Oracle:
    """A registrar that knows the answer, or does not want to say it."""

    def __init__(self, truth: Truth, error: Exception | None = None) -> None:
        self.truth, self.error = truth, error

    def register(self, problem: Any) -> Any:
        from raylign.registration.classical import assess
        from raylign.registration.search import camera_axes

        if self.error is not None:
            raise self.error
        return assess(problem, self.truth.pose.matrix.numpy(), camera_axes(problem.xrays[0].view), 0.0)


def test_a_case_is_what_it_says() -> None:
    case = lumbar()
    shift = case.pose.apply(case.model.centre[None])[0]
    assert shift.abs().max() < 25 * 3**0.5
    assert torch.rad2deg(se3.log(case.pose.matrix)[:3].norm()) < 12 * 3**0.5
    assert case.targets.shape == (200, 3)
    voxel = torch.linalg.inv(case.model.affine)
    index = (case.targets @ voxel[:3, :3].T + voxel[:3, 3]).round().long()
    assert (case.model.data[index[:, 2], index[:, 1], index[:, 0]] > 300).all()
    pixels = case.xrays[0].view.project(case.pose.apply(case.model.centre[None]))[0]
    assert (pixels > 53).all() and (pixels < 331).all()
    again = exposure_of(case.name, case.kind, int(case.name.split()[1]))
    assert torch.equal(again.xrays[0].image, case.xrays[0].image) and torch.equal(again.pose.matrix, case.pose.matrix)
    other = exposure_of("another", "lumbar", int(case.name.split()[1]) + 1)
    assert not torch.equal(other.pose.matrix, case.pose.matrix)


def test_the_heart_is_a_field_of_120_mm() -> None:
    case = next(iter(phantoms(1, 1, ("heart",))))
    size = torch.tensor(case.model.data.shape[::-1]) * case.model.spacing[0]
    assert abs(float(size[0]) - 120) < 6 and abs(float(size[2]) - 120) < 6 and float(size[1]) > 180


@pytest.mark.parametrize(
    ("name", "least", "most"), [("near", 0.5, 30.0), ("5-10mm", 5.0, 10.0), ("30,15", 5.0, 120.0), ("gao2024", 20.0, 600.0)]
)
def test_starts(name: str, least: float, most: float) -> None:
    case = lumbar()
    drawn = [Start(name).draw(case, seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0].matrix, drawn[1].matrix) and not torch.equal(drawn[0].matrix, drawn[2].matrix)
    assert all(least <= float(mtre(d, case.pose, case.targets)) <= most for d in drawn)


def test_starts_that_are_not_drawn_and_what_they_leave_open() -> None:
    case = lumbar()
    for name, search in (("center", SearchConfig()), ("search", WIDE)):
        assert torch.equal(Start(name).draw(case, 5).matrix, centred(case.model).matrix)
        assert Start(name).search == search
    assert Start("30,15").search == SearchConfig(degrees=15, mm=30)
    assert Start("gao2024").search == WIDE
    for wrong in ("30;15", "a,b", "nowhere", "60-mm", "40-20mm", "1e999-2mm"):
        with pytest.raises(
            InputError, match=r"^--start: .* is no start .* center, search, near, LOW-HIGHmm, MM,DEGREES, .*toth2018"
        ):
            Start(wrong)


def test_a_method_that_breaks_off_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    case = lumbar()
    monkeypatch.setattr(
        registration, "registrar", lambda method, **_: Oracle(case, ValueError("no\nway") if method == "xreg" else None)
    )
    monkeypatch.setattr(Plan, "truths", lambda self: [case, case])
    told: list[float] = []
    plan = Plan(("direct", "xreg"), 2)
    attempts = compare(plan, lambda stage, share: told.append(share))
    assert told == sorted(told) and told[-1] == 1
    assert [a.method for a in attempts] == ["direct", "xreg"] * 2
    assert attempts[0].mtre == attempts[0].mrpd == 0 and attempts[0].trusted
    assert attempts[1].mtre == math.inf and attempts[1].broke == "ValueError: no" and not attempts[1].trusted
    made = json.loads(json.dumps(as_dict(attempts, plan, {}), allow_nan=False))
    first, second = made["rows"]
    assert first["mtre_under_1"] == 100 and first["broke_off"] == 0 and first["n"] == 2
    assert second["mtre_under_10"] == 0 and second["broke_off"] == 2 and second["mtre_median"] is None
    assert made["by_kind"][0]["kind"] == "lumbar" and len(made["attempts"]) == 4
    text = "\n".join(table(attempts, plan))
    assert "100/100/100/100" in text and "0/0/0/0" in text and text.count("xreg broke off on lumbar") == 2


def test_shares_and_silent_failures() -> None:
    def made(error: float, trusted: bool) -> Attempt:
        return Attempt("m", "c", "k", 20.0, error, error / 2, 1.0, 2.0, 10, 0.9, trusted)

    r = row([made(e, t) for e, t in ((0.5, True), (1.5, True), (4.0, False), (9.0, True), (30.0, True))])
    assert [r[f"mtre_under_{n}"] for n in (1, 2, 5, 10)] == [20, 40, 60, 80]
    assert r["mtre_median"] == 4.0 and r["mrpd_median"] == 2.0 and r["silent_failures"] == 1 and r["trusted"] == 4


def test_interruption_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient:
        def register(self, problem: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(registration, "registrar", lambda method, **_: Impatient())
    with pytest.raises(KeyboardInterrupt):
        attempt("direct", lumbar(), Start(), 0)


def test_the_direct_method_on_a_made_patient() -> None:
    done = attempt("direct", lumbar(), Start("near"), 0)
    assert done.broke == "" and done.mrpd < 1.0 < done.start
    assert done.seconds > 0 and done.cpu > 0


def test_folders_that_hold_no_cases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cases"):
        list(folder(tmp_path, 1))
    place = tmp_path / "cases" / "leg" / "plain"
    place.mkdir(parents=True)
    (place / "truth.json").write_text("{")
    with pytest.raises(InputError, match="no record of cases"):
        list(folder(tmp_path, 1))
    case = {"files": ["0.dcm"], "pose_world_from_ct": Rigid(torch.eye(4, dtype=torch.float64)).matrix.tolist()}
    (place / "truth.json").write_text(json.dumps({"cases": {"0": case}, "targets_ct": [[0, 0, 0]]}))
    with pytest.raises(InputError, match="no scan leg"):
        list(folder(tmp_path, 1))
    flat, short = {**case, "pose_world_from_ct": [[1, 0, 0]] * 4}, [[0, 0]]
    for wrong, targets, words in (
        (flat, [[0, 0, 0]], "four rows of four"),
        (case, short, "x, y and z"),
        (case, [], "x, y and z"),
    ):
        (place / "truth.json").write_text(json.dumps({"cases": {"0": wrong}, "targets_ct": targets}))
        with pytest.raises(InputError, match=f"truth.json.*no record of cases .*{words}"):
            list(folder(tmp_path, 1))


def test_real_cases(shared: Path) -> None:
    found = list(folder(shared, 3))
    assert len({c.kind for c in found}) == 3  # from each set in turn
    for case in found:
        assert case.targets.shape[1] == 3 and all(x.view.shape == tuple(x.image.shape) for x in case.xrays)


@pytest.fixture
def shared() -> Path:
    path = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (path / "cases").is_dir():
        pytest.skip("shared/data is not there")
    return path


def test_plans_that_cannot_be_run() -> None:
    with pytest.raises(InputError, match="no method 'powell'"):
        Plan(("direct", "powell"))
    with pytest.raises(InputError, match="0 cases"):
        Plan(cases=0)
    with pytest.raises(InputError, match="no body 'foot'"):
        Plan(bodies=("foot",))
    with pytest.raises(InputError, match="negative"):
        Plan(seed=-1)
