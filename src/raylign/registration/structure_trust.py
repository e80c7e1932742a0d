"""How well a structure's pose is determined before the rest of the patient, and whether it is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylign.errors import InputError
from raylign.registration.confidence import Evidence, judge
from raylign.registration.evidence import pattern
from raylign.registration.levels import Scale
from raylign.registration.matching import MatchConfig, Rendering, answered, normal_equations, render
from raylign.registration.pyramid import Array64, ImageLevel, ModelLevel
from raylign.registration.refinement import Candidate
from raylign.registration.result import Confidence, Result
from raylign.registration.search import INSIDE, Bounds, separation
from raylign.registration.settings import DirectConfig

# What a model made of voxels is off by: its edges by this share of a voxel, as if at so many places independently. From exposures
# of known motion (docs/methods/structures.md).
_EDGE, _PLACES = 0.25, 6.0


@dataclass(frozen=True)
class StructureEvidence:
    """What speaks for and against a structure's pose.

    Parameters
    ----------
    gain: share of the variance that the rest alone leaves unexplained, in the structure's own shadow, that the structure
        explains: geometric mean over windows.
    unmoved: the same with the structure where the CT has it.
    rival: the gain of cost of the best other pose that the search ended in, as a share of the winner's; 0 where all ended here.
    visible: share of the structure's shadow that can be compared: within the field, not behind what the CT does not hold.
    across: one standard deviation of the structure's surface across the beams, mm.
    depth: one standard deviation of its middle along the first view's beam, mm.
    held: whether the pose lies well inside the bounds of the search.
    """

    gain: float
    unmoved: float
    rival: float
    visible: float
    across: float
    depth: float
    held: bool


def empty_cost(scale: Scale, config: MatchConfig) -> float:
    """The cost of the rest alone, at the floor at which candidates are compared."""
    none = Rendering(np.eye(4), tuple(np.zeros(i.shape, np.float32) for i in scale.images), (None,) * len(scale.images))
    masks = [i.valid for i in scale.images]
    return normal_equations(scale.model, scale.images, none, masks, np.zeros(len(scale.images)), config).cost


def rival_of(candidates: Sequence[Candidate], empty: float, beam: Array64 | None, farther_than: float = 5.0) -> float:
    """What the best candidate more than ``farther_than`` mm from the first gains over the rest alone, as a share of its gain.

    ``beam`` [3]: of a single view, along which no difference counts; candidates best first.
    """
    best = candidates[0]
    gained = empty - best.normal.cost
    if gained <= 0:
        return 1.0
    for other in candidates[1:]:
        matrix = other.matrix
        if beam is not None:
            matrix = matrix.copy()
            matrix[:3, 3] -= beam * (beam @ (other.normal.centre - best.normal.centre))
        if separation(best.matrix, matrix, best.normal.centre, 20.0) > farther_than:
            return float(np.clip((empty - other.normal.cost) / gained, 0, 1))
    return 0.0


def surface_of(model: ModelLevel, count: int = 300) -> Array64:
    """[n, 3] mm, in the model's frame: points on the surface of what it holds, denser or thinner than the rest, evenly chosen.

    Raises
    ------
    InputError: it differs nowhere from the rest.
    """
    from scipy.ndimage import binary_erosion

    size = np.abs(model.data)
    inside = size > 0.25 * size.max()
    if not inside.any():
        raise InputError(
            "the structure attenuates no more and no less than what lies around it",
            field="labels",
            remedy="choose one that shows: a bone, a vessel filled with contrast agent, an airway",
        )
    index = np.argwhere(inside & ~binary_erosion(inside))[:, ::-1]
    index = index[:: max(1, len(index) // count)]
    return index @ model.affine[:3, :3].T + model.affine[:3, 3]


def model_covariance(scale: Scale, matrix: Array64, centre: Array64) -> Array64:
    """[6, 6] of a twist (rad, mm) about ``centre``: how far edges that are off by a part of a voxel carry the pose.

    The edges' error lies across the beam. It moves the pose as independent errors at a few places on the surface would: little
    across the beam, much along it, where a single view has nothing but magnification.
    """
    points = surface_of(scale.model) @ matrix[:3, :3].T + matrix[:3, 3]
    arms = points - centre
    lever = np.zeros((len(points), 3, 6))
    lever[:, :, 3:] = np.eye(3)
    for axis in range(3):
        lever[:, :, axis] = np.cross(np.eye(3)[axis], arms)
    information = np.zeros((6, 6))
    for image in scale.images:
        rays = points - image.source
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        across = lever - rays[:, :, None] * np.einsum("ni,nij->nj", rays, lever)[:, None]
        information += np.einsum("nij,nik->jk", across, across)
    error = _EDGE * scale.model.spacing
    return np.asarray(error**2 * len(points) / _PLACES * np.linalg.pinv(information, hermitian=True))


def gather_structure(
    scale: Scale, found: Candidate, covariance: Array64, bounds: Bounds, rival: float, config: MatchConfig
) -> StructureEvidence:
    """The evidence for a candidate at a level."""
    match = replace(config, step=config.finest_step)
    shadows = [_shadow(scale.model, image, found.matrix, match) for image in scale.images]
    masks = [a & _near(s, config.window) for a, s in zip(answered(scale.model, scale.images, found.matrix), shadows, strict=True)]
    alone, here, there = (_cost(scale, m, masks, match) for m in (None, found.matrix, bounds.start))
    held = bounds.hold(found.matrix, INSIDE)
    points = surface_of(scale.model) @ found.matrix[:3, :3].T + found.matrix[:3, 3]
    across: list[float] = [_across(points, found.normal.centre, covariance, image.source) for image in scale.images]
    beam = bounds.axes[:, 2]
    return StructureEvidence(
        gain=1 - float(np.exp(here - alone)),
        unmoved=1 - float(np.exp(there - alone)),
        rival=rival,
        visible=_visible(scale, shadows),
        across=max(across, default=0.0),
        depth=float(np.sqrt(max(float(beam @ covariance[3:, 3:] @ beam), 0.0))),
        held=held,
    )


def gains_of(scale: Scale, matrix: Array64, config: MatchConfig) -> list[float]:
    """``StructureEvidence.gain`` by each exposure alone; 0 where it shows nothing that can be compared."""
    match, found = replace(config, step=config.finest_step), []
    for image in scale.images:
        one = replace(scale, images=[image])
        mask = answered(scale.model, [image], matrix)[0] & _near(_shadow(scale.model, image, matrix, match), config.window)
        found.append(1 - float(np.exp(_cost(one, matrix, [mask], match) - _cost(one, None, [mask], match))))
    return found


def _shadow(model: ModelLevel, image: ImageLevel, matrix: Array64, config: MatchConfig) -> NDArray[np.bool_]:
    everywhere = replace(image, valid=np.ones_like(image.valid))
    return np.asarray(render(model, [everywhere], matrix, config, jacobian=False).integrals[0] != 0)


def _near(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(mask, 2 * pixels + 1))


def _visible(scale: Scale, shadows: Sequence[NDArray[np.bool_]]) -> float:
    """Of the view that shows most."""
    return max(float((s & i.valid).sum() / max(1, s.sum())) for s, i in zip(shadows, scale.images, strict=True))


def _cost(scale: Scale, matrix: Array64 | None, masks: list[NDArray[np.bool_]], match: MatchConfig) -> float:
    """Mean log variance over the masks, of the structure at a pose before the rest, or of the rest alone."""
    if matrix is None:
        none = tuple(np.zeros(i.shape, np.float32) for i in scale.images)
        rendering = Rendering(np.eye(4), none, (None,) * len(scale.images))
    else:
        rendering = render(scale.model, scale.images, matrix, match, jacobian=False)
    normal = normal_equations(scale.model, scale.images, rendering, masks, np.zeros(len(scale.images)), match)
    usable = sum(image.usable for image in scale.images)
    return normal.cost * usable / max(1, sum(int(m.sum()) for m in masks))


def _across(points: Array64, centre: Array64, covariance: Array64, source: Array64) -> float:
    """Root mean square over the surface of the standard deviation across the beam from ``source``, mm."""
    total = 0.0
    for point in points[::10]:
        arm, ray = point - centre, (point - source) / np.linalg.norm(point - source)
        lever = np.concatenate([np.stack([np.cross(e, arm) for e in np.eye(3)], 1), np.eye(3)], 1)
        lever = lever - np.outer(ray, ray @ lever)
        total += float(np.trace(lever @ covariance @ lever.T)) / 2
    return float(np.sqrt(max(total, 0.0) / len(points[::10])))


def seen_again(whole: Result, scale: Scale, matrix: Array64, config: DirectConfig) -> Result:
    """The whole CT's result as the images speak for its pose once the structure is where it was found.

    A part that moved makes the whole CT fit badly in its place, whatever the whole CT's pose. ``scale`` is a level of the
    structure with the rest behind it, ``matrix`` the structure's pose. A result of another kind of evidence stays as it is.
    """
    known = whole.confidence.evidence
    if not set(Evidence.__dataclass_fields__) <= set(known):
        return whole
    seen = asdict(pattern(scale, matrix, config.match))
    again = judge(Evidence(**{name: seen.get(name, known[name]) for name in Evidence.__dataclass_fields__}), config.trust)
    return replace(whole, confidence=again) if again.probability > whole.confidence.probability else whole


# By hand: they part exposures that show the structure from ones of the same patient without it (docs/methods/structures.md).
_INTERCEPT, _GAIN, _RIVAL = -3.5, 22.0, -1.5


def judge_structure(evidence: StructureEvidence, whole: Result, trust: float) -> Confidence:
    """A probability that the structure lies within 2 mm across the beams, no larger than that of the whole CT's pose.

    A logistic function of the gain and of the best rival, lowered where the pose lies at the edge of the search or most of the
    structure's shadow cannot be compared.
    """
    e = evidence
    z = _INTERCEPT + _GAIN * e.gain + _RIVAL * e.rival
    z -= 2.0 * (not e.held) + 4.0 * max(0.0, 0.5 - e.visible)
    own = float(1 / (1 + np.exp(-np.clip(z, -30, 30))))
    probability = min(own, whole.confidence.probability)
    trusted = own >= trust and whole.confidence.trusted
    return Confidence(probability, trusted, () if trusted else _reasons(e, whole, own >= trust), asdict(e))


def _reasons(e: StructureEvidence, whole: Result, fine: bool) -> tuple[str, ...]:
    """What lowers the probability, in plain words, the weightiest first."""
    first: tuple[str, ...] = ()
    if not whole.confidence.trusted:
        why = "; ".join(whole.confidence.reasons)
        first = (f"the pose of the whole CT, about which the structure was sought, is not to be trusted: {why}",)
    found = [
        (2 * (0.5 - e.visible), f"only {100 * e.visible:.0f} % of the structure's shadow can be compared"),
        (0.3 - e.gain, f"the structure explains {100 * max(e.gain, 0):.0f} % of what the rest of the CT leaves in its place"),
        (e.rival - 0.7, f"another place explains the images {100 * e.rival:.0f} % as well"),
        (0.5 * (not e.held), "the pose lies at the edge of what was searched: widen the search"),
        (0.2 * (e.across - 1.0), f"the images determine the structure to {e.across:.1f} mm across the beam only"),
    ]
    ordered = sorted(found, key=lambda f: -f[0])
    own = tuple(words for weight, words in ordered if weight > 0) or (() if fine else (ordered[0][1],))
    return first + own
