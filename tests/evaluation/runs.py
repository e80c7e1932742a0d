"""A folder of six exposures of a small body, and a protocol over them that costs next to nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raylign.evaluation.protocol import Protocol, load_protocol
from raylign.evaluation.record import Record
from raylign.geometry import Rigid, View, se3
from raylign.io.images_write import write_volume
from raylign.io.xray_dicom_write import counts_from_integrals, write_xray_dicom
from raylign.projection import project
from raylign.registration import centred
from raylign.simulation.seeds import generator
from tests.cli.conftest import body

ROOT = Path(__file__).resolve().parents[2]
CASES = 6
GUESS, SLOW, CRASHING, DEADLY = (f"tests.evaluation.registrars:{name}" for name in ("guess", "slow", "crashing", "deadly"))

YAML = """
name: tiny
title: Six exposures
subjects: {kind: folder}
starts: 0-20mm
bins_mm: [0, 20]
methods: [direct]
cases: 6
"""


def write_data(folder: Path) -> Path:
    """``ct`` and ``cases`` of two subjects, three exposures each."""
    view = View.from_carm(primary=20, secondary=5, sid=1000, sod=700, pixel_spacing=4.8, shape=(64, 64))
    for n in range(2):
        volume = body()
        volume = replace(volume, data=volume.data + 20 * n)
        (folder / "ct").mkdir(parents=True, exist_ok=True)
        write_volume(volume, folder / "ct" / f"s{n}.nii.gz")
        place = folder / "cases" / f"s{n}" / "plain"
        place.mkdir(parents=True)
        told = {}
        for k in range(3):
            twist = torch.randn(6, generator=generator(7, n, k), dtype=torch.float64) * torch.tensor([0.05] * 3 + [5.0] * 3)
            pose = Rigid(se3.exp(twist) @ centred(volume).matrix)
            file = f"c{2 * k + n}.dcm"  # cases are taken from the sets in turn
            write_xray_dicom(counts_from_integrals(project(volume, view, pose)[0, 0]), view, place / file)
            told[f"case{k}"] = {"pose_world_from_ct": pose.matrix.tolist(), "files": [file]}
        targets = (volume.centre + 30 * torch.randn(20, 3, generator=generator(8), dtype=torch.float64)).tolist()
        (place / "truth.json").write_text(json.dumps({"targets_ct": targets, "cases": told}))
    return folder


def tiny(folder: Path, *methods: str) -> Protocol:
    """The protocol, with these methods."""
    file = folder / "tiny.yaml"
    file.write_text(YAML)
    return load_protocol(file).with_(methods=methods or (GUESS,))


def plain(records: list[Record]) -> list[Record]:
    """Records without what depends on the machine."""
    return [replace(r, seconds={}) for r in records]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes find the tests; a commit beside the tests is none of their business; one thread each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAYLIGN_THREADS", "1")
    monkeypatch.setattr("raylign.evaluation.provenance.commit", lambda: "0" * 40)
