"""Recipes: what they may say, and the one line about what they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylign.errors import InputError
from raylign.simulation.datasets.plan import Plan
from raylign.simulation.datasets.recipes import Recipe, SubjectsFrom, read_recipe
from raylign.simulation.datasets.roster import Order, roster

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PLAIN = "name: a\nsubjects: [{phantom: thorax, seeds: [0, 3]}]\n"


def read(folder: Path, text: str) -> Recipe:
    (folder / "r.yaml").write_text(text)
    return read_recipe(folder / "r.yaml")


OF_DATA = [p for p in sorted(RECIPES.glob("*.yaml")) if "\nmethod:" not in p.read_text()]  # the others are for raylign train


@pytest.mark.parametrize("path", OF_DATA, ids=lambda p: p.stem)
def test_recipes_of_the_project_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert Plan(recipe).roster


def test_defaults_are_stated_once(tmp_path: Path) -> None:
    recipe = read(tmp_path, PLAIN)
    assert recipe == Recipe("a", (SubjectsFrom("thorax", (0, 3)),))
    assert [e.id for e in roster(recipe)] == ["thorax-000000", "thorax-000001", "thorax-000002", "thorax-000003"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"r\.yaml: holds no recipe"),
        ("name: [", r"r\.yaml: is no YAML in line"),
        ("name: a\nname: b\n" + PLAIN, r"r\.yaml: name \(line 2\): stands there twice"),
        ("subjects: [{phantom: thorax}]", r"r\.yaml: name: is missing"),
        (PLAIN + "method: imitation-agent", r"r\.yaml: method: is the recipe of a training; use it with raylign train"),
        (PLAIN + "cuont: 3", r"r\.yaml: cuont: there is no 'cuont' here; it may hold name, subjects"),
        (PLAIN + "count: '3'", r"r\.yaml: count: input should be a valid integer, got '3'"),
        (PLAIN + "count: 0", r"r\.yaml: count: 0 is too few"),
        (PLAIN + "split: {train: 0.5}", r"r\.yaml: split: shares of 0\.5, 0\.1, 0\.1"),
        (PLAIN + "split: {train: 1e0}", r"r\.yaml: split\.train: .*YAML 1\.1 takes 1e-3 for a word"),
        (PLAIN + "targets: nowhere", r"r\.yaml: targets: no target distribution 'nowhere'"),
        (PLAIN + "starts: nowhere", r"r\.yaml: starts: no distribution of starts 'nowhere'"),
        (PLAIN + "appearance: pretty", r"r\.yaml: appearance: no appearance is called 'pretty'"),
        (
            PLAIN + "appearance: {steps: [{transform: Sharpen}]}",
            r"r\.yaml: appearance\.steps\.0: no transform is called 'Sharpen'",
        ),
        (PLAIN + "exposure: {kv: [90, 60]}", r"r\.yaml: exposure"),
        (PLAIN + "exposure: {volts: 3}", r"r\.yaml: exposure\.volts: there is no 'volts' here"),
        (PLAIN + "instruments: spoons", r"r\.yaml: instruments: no set is called 'spoons'"),
        (PLAIN + "instruments: {weights: {spoon: 1}}", r"r\.yaml: instruments.*unknown instruments spoon"),
        (PLAIN + "output: {format: zip}", r"r\.yaml: output\.format: input should be 'shards' or 'dicom'"),
        (PLAIN + "output: {format: dicom}\nappearance: gao2024", r"r\.yaml: appearance: DICOM holds the counts"),
        (PLAIN + "schema: 9", r"r\.yaml: schema: schema 9 is not known"),
        ("name: a\nsubjects: [{phantom: dragon}]", r"r\.yaml: subjects\.0\.phantom: no phantom is called 'dragon'"),
        (
            "name: a\nsubjects: [{phantom: thorax, config: {voxel: 3}}]",
            r"r\.yaml: subjects\.0\.config\.voxel: there is no 'voxel'",
        ),
        ("name: a\nsubjects: [{ct: there.nii.gz}]", r"r\.yaml: subjects\.0\.source: is missing; say where the scan comes from"),
        ("name: a\nsubjects: [{ct: there.nii.gz, source: me}]", r"r\.yaml: subjects\.0\.ct: .*there\.nii\.gz is not there"),
        ("name: a\nsubjects: [{phantom: thorax, source: me}]", r"r\.yaml: subjects\.0\.source: belongs to a ct"),
        ("name: a\nsubjects: [{phantom: thorax}, {phantom: thorax}]", r"r\.yaml: subjects: thorax-000000 comes twice"),
        ("name: a\nsubjects: [{ct: x.nii.gz, source: me, id: ..}]", r"r\.yaml: subjects\.0\.id: '\.\.' names no file"),
        ("name: a\nsubjects: [{ct: x.nii.gz, source: me, id: a/b}]", r"r\.yaml: subjects\.0\.id: 'a/b' names no file"),
        (PLAIN + "appearance: {steps: 5}", r"r\.yaml: appearance\.steps: 5 is no list"),
        (
            PLAIN + "appearance: {steps: [{transform: Invert, probability: often}]}",
            r"steps\.0\.probability: 'often' is no number",
        ),
        (PLAIN + "appearance: {steps: [{transform: Gamma, gamma: [a, b]}]}", r"appearance\.steps\.0\.gamma"),
        (PLAIN + "appearance: {steps: [{transform: Resize, shape: [0, 0]}]}", r"appearance\.steps\.0\.shape"),
        (PLAIN + "appearance: {steps: [{transform: LocalContrast, tiles: 0}]}", r"appearance\.steps\.0\.tiles"),
        (PLAIN + "instruments: {set: [1]}", r"instruments: no set is called \[1\]"),
        (PLAIN + "exposure: &a {kv: *a}", r"r\.yaml: .*no number, word or list"),
        ("name: a\nsubjects: []", r"r\.yaml: subjects: is empty"),
        ("name: !!python/object/apply:os.system [ls]\nsubjects: []", r"r\.yaml: is no YAML in line 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match=r"b\.yaml: is no text"):
        read_recipe(tmp_path / "b.yaml")


def test_fingerprints_follow_everything_but_the_count(tmp_path: Path) -> None:
    base = read(tmp_path, PLAIN).fingerprint()
    assert read(tmp_path, PLAIN + "count: 7").fingerprint() == base
    for line in ("seed: 1", "targets: gao2024", "exposure: {kv: [70, 90]}", "output: {pixels: npy}"):
        assert read(tmp_path, PLAIN + line).fingerprint() != base


def test_copies_stay_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    plan = Plan(
        read(tmp_path, "name: a\nsubjects: [{ct: ct.nii.gz, source: me, copies: 30}, {phantom: thorax, seeds: [0, 200]}]\n")
    )
    parts = {name: plan.of_part(name) for name in ("train", "validation", "test")}
    homes = {name for name, entries in parts.items() if any(e.id == "ct" for e in entries)}
    assert len(homes) == 1
    assert sum(map(len, parts.values())) == len(plan.roster) == 31 + 201
    assert 0.7 < sum(e.id != "ct" for e in parts["train"]) / 201 < 0.9
    # the chest and the pelvis of one seed are one person
    both = Plan(read(tmp_path, "name: a\nsubjects: [{phantom: pelvis, seeds: [0, 60]}, {phantom: thorax, seeds: [0, 60]}]\n"))
    assert len({both.part(e) for e in both.roster}) == 3
    assert all(both.part(a) == both.part(b) for a, b in zip(both.roster[:61], both.roster[61:], strict=True))
    with pytest.raises(InputError, match="no part 'tests'"):
        plan.of_part("tests")


def test_the_order_of_subjects_takes_each_once_a_round() -> None:
    order = Order(7, 3)
    rounds = [[order[place] for place in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(r) == list(range(7)) for r in rounds)
    assert rounds[0] != rounds[1]
    assert rounds[2] == [Order(7, 3)[place] for place in range(14, 21)]
