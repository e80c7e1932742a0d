"""``raylign motion``: what was put into two bones' poses comes out as a table."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from raylign.cli.main import app
from raylign.geometry import se3
from raylign.geometry.anatomy import JointAngles, rotation_of

FRAMES = {
    "side": "left",
    "proximal": {"origin": [0, 0, 0], "along": [0, 0, 1], "mark": [10, 0, 5], "mark_is": "radial"},
    "distal": {"origin": [5, 5, 5], "along": [0, 1, 0], "mark": [5, 5, 25], "mark_is": "palmar"},
}
SD = 0.02  # radians


def result(path: Path, matrix: torch.Tensor, sd: float) -> Path:
    covariance = torch.diag(torch.tensor([sd**2] * 3 + [0.25] * 3, dtype=torch.float64))
    said = {"schema": "raylign.result/1", "pose": {"matrix": matrix.tolist()}}
    said["uncertainty"] = {"covariance": covariance.tolist(), "centre": matrix[:3, 3].tolist()}
    path.write_text(json.dumps(said))
    return path


def anatomical(bone: dict, side: str) -> torch.Tensor:
    from raylign.geometry.anatomy import frame_from

    origin = torch.tensor(bone["origin"], dtype=torch.float64)
    mark = torch.tensor(bone["mark"], dtype=torch.float64) - origin
    return frame_from(origin, torch.tensor(bone["along"]), mark, bone["mark_is"], side).matrix  # type: ignore[arg-type]


def test_motion(tmp_path: Path) -> None:
    (tmp_path / "frames.json").write_text(json.dumps(FRAMES))
    a, b = (anatomical(FRAMES[bone], "left") for bone in ("proximal", "distal"))  # type: ignore[arg-type]
    world = se3.exp(torch.tensor([0.3, 0.2, -0.9, 10, 20, 700], dtype=torch.float64))
    arguments = ["motion", "--frames", str(tmp_path / "frames.json"), "-o", str(tmp_path / "m.csv")]
    wanted = [JointAngles(0, 0, 0), JointAngles(50, -20, 15)]
    for number, angles in enumerate(wanted):
        joint = torch.eye(4, dtype=torch.float64)
        joint[:3, :3], joint[:3, 3] = rotation_of(angles, "left"), torch.tensor([3.0, -60.0, 2.0])
        poses = (world, world @ a @ joint @ torch.linalg.inv(b))
        for bone, matrix, sd in zip(("proximal", "distal"), poses, (0.0, SD), strict=True):
            arguments += [f"--{bone}", str(result(tmp_path / f"{bone}{number}.json", matrix, sd))]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    with open(tmp_path / "m.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row, angles in zip(rows, wanted, strict=True):
        for name in ("flexion", "ulnar_deviation", "pronation"):
            assert float(row[f"{name}_deg"]) == pytest.approx(getattr(angles, name), abs=1e-3)
        assert [float(row[f"{n}_mm"]) for n in ("palmar", "proximal", "right")] == pytest.approx([3, -60, 2], abs=1e-3)
    # nothing is turned: every angle's deviation is that of the distal bone
    assert float(rows[0]["flexion_sd_deg"]) == pytest.approx(math.degrees(SD), rel=0.15)
    assert float(rows[0]["helical_deg"]) == 0
    turn = float(se3.log_rotation(rotation_of(wanted[1], "left")).norm())
    assert float(rows[1]["helical_deg"]) == pytest.approx(math.degrees(turn), abs=1e-3)


def test_what_motion_refuses(tmp_path: Path) -> None:
    pose = result(tmp_path / "p.json", torch.eye(4, dtype=torch.float64), 0.01)
    frames = tmp_path / "frames.json"
    for change, words in (
        ({"side": "up"}, "right or left"),
        ({"distal": {"origin": [0, 0, 0]}}, "missing"),
        ({"proximal": {**FRAMES["proximal"], "mark": [0, 0, 9]}}, "long axis"),  # type: ignore[dict-item]
    ):
        frames.write_text(json.dumps({**FRAMES, **change}))
        outcome = CliRunner().invoke(app, ["motion", "--frames", str(frames), "--proximal", str(pose), "--distal", str(pose)])
        assert outcome.exit_code == 1 and words in outcome.output
    frames.write_text(json.dumps(FRAMES))
    arguments = ["motion", "--frames", str(frames), "--proximal", str(pose), "--proximal", str(pose), "--distal", str(pose)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1 and "2 proximal and 1 distal" in outcome.output
