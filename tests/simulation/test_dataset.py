"""Data sets on disk: the same bytes however they are made, whole after any interruption, readable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.io import read_volume, read_xray
from raylign.io.images_write import write_volume
from raylign.io.transforms import read_pose
from raylign.projection import project
from raylign.simulation.datasets.cases import make_cases
from raylign.simulation.datasets.dataset import make_dataset
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.recipes import Output, Recipe, SubjectsFrom
from raylign.simulation.datasets.residents import reside
from raylign.simulation.datasets.shards import read_shards
from raylign.simulation.datasets.streams import Stream, StreamConfig
from raylign.simulation.datasets.units import finished, units
from tests.cli.conftest import body

COUNT = 14


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Six small scans, two cases each in a row."""
    folder = tmp_path_factory.mktemp("scans")
    scan = body()
    for n in range(6):
        write_volume(replace(scan, data=scan.data + 8 * n), folder / f"p{n}.nii.gz")
    return Recipe(
        "small",
        tuple(SubjectsFrom(ct=str(folder / f"p{n}.nii.gz"), id=f"p{n}", source=f"scan {n}, CC0") for n in range(6)),
        image=(40, 56),
        count=COUNT,
        cases_per_subject=2,
        targets="gao2024",
        starts="gao2024",
        appearance="gao2024",
        output=Output(cases_per_shard=3),
    )


@pytest.fixture(scope="module")
def made(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    make_dataset(recipe, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def as_dicom(recipe: Recipe, count: int = 6) -> Recipe:
    whole = {"round_field": 0.0, "rectangular_field": 0.0, "full_scale": [1.1, 1.1]}
    return replace(recipe, output=Output("dicom"), appearance="plain", count=count, exposure=whole)


def test_two_workers_write_the_same_bytes(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    done = make_dataset(recipe, tmp_path / "set", workers=2, tell=lambda *c: counted.append(c))
    assert (done.cases, done.exposures, done.kept) == (COUNT, COUNT, 0)
    assert counted[0] == (0, COUNT)
    assert contents(tmp_path / "set") == contents(made)


def test_shards_hold_what_a_stream_would_make_of_the_case(recipe: Recipe, made: Path) -> None:
    plan = Plan(recipe)
    samples = {sample.about["case"]: sample for sample in read_shards(made)}
    assert sorted(samples) == list(range(COUNT))
    order = plan.order(len(plan.roster))
    with Stream(recipe, StreamConfig(part=None)) as stream:
        for number in (0, 7, 13):
            entry = plan.roster[order[number // 2]]
            batch = make_cases(stream.plan, [number], [reside(recipe, entry)])
            sample = samples[number]
            assert sample.about["subject"] == entry.name
            assert sample.about["part"] == plan.part(entry)
            span = float(batch.labelled.image.max() - batch.labelled.image.min())
            assert float((sample.image - batch.labelled.image[0]).abs().max()) < span / 65535
            assert torch.equal(sample.valid, batch.labelled.valid[0])
            assert sample.view.isclose(batch.labelled.views[0], 1e-12)
            torch.testing.assert_close(sample.pose, batch.labelled.poses[0], atol=1e-9, rtol=0)
            torch.testing.assert_close(sample.start, batch.starts[0], atol=1e-9, rtol=0)


def test_shards_are_plain_tar_files_by_part(made: Path, recipe: Recipe) -> None:
    index = json.loads((made / "index.json").read_text())
    assert index["complete"]
    assert index["sources"] == [f"scan {n}, CC0" for n in range(6)]
    assert index["recipe"]["name"] == "small"
    assert sum(u["cases"] for u in index["units"]) == COUNT
    parts = {s["name"]: s["part"] for s in index["subjects"]}
    for unit in index["units"]:
        with tarfile.open(made / unit["file"]) as archive:
            members = archive.getmembers()
        assert {m.mtime for m in members} == {0}
        keys = Counter(m.name.split(".")[0] for m in members)
        assert set(keys.values()) == {3}
        assert len(keys) == unit["cases"] <= 3
        assert all(sample.about["part"] == unit["part"] for sample in read_shards(made / unit["file"]))
        beside = json.loads((made / unit["file"]).with_suffix(".json").read_text())
        for name, said in beside["subjects"].items():
            assert parts[name] == unit["part"]
            assert len(said["targets_ct"]) == 200
            assert said["source"].endswith("CC0")


def test_readers_shuffle_and_divide(made: Path) -> None:
    plain = [s.key for s in read_shards(made)]
    mixed = [s.key for s in read_shards(made, shuffle=1)]
    assert sorted(mixed) == sorted(plain)
    assert mixed != plain
    assert mixed == [s.key for s in read_shards(made, shuffle=1)]
    halves = [[s.key for s in read_shards(made, world=(rank, 2))] for rank in (0, 1)]
    assert sorted(halves[0] + halves[1]) == sorted(plain)
    some = json.loads((made / "index.json").read_text())["units"][0]["part"]
    assert 0 < len(list(read_shards(made, part=some))) <= COUNT


def test_what_is_finished_is_kept_and_the_rest_is_made(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"
    make_dataset(replace(recipe, count=8), target)
    before = {p.name: p.stat().st_mtime_ns for p in target.glob("*.tar")}
    whole = [u for u in units(Plan(recipe)) if finished(Plan(recipe), u, target)]
    assert 0 < len(whole) < len(units(Plan(recipe)))
    (target / ".making-train-000000-x").mkdir()
    done = make_dataset(recipe, target)
    assert done.kept == sum(map(len, whole)) > 0
    assert contents(target) == contents(made)
    assert all((target / f"{u.name}.tar").stat().st_mtime_ns == before[f"{u.name}.tar"] for u in whole)
    # a shard that was cut short is made again
    victim = target / f"{whole[0].name}.tar"
    victim.write_bytes(victim.read_bytes()[:1000])
    make_dataset(recipe, target)
    assert contents(target) == contents(made)


def test_fewer_cases_than_there_are_are_refused(recipe: Recipe, made: Path) -> None:
    before = contents(made)
    with pytest.raises(InputError, match="more than the 4 asked for"):
        make_dataset(replace(recipe, count=4), made)
    assert contents(made) == before


def test_what_a_killed_run_was_writing_is_swept(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / ".index.json.ab12cd.json").write_text("{")
    (tmp_path / ".train-000000.json.ab12cd.json").write_text("{")
    make_dataset(replace(recipe, count=2), tmp_path)
    assert not list(tmp_path.glob(".*.json"))


def test_files_that_are_gone_are_made_again(recipe: Recipe, tmp_path: Path) -> None:
    few = as_dicom(recipe, 2)
    make_dataset(few, tmp_path)
    before = contents(tmp_path)
    next(tmp_path.glob("*/*.dcm")).unlink()
    make_dataset(few, tmp_path)
    assert contents(tmp_path) == before


def test_a_scan_is_known_by_what_it_holds(recipe: Recipe, tmp_path: Path) -> None:
    first = recipe.subjects[0]
    moved = tmp_path / "elsewhere.nii.gz"
    moved.write_bytes(Path(str(first.ct)).read_bytes())
    elsewhere = replace(recipe, subjects=(replace(first, ct=str(moved)), *recipe.subjects[1:]))
    assert elsewhere.fingerprint() == recipe.fingerprint()
    other = replace(recipe, subjects=(replace(first, ct=recipe.subjects[1].ct), *recipe.subjects[1:]))
    assert other.fingerprint() != recipe.fingerprint()


def test_landmarks_in_files_move_with_the_picture(tmp_path: Path) -> None:
    """Distorted by an image intensifier and turned by the appearance: the file says what the stream says."""
    recipe = Recipe(
        "bent",
        (SubjectsFrom(phantom="thorax", config={"voxel_mm": 6.0}),),
        image=(64, 64),
        count=3,
        landmarks=("heart_ventricle_left/middle",),
        isocentre=("heart_ventricle_left",),
        exposure={"intensifier": 1.0},
        appearance={"name": "turned", "steps": [{"transform": "Flip"}, {"transform": "Affine2D"}]},
    )
    make_dataset(recipe, tmp_path)
    with Stream(recipe, StreamConfig(batch=3, part=None)) as stream:
        points = dict(enumerate(stream.cases([0, 1, 2]).labelled.points[:, 0].tolist()))
    for sample in read_shards(tmp_path):
        said = sample.about["landmarks"]["heart_ventricle_left/middle"]
        assert said == pytest.approx(points[sample.about["case"]], abs=1e-3)


SCRIPT = """
import json, sys
from raylign.simulation.datasets.dataset import make_dataset
from raylign.simulation.datasets.recipes import Recipe
from raylign.simulation.datasets.typed import typed
make_dataset(typed(Recipe, json.loads(sys.argv[1]), ""), sys.argv[2])
"""


def test_a_killed_run_goes_on(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(recipe.to_dict()), str(target)])
    try:
        limit = time.monotonic() + 120
        while not list(target.glob("*.tar")) and run.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    # whatever was there when it was killed: nothing but whole shards counts
    assert list(target.glob("*.tar"))
    make_dataset(recipe, target)
    now, then = contents(target), contents(made)
    assert sorted(now) == sorted(then)
    assert not [name for name in now if now[name] != then[name]]


def test_dicom_can_be_registered_and_scored(recipe: Recipe, tmp_path: Path) -> None:
    wanted = as_dicom(recipe)
    make_dataset(wanted, tmp_path / "set")
    index = json.loads((tmp_path / "set" / "index.json").read_text())
    folders = [tmp_path / "set" / s["name"] for s in index["subjects"]]
    assert len(folders) == 3
    for folder in folders:
        truth = json.loads((folder / "truth.json").read_text())
        ct = read_volume(folder / truth["ct"])
        assert len(truth["cases"]) == 2
        torch.testing.assert_close(ct.centre, torch.tensor(truth["ct_centre"], dtype=torch.float64), atol=1e-3, rtol=0)
        for name, case in truth["cases"].items():
            (file,) = case["files"]
            xray = read_xray(folder / file)
            assert xray.image.shape == (40, 56)
            assert xray.view.isclose(View.from_dict(case["views"][0]), 1e-4)
            start = read_pose(folder / f"{name}-start.tfm")
            torch.testing.assert_close(
                start.matrix, torch.tensor(case["start_world_from_ct"], dtype=torch.float64), atol=1e-6, rtol=0
            )
            # the truth explains the picture: where rays meet more of the patient, the picture is darker
            pose = Rigid(torch.tensor(case["pose_world_from_ct"], dtype=torch.float64))
            shown = project(ct, xray.view, pose)[0, 0]
            both = torch.stack([shown[xray.mask], xray.image[xray.mask]]).double()
            assert float(torch.corrcoef(both)[0, 1]) > 0.9
    before = contents(tmp_path / "set")
    make_dataset(wanted, tmp_path / "again")
    assert contents(tmp_path / "again") == before
    assert make_dataset(replace(wanted, count=8), tmp_path / "set").kept == 6


def test_refusals(recipe: Recipe, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="another recipe: seed differs"):
        make_dataset(replace(recipe, seed=1), made)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.doc and no index\.json"):
        make_dataset(recipe, tmp_path / "other")
    with pytest.raises(InputError, match="is a file, not a folder"):
        make_dataset(recipe, tmp_path / "other" / "thesis.doc")
    with pytest.raises(InputError, match="0 processes"):
        make_dataset(recipe, tmp_path / "new", workers=0)
    with pytest.raises(InputError, match=r"GB are needed and .* GB are free"):
        make_dataset(replace(recipe, count=30000, image=(8192, 8192)), tmp_path / "huge")
    with pytest.raises(InputError, match="holds no shards"):
        list(read_shards(tmp_path / "other"))
    (tmp_path / "broken.tar").write_bytes(next(iter(made.glob("*.tar"))).read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as a shard"):
        list(read_shards(tmp_path / "broken.tar"))
    with pytest.raises(InputError, match="holds no shards of validations"):
        list(read_shards(made, part="validations"))
    monkeypatch.setattr("raylign.simulation.datasets.dataset.__version__", "0.0.1")
    with pytest.raises(InputError, match=r"data set of raylign .*, this is 0\.0\.1"):
        make_dataset(recipe, made)


@pytest.mark.skipif(os.name != "posix", reason="locks are those of POSIX systems")
def test_two_runs_do_not_write_one_data_set(recipe: Recipe, made: Path) -> None:
    import fcntl

    with (made / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing there"):
            make_dataset(recipe, made)
    (made / ".lock").unlink()
