"""The loops over pixels of the last step (``polish``): local means, local gains, the cost and its normal equations."""

from __future__ import annotations

import numpy as np
from numba import njit

from raylign.registration.matching import box_sum


@njit(cache=True, nogil=True)
def subtract_means(images, valid, radius, out):  # type: ignore[no-untyped-def]
    s, h, w = images.shape
    scratch = np.empty((h, w), np.float32)
    count = np.empty((h, w), np.float32)
    part = np.empty((h, w), np.float32)
    has = valid.astype(np.float32)
    box_sum(has, radius, scratch, count)
    for k in range(s):
        # about the overall mean first: running sums of large numbers lose digits
        total = 0.0
        pixels = 0.0
        for r in range(h):
            for c in range(w):
                total += has[r, c] * images[k, r, c]
                pixels += has[r, c]
        mean = np.float32(total / max(pixels, 1.0))
        for r in range(h):
            for c in range(w):
                part[r, c] = has[r, c] * (images[k, r, c] - mean)
        box_sum(part, radius, scratch, out[k])
        for r in range(h):
            for c in range(w):
                out[k, r, c] = part[r, c] - out[k, r, c] / count[r, c] if has[r, c] > 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def gains(moving, fixed, valid, radius, factor, energy, residual, power, count):  # type: ignore[no-untyped-def]
    """Gain, <G^2>, windowed residual and windowed <F^2> of every pixel, sums over the window."""
    h, w = fixed.shape
    scratch = np.empty((h, w), np.float32)
    both = np.empty((h, w), np.float32)
    total = 0.0
    pixels = 0.0
    has = valid.astype(np.float32)
    box_sum(has, radius, scratch, count)
    for r in range(h):
        for c in range(w):
            both[r, c] = fixed[r, c] * moving[r, c]
            energy[r, c] = moving[r, c] ** 2
            power[r, c] = fixed[r, c] ** 2
            total += energy[r, c]
            pixels += has[r, c]
    box_sum(both, radius, scratch, both)
    box_sum(energy, radius, scratch, energy)
    box_sum(power, radius, scratch, power)
    # where the model shows next to nothing no gain is fitted
    delta = np.float32(1e-3 * total / max(pixels, 1.0))
    for r in range(h):
        for c in range(w):
            factor[r, c] = 0.0
            residual[r, c] = 0.0
            if valid[r, c]:
                energy[r, c] += delta * count[r, c] + np.float32(1e-20)
                factor[r, c] = max(both[r, c] / energy[r, c], np.float32(0.0))
                residual[r, c] = (fixed[r, c] - factor[r, c] * moving[r, c]) ** 2
    box_sum(residual, radius, scratch, residual)


@njit(cache=True, nogil=True)
def cost_of(fixed, images, valid, radius, floor):  # type: ignore[no-untyped-def]
    """Sum over valid pixels of the log variance ratio, and the median residual variance."""
    h, w = fixed.shape
    factor, energy, residual, power, count = (
        np.empty((h, w), np.float32), np.empty((h, w), np.float32), np.empty((h, w), np.float32),
        np.empty((h, w), np.float32), np.empty((h, w), np.float32),
    )  # fmt: skip
    gains(images[0], fixed, valid, radius, factor, energy, residual, power, count)
    cost = 0.0
    found = np.empty(h * w, np.float32)
    n = 0
    for r in range(h):
        for c in range(w):
            if valid[r, c]:
                e = max(residual[r, c], np.float32(0.0)) / count[r, c]
                cost += np.log((e + floor) / (max(power[r, c], np.float32(0.0)) / count[r, c] + floor))
                found[n] = e
                n += 1
    return cost, float(np.median(found[:n])) if n > 0 else 0.0


@njit(cache=True, nogil=True)
def equations(images, fixed, valid, radius, floor, block, hessian, scores):  # type: ignore[no-untyped-def]
    """Adds the normal equations of ``images`` [1 + K, H, W], a moving image and its derivatives, all less their local means."""
    channels, h, w = images.shape
    factor, energy, residual, power, count = (
        np.empty((h, w), np.float32), np.empty((h, w), np.float32), np.empty((h, w), np.float32),
        np.empty((h, w), np.float32), np.empty((h, w), np.float32),
    )  # fmt: skip
    gains(images[0], fixed, valid, radius, factor, energy, residual, power, count)
    scratch = np.empty((h, w), np.float32)
    weight = np.zeros((h, w), np.float32)
    for r in range(h):
        for c in range(w):
            if valid[r, c]:
                weight[r, c] = 1.0 / (max(residual[r, c], np.float32(0.0)) + floor * count[r, c])
    box_sum(weight, radius, scratch, weight)
    derivatives = np.empty((channels - 1, h, w), np.float32)
    turned = np.empty((h, w), np.float32)
    for k in range(channels - 1):
        for r in range(h):
            for c in range(w):
                turned[r, c] = (fixed[r, c] - np.float32(2.0) * factor[r, c] * images[0, r, c]) * images[k + 1, r, c]
        # d gain = <(F - 2 a G) J> / <G^2>, the gain taken as even over the window
        box_sum(turned, radius, scratch, turned)
        for r in range(h):
            for c in range(w):
                derivatives[k, r, c] = 0.0
                if factor[r, c] > 0:
                    derivatives[k, r, c] = factor[r, c] * images[k + 1, r, c] + images[0, r, c] * turned[r, c] / energy[r, c]
    columns = (w + block - 1) // block
    for r in range(h):
        for c in range(w):
            if factor[r, c] <= 0.0:
                continue
            here = (r // block) * columns + c // block
            left = weight[r, c] * (fixed[r, c] - factor[r, c] * images[0, r, c])
            for k in range(channels - 1):
                d = derivatives[k, r, c]
                scores[here, k] += left * d
                d *= weight[r, c]
                for m in range(k, channels - 1):
                    hessian[k, m] += d * derivatives[m, r, c]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def develop(integrals, share, by_v, by_b, scatter, least, out):  # type: ignore[no-untyped-def]
    """``-log(sum_e share_e exp(-by_v_e V - by_b_e B) + scatter)`` of V, B = ``integrals`` [2, C, H, W], and its derivatives.

    Channel 0 holds the integrals, the others derivatives of them.
    """
    channels, h, w = out.shape
    for r in range(h):
        for c in range(w):
            v, b = integrals[0, 0, r, c], integrals[1, 0, r, c]
            total, dv, db = scatter[r, c], np.float32(0.0), np.float32(0.0)
            for e in range(len(share)):
                through = share[e] * np.exp(-by_v[e] * v - by_b[e] * b)
                total += through
                dv += by_v[e] * through
                db += by_b[e] * through
            if total < least[r, c]:
                total, dv, db = least[r, c], np.float32(0.0), np.float32(0.0)
            out[0, r, c] = -np.log(total)
            dv /= total
            db /= total
            for k in range(1, channels):
                out[k, r, c] = dv * integrals[0, k, r, c] + db * integrals[1, k, r, c]


@njit(cache=True, nogil=True)
def weighted_less_mean(images, weight, radius, out):  # type: ignore[no-untyped-def]
    """``images`` [S, H, W] less their mean over a window, weighted; 0 where ``weight`` is."""
    s, h, w = images.shape
    scratch = np.empty((h, w), np.float32)
    whole = np.empty((h, w), np.float32)
    part = np.empty((h, w), np.float32)
    box_sum(weight, radius, scratch, whole)
    for k in range(s):
        total, much = 0.0, 0.0
        for r in range(h):
            for c in range(w):
                total += weight[r, c] * images[k, r, c]
                much += weight[r, c]
        mean = np.float32(total / max(much, 1e-30))
        for r in range(h):
            for c in range(w):
                part[r, c] = images[k, r, c] - mean if weight[r, c] > 0 else np.float32(0.0)
                out[k, r, c] = weight[r, c] * part[r, c]
        box_sum(out[k], radius, scratch, out[k])
        for r in range(h):
            for c in range(w):
                if weight[r, c] > 0:
                    # running sums do not quite come back to zero where weights vanish
                    out[k, r, c] = part[r, c] - out[k, r, c] / max(whole[r, c], weight[r, c])
                else:
                    out[k, r, c] = 0.0


@njit(cache=True, nogil=True)
def patch_means(image, valid, radius, out):  # type: ignore[no-untyped-def]
    """Means of ``image`` [H, W] over a window's valid pixels."""
    h, w = image.shape
    scratch = np.empty((h, w), np.float32)
    count = np.empty((h, w), np.float32)
    has = valid.astype(np.float32)
    box_sum(has, radius, scratch, count)
    box_sum(np.where(valid, image, np.float32(0.0)), radius, scratch, out)
    for r in range(h):
        for c in range(w):
            out[r, c] = max(out[r, c], np.float32(0.0)) / max(count[r, c], np.float32(1.0))


@njit(cache=True, nogil=True)
def normal_equations(images, weight, block, hessian, scores):  # type: ignore[no-untyped-def]
    """Adds weighted normal equations of a residual and its derivatives, ``images`` [1 + K, H, W]; scores by blocks of pixels."""
    channels, h, w = images.shape
    columns = (w + block - 1) // block
    for r in range(h):
        for c in range(w):
            if weight[r, c] <= 0.0:
                continue
            here = (r // block) * columns + c // block
            for k in range(channels - 1):
                d = np.float64(weight[r, c] * images[k + 1, r, c])
                scores[here, k] += d * images[0, r, c]
                for m in range(k, channels - 1):
                    hessian[k, m] += d * images[m + 1, r, c]
