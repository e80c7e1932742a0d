"""The second half of the last step: residuals weighed by what photons that are counted allow.

Once windows with a gain each have brought the pose near (``polish``), and beam and scatter explain the exposure, the gains are
not needed any more. They cost information, and their weights are taken from the noisy image itself. Here the residual keeps an
offset a window alone, and its variance is that of the model's expected intensity ``I``, the same function over the whole image:

    r = F - G(T)        var r = phi / I + tau

The exposure may be softer or sharper than what the model shows, by one number a view that is fitted and left out: detector and
focal spot spread light, and so did the scanner. That moves -log where light and dark meet, as depth does.

``phi`` is the noise of counted photons (theirs is 1 / counts, whatever the unit), ``tau`` what no model explains; both are read
off the residuals' spread against ``I``. Where the residuals of a small patch are larger than that, contrast agent, metal or moved
tissue are in the way, and the patch loses its say. Weights from what is expected, not from what was measured, do not go up and
down with the noise that they weigh (iteratively reweighted least squares; for exponential families Fisher scoring: McCullagh and
Nelder 1989).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.registration.polish_kernels import normal_equations, patch_means, weighted_less_mean
from raylign.registration.pyramid import Array32, Array64

_ROUNDS = 4  # of reweighting
_PATCH = 3  # pixels: radius over which residuals are compared with their variance
_GROUPS = 24  # of pixels alike in intensity, from which the variance is read
_FEWEST = 50  # pixels of such a group
_NORMAL = 1.4826  # standard deviation over median absolute deviation


@dataclass(frozen=True, eq=False)
class Explained:
    """An exposure, and what the model shows of it.

    Parameters
    ----------
    images: [1 + K, H, W] what is expected of ``-log`` of the exposure, and its derivatives.
    fixed: [H, W] what was measured.
    valid: pixels that are compared.
    """

    images: Array32
    fixed: Array32
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Equations:
    """Normal equations of one exposure at the end of the reweighting.

    Parameters
    ----------
    hessian: [K, K].
    scores: [N, K] of blocks of pixels.
    photons, rest: ``phi`` over the intensity of the median pixel, and ``tau``.
    share: of the pixels that keep half of their say or more.
    """

    hessian: Array64
    scores: Array64
    photons: float
    rest: float
    share: float


def variance(left: Array32, intensity: Array32, valid: NDArray[np.bool_]) -> tuple[float, float]:
    """``phi`` and ``tau`` of ``var = phi / intensity + tau``, neither negative.

    From the median deviation in each of some groups of pixels of about one intensity.

    Parameters
    ----------
    left: [H, W] residuals without their local means.
    intensity: [H, W] expected.
    valid: pixels to look at.
    """
    from scipy.optimize import nnls

    level, size = intensity[valid].astype(np.float64), np.abs(left[valid]).astype(np.float64)
    groups = np.array_split(np.argsort(level, kind="stable"), max(1, min(_GROUPS, len(level) // _FEWEST)))
    squares = np.array([(_NORMAL * np.median(size[g])) ** 2 for g in groups]) + 1e-14
    design = np.stack([[np.median(1 / level[g]) for g in groups], np.ones(len(groups))], 1) / squares[:, None]
    scale = np.abs(design).max(0)
    found, _ = nnls(design / scale, np.ones(len(groups)))
    phi, tau = found / scale
    return float(phi), float(tau)


def counted(views: list[Explained], radius: int, block: int) -> tuple[Array64, list[Equations]] | None:
    """[K] by how much the parameters of ``images`` are to change, and the equations there; None where they are not determined.

    Parameters
    ----------
    views: the exposures, all of the same parameters.
    radius: pixels, of the window that has an offset of its own.
    block: pixels, side of the blocks whose scores are kept.
    """
    twist = np.zeros(len(views[0].images) - 1)
    weights: list[Array32] = [_by_counts(v) for v in views]
    soft = [softness(v.images[0], v.valid) for v in views]
    found: list[Equations] = []
    for _ in range(_ROUNDS):
        found = []
        for i, view in enumerate(views):
            weights[i], spread = _reweighted(view, twist, weights[i], radius, soft[i])
            flat = _flat(_with_residual(view, twist), weights[i], radius, soft[i])
            blocks = -(-view.fixed.shape[0] // block) * -(-view.fixed.shape[1] // block)
            hessian, scores = np.zeros((len(twist), len(twist))), np.zeros((blocks, len(twist)))
            normal_equations(flat, weights[i], block, hessian, scores)
            found.append(Equations(hessian + np.triu(hessian, 1).T, scores, *spread))
        whole, right = sum(e.hessian for e in found), sum(e.scores.sum(0) for e in found)
        scale = np.sqrt(np.clip(np.diag(whole), 1e-30, None))
        scaled = whole / np.outer(scale, scale)
        if not np.isfinite(scaled).all() or np.linalg.cond(scaled) > 1e10:
            return None
        twist = twist + np.linalg.solve(scaled, right / scale) / scale
    return twist, found


def softness(image: Array32, valid: NDArray[np.bool_]) -> Array32:
    """[H, W]: by how much ``-log`` of an intensity changes with the variance, in pixels squared, over which it is spread; halved.

    To first order ``-lap(I) / I``. Zero beside pixels that are not valid, where ``image`` need not hold anything.

    Parameters
    ----------
    image: [H, W] ``-log`` of the intensity.
    valid: pixels to look at.
    """
    inner = (slice(1, -1), slice(1, -1))
    beside = ((slice(2, None), inner[1]), (slice(None, -2), inner[1]), (inner[0], slice(2, None)), (inner[0], slice(None, -2)))
    kept = valid[inner].copy()
    for at in beside:
        kept &= valid[at]
    # what lies beside an edge of the valid pixels must not overflow
    more = sum(1 - np.exp(np.where(kept, image[inner] - image[at], np.float32(0.0))) for at in beside)
    out = np.zeros_like(image)
    out[inner] = more
    return out


def _flat(images: Array32, weight: Array32, radius: int, soft: Array32) -> Array32:
    """``images`` [S, H, W] less their weighted local means, and less what of them goes with ``soft`` [H, W]."""
    flat = np.empty((len(images) + 1, *soft.shape), np.float32)
    weighted_less_mean(np.concatenate([images, soft[None]]), weight, radius, flat)
    weighted = (weight * flat[-1]).astype(np.float64).ravel()
    power = float(weighted @ flat[-1].ravel())
    if power > 0:
        flat[:-1] -= ((flat[:-1].reshape(len(images), -1) @ weighted) / power).astype(np.float32)[:, None, None] * flat[-1]
    return flat[:-1]


def _by_counts(view: Explained) -> Array32:
    """Weights as of photons alone, up to a factor."""
    return np.asarray(np.where(view.valid, np.exp(-view.images[0]), np.float32(0.0)), np.float32)


def _with_residual(view: Explained, twist: Array64) -> Array32:
    """[1 + K, H, W]: the residual after a twist, and the derivatives."""
    out = view.images.copy()
    out[0] = view.fixed - view.images[0] - np.tensordot(twist.astype(np.float32), view.images[1:], 1)
    return out


def _reweighted(
    view: Explained, twist: Array64, weight: Array32, radius: int, soft: Array32
) -> tuple[Array32, tuple[float, float, float]]:
    """New weights; the variance of the median pixel by photons, what is not explained, and the share of pixels that count."""
    left = _flat(_with_residual(view, twist)[:1], weight, radius, soft)
    intensity = np.exp(-view.images[0])
    phi, tau = variance(left[0], intensity, view.valid)
    expected = np.float32(phi) / intensity + np.float32(tau)
    ratio = np.empty(view.fixed.shape, np.float32)
    patch_means(left[0] ** 2 / expected, view.valid, _PATCH, ratio)
    trust = 1 / (1 + np.clip(ratio - 1, 0, 1e6) ** 2)
    fresh = np.where(view.valid, trust / expected, np.float32(0.0))
    median = phi / float(np.median(intensity[view.valid]))
    return np.asarray(fresh, np.float32), (median, tau, float((trust[view.valid] >= 0.5).mean()))
