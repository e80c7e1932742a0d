"""The loops over pixels of the comparison (``matching``), in the order in which a registration needs them.

``window_sums`` is asked once for a set of pixels, ``residuals`` once for a rendering, ``judged`` once for a floor of the residual
variance, and ``derivatives`` only where a step is to be taken. Rows are worked through in arrays, which processors add up sixteen
numbers at a time; sums over an image are taken in float64, row by row, always in the same order.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numba import njit

FAST = {"contract", "nsz", "arcp", "reassoc"}
_ROWS = 8  # rows whose ratios of variances are multiplied before one logarithm is taken: a ratio is above 1e-8 or so


def alone(work: Callable[[int, int], object], total: int, smallest: int = 1) -> None:
    """All of the work at once, as ``projection.threads.run_chunks`` does it in pieces on all threads."""
    work(0, total)


@njit(cache=True, nogil=True)
def box_sum(image, radius, scratch, out):  # type: ignore[no-untyped-def]
    """Sums over (2 radius + 1)^2 windows, cut at the border; ``scratch`` is as large as ``image``, ``out`` may be ``image``."""
    h, w = image.shape
    for y in range(h):
        s = np.float32(0.0)
        for x in range(min(radius, w)):
            s += image[y, x]
        for x in range(w):
            if x + radius < w:
                s += image[y, x + radius]
            if x - radius - 1 >= 0:
                s -= image[y, x - radius - 1]
            scratch[y, x] = s
    row = np.zeros(w, np.float32)
    for y in range(min(radius, h)):
        for x in range(w):
            row[x] += scratch[y, x]
    for y in range(h):
        if y + radius < h:
            for x in range(w):
                row[x] += scratch[y + radius, x]
        if y - radius - 1 >= 0:
            for x in range(w):
                row[x] -= scratch[y - radius - 1, x]
        for x in range(w):
            out[y, x] = row[x]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def window_sums(valid, fixed, radius, has, count, energy):  # type: ignore[no-untyped-def]
    """Pixels with a gradient, how many are in each window, the fixed gradient's mean square there; returns how many in all."""
    h, w = valid.shape
    scratch = np.empty((h, w), np.float32)
    has[:] = np.float32(0.0)
    pixels = 0
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            if valid[r, c] and valid[r, c - 1] and valid[r, c + 1] and valid[r - 1, c] and valid[r + 1, c]:
                has[r, c] = np.float32(1.0)
                pixels += 1
    box_sum(has, radius, scratch, count)
    for r in range(h):
        for c in range(w):
            energy[r, c] = has[r, c] * (fixed[0, r, c] ** 2 + fixed[1, r, c] ** 2)
    box_sum(energy, radius, scratch, energy)
    for r in range(h):
        for c in range(w):
            # running sums leave tiny negative numbers
            energy[r, c] = max(energy[r, c], np.float32(0.0)) / max(count[r, c], np.float32(1.0))
    return pixels


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def carried(integrals, lengths, derivatives, twist, out):  # type: ignore[no-untyped-def]
    """Integrals [H, W] of rays of such ``lengths``, moved on by a ``twist`` [K] along line integrals' derivatives [K, H, W]."""
    number, h, w = derivatives.shape
    for r in range(h):
        here = out[r]
        for c in range(w):
            here[c] = np.float32(0.0)
        for k in range(number):
            share, slope = np.float32(twist[k]), derivatives[k, r]
            for c in range(w):
                here[c] += share * slope[c]
        for c in range(w):
            here[c] = integrals[r, c] + here[c] / lengths[r, c]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def residuals(image, fixed, has, count, pixels, radius, gradient, factor, moving, variance):  # type: ignore[no-untyped-def]
    """Gradient [2, H, W] of a rendering, factor, ``<gM, gM> + delta n`` and residual variance E of every window; returns delta.

    ``factor`` and all else is zero where a window holds nothing, and delta is where the rendering shows nothing.
    """
    h, w = image.shape
    half = np.float32(0.5)
    zero = np.float32(0.0)
    scratch = np.empty((h, w), np.float32)
    both = np.zeros((h, w), np.float32)
    gradient[:, 0] = gradient[:, h - 1] = zero
    moving[0] = moving[h - 1] = zero
    total = 0.0
    for r in range(1, h - 1):
        here, above, below, inside = image[r], image[r - 1, 1:], image[r + 1, 1:], has[r, 1:]
        right = here[2:]
        gx, gy, squares, products = gradient[0, r, 1:], gradient[1, r, 1:], moving[r, 1:], both[r, 1:]
        fx, fy = fixed[0, r, 1:], fixed[1, r, 1:]
        row = zero
        for c in range(w - 2):
            # chosen, not multiplied: what lies outside the valid pixels may be no number
            x = half * (right[c] - here[c]) if inside[c] > zero else zero
            y = half * (below[c] - above[c]) if inside[c] > zero else zero
            gx[c] = x
            gy[c] = y
            squares[c] = x * x + y * y
            products[c] = fx[c] * x + fy[c] * y
            row += x * x + y * y
        total += row
        for k in range(2):
            gradient[k, r, 0] = gradient[k, r, w - 1] = zero
        moving[r, 0] = moving[r, w - 1] = zero
    if pixels < 16 or total == 0.0:
        factor[:] = zero
        variance[:] = zero
        return zero
    delta = np.float32(0.01 * total / pixels)
    box_sum(both, radius, scratch, both)
    box_sum(moving, radius, scratch, moving)
    for r in range(h):
        n, m, b, a, e = count[r], moving[r], both[r], factor[r], variance[r]
        fx, fy, gx, gy, inside = fixed[0, r], fixed[1, r], gradient[0, r], gradient[1, r], has[r]
        for c in range(w):
            m[c] += delta * n[c]
            # a window without a pixel has neither
            a[c] = max(b[c] / (m[c] if n[c] > half else np.float32(1.0)), zero) if n[c] > half else zero
            x = fx[c] - a[c] * gx[c]
            y = fy[c] - a[c] * gy[c]
            e[c] = x * x + y * y if inside[c] > zero else zero
    box_sum(variance, radius, scratch, variance)
    for r in range(h):
        n, e = count[r], variance[r]
        for c in range(w):
            e[c] = max(e[c], zero) / max(n[c], np.float32(1.0))
    return delta


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def judged(has, count, energy, moving, variance, delta, sigma2):  # type: ignore[no-untyped-def]
    """Sums over pixels: cost, explained energy, fixed energy (of both: where the model has something to say), residual E."""
    h, w = has.shape
    cost = 0.0
    noise = 0.0
    left = 0.0
    seen = 0.0
    speaks = np.float32(26.0) * delta  # a quarter of the mean moving energy: there the model has something to say
    zero = np.float32(0.0)
    ratio = np.ones(w, np.float64)
    for r in range(h):
        inside, n, f, m, e = has[r], count[r], energy[r], moving[r], variance[r]
        row_noise = zero
        row_left = zero
        row_seen = zero
        for c in range(w):
            ratio[c] *= (e[c] + sigma2) / (f[c] + sigma2) if inside[c] > zero else np.float32(1.0)
            row_noise += e[c] if inside[c] > zero else zero
            says = inside[c] > zero and m[c] > speaks * n[c]
            row_left += e[c] if says else zero
            row_seen += f[c] if says else zero
        noise += row_noise
        left += row_left
        seen += row_seen
        if r % _ROWS == _ROWS - 1 or r == h - 1:
            for c in range(w):
                if ratio[c] != 1.0:
                    cost += np.log(ratio[c])
                    ratio[c] = 1.0
    return cost, seen - left, seen, noise


def derivatives(images, fixed, gradient, sums, sigma2, radius, block, hessian, scores, run=alone):  # type: ignore[no-untyped-def]
    """The normal equations: ``images`` [K, H, W] are the line integral's derivatives by K parameters.

    ``sums`` are ``has``, ``count``, ``factor``, ``moving`` and ``variance``. ``hessian`` [K, K] and ``scores`` [blocks, K] are
    to be zero before. ``run`` spreads the work, by parameters and by rows of blocks: what is added up, and in which order, is
    the same.
    """
    has, count, factor, moving, variance = sums
    number, h, _ = images.shape
    weight = np.empty(has.shape, np.float32)
    _weights(has, count, variance, sigma2, radius, weight)
    turns = np.empty(images.shape, np.float32)
    run(partial(_turns, images, fixed, gradient, has, count, factor, moving, radius, turns), number, smallest=1)
    lines = -(-h // block)
    parts = np.zeros((lines, number, number))
    run(partial(_system, images, fixed, gradient, has, factor, weight, turns, block, parts, scores), lines, smallest=1)
    hessian += parts.sum(0)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _weights(has, count, variance, sigma2, radius, work):  # type: ignore[no-untyped-def]
    """What the squares of a pixel's residuals count: the sum over its windows of one over their variance."""
    h, w = has.shape
    zero = np.float32(0.0)
    scratch = np.empty((h, w), np.float32)
    for r in range(h):
        inside, n, e, out = has[r], count[r], variance[r], work[r]
        for c in range(w):
            out[c] = np.float32(1.0) / ((e[c] + sigma2) * max(n[c], np.float32(1.0))) if inside[c] > zero else zero
    box_sum(work, radius, scratch, work)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _turns(images, fixed, gradient, has, count, factor, moving, radius, turns, first, last):  # type: ignore[no-untyped-def]
    """Derivatives of the factor by parameters ``first`` .. ``last - 1``: (<gF, gJ> - 2 a <gM, gJ>) / <gM, gM>, by windows."""
    _, h, w = images.shape
    zero = np.float32(0.0)
    half = np.float32(0.5)
    two = np.float32(2.0)
    scratch = np.empty((h, w), np.float32)
    other = np.zeros((h, w), np.float32)
    for k in range(first, last):
        turns[k, 0] = turns[k, h - 1] = zero
        for r in range(1, h - 1):
            here, above, below, inside = images[k, r], images[k, r - 1, 1:], images[k, r + 1, 1:], has[r, 1:]
            right = here[2:]
            fx, fy, gx, gy = fixed[0, r, 1:], fixed[1, r, 1:], gradient[0, r, 1:], gradient[1, r, 1:]
            out_fixed, out_moving = turns[k, r, 1:], other[r, 1:]
            for c in range(w - 2):
                x = half * (right[c] - here[c]) if inside[c] > zero else zero
                y = half * (below[c] - above[c]) if inside[c] > zero else zero
                out_fixed[c] = fx[c] * x + fy[c] * y
                out_moving[c] = gx[c] * x + gy[c] * y
            turns[k, r, 0] = turns[k, r, w - 1] = zero
            other[r, 0] = other[r, w - 1] = zero
        box_sum(turns[k], radius, scratch, turns[k])
        box_sum(other, radius, scratch, other)
        for r in range(h):
            m, a, out, o, n = moving[r], factor[r], turns[k, r], other[r], count[r]
            for c in range(w):
                out[c] = (out[c] - two * a[c] * o[c]) / (m[c] if n[c] > half else np.float32(1.0))
        other[0] = other[h - 1] = zero


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _system(images, fixed, gradient, has, factor, work, turns, block, parts, scores, first, last):  # type: ignore[no-untyped-def]
    """Sums over lines of blocks ``first`` .. ``last - 1``: each line's part of the system, and the scores of its blocks."""
    number, h, w = images.shape
    zero = np.float32(0.0)
    half = np.float32(0.5)
    columns = (w + block - 1) // block
    jx = np.zeros((number, w), np.float32)
    jy = np.zeros((number, w), np.float32)
    weight = np.zeros(w, np.float32)
    left_x = np.zeros(w, np.float32)
    left_y = np.zeros(w, np.float32)
    score = np.zeros(w, np.float32)
    for r in range(max(1, first * block), min(h - 1, last * block)):
        inside, a, gx, gy, fx, fy, v = has[r], factor[r], gradient[0, r], gradient[1, r], fixed[0, r], fixed[1, r], work[r]
        for c in range(w):
            weight[c] = max(v[c], zero) if inside[c] > zero and a[c] > zero else zero
            left_x[c] = weight[c] * (fx[c] - a[c] * gx[c])
            left_y[c] = weight[c] * (fy[c] - a[c] * gy[c])
        line = r // block
        for k in range(number):
            here, above, below, inner = images[k, r], images[k, r - 1, 1:], images[k, r + 1, 1:], has[r, 1:]
            right = here[2:]
            factors, slopes_x, slopes_y, turn = factor[r, 1:], gradient[0, r, 1:], gradient[1, r, 1:], turns[k, r, 1:]
            out_x, out_y = jx[k, 1:], jy[k, 1:]
            for c in range(w - 2):
                x = half * (right[c] - here[c]) if inner[c] > zero else zero
                y = half * (below[c] - above[c]) if inner[c] > zero else zero
                out_x[c] = factors[c] * x + slopes_x[c] * turn[c]
                out_y[c] = factors[c] * y + slopes_y[c] * turn[c]
            own_x, own_y = jx[k], jy[k]
            for c in range(w):
                score[c] = left_x[c] * own_x[c] + left_y[c] * own_y[c]
            for b in range(columns):
                total = zero
                for c in range(b * block, min(b * block + block, w)):
                    total += score[c]
                scores[line * columns + b, k] += total
        for k in range(number):
            own_x, own_y = jx[k], jy[k]
            for c in range(w):
                left_x[c] = weight[c] * own_x[c]
                left_y[c] = weight[c] * own_y[c]
            for m in range(k, number):
                its_x, its_y = jx[m], jy[m]
                total = zero
                for c in range(w):
                    total += left_x[c] * its_x[c] + left_y[c] * its_y[c]
                parts[line, k, m] += total
    for line in range(first, last):
        for k in range(number):
            for m in range(k):
                parts[line, k, m] = parts[line, m, k]


def jacobian_images(integrals, slopes, lengths, world, source, steps, images, run=alone, spans=None):  # type: ignore[no-untyped-def]
    """Line integral and its derivatives by a twist about the origin of ``source`` (world mm): [7, H, W]; ``run`` spreads rows.

    ``spans`` [H, 2]: first column and one past the last of each row, where they are wanted, and zero elsewhere; all of them,
    where it is not given.
    """
    if spans is None:
        spans = np.tile(np.array([0, lengths.shape[1]], np.int32), (len(lengths), 1))
    run(partial(_jacobian_rows, integrals, slopes, lengths, world, source, steps, spans, images), len(lengths), smallest=8)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _jacobian_rows(integrals, slopes, lengths, world, source, steps, spans, images, first, last):  # type: ignore[no-untyped-def]
    for r in range(first, last):
        images[:, r, : spans[r, 0]] = np.float32(0.0)
        images[:, r, spans[r, 1] :] = np.float32(0.0)
        for c in range(spans[r, 0], spans[r, 1]):
            length = lengths[r, c]
            value = integrals[r, c]
            dx = np.float32(steps[0, 0] + c * steps[1, 0] + r * steps[2, 0])
            dy = np.float32(steps[0, 1] + c * steps[1, 1] + r * steps[2, 1])
            dz = np.float32(steps[0, 2] + c * steps[1, 2] + r * steps[2, 2])
            gx = gy = gz = hx = hy = hz = np.float32(0.0)
            for i in range(3):
                s0 = slopes[r, c, i]
                s1 = slopes[r, c, 3 + i]
                gx += world[0, i] * s0
                gy += world[1, i] * s0
                gz += world[2, i] * s0
                hx += world[0, i] * s1
                hy += world[1, i] * s1
                hz += world[2, i] * s1
            square = dx * dx + dy * dy + dz * dz
            along = (gx * dx + gy * dy + gz * dz) / square
            gx -= along * dx
            gy -= along * dy
            gz -= along * dz
            along = (hx * dx + hy * dy + hz * dz + value) / square
            hx -= along * dx
            hy -= along * dy
            hz -= along * dz
            images[0, r, c] = length * value
            images[1, r, c] = -length * (source[1] * gz - source[2] * gy + dy * hz - dz * hy)
            images[2, r, c] = -length * (source[2] * gx - source[0] * gz + dz * hx - dx * hz)
            images[3, r, c] = -length * (source[0] * gy - source[1] * gx + dx * hy - dy * hx)
            images[4, r, c] = -length * gx
            images[5, r, c] = -length * gy
            images[6, r, c] = -length * gz
