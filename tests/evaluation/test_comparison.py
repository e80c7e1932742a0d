"""Two made runs beside each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raylign import InputError
from raylign.evaluation.comparison import Difference, compare, compared, paired_shares
from raylign.evaluation.record import RECORDS, Record
from raylign.evaluation.runner import RUN, SCHEMA
from raylign.evaluation.statistics import Interval, wilson
from tests.evaluation.test_tables import BROKEN, protocol, record


def folder(where: Path, records: list[Record], **changes: object) -> Path:
    """A run of made records, as the runner leaves one."""
    made = protocol(**{k: v for k, v in changes.items() if k in ("methods", "criterion", "starts")})
    told = {
        "schema": SCHEMA,
        "protocol": made.model_dump(mode="json"),
        "seed": 0,
        "cases": len({r.case for r in records}),
        "methods": list(made.methods),
        "versions": {"raylign": "1"},
        "commit": "abc",
        "machine": {"processor": "p", "cores": 2},
        "workers": 1,
        "data": None,
    } | {k: v for k, v in changes.items() if k in ("seed", "workers")}
    where.mkdir()
    (where / RUN).write_text(json.dumps(told))
    (where / RECORDS).write_text("".join(r.line() + "\n" for r in records))
    return where


def before() -> list[Record]:
    return [record(k, mtre=0.5 + 0.01 * k, subject=f"s{k // 4}") for k in range(40)]


def after(by: float = 0.3) -> list[Record]:
    """Every case nearer by ``by`` mm, but two: one without a result, one far off; slower by a second."""
    out = [replace(r, mtre=(r.mtre or 0) - by, seconds={"register": 3.0, "cpu": 2.0}) for r in before()]
    out[3] = replace(out[3], **BROKEN)  # type: ignore[arg-type]
    out[5] = replace(out[5], mtre=30.0)
    return out


def test_numbers_by_hand(tmp_path: Path) -> None:
    found = compared(folder(tmp_path / "a", before()), folder(tmp_path / "b", after()))
    (pair,) = found.pairs
    assert pair.name == "direct" and (pair.won, pair.lost) == (38, 2)
    said = {d.measure: d for d in pair.differences}
    assert said["success_10mm"].first == 1 and said["success_10mm"].second == pytest.approx(0.95)
    assert said["success_10mm"].difference == pytest.approx(-0.05)
    assert said["success_10mm"].verdict == "no difference shown"  # 2 of 40
    ordered = np.sort([0.2 + 0.01 * k for k in range(40) if k not in (3, 5)] + [30, math.inf])
    assert said["median"].difference == pytest.approx(ordered[19:21].mean() - (0.5 + 0.195))
    assert said["median"].verdict == "better"
    assert said["mean"].second == math.inf and said["mean"].difference == math.inf
    assert said["seconds"].difference == pytest.approx(1.0) and said["seconds"].verdict == "worse"


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", after())
    for d in compared(a, a).pairs[0].differences:
        assert d.difference == 0 or math.isnan(d.difference)
        assert d.verdict == "no difference shown"


def test_pairing_sees_what_two_tables_do_not(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    hard = draw.exponential(5, 40)
    first = [record(k, mtre=float(h), subject=f"s{k}") for k, h in enumerate(hard)]
    second = [record(k, mtre=float(h) - 0.05, subject=f"s{k}") for k, h in enumerate(hard)]
    found = compared(folder(tmp_path / "a", first), folder(tmp_path / "b", second)).pairs[0]
    median = next(d for d in found.differences if d.measure == "median")
    assert median.difference == pytest.approx(-0.05) and median.verdict == "better"


def test_files(tmp_path: Path) -> None:
    said = compare(folder(tmp_path / "a", before()), folder(tmp_path / "b", after()), tmp_path / "out")
    assert (tmp_path / "out" / "comparison.txt").read_text() == said + "\n"
    assert "direct: 40 cases, better in 38, worse in 2" in said
    numbers = json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    first = numbers["pairs"][0]["differences"][0]
    assert first["measure"] == "success_1mm" and set(first) >= {"first", "second", "difference", "low", "high", "verdict"}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "default-src 'none'" in page and "://" not in page
    assert f"raylign evaluate {tmp_path / 'b'} --replay 3 --method direct" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, r"differ in seed \(0 and 1\)"),
        ({"criterion": "mrpd"}, "differ in criterion of the protocol"),
        ({"starts": "near"}, "differ in starts of the protocol"),
    ],
)
def test_runs_of_other_cases_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compared(folder(tmp_path / "a", before()), folder(tmp_path / "b", before(), **changes))


def test_another_number_of_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cases \(40 and 39\)"):
        compared(folder(tmp_path / "a", before()), folder(tmp_path / "b", before()[:-1]))


def test_equal_protocols_with_other_data_are_refused(tmp_path: Path) -> None:
    moved = before()
    moved[7] = replace(moved[7], start=tuple(x + 1.0 for x in moved[7].start or ()), start_mtre=11.0)
    with pytest.raises(InputError, match="case 7 is another one"):
        compared(folder(tmp_path / "a", before()), folder(tmp_path / "b", moved))


def test_a_field_that_an_older_run_did_not_have_is_its_default(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", before()), folder(tmp_path / "b", before())
    told = json.loads((a / RUN).read_text())
    del told["protocol"]["capture_share"]
    (a / RUN).write_text(json.dumps(told))
    assert len(compared(a, b).pairs) == 1
    told["protocol"]["capture_share"] = 0.9
    (a / RUN).write_text(json.dumps(told))
    with pytest.raises(InputError, match="differ in capture_share of the protocol"):
        compared(a, b)


def test_a_verdict_is_of_the_interval_and_needs_numbers() -> None:
    def verdict(difference: float, low: float, high: float, better: int = -1, comparable: bool = True) -> str:
        return Difference("median", 1.0, 2.0, difference, Interval(low, high), better, comparable).verdict

    assert [verdict(-1, -2, -0.5), verdict(1, 0.5, 2), verdict(1, 0.5, 2, 1)] == ["better", "worse", "better"]
    assert verdict(-math.inf, -math.inf, -3) == "better"
    nothing = "no difference shown"
    assert [verdict(math.nan, -2, -0.5), verdict(1, math.nan, math.nan), verdict(1, -1, 2)] == [nothing] * 3  # infinite in both
    assert verdict(-1, -2, -0.5, comparable=False) == "not compared"


def test_seconds_of_other_machines_are_not_judged(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", before()), folder(tmp_path / "b", after(), workers=2)
    said = {d.measure: d.verdict for d in compared(a, b).pairs[0].differences}
    assert (said["seconds"], said["cpu"]) == ("not compared", "not compared") and said["median"] == "better"


def test_runs_of_one_method_each_compare_the_two(tmp_path: Path) -> None:
    other = [replace(r, method="cmaes") for r in after()]
    a, b = folder(tmp_path / "a", before(), methods=("direct",)), folder(tmp_path / "b", other, methods=("cmaes",))
    assert compared(a, b).pairs[0].name == "direct → cmaes"
    both = folder(tmp_path / "c", [*other, *(replace(r, method="xreg") for r in other)], methods=("cmaes", "xreg"))
    with pytest.raises(InputError, match="none of the other run's methods"):
        compared(a, both)


def test_paired_intervals_cover_what_they_should() -> None:
    """The share of intervals that hold the truth, over many draws of 60 correlated pairs."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        u, v = draw.random(60), draw.random(60)
        first, second = u < 0.85, np.where(v < 0.6, u, draw.random(60)) < 0.75
        i = paired_shares(first, second)
        held += i.low <= -0.1 <= i.high
    assert 0.92 <= held / 400 <= 0.99


def test_where_no_pair_differs_the_interval_still_has_a_width() -> None:
    good = np.ones(50, bool)
    found, one = paired_shares(good, good), wilson(50, 50)
    assert found.low == pytest.approx(-(1 - one.low)) and found.high == pytest.approx(1 - one.low)
