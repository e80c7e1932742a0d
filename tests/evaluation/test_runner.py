"""Runs: the same records however they come about; every failure a record; nothing of another run in the folder."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raylign.errors import InputError
from raylign.evaluation import provenance, runner
from raylign.evaluation.attempt import case_seed, check_method, rigid, solve
from raylign.evaluation.cases import make_case
from raylign.evaluation.execution import Job, Work, called, jobs, ours
from raylign.evaluation.metrics import cross_tre, mrpd, mtre, pose_error
from raylign.evaluation.protocol import Protocol, load_protocol
from raylign.evaluation.provenance import commit
from raylign.evaluation.record import NOT_MADE, Record, read_records
from raylign.evaluation.replay import protocol_of, replay
from raylign.evaluation.runner import RunSettings, State, read_run, run
from raylign.evaluation.table import write_tables
from raylign.methods.convex_similarity.descent import DescentConfig
from raylign.registration import SearchConfig
from tests.evaluation.runs import CASES, CRASHING, GUESS, ROOT, _still, data, plain, tiny, write_data  # noqa: F401
from tests.methods.test_convex_registrar import learned

WILD = "tests.evaluation.registrars:wild"


def tables(records: list[Record], protocol: object, out: Path) -> bytes:
    out.mkdir(exist_ok=True)
    write_tables(records, protocol, out)  # type: ignore[arg-type]
    return (out / "table.csv").read_bytes() + (out / "table.json").read_bytes()


def test_every_method_on_every_case(data: Path, tmp_path: Path) -> None:  # noqa: F811
    told: list[State] = []
    protocol = tiny(tmp_path, GUESS, "direct")
    records = run(protocol, tmp_path / "run", RunSettings(data=data), told.append)
    assert [(r.case, r.method) for r in records] == [(i, m) for i in range(CASES) for m in (GUESS, "direct")]
    assert [(s.done, s.total, s.kept) for s in told] == [(n, 2 * CASES, 0) for n in range(2 * CASES + 1)]
    assert read_records(tmp_path / "run") == records
    assert {r.failure for r in records} == {""} and Counter(r.subject for r in records) == {"s0": CASES, "s1": CASES}

    # the numbers are those of the poses, measured again
    case, record = make_case(protocol, 4, 0, data), records[8]
    pose, view = rigid(record.pose), case.xrays[0].view
    assert record.name == case.name and record.arm == "none"
    assert torch.equal(rigid(record.start).matrix, case.start.matrix)
    assert record.mtre == pytest.approx(float(mtre(pose, case.pose, case.targets)))
    assert record.mrpd == pytest.approx(float(mrpd(pose, case.pose, case.targets, [view])))
    assert record.start_mtre == pytest.approx(float(mtre(case.start, case.pose, case.targets)))
    split = pose_error(pose, case.pose, case.targets, view)
    assert (record.in_plane, record.depth, record.angle) == pytest.approx((split.in_plane, split.depth, split.angle))
    assert record.rotation == pytest.approx(split.rotation)
    assert record.cross == pytest.approx(float(cross_tre(pose, case.pose, case.centre, view)))
    assert record.start_cross == pytest.approx(float(cross_tre(case.start, case.pose, case.centre, view)))
    # a method that registers is better than one that guesses; how far away so small a body is, coarse images hardly tell
    assert all(b.mrpd < a.mrpd / 2 for a, b in zip(records[::2], records[1::2], strict=True))
    assert all({"make", "register", "cpu"} <= set(r.seconds) for r in records)
    assert sum("warm" in r.seconds for r in records) <= 1

    again, result = replay(protocol, 4, GUESS, data)
    assert again.name == record.name
    assert tuple(result.transform.matrix.flatten().tolist()) == record.pose


def test_what_a_run_was_made_of(data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol = tiny(tmp_path)
    run(protocol, tmp_path / "run", RunSettings(seed=5, cases=2, data=data))
    told = read_run(tmp_path / "run")
    assert (told["seed"], told["cases"], told["methods"]) == (5, 2, [GUESS])
    assert told["protocol"]["name"] == "tiny" and told["protocol"]["seed"] == 5
    assert told["versions"]["raylign"] and told["machine"]["cores"] >= 1 and told["commit"] == "0" * 40
    assert ["ct/s0.nii.gz", (data / "ct" / "s0.nii.gz").stat().st_size] in told["data"]["entries"]
    back, where = protocol_of(tmp_path / "run")
    assert back == protocol.with_(seed=5, cases=2) and where == data
    assert protocol_of("smoke") == (load_protocol("smoke"), None)
    assert not (tmp_path / "run" / ".lock").exists()


def test_seeds_are_of_the_run_and_the_case_alone() -> None:
    seeds = {(s, i): case_seed(s, i) for s in range(5) for i in range(40)}
    assert len(set(seeds.values())) == len(seeds)
    assert case_seed(3, 17) == seeds[3, 17]


def test_no_order_and_no_interruption_changes_the_table(data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol, settings = tiny(tmp_path, GUESS, CRASHING), RunSettings(data=data)
    whole = run(protocol, tmp_path / "whole", settings)

    def stop(state: State) -> None:
        if state.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(protocol, tmp_path / "broken", settings, stop)
    file = tmp_path / "broken" / "records.jsonl"
    assert len(file.read_bytes().splitlines()) == 5
    with file.open("ab") as handle:  # killed in the middle of a line
        handle.write(b'{"case":2,"name":"s0/pl')
    kept: list[State] = []
    resumed = run(protocol, tmp_path / "broken", settings, kept.append)
    assert kept[0] == State(5, 12, 5)
    assert len(file.read_bytes().splitlines()) == 12
    assert plain(resumed) == plain(whole)
    assert tables(resumed, protocol, tmp_path / "a") == tables(whole, protocol, tmp_path / "b")
    assert tables(resumed[::-1], protocol, tmp_path / "a") == tables(whole, protocol, tmp_path / "b")
    before = file.read_bytes()
    assert plain(run(protocol, tmp_path / "broken", settings)) == plain(whole)  # nothing is left to do
    assert file.read_bytes() == before


def test_what_a_method_breaks_off_with_is_a_record(data: Path, tmp_path: Path) -> None:  # noqa: F811
    records = run(tiny(tmp_path, CRASHING, WILD), tmp_path / "run", RunSettings(data=data))
    crashed = [r for r in records if r.method == CRASHING and r.failure]
    assert [(r.case, r.failure) for r in crashed] == [(2, "ValueError: no pose was found")]
    assert crashed[0].mtre is None and crashed[0].pose is None and not crashed[0].trusted
    assert crashed[0].start_mtre is not None and crashed[0].start is not None and "cpu" in crashed[0].seconds
    wild = [r.failure for r in records if r.method == WILD]
    assert len(wild) == CASES and all(f.startswith("AttributeError: ") for f in wild)
    # failures of methods are results: they are not tried again
    lines = (tmp_path / "run" / "records.jsonl").read_bytes()
    run(tiny(tmp_path, CRASHING, WILD), tmp_path / "run", RunSettings(data=data))
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == lines


def test_a_result_without_a_confidence_is_a_failure_and_no_end_of_the_run(data: Path, tmp_path: Path) -> None:  # noqa: F811
    records = run(tiny(tmp_path, "tests.evaluation.registrars:hollow"), tmp_path / "run", RunSettings(data=data, cases=2))
    assert all(r.failure.startswith("AttributeError: ") and r.mtre is None and not r.of_the_machine for r in records)


def test_want_of_memory_is_the_machines(data: Path, tmp_path: Path) -> None:  # noqa: F811
    records = run(tiny(tmp_path, "tests.evaluation.registrars:hungry"), tmp_path / "run", RunSettings(data=data, cases=1))
    assert records[0].failure == "out of memory: MemoryError: too much was asked for"
    assert records[0].of_the_machine and records[0].start_mtre is not None


@pytest.mark.parametrize("text", ["def make(:\n", "make = nowhere\n", "raise RuntimeError('two\\nlines')\n"])
def test_a_module_that_breaks_off_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^--method: 'broken_module:make' cannot be loaded \(\w+Error: .*\); name an import.*$"):
        check_method("broken_module:make")


def test_a_case_that_cannot_be_made_is_a_record_until_it_can(tmp_path: Path) -> None:
    own = write_data(tmp_path / "data")
    broken = own / "cases" / "s1" / "plain" / "c3.dcm"
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    protocol, settings = tiny(tmp_path, GUESS, CRASHING), RunSettings(data=own)
    records = run(protocol, tmp_path / "run", settings)
    lost = [r for r in records if r.failure.startswith(NOT_MADE)]
    assert [(r.case, r.method, r.subject, r.arm) for r in lost] == [(3, GUESS, "s1", "none"), (3, CRASHING, "s1", "none")]
    assert lost[0].failure.startswith(f"{NOT_MADE}: InputError: {broken}: ") and lost[0].start is None
    assert len(records) == 2 * CASES
    broken.write_bytes(good)
    mended: list[State] = []
    records = run(protocol, tmp_path / "run", settings, mended.append)
    assert mended[0] == State(10, 12, 10)
    assert not [r for r in records if r.failure.startswith(NOT_MADE)]


def test_cases_and_methods_are_added_to_a_run(data: Path, tmp_path: Path) -> None:  # noqa: F811
    told: list[State] = []
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    both = tiny(tmp_path, GUESS, "direct")
    run(both, whole, RunSettings(data=data, cases=3))
    first = run(tiny(tmp_path, GUESS), grown, RunSettings(data=data, cases=2))
    records = run(both, grown, RunSettings(data=data, cases=3), told.append)
    assert told[0] == State(2, 6, 2) and [r for r in records if r.method == GUESS][:2] == first
    assert tables(records, both, tmp_path / "a") == tables(read_records(whole), both, tmp_path / "b")
    assert (read_run(grown)["cases"], read_run(grown)["methods"]) == (3, [GUESS, "direct"])
    with pytest.raises(InputError, match=f"the methods was {GUESS}, direct and is direct"):
        run(tiny(tmp_path, "direct"), grown, RunSettings(data=data, cases=3))


def test_another_run_in_the_folder_is_left_alone(data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol, out = tiny(tmp_path, GUESS), tmp_path / "run"
    run(protocol, out, RunSettings(data=data, cases=2))
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def refused(words: str, other: object = protocol, **settings: object) -> None:
        with pytest.raises(InputError, match=words) as caught:
            run(other, out, RunSettings(**{"data": data, "cases": 2, **settings}))  # type: ignore[arg-type]
        assert str(out) in str(caught.value) and "name a new folder" in str(caught.value)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before

    refused("another run: the seed was 0 and is 1", seed=1)
    refused("the number of cases was 2 and is 1", cases=1)
    refused(f"the methods was {GUESS} and is {CRASHING}", methods=(CRASHING,))
    refused("the protocol differs in starts", protocol.model_copy(update={"starts": "center"}))
    told = json.loads(before["run.json"])
    for change, words in (
        ({"source": "0" * 16}, "the source of raylign was 0+ and is "),
        ({"versions": {**told["versions"], "numpy": "1.0"}}, "numpy was 1.0 and is "),
        ({"data": {**told["data"], "entries": told["data"]["entries"][1:]}}, "the data differ in cases"),
        ({"data": None}, "folder of data"),
    ):
        (out / "run.json").write_text(json.dumps({**told, **change}))
        before["run.json"] = (out / "run.json").read_bytes()
        refused(words)
    # another machine may go on, and so may a commit that changed none of the source
    (out / "run.json").write_text(json.dumps({**told, "machine": {}, "workers": 99, "commit": "1" * 40}))
    assert len(run(protocol, out, RunSettings(data=data, cases=2))) == 2


def test_folders_that_are_none_of_a_run(data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol = tiny(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        run(protocol, tmp_path / "file", RunSettings(data=data))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "records.jsonl").write_text("")
    with pytest.raises(InputError, match=r"holds records\.jsonl and no run\.json"):
        run(protocol, tmp_path / "odd", RunSettings(data=data))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"schema": "raylign.dataset/1"}')
    with pytest.raises(InputError, match="is not of an evaluation"):
        run(protocol, tmp_path / "other", RunSettings(data=data))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ("no-such",)}, "there is no method 'no-such'"),
        ({"methods": ("tests.evaluation.nowhere:f",)}, "cannot be loaded"),
        ({"methods": ("tests.evaluation.registrars:nothing",)}, "cannot be loaded"),
        ({"methods": ("tests.evaluation.registrars:NOT_A_FUNCTION",)}, "nothing that can be called"),
        ({"cases": 0}, "cases"),
        ({"data": Path("nowhere")}, "no such folder"),
        ({"data": None}, "--data"),
    ],
)
def test_wrong_settings_make_nothing(data: Path, tmp_path: Path, settings: dict[str, object], words: str) -> None:  # noqa: F811
    with pytest.raises(InputError, match=words):
        run(tiny(tmp_path), tmp_path / "run", RunSettings(**{"data": data, **settings}))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="-1 processes"):
        RunSettings(workers=-1)


def test_one_run_at_a_time_and_no_lock_is_left_behind(data: Path, tmp_path: Path) -> None:  # noqa: F811
    fcntl = pytest.importorskip("fcntl")
    protocol, out = tiny(tmp_path), tmp_path / "run"
    run(protocol, out, RunSettings(data=data, cases=1))
    with (out / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 17 on elsewhere\n")
        other.flush()
        with pytest.raises(InputError, match=r"another run is writing there \(process 17 on elsewhere\)"):
            run(protocol, out, RunSettings(data=data, cases=1))
    assert (out / ".lock").exists()  # as a run that was killed leaves it
    assert len(run(protocol, out, RunSettings(data=data, cases=1))) == 1
    assert not (out / ".lock").exists()


def test_a_folder_that_cannot_be_written_to_is_one_line(data: Path, tmp_path: Path) -> None:  # noqa: F811
    protocol, out = tiny(tmp_path), tmp_path / "run"
    (out / ".lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"\.lock: -o: cannot be written \(Is a directory\); name another folder"):
        run(protocol, out, RunSettings(data=data, cases=1))
    with pytest.raises(InputError, match="cannot be written"), runner._opened(out):
        pass
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(InputError, match=r"/dev/full: -o: cannot be written \(No space left"), runner._opened(full) as file:
            runner._append(file, Record(0, "a", "b", "none", "direct", 0))


def test_locks_that_a_file_system_has_not_are_done_without(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(code: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    assert len(run(tiny(tmp_path), tmp_path / "run", RunSettings(data=data, cases=1))) == 1
    refuse(errno.EIO)
    with pytest.raises(InputError, match=r"cannot be locked \(Input/output error\)"):
        run(tiny(tmp_path), tmp_path / "run", RunSettings(data=data, cases=1))


def test_a_structure_that_is_not_there_ends_before_the_run(tmp_path: Path) -> None:
    smoke = load_protocol("smoke")
    for changes in (
        {"points": {"structures": ["vertebrae_L9"]}},
        {"subjects": {"kind": "phantoms", "bodies": ["lumbar"], "isocentre": ["vertebrae_L3/boddy"]}},
    ):
        wrong = Protocol.model_validate_json(json.dumps({**smoke.model_dump(mode="json"), **changes}))
        with pytest.raises(InputError, match="vertebrae_L"):
            run(wrong, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_case_that_a_method_breaks_off_on_cannot_be_shown(data: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match=r"^--replay: .*:crashing breaks off on case 2 \(ValueError: no pose was found\); there"):
        replay(tiny(tmp_path), 2, CRASHING, data)


def test_the_digest_is_of_code_and_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = provenance.source.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    seen = set()
    for name in ("a.py", "tables/b.csv", "c.json", "d.yaml", "w.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
        seen.add(asked())
    assert len(seen) == 5
    (tmp_path / "read.me").write_text("1")
    assert asked() in seen


def test_a_file_of_data_that_lies_elsewhere_is_listed_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "far.h5").write_text("123")
    (tmp_path / "data").mkdir()
    assert provenance.listing(tmp_path / "data", str(tmp_path / "far.h5")) == [[(tmp_path / "far.h5").as_posix(), 3]]


def test_subjects_and_arms_are_known_before_cases_are_made(data: Path, tmp_path: Path) -> None:  # noqa: F811
    smoke = load_protocol("smoke")
    work = Work(smoke.model_dump_json(), 2, None, ours())
    case = make_case(smoke, 4, 2)
    assert called(work, 4)[1:] == (case.subject, case.arm)
    many = smoke.model_copy(update={"repeats": 2, "per_subject": 1})  # of one exposure, and so of one subject
    work = Work(many.model_dump_json(), 2, None, ours())
    assert [called(work, k)[1] for k in range(4)] == [make_case(many, k, 2).subject for k in range(4)]
    work = Work(smoke.model_dump_json(), 2, None, ours())
    assert Work.of_text(work.text()) == work
    work = Work(tiny(tmp_path).model_dump_json(), 0, str(data), ours())
    for index in (0, 3):
        case = make_case(tiny(tmp_path), index, 0, data)
        assert called(work, index)[1:] == (case.subject, case.arm)


def test_jobs_are_of_one_subject_each() -> None:
    lacking = [(i, ("a", "b")) for i in range(10)]
    made = jobs(lacking, lambda i: "x" if i < 7 else "y", 4)
    assert [[i for i, _ in job.cases] for job in made] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [job.subject for job in made] == ["x", "x", "y"]
    assert [len(job.cases) for job in jobs(lacking, lambda i: "", 4)] == [1] * 10
    job = made[0].without({(1, "a"), (2, "a"), (2, "b")})
    assert job.cases == ((0, ("a", "b")), (1, ("b",)), (3, ("a", "b")))
    assert [single.cases for single in job.apart()][1:3] == [((0, ("b",)),), ((1, ("b",)),)]
    assert Job.of_text(job.text()).cases == job.cases


def test_from_nothing_takes_no_note_of_the_start(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raylign.evaluation.attempt.WIDE", SearchConfig())  # the whole box takes its time
    protocol = tiny(tmp_path, "direct")
    case = make_case(protocol, 0, 0, data)
    far = replace(case, start=rigid((1, 0, 0, 900, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)))
    result = solve(far, "search+direct", 0)
    assert float(mrpd(result.transform, case.pose, case.targets, [case.xrays[0].view])) < 2


def test_a_commit_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = commit.__wrapped__  # type: ignore[attr-defined]
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(\+changed)?", asked())
    # a repository that holds the environment, and of the package no file
    (tmp_path / "raylign").mkdir()
    (tmp_path / "raylign" / "__init__.py").touch()
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "raylign")
    assert asked() is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert asked() is None
    monkeypatch.setenv("PATH", "")
    assert asked() is None


def test_a_method_that_learns_is_measured_with_its_weights_and_no_others(data: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "some.safetensors"
    learned().save(file)
    alone, named = f"convex-similarity-alone@{file}", f"convex-similarity@{file}"
    protocol = tiny(tmp_path, alone, named)
    records = run(protocol, tmp_path / "run", RunSettings(data=data, cases=1))
    assert [r.failure for r in records] == ["", ""]
    assert not records[0].trusted and records[0].renders < records[1].renders
    ends = [solve(make_case(protocol, 0, 0, data), method, 0) for method in (alone, named)]
    for record, end in zip(records, ends, strict=True):  # another number of threads sums in another order
        torch.testing.assert_close(rigid(record.pose).matrix, end.transform.matrix, atol=1e-3, rtol=1e-4)
    handed_on = ends[1].trajectory[len(ends[0].trajectory) - 1].matrix
    torch.testing.assert_close(handed_on, ends[0].transform.matrix, atol=1e-3, rtol=1e-4)
    told = read_run(tmp_path / "run")["weights"]
    assert set(told) == {alone, named} and len(set(told.values())) == 1
    replace(learned(), descent=DescentConfig(steps=2)).save(file)
    with pytest.raises(InputError, match="the digest of weights was"):
        run(protocol, tmp_path / "run", RunSettings(data=data, cases=1))
    with pytest.raises(InputError, match="there are no weights"):
        check_method(f"convex-similarity@{tmp_path / 'none'}")
    with pytest.raises(InputError, match="to go on with"):
        tiny(tmp_path, "convex-similarity+nothing")
