"""The similarity that comes with raylign, on a patient whom neither its training nor its validation nor its test has seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from raylign.evaluation.execution import one_torch_thread
from raylign.evaluation.subjects import HELD_OUT
from raylign.methods.convex_similarity.descent import descend
from raylign.methods.convex_similarity.weights import SHIPPED, shipped
from raylign.methods.named import Named, around
from raylign.methods.pairs import Laws, make_pairs, mean_tre
from raylign.methods.patients import PoolConfig, read_patient, write_patient
from raylign.registration import SearchConfig

STRANGER = HELD_OUT + 700


def test_its_card_is_of_these_weights() -> None:
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest in SHIPPED.with_name("card.md").read_text()
    said = json.loads(SHIPPED.with_name("card.json").read_text())
    assert said["settings"] == shipped().about["settings"]
    assert SHIPPED.stat().st_size < 8e6  # it lies in every clone


def test_nobody_was_trained_on_who_is_tested() -> None:
    data = shipped().about["settings"]["data"]
    assert max(data["train"]) < min(data["validation"]) <= max(data["validation"]) < HELD_OUT == min(data["test"])
    assert max(data["test"]) < STRANGER


def test_what_comes_after_looks_farther_than_from_a_rough_start() -> None:
    assert around(Named("convex-similarity")).along > SearchConfig().along


def test_it_brings_a_stranger_nearer(tmp_path: Path) -> None:
    learned = shipped()
    write_patient(tmp_path / "stranger.npz", PoolConfig(phantom_mm=3.0), learned.cube, STRANGER, 4)
    patient = read_patient(tmp_path / "stranger.npz")
    laws = Laws("gao2024/test", "plain", learned.cube.pixels)
    pairs = make_pairs(patient, torch.arange(4), laws, torch.Generator().manual_seed(0))
    with one_torch_thread():
        with torch.no_grad():
            channels = learned.network.expanded(patient.cube)
        found = descend(learned.similarity, channels, pairs.looks, pairs.moving, learned.descent)
    before, after = (mean_tre(poses, pairs.truth, patient.points) for poses in (pairs.moving, found.poses))
    # of its test patients 98 % ended nearer than they began, at a third of the distance in the median
    assert float(before.median()) > 150
    assert float((after < before).double().mean()) >= 0.75
    assert float(after.median()) < 0.6 * float(before.median())
