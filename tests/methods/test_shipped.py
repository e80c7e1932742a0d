"""Weights that come with raylign: their cards are of them, and nobody whom they are tested on was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylign.evaluation.subjects import HELD_OUT
from raylign.methods.convex_similarity import weights as similarity
from raylign.methods.imitation_agent import registrar as agent

STRANGER = HELD_OUT + 700
"""A patient whom neither training nor validation nor test of any has seen."""

EACH = pytest.mark.parametrize(
    ("file", "read"),
    [(similarity.SHIPPED, similarity.shipped), (agent.SHIPPED, agent.shipped)],
    ids=["convex-similarity", "imitation-agent"],
)


@EACH
def test_a_card_is_of_its_weights(file: Path, read: Callable[[], Any]) -> None:
    assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_name("card.md").read_text()
    assert json.loads(file.with_name("card.json").read_text())["settings"] == read().about["settings"]
    assert file.stat().st_size < 8e6  # it lies in every clone


@EACH
def test_nobody_was_trained_on_who_is_tested(file: Path, read: Callable[[], Any]) -> None:
    data = read().about["settings"]["data"]
    assert max(data["train"]) < min(data["validation"]) <= max(data["validation"]) < HELD_OUT == min(data["test"])
    assert max(data["test"]) < STRANGER
