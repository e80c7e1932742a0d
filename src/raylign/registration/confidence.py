"""Whether a result is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raylign.registration.pyramid import Array64, ImageLevel
from raylign.registration.result import Confidence
from raylign.registration.search import separation

if TYPE_CHECKING:
    from raylign.registration.direct import Candidate


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a pose.

    Parameters
    ----------
    explained: share of the gradient energy of the compared pixels that the model explains, at the finest level.
    answered: share of the exposures' usable pixels that the model answers for.
    rival: cost of the best other pose that the search ended in, as a share of the winner's at the same level; 0 where all the
        starts that survived ended here.
    depth: one standard deviation of the model's centre along the first view's beam, mm.
    in_plane: the larger one across it, mm.
    degrees: the largest of the rotation.
    held: whether the pose lies well inside the bounds of the search.
    """

    explained: float
    answered: float
    rival: float
    depth: float
    in_plane: float
    degrees: float
    held: bool


def rivalry(candidates: Sequence[Candidate], farther_than: float = 5.0) -> float:
    """The cost of the best candidate ``farther_than`` mm from the first, as a share of the first's; candidates best first."""
    if not candidates or candidates[0].normal.cost >= 0:
        return 1.0
    best = candidates[0]
    for other in candidates[1:]:
        if separation(best.matrix, other.matrix, best.normal.centre, 50.0) > farther_than:
            return float(np.clip(other.normal.cost / best.normal.cost, 0, 1))
    return 0.0


def gather(
    best: Candidate, covariance: Array64, images: Sequence[ImageLevel], axes: Array64, rival: float, held: bool
) -> Evidence:
    """The evidence for a candidate at the finest level; ``axes`` are those of the first view."""
    translation = np.sqrt(np.clip(np.diag(axes.T @ covariance[3:, 3:] @ axes), 0, None))
    return Evidence(
        explained=best.normal.explained,
        answered=best.normal.pixels / max(1, sum(i.usable for i in images)),
        rival=rival,
        depth=float(translation[2]),
        in_plane=float(translation[:2].max()),
        degrees=float(np.degrees(np.sqrt(np.clip(np.diag(covariance[:3, :3]), 0, None)).max())),
        held=held,
    )


def judge(evidence: Evidence, threshold: float) -> Confidence:
    """A probability of success from the evidence, and the sentences that explain a low one."""
    return Confidence(evidence.explained, evidence.explained >= threshold, (repr(evidence),))
