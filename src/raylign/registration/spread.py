"""How far a right optimum may be off: the covariance of a pose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raylign.registration.matching import MatchConfig, Normal
from raylign.registration.pyramid import Array64, ImageLevel

UNMODELLED = 2.8
"""Variance of a pose as a multiple of what the residuals explain: interpolation and the beam move the optimum itself."""

_PATCH = 4  # blocks along either side of a patch: 60 mm or so at the patient
_FEWEST = 12  # patches that must speak, or nothing is learnt from their scatter about their sum, which is zero
_STILL = 0.003  # drift of a model that fits: the patient whom the scan shows, in the same state
_PER_DRIFT = 1.25  # power of the drift by which a variance grows
_OPEN = 1e3  # rad and mm, one standard deviation of what no image determines


def covariance_of(normal: Normal, images: Sequence[ImageLevel], config: MatchConfig, drift: float = 0.0) -> Array64:
    """Covariance of the twist about the centre: ``H^-1 S H^-1`` (Huber-White), S from the scores of parts of the images.

    The Gauss-Newton Hessian alone would take neighbouring residuals for independent. They are not: noise is blurred over a few
    pixels, a patient who lies a little differently than in the scan is off in one sense over several centimetres. So S is taken
    over patches of that size. What lies beyond them all shows in how much pieces of the model would like to move (``drift``), and
    the covariance grows with it; by how much was measured (docs/confidence.md).

    Parameters
    ----------
    normal: the system at the pose. images: its exposures, in the same order, as they were compared under ``config``.
    drift: of ``evidence.Pattern``; 0 where it was not looked for.
    """
    h = normal.hessian
    inverse = np.linalg.pinv(h, rcond=1e-12, hermitian=True)
    values, vectors = np.linalg.eigh(h)
    unseen = vectors[:, values <= 1e-12 * max(float(values[-1]), 1e-300)]  # no image says anything of these
    variance = UNMODELLED * looser(drift)
    return np.asarray(variance * inverse @ _scatter(normal, images, config) @ inverse + _OPEN**2 * unseen @ unseen.T)


def looser(drift: float) -> float:
    """By how much a variance grows with the drift of a pose."""
    return float(max(drift / _STILL, 1.0) ** _PER_DRIFT)


def _scatter(normal: Normal, images: Sequence[ImageLevel], config: MatchConfig) -> Array64:
    """[6, 6]: what the scores of independent patches add up to; of the comparison's own blocks where patches are too few.

    Where blocks are too few as well, the residuals of a window are taken for one.
    """
    side = 2 * config.window + 1
    shapes = [(-(-h // side), -(-w // side)) for h, w in (image.shape for image in images)]
    if sum(r * c for r, c in shapes) != len(normal.scores):
        raise ValueError(f"{len(normal.scores)} scores are not of exposures of {shapes} blocks")
    for parts in (list(_patches(normal.scores, shapes)), [normal.scores]):
        found = [_squares(scores) for scores in parts]
        if min(count for _, count in found) >= _FEWEST:
            # six numbers were fitted to the parts
            return np.asarray(np.mean([s * count / (count - 6) for s, count in found], 0))
    return np.asarray(normal.hessian * side**2)


def _squares(scores: Array64) -> tuple[Array64, int]:
    """Sum of squares about the mean of the parts that say anything, and how many these are."""
    scores = scores[np.abs(scores).sum(1) > 0]
    scores = scores - scores.mean(0) if len(scores) else scores
    return scores.T @ scores, len(scores)


def _patches(scores: Array64, shapes: Sequence[tuple[int, int]]) -> Iterator[Array64]:
    """Sums of the blocks' scores over patches, in four grids that lie half a patch apart."""
    ends = np.cumsum([0] + [r * c for r, c in shapes])
    half = _PATCH // 2
    for down in (0, half):
        for across in (0, half):
            parts = []
            for (r, c), a, b in zip(shapes, ends[:-1], ends[1:], strict=True):
                rows, columns = -(-(r + down) // _PATCH), -(-(c + across) // _PATCH)
                grid = np.zeros((rows * _PATCH, columns * _PATCH, scores.shape[1]))
                grid[down : down + r, across : across + c] = scores[a:b].reshape(r, c, -1)
                parts.append(grid.reshape(rows, _PATCH, columns, _PATCH, -1).sum((1, 3)).reshape(rows * columns, -1))
            yield np.concatenate(parts)
