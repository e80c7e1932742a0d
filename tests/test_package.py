"""The package as a whole: what it ships, what importing it costs, which room may import which, and what may not be in it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import raylign

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "raylign"
ROOMS = (
    "geometry",
    "data",
    "io",
    "projection",
    "similarity",
    "simulation",
    "registration",
    "methods",
    "training",
    "evaluation",
    "clinical",
    "workbench",
    "bench",
    "cli",
)
"""In the order that data flows: a room imports rooms to its left, itself, and the three files that stand outside all rooms."""

OUTSIDE = ("errors", "_version")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of ``raylign...`` that a module imports, anywhere in it: at the top, in functions, for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "raylign")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module comes from"
            if node.module == "raylign":
                yield from (f"raylign.{alias.name}" for alias in node.names)
            elif node.module is not None and node.module.startswith("raylign."):
                yield node.module


def test_every_module_stands_in_a_room() -> None:
    tops = {path.relative_to(SOURCE).parts[0] for path in modules()}
    assert tops <= {*ROOMS, *(f"{name}.py" for name in OUTSIDE), "__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", [room for room in ROOMS if (SOURCE / room).is_dir()])
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *OUTSIDE}
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[1] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_package_loads_next_to_nothing() -> None:
    code = "import sys, raylign; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "numpy", "numba", "scipy", "SimpleITK", "pydicom", "matplotlib", "h5py", "trimesh", "PIL", "typer"}
    assert not heavy & set(loaded)
    assert sum(name.split(".")[0] == "raylign" for name in loaded) < 10


def test_projecting_needs_no_file_library() -> None:
    code = "import sys, raylign; raylign.project, raylign.register, raylign.read_volume; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"SimpleITK", "pydicom", "matplotlib", "h5py", "trimesh", "PIL", "typer", "rich"} & set(loaded)


def test_every_public_name_is_there() -> None:
    assert set(raylign.__all__) <= set(dir(raylign))
    for name in raylign.__all__:
        assert getattr(raylign, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        raylign.nothing_of_the_kind  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the files that a build takes."""
    copy = tmp_path_factory.mktemp("build") / "raylign"
    shutil.copytree(SOURCE, copy / "src" / "raylign", ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, copy / name)
    out = copy / "dist"
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    out.mkdir()
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, capture_output=True, text=True, check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_all_that_is_not_python_too(wheel: Path) -> None:
    assert wheel.name == f"raylign-{raylign.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"raylign-{raylign.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        entry = archive.read(f"{about}/entry_points.txt").decode()
    expected = {
        f"raylign/{p.relative_to(SOURCE).as_posix()}"
        for p in SOURCE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix not in (".nbi", ".nbc", ".pyc")
    }
    assert {"raylign/py.typed", "raylign/evaluation/assets/report.css", "raylign/evaluation/assets/report.js"} <= expected
    assert expected <= names
    assert {f"{about}/licenses/LICENSE", f"{about}/licenses/THIRD_PARTY.md"} <= names
    assert "raylign = raylign.cli:main" in entry
    assert "License-Expression: MIT" in metadata


def requirements() -> dict[str, Requirement]:
    """What the package and its developers need, by name."""
    found = (Requirement(line) for line in importlib.metadata.requires("raylign") or [])
    return {requirement.name: requirement for requirement in found}


def licence(name: str) -> str:
    """Everything that a distribution says about its licence, short of the licence's text."""
    metadata = importlib.metadata.metadata(name)
    said = [metadata.get("License-Expression") or "", *(c for c in metadata.get_all("Classifier") or [] if "License" in c)]
    return " ".join([*said, (metadata.get("License") or "").split("\n")[0]]).strip()


@pytest.mark.parametrize("name", sorted(requirements()))
def test_no_dependency_is_copyleft(name: str) -> None:
    try:
        said = licence(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert said, f"{name} states no licence"
    # "GPL" is in AGPL and LGPL too: the first may not be linked with, the second is not used either
    assert "GPL" not in said
    assert "General Public" not in said


def constraints() -> dict[str, str]:
    """Pinned versions by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", pin) for pin in pins), "name==version, no place, no local tag"
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (pin.split("==") for pin in pins)}


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    pins = constraints()
    for name, requirement in requirements().items():
        pinned = pins[re.sub(r"[-_.]+", "-", name).lower()]
        assert requirement.specifier.contains(pinned), f"{name}=={pinned} is not {requirement.specifier}"
    # the default build of torch for Linux would bring a gigabyte of CUDA: nothing of it may be asked for here. Triton alone is,
    # by name: its interpreter runs the kernels for CUDA in the tests
    assert not [name for name in pins if name.startswith(("nvidia", "cuda"))]


WRITTEN = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".css", ".js", ".html", ".json", ".csv", "")
"""Kinds of file that people read."""


def project_files() -> list[Path]:
    """Files of the project that hold words, as they will be published."""
    tops = [ROOT / name for name in ("src", "tests", "docs", "benchmarks", "recipes", ".ci") if (ROOT / name).is_dir()]
    named = [
        ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "constraints.txt")
    ]
    found = [p for top in tops for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return [p for p in [*named, *found] if p.suffix in WRITTEN and p.exists()]


def test_no_file_names_a_place_of_one_machine() -> None:
    # put together here, so that this file passes its own test
    places = [
        f"/{'work'}/",
        f"/{'home'}/",
        f"/{'Users'}/",
        "C:" + "\\Users",
        f"{'extra'}-index-url",
        f"{'pypi'}.org",
        f"{'pytorch'}.org",
    ]
    wrong = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in project_files()
        for place in places
        if place in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_to_do_in_the_code() -> None:
    marks = re.compile(rf"\b({'TO'}DO|{'FIX'}ME|{'XX'}X|{'HA'}CK)\b")
    wrong = [str(p.relative_to(ROOT)) for p in modules() if marks.search(p.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


def test_modules_are_small() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong = []
    for page in (p for p in pages if p.exists()):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            there = page if not file else (page.parent / file)
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+\s+(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def typed_commands() -> list[tuple[str, list[str]]]:
    """Every ``raylign ...`` line in the shell blocks of the documentation: page and words."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and Path(words[0]).name == "raylign":
                    found.append((str(page.relative_to(ROOT)), words[1:]))
    return found


@pytest.mark.parametrize(("page", "words"), typed_commands())
def test_documented_commands_use_options_that_exist(page: str, words: list[str]) -> None:
    from typer.main import get_command

    from raylign.cli.main import app

    command: Any = get_command(app)
    if words[0] in command.commands:
        command = command.commands[words[0]]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    assert {word for word in words if word.startswith("-") and not re.fullmatch(r"-[\d.]+", word)} <= known, page


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raylign.io.images_write import write_volume
    from raylign.io.xray_dicom_write import counts_from_integrals, write_xray_dicom
    from raylign.registration import centred
    from tests.cli.conftest import VIEW, body

    volume = body()
    start = centred(volume)
    (tmp_path / "build" / "demo").mkdir(parents=True)
    write_volume(volume, tmp_path / "build" / "demo" / "volume.nii.gz")
    counts = counts_from_integrals(raylign.project(volume, VIEW, start)[0, 0])
    write_xray_dicom(counts, VIEW, tmp_path / "build" / "demo" / "xray.dcm")
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float((names["result"].transform.apply(volume.centre[None]) - start.apply(volume.centre[None])).norm()) < 3
    assert names["drr"].shape == VIEW.shape
    assert names["pixel"].shape == (1, 2)
    assert len(capsys.readouterr().out.splitlines()) >= 5


def test_folders_of_tests_are_packages() -> None:
    # or pytest takes two modules of one name in different folders for the same
    assert not [p.parent.name for p in (ROOT / "tests").rglob("test_*.py") if not (p.parent / "__init__.py").exists()]
