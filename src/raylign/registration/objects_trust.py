"""How well each of several bodies is determined, by the images and by what joins them, and whether it is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from raylign.data import Volume
from raylign.registration.evidence import pattern
from raylign.registration.levels import Scale, centre_under
from raylign.registration.matching import MatchConfig, answered
from raylign.registration.objects_joint import Together, shown
from raylign.registration.objects_levels import ObjectScale
from raylign.registration.objects_problem import ObjectsConfig
from raylign.registration.outline import in_plane, is_cut_out, outline_covariance
from raylign.registration.pyramid import Array64, ImageLevel
from raylign.registration.refinement import Candidate
from raylign.registration.result import Confidence
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.spread import covariance_of
from raylign.registration.structure_trust import gains_of, gather_structure, model_covariance


@dataclass(frozen=True)
class ObjectEvidence:
    """What speaks for and against a body's pose, the others where they were found.

    Parameters
    ----------
    gain: share of the variance that the other bodies leave unexplained in this one's shadow that it explains; with a scan among
        the bodies, of the exposure in which it explains most, less what it makes worse in another.
    agreement, drift: of all bodies together with the images in this one's shadow, see ``evidence.Pattern``.
    rival: what the best other place found in its search gained, as a share of what this one did.
    visible: share of its shadow that can be compared.
    across: one standard deviation of its surface across the beams, mm.
    depth: one standard deviation of its middle along the first view's beam, mm; ``depth_images``: by the images alone.
    tied: the largest part of a standard deviation that the joints took away, in any direction, 0 to 1.
    held: whether its search ended well inside its bounds.
    """

    gain: float
    agreement: float
    drift: float
    rival: float
    visible: float
    across: float
    depth: float
    depth_images: float
    tied: float
    held: bool


def covariance_by_images(scale: ObjectScale, together: Together, match: MatchConfig, models: Sequence[Volume] = ()) -> Array64:
    """[6 n, 6 n] of the twists about the centres: of the residuals, and of models whose edges are off by part of a voxel.

    ``models``: of the bodies; for those that are cut-outs the outline is uncertain all round (``outline``).
    """
    covariance = covariance_of(together.normal, scale.images, match)
    for b, (matrix, centre) in enumerate(zip(together.matrices, together.normal.centre, strict=True)):
        part = slice(6 * b, 6 * b + 6)
        covariance[part, part] += model_covariance(scale.of(b), matrix, centre)
        if models and is_cut_out(models[b], scale.models[b]):
            covariance[part, part] += outline_covariance(scale.of(b), matrix, in_plane(models[b]))
    return np.asarray(covariance)


def tied(images: Array64, after: Array64) -> float:
    """The largest part of a standard deviation of [6, 6] that was taken away, in any direction."""
    values, vectors = np.linalg.eigh(images)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-18))
    least = float(np.linalg.eigvalsh(whiten.T @ after @ whiten)[0])
    return float(1 - np.sqrt(np.clip(least, 0, 1)))


def before_others(scale: ObjectScale, matrices: Sequence[Array64], number: int, match: MatchConfig) -> Scale:
    """One body's level, all others rendered behind it."""
    others = [b for b in range(len(matrices)) if b != number]
    if not others:
        return scale.of(number)
    rest = replace(scale, models=tuple(scale.models[b] for b in others))
    poses = [matrices[b] for b in others]
    seen = shown(rest, poses, match, jacobian=False)
    images: list[ImageLevel] = []
    for v, image in enumerate(scale.images):
        behind = np.zeros(image.shape, np.float32) if image.background is None else image.background.copy()
        valid = image.valid.copy()
        for model, pose, rendering in zip(rest.models, poses, seen.renderings, strict=True):
            behind += rendering.integrals[v] * image.lengths
            valid &= answered(model, [image], pose)[0]
        images.append(replace(image, background=behind, valid=valid))
    return scale.of(number, images)


@dataclass(frozen=True)
class Sought:
    """What the search of a body left to say of it; of one that was not sought, nothing."""

    rival: float = 0.0
    held: bool = True
    start: Array64 | None = None


def judged_body(
    scale: Scale,
    matrix: Array64,
    covariances: tuple[Array64, Array64],
    sought: Sought,
    config: ObjectsConfig,
    *,
    scan: bool,
) -> tuple[ObjectEvidence, Confidence]:
    """Evidence and confidence of a body at a pose, ``scale`` having the others behind it.

    What a scan and its parts leave of an exposure is noise, and of a lateral one of a pelvis that is nearly all: there the share
    that is explained tells the dose. So the exposure that shows most speaks. What surfaces leave is what they do not hold, in
    each exposure, and all of them speak.

    Parameters
    ----------
    covariances: [6, 6] by the images alone, and with the joints. scan: whether the bodies are parts of one, and the rest of it.
    """
    images, covariance = covariances
    match = config.direct.match
    centre = centre_under(scale, matrix)
    axes = camera_axes(scale.images[0].view)
    bounds = Bounds(matrix if sought.start is None else sought.start, axes, centre, 1e3, 1e4, 1e4)
    candidate = Candidate(matrix, _at(scale, centre))
    own = gather_structure(scale, candidate, covariance, bounds, sought.rival, match)
    seen = pattern(scale, matrix, match)
    beam = axes[:, 2]
    gain = own.gain
    if scan and len(scale.images) > 1:
        gains = gains_of(scale, matrix, match)
        gain = max(gains) + min(0.0, *gains)
    evidence = ObjectEvidence(
        gain=gain,
        agreement=seen.agreement,
        drift=seen.drift,
        rival=own.rival,
        visible=own.visible,
        across=own.across,
        depth=own.depth,
        depth_images=float(np.sqrt(max(float(beam @ images[3:, 3:] @ beam), 0.0))),
        tied=tied(images, covariance),
        held=sought.held,
    )
    return evidence, judge_object(evidence, config.trust)


# By hand, from docs/methods/objects.md.
_INTERCEPT, _GAIN, _RIVAL = -3.5, 22.0, -1.5


def judge_object(e: ObjectEvidence, trust: float) -> Confidence:
    """A probability that a body lies within 2 mm across the beams, and plain sentences on what lowers it."""
    z = _INTERCEPT + _GAIN * e.gain + _RIVAL * e.rival
    z -= 2.0 * (not e.held) + 4.0 * max(0.0, 0.5 - e.visible)
    probability = float(1 / (1 + np.exp(-np.clip(z, -30, 30))))
    return Confidence(probability, probability >= trust, _reasons(e, probability >= trust), asdict(e))


def _reasons(e: ObjectEvidence, fine: bool) -> tuple[str, ...]:
    """What lowers the probability, the weightiest first; and where joints, not the images, say where a body is."""
    found = [
        (2 * (0.5 - e.visible), f"only {100 * e.visible:.0f} % of its shadow can be compared"),
        (0.3 - e.gain, f"it explains {100 * max(e.gain, 0):.0f} % of what the other bodies leave in its place"),
        (e.rival - 0.7, f"another place explains the images {100 * e.rival:.0f} % as well"),
        (0.5 * (not e.held), "its pose lies at the edge of what was searched"),
        (0.2 * (e.across - 1.0), f"the images determine it to {e.across:.1f} mm across the beam only"),
    ]
    ordered = sorted(found, key=lambda f: -f[0])
    words = () if fine else (tuple(w for weight, w in ordered if weight > 0) or (ordered[0][1],))
    if e.tied > 0.5:
        words += (
            f"its place rests on what it is joined to: along the beam it is known to {e.depth:.1f} mm, by the images alone"
            f" to {e.depth_images:.1f} mm",
        )
    return words


def _at(scale: Scale, centre: Array64):  # type: ignore[no-untyped-def]
    from raylign.registration.matching import Normal

    none, views = np.zeros(0), np.zeros(len(scale.images))
    return Normal(0.0, np.zeros((6, 6)), np.zeros(6), none, 0.0, 0, views, centre, views, views)
