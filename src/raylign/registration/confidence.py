"""Whether a result is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raylign.registration.problem import Problem
from raylign.registration.pyramid import Array64, ImageLevel
from raylign.registration.result import Confidence
from raylign.registration.search import camera_axes, separation

if TYPE_CHECKING:
    from raylign.registration.direct import Candidate


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a pose.

    Parameters
    ----------
    explained: share of the gradient energy of the valid pixels that the model explains.
    answered: share of the exposures' usable pixels that the model answers for.
    rival: explained energy of the best other pose the search ended in, as a share of this one's; 0 where all ended here.
    in_plane, depth: one standard deviation of the model's centre across and along the first view's beam, mm.
    degrees: largest standard deviation of the rotation.
    pixels: compared at the finest level.
    """

    explained: float
    answered: float
    rival: float
    in_plane: float
    depth: float
    degrees: float
    pixels: int

    @staticmethod
    def gather(
        problem: Problem,
        best: Candidate,
        rivals: Sequence[Candidate],
        covariance: Array64,
        images: Sequence[ImageLevel],
        start: Array64,
    ) -> Evidence:
        axes = camera_axes(problem.xrays[0].view)
        translation = np.sqrt(np.clip(np.diag(axes.T @ covariance[3:, 3:] @ axes), 0, None))
        far = [
            c
            for c in rivals
            if separation(best.matrix, c.matrix, best.normal.centre, 50.0) > 5.0 and c.normal.cost > best.normal.cost
        ]
        rival = max((c.normal.cost for c in far), key=lambda v: -v, default=0.0)
        usable = max(1, sum(i.usable for i in images))
        return Evidence(
            explained=best.normal.explained,
            answered=best.normal.pixels / usable,
            rival=float(rival / best.normal.cost) if best.normal.cost < 0 else 1.0,
            in_plane=float(translation[:2].max()),
            depth=float(translation[2]),
            degrees=float(np.degrees(np.sqrt(np.clip(np.diag(covariance[:3, :3]), 0, None)).max())),
            pixels=best.normal.pixels,
        )


def judge(evidence: Evidence, threshold: float) -> Confidence:
    """A probability of success from the evidence, and the sentences that explain a low one."""
    return Confidence(evidence.explained, evidence.explained >= threshold, ())
