"""Whether a result is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from raylign.registration import trust
from raylign.registration.evidence import mirrored, pattern
from raylign.registration.pyramid import Array64
from raylign.registration.result import Confidence
from raylign.registration.search import separation
from raylign.registration.settings import DirectConfig
from raylign.registration.spread import covariance_of

if TYPE_CHECKING:
    from raylign.registration.levels import Scale
    from raylign.registration.refinement import Candidate


_WRONG = 10.0  # mm: a success is an mTRE below it
_EXCHANGED = 0.5  # chance at most, where left and right fit better exchanged
_SCALE = 0.9  # of the distribution of errors, in stated deviations
_AGREE = 0.2  # local correlation under which the probability falls to nothing

IN_PLACE = 0.02
"""Drift under which every piece of the model is where it belongs, so that single views are not asked."""

_HANDED = 0.01  # drift under which the mirror image is not asked: of a nearly symmetric body it may fit nearly as well


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
    wobble: one standard deviation of the model's surface across the beam, mm: of its shift and of what its rotation moves.
    held: whether the pose lies well inside the bounds of the search.
    mirror: cost of the model's mirror image as a share of the model's own, both refined from here (``evidence.mirrored``); 0 if
        it was not tried, ``drift`` being under 0.01.
    agreement, weakest, opposed, contrast, drift: how the images agree with the model, window by window, in the exposure in
        which it is worst: see ``evidence.Pattern``.
    """

    explained: float
    answered: float
    rival: float
    depth: float
    wobble: float
    held: bool
    mirror: float
    agreement: float
    weakest: float
    opposed: float
    contrast: float
    drift: float


def rivalry(candidates: Sequence[Candidate], farther_than: float = 5.0) -> float:
    """The cost of the best candidate ``farther_than`` mm from the first, as a share of the first's."""
    if not candidates or candidates[0].normal.cost >= 0:
        return 1.0
    best = candidates[0]
    others = [
        other.normal.cost
        for other in candidates[1:]
        if separation(best.matrix, other.matrix, best.normal.centre, 50.0) > farther_than
    ]
    return float(np.clip(min(others, default=0.0) / best.normal.cost, 0, 1))


def gather(
    best: Candidate, scales: Sequence[Scale], axes: Array64, rival: float, held: bool, config: DirectConfig
) -> tuple[Evidence, Array64]:
    """The evidence for a candidate at the first of some levels, and its covariance.

    ``axes`` are those of the first view, ``config`` is what the candidate was compared under. A
    candidate's own rendering is one at the first level.
    """
    scale = scales[0]
    seen = pattern(scale, best.matrix, config.match, rendering=best.rendering)
    covariance = covariance_of(best.normal, scale.images, config.match, seen.drift)
    shows = best.normal.cost < 0  # explaining nothing is explained as well by a mirror image
    translation = np.sqrt(np.clip(np.diag(axes.T @ covariance[3:, 3:] @ axes), 0, None))
    rotation = np.sqrt(np.clip(np.diag(covariance[:3, :3]), 0, None))
    evidence = Evidence(
        explained=best.normal.explained,
        answered=best.normal.pixels / max(1, sum(i.usable for i in scale.images)),
        rival=rival,
        depth=float(translation[2]),
        wobble=float(np.hypot(translation[:2].max(), scale.model.radius * rotation.max())),
        held=held,
        mirror=mirrored(scales, best.matrix, config) if shows and seen.drift >= _HANDED else 0.0,
        **asdict(seen),
    )
    return evidence, covariance


def features(evidence: Evidence) -> dict[str, float]:
    """What the logistic regression sees, by name; ``trust.WEIGHTS`` has a weight for each.

    Each stops at what a good registration reaches: one that is very good must not make up for another that is bad.
    """
    return {
        "agreement": min(evidence.agreement, 0.85),
        "rival": max(evidence.rival, 0.5),
        "mirror": float(np.clip(evidence.mirror, 0.8, 1.1)),
        "drift": float(np.log(np.clip(evidence.drift, 0.01, 0.12) / 0.01)),
        "held": float(evidence.held),
    }


def near_enough(evidence: Evidence) -> float:
    """Probability that a pose in the right valley is less than 10 mm off, by its stated deviations along and across the beam.

    Targets lie within the model: what its surface may be off counts half. Where image and model do not agree at all, no valley
    is the right one, and none is where the model's mirror image explains the exposures better.

    Errors in stated deviations follow Student's distribution with four degrees of freedom (docs/confidence.md): the deviations
    are learnt from a few dozen patches of an image, and a patient who is deformed moves a pose by more than patches say.
    """
    deviation = max(float(np.hypot(evidence.depth, evidence.wobble / 2)), 1e-3)
    agree = float(np.clip(evidence.agreement / _AGREE, 0, 1))
    exchanged = _EXCHANGED if evidence.mirror > 1 else 1.0
    return agree * exchanged * _within(_WRONG / (_SCALE * deviation))


def _within(x: float) -> float:
    """Probability of values between -x and x of Student's distribution with four degrees of freedom."""
    s = x / math.hypot(1, x / 2)
    return 0.75 * s * (1 - s * s / 12)


def judge(evidence: Evidence, threshold: float) -> Confidence:
    """A probability of success from the evidence, and the sentences that explain a low one.

    It is that of having the right valley of the cost, a logistic function of ``features``, times that of being near enough to the
    truth if one has.
    """
    z = trust.INTERCEPT + sum(trust.WEIGHTS[name] * value for name, value in features(evidence).items())
    probability = float(near_enough(evidence) / (1 + np.exp(-np.clip(z, -30, 30))))
    trusted = probability >= threshold
    return Confidence(probability, trusted, () if trusted else reasons(evidence), asdict(evidence))


def reasons(e: Evidence) -> tuple[str, ...]:
    """What lowers the probability, in plain words, the weightiest first."""
    found = [
        (
            2 * (0.7 - e.agreement),
            f"image and model agree poorly (local correlation {e.agreement:.2f}, a right pose has 0.8 and more): "
            "another patient, a wrong side or a wrong geometry look like this",
        ),
        (0.5 - e.weakest, f"in a part of the field image and model hardly agree (local correlation {e.weakest:.2f})"),
        (2 * (e.opposed - 0.15), f"the image contradicts {100 * e.opposed:.0f} % of what the model shows"),
        (
            3 * (e.mirror - 0.9),
            "the model's mirror image explains the exposures about as well or better: left and right may be exchanged",
        ),
        (
            8 * (e.drift - 0.06),
            f"pieces of the model would fit better beside where this pose puts them (local correlation {e.drift:.2f} higher):"
            " another patient, a wrong geometry, or a pose that is a compromise",
        ),
        (e.rival - 0.6, f"another pose explains the images {100 * e.rival:.0f} % as well"),
        (0.35 - e.explained, f"the model explains only {100 * e.explained:.0f} % of the image structure where it projects"),
        (0.3 * np.log(max(e.depth, 1e-4) / 3), f"the images determine the depth along the beam to {e.depth:.2g} mm only"),
        (0.3 * np.log(max(e.wobble, 1e-4) / 0.5), f"the images determine the model's surface to {e.wobble:.2g} mm only"),
        (0.5 * (not e.held), "the pose lies at the edge of what was searched: give a nearer start or a wider search"),
        (
            0.4 - e.answered,
            f"only {100 * e.answered:.0f} % of the pixels show what the model holds; the rest passes its cut faces",
        ),
    ]
    ordered = sorted(found, key=lambda f: -f[0])
    return tuple(words for weight, words in ordered if weight > 0) or (ordered[0][1],)
