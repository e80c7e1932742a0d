"""The model card of a regressor: what it was trained on, what it reaches, and where it should not be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylign.methods import pair_card

_WHAT = {
    "deepim": (
        'Regressor after Li et al., "DeepIM: deep iterative matching for 6D pose estimation" (ECCV 2018), trained as Gao et al.'
        " (IEEE TMI 2024) trained theirs, but for what `docs/methods/pose_regression.md` says."
    ),
    "dmw": (
        'Regressor after Gu et al., "Extended capture range of rigid 2D/3D registration by estimating Riemannian pose gradients"'
        " (MLMI 2020), trained as Gao et al. (IEEE TMI 2024) trained theirs, but for what `docs/methods/pose_regression.md` says."
    ),
}
_ROWS = (
    *pair_card.came_down("", "", "iterations"),
    *pair_card.LEFT_OPEN,
    *pair_card.came_down("near_", " (moving poses)", "iterations"),
    ("motion_loss", "squared distance of the motion said and the true one, moving poses, mean", ".3f"),
    ("cosine", "cosine of the motion said and the true one, moving poses, mean", ".3f"),
    ("arrived", "share whose last motion was below the threshold", ".3f"),
)
_LIMITS = (
    "Simulated exposures of made patients: no real exposure was measured.",
    "One exposure, near to frontal, with the whole field of about 280 mm; another apparatus or another bone was not trained.",
    "It brings a pose nearer. It is no registration by itself, and says nothing of how sure a pose is.",
)


def card(about: Mapping[str, Any], digest: str) -> str:
    """The card in Markdown: ``about`` as ``training.run`` has it; SHA-256 of the weights."""
    settings = about["settings"]
    how = (
        f"Registrations iterate from starts of `{settings['start']}`, and from moving poses of `{settings['moving']}`, in"
        " exposures without domain randomisation; nothing refines them."
    )
    words = pair_card.Words(_WHAT[settings["network"]["kind"]], how, _ROWS, _LIMITS, "gao2024_regression")
    return pair_card.card(about, digest, words)
