"""The similarity that comes with raylign, on a patient whom neither its training nor its validation nor its test has seen."""

from __future__ import annotations

from pathlib import Path

import torch

from raylign.evaluation.execution import one_torch_thread
from raylign.methods.convex_similarity.descent import descend
from raylign.methods.convex_similarity.weights import shipped
from raylign.methods.named import Named, around
from raylign.methods.pairs import Laws, make_pairs, mean_tre
from raylign.methods.patients import PoolConfig, read_patient, write_patient
from raylign.registration import SearchConfig
from tests.methods.test_shipped import STRANGER


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
    # of its test patients 96 % ended nearer than they began, at a third of the distance in the median
    assert float(before.median()) > 150
    assert float((after < before).double().mean()) >= 0.75
    assert float(after.median()) < 0.6 * float(before.median())
