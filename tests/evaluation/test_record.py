"""Lines of an evaluation: what is written is read, what was cut off is left out, what is wrong is said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from raylign.errors import InputError
from raylign.evaluation.record import NOT_MADE, WORKER_DIED, Record, from_line, one_line, read_records

ONE = Record(
    3, "thorax/00003", "thorax", "none", "direct", 0, start_mtre=12.5, start_mrpd=3.25, mtre=0.1 + 0.2, mrpd=0.1, in_plane=0.2,
    depth=-1.5, rotation=(0.1, -0.2, 0.3), angle=0.4, probability=0.9, trusted=True, renders=120,
    pose=tuple(float(i) for i in range(16)), start=tuple(0.1 * i for i in range(16)), seconds={"register": 0.5},
)  # fmt: skip


def test_a_line_says_all_of_a_record() -> None:
    assert from_line(ONE.line()) == ONE
    assert "\n" not in ONE.line()


def test_numbers_that_are_not_finite_are_none() -> None:
    line = replace(ONE, mtre=math.inf, probability=math.nan, rotation=(math.nan, 0.0, 0.0)).line()
    told = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["mtre"] is None and told["probability"] is None and told["rotation"] == [None, 0.0, 0.0]


def test_records_come_by_case_the_last_try_of_each(tmp_path: Path) -> None:
    lost = replace(ONE, case=1, method="ncc", mtre=None, failure=f"{WORKER_DIED}: killed")
    mended = replace(lost, mtre=2.0, failure="")
    lines = [ONE, lost, replace(ONE, case=1), mended]
    (tmp_path / "records.jsonl").write_text("".join(r.line() + "\n" for r in lines))
    found = read_records(tmp_path)
    assert [(r.case, r.method, r.mtre) for r in found] == [(1, "ncc", 2.0), (1, "direct", ONE.mtre), (3, "direct", ONE.mtre)]
    assert read_records(tmp_path / "records.jsonl") == found


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    last = replace(ONE, case=4).line()
    (tmp_path / "records.jsonl").write_text(ONE.line() + "\n" + last[:cut])
    assert read_records(tmp_path) == [ONE]


@pytest.mark.parametrize("line", ["{}", "3", "not json", '{"case": 1}', ONE.line()[:-1] + ',"height": 3}'])
def test_a_line_in_between_that_is_none_is_said(tmp_path: Path, line: str) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(f"{ONE.line()}\n{line}\n{ONE.line()}\n")
    with pytest.raises(InputError, match=r"records\.jsonl: line 2 is no record of an evaluation; "):
        read_records(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path)


def test_what_failed_for_want_of_a_case_or_a_process_is_no_fault_of_the_method() -> None:
    assert replace(ONE, failure=f"{NOT_MADE}: InputError: no scan").of_the_machine
    assert replace(ONE, failure=WORKER_DIED).of_the_machine
    assert not replace(ONE, failure="ValueError: no pose").of_the_machine
    assert not ONE.of_the_machine


def test_exceptions_in_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(MemoryError()) == "MemoryError"
