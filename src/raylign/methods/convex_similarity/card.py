"""The model card of a learned similarity: what it was trained on, what it reaches, and where it should not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylign.methods import pair_card

_WHAT = (
    'Similarity of Gao et al., "A fully differentiable framework for 2D/3D registration and the projective spatial'
    ' transformers" (IEEE TMI 2024).'
)
_ROWS = (
    *pair_card.came_down("", "", "the descent"),
    *pair_card.LEFT_OPEN,
    ("cosine", "cosine of gradient and true direction, mean", ".3f"),
    ("correlation", "correlation of similarity and distance", ".3f"),
)
_LIMITS = (
    "Simulated exposures of made patients: no real exposure was measured.",
    "One exposure, near to frontal, with the whole field of about 280 mm; another apparatus or another bone was not trained.",
    "It brings a pose nearer. It is no registration by itself, and says nothing of how sure a pose is.",
)


def card(about: Mapping[str, Any], digest: str) -> str:
    """The card in Markdown: ``about`` as ``training.run`` has it; SHA-256 of the weights."""
    how = (
        f"Registrations descend from starts of `{about['settings']['start']}`, in exposures without domain randomisation; nothing"
        " refines them."
    )
    return pair_card.card(about, digest, pair_card.Words(_WHAT, how, _ROWS, _LIMITS, about["name"]))
