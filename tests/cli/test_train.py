"""``raylign train``, and ``raylign register`` with what it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raylign.io.meshes import write_mesh
from raylign.io.xray_dicom_write import counts_from_integrals, write_xray_dicom
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.network import make_network
from raylign.methods.imitation_agent.world import WorldConfig
from tests.cli.conftest import Scene
from tests.methods.test_convex_registrar import learned
from tests.methods.test_imitation_agent import SMALL
from tests.methods.test_imitation_mdp import VIEW, egg
from tests.methods.test_imitation_mdp import scene as exposed

Command = Callable[..., Any]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "toth2018.yaml"


@pytest.fixture(scope="module")
def ventricle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mesh, an X-ray that shows its shadow, and an agent that knows nothing."""
    folder = tmp_path_factory.mktemp("ventricle")
    write_mesh(egg(), folder / "lv.stl")
    write_xray_dicom(counts_from_integrals(0.02 * exposed().images[0]), VIEW, folder / "frame.dcm")
    Agent(make_network(SMALL, 32, 0).eval(), WorldConfig(pixels=32)).save(folder / "agent.safetensors")
    return folder


def test_a_mesh_is_registered_by_an_agent_that_says_what_it_does_not_know(
    raylign: Command, ventricle: Path, tmp_path: Path
) -> None:
    run = raylign(
        "register", ventricle / "lv.stl", ventricle / "frame.dcm", "--method", "imitation-agent", "--weights",
        ventricle / "agent.safetensors", "--out", tmp_path / "out",
    )  # fmt: skip
    assert run.exit_code == 3, run.output
    assert "nobody has measured how far this agent is to be trusted" in run.output
    said = json.loads((tmp_path / "out" / "result.json").read_text())
    assert said["method"] == "imitation-agent"
    pose, start = (torch.tensor(said[k]["matrix"], dtype=torch.float64) for k in ("pose", "start"))
    moved = pose @ torch.linalg.inv(start)
    axis = VIEW.normal
    torch.testing.assert_close(moved[:3, :3] @ axis, axis, atol=1e-9, rtol=0)  # turned about the beam's axis alone
    assert {"overlay.png", "report.html", "pose.tfm"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "imitation-agent", "--weights", "none.safetensors"), "no such file"),
        (("--method", "direct", "--weights", "WEIGHTS"), "direct has none"),
        (("--method", "imitation-agent", "--weights", "WEIGHTS", "--search-mm", "20"), "searches a box of its own"),
        (("--method", "imitation-agent", "--weights", "WEIGHTS", "--starts", "3"), "does not choose among starts"),
        (("--method", "imitation-agent", "--weights", "WEIGHTS", "--geometry-sid", "20"), "--geometry-sid"),
        (("--method", "imitation-agent", "--weights", "WEIGHTS", "--init", "search"), "does not search"),
        (("--method", "imitation-agent", "--weights", "WEIGHTS", "again.dcm"), "looks at one X-ray, and 2 are given"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    raylign: Command, ventricle: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    words = [str(ventricle / "agent.safetensors") if w == "WEIGHTS" else w for w in more]
    run = raylign("register", ventricle / "lv.stl", ventricle / "frame.dcm", *words, "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert message in run.output
    assert not (tmp_path / "out").exists()


def test_an_agent_moves_no_volume(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    run = raylign("register", scene.volume, scene.xray, "--method", "imitation-agent", "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert "of a surface" in run.output


def test_a_similarity_leads_to_what_the_direct_method_finds_about_its_end(raylign: Command, scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "similarity.safetensors"
    learned().save(file)
    words = ("--method", "convex-similarity", "--weights", file)
    run = raylign("register", scene.volume, scene.xray, *words, "--out", tmp_path / "out")
    assert run.exit_code in (0, 3), run.output
    said = json.loads((tmp_path / "out" / "result.json").read_text())
    assert said["method"] == "convex-similarity+direct"
    assert said["settings"]["2 direct"]["search"]["degrees"] == 20.0
    found = torch.tensor(said["pose"]["matrix"], dtype=torch.float64)
    assert float((found - scene.pose.matrix)[:3, 3].norm()) < 2.0
    for more, message in (
        (("--init", "search"), "does not search"),
        ((scene.xray,), "looks at one X-ray, and 2 are given"),
        (("--weights", tmp_path / "none"), "there are no weights"),
        (("--labels", "seg.nii.gz:hip_left"), "cannot take the rest of the patient into account"),
    ):
        refused = raylign("register", scene.volume, scene.xray, *words, *more, "--out", tmp_path / "more")
        assert refused.exit_code == 1 and message in refused.output, refused.output
        assert not (tmp_path / "more").exists()


def test_a_similarity_of_bones_takes_no_surface(raylign: Command, ventricle: Path, tmp_path: Path) -> None:
    run = raylign(
        "register", ventricle / "lv.stl", ventricle / "frame.dcm", "--method", "convex-similarity", "--out", tmp_path / "out"
    )
    assert run.exit_code == 1
    assert "was trained on bones of CTs" in run.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((RECIPE, "--preset", "huge"), "no preset 'huge'"),
        ((RECIPE.with_name("thorax.yaml"),), "there is no 'count' here"),
        ((RECIPE, "--workers", "0"), "--workers"),
        ((RECIPE, "--device", "abacus"), "--device"),
        ((RECIPE, "--device", "meta"), "--device"),
        (("none.yaml",), "cannot be read"),
    ],
)
def test_trainings_that_cannot_be_are_refused_in_one_line(
    raylign: Command, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    run = raylign("train", *words, "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert message in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
