"""The loops of ``match_kernels`` for a model that shows little of an image: each row between the columns that it can change.

A bone made solid covers a fifth of the pixels that its registration compares. Where its picture has no gradient within reach of a
window the residual is the exposure's own gradient, the logarithm of the ratio is zero and the system gains nothing. Leaving
these pixels out changes sums by rounding alone.

Names and formulas are those of ``match_kernels``. The residual variance is summed as its difference from the exposure's energy,
which is zero beyond the model's own gradient: ``E = <gF, gF> / n + sum (a^2 |gM|^2 - 2 a <gF, gM>) / n``.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import partial

import numpy as np
from numba import njit

from raylign.registration.match_kernels import FAST, alone

BASE, INNER, OUTER = 0, 1, 2
"""Of ``spans`` [3, H, 2] (first column, one past the last): the picture, its gradient, what windows on its gradient hold."""


@njit(cache=True, nogil=True)
def spans_of(integrals, radius, spans):  # type: ignore[no-untyped-def]
    """Fills ``spans`` [3, H, 2] for line integrals [H, W] and windows of a ``radius``; rows without any are (0, 0).

    Returns how many pixels the outer ones hold.
    """
    h, w = integrals.shape
    spans[:] = 0
    held = 0
    for r in range(h):
        row = integrals[r]
        first = 0
        while first < w and row[first] == 0:
            first += 1
        if first == w:
            continue
        last = w
        while row[last - 1] == 0:
            last -= 1
        spans[0, r, 0] = first
        spans[0, r, 1] = last
    for r in range(1, h - 1):
        first, last = w, 0
        for k in range(r - 1, r + 2):
            if spans[0, k, 0] < spans[0, k, 1]:
                wider = 1 if k == r else 0
                first = min(first, spans[0, k, 0] - wider)
                last = max(last, spans[0, k, 1] + wider)
        first, last = max(first, 1), min(last, w - 1)
        if first < last:
            spans[1, r, 0] = first
            spans[1, r, 1] = last
    for r in range(h):
        first, last = w, 0
        for k in range(max(r - radius, 0), min(r + radius + 1, h)):
            if spans[1, k, 0] < spans[1, k, 1]:
                first = min(first, spans[1, k, 0] - radius)
                last = max(last, spans[1, k, 1] + radius)
        if first < last:
            spans[2, r, 0] = max(first, 0)
            spans[2, r, 1] = min(last, w)
            held += spans[2, r, 1] - spans[2, r, 0]
    return held


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def box_within(image, radius, source, target, scratch, out):  # type: ignore[no-untyped-def]
    """Sums over (2 radius + 1)^2 windows at the spans ``target`` [H, 2] of an image that is zero outside the spans ``source``.

    What lies outside ``source`` is not read, what lies outside ``target`` not written. ``out`` may be ``image``.
    """
    h, w = image.shape
    zero = np.float32(0.0)
    for y in range(h):
        a, b = source[y, 0], source[y, 1]
        if a == b:
            continue
        first, last = max(a - radius, 0), min(b + radius, w)
        scratch[y, first:last] = zero
        for d in range(-radius, radius + 1):
            low, high = max(first, a - d), min(last, b - d)
            to, of = scratch[y, low:high], image[y, low + d : high + d]
            for x in range(high - low):
                to[x] += of[x]
    row = np.zeros(w, np.float32)
    for y in range(-radius, h):
        for k, sign in ((y + radius, np.float32(1.0)), (y - radius - 1, np.float32(-1.0))):
            if k < 0 or k >= h or source[k, 0] == source[k, 1]:
                continue
            first, last = max(source[k, 0] - radius, 0), min(source[k, 1] + radius, w)
            to, of = row[first:last], scratch[k, first:last]
            for x in range(last - first):
                to[x] += sign * of[x]
        if y >= 0 and target[y, 0] < target[y, 1]:
            first, last = target[y, 0], target[y, 1]
            out[y, first:last] = row[first:last]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def residuals(integrals, lengths, fixed, windows, pixels, radius, spans, gradient, sums):  # type: ignore[no-untyped-def]
    """As ``match_kernels.residuals``, of integrals [H, W] along rays of such ``lengths``; returns delta.

    ``windows`` are ``has``, ``count`` and ``energy``, ``sums`` are ``factor`` (written at the inner spans), ``moving`` and
    ``variance`` (at the outer ones); ``gradient`` [2, H, W] is written at the inner ones.
    """
    has, count, energy = windows
    factor, moving, variance = sums
    h, w = integrals.shape
    half, zero, one, two = np.float32(0.5), np.float32(0.0), np.float32(1.0), np.float32(2.0)
    inner, outer = spans[1], spans[2]
    scratch = np.empty((h, w), np.float32)
    total = 0.0
    for r in range(1, h - 1):
        a, b = inner[r, 0], inner[r, 1]
        if a == b:
            continue
        left, right = integrals[r, a - 1 : b - 1], integrals[r, a + 1 : b + 1]
        above, below = integrals[r - 1, a:b], integrals[r + 1, a:b]
        to_left, to_right = lengths[r, a - 1 : b - 1], lengths[r, a + 1 : b + 1]
        to_above, to_below = lengths[r - 1, a:b], lengths[r + 1, a:b]
        gx, gy, fx, fy = gradient[0, r, a:b], gradient[1, r, a:b], fixed[0, r, a:b], fixed[1, r, a:b]
        squares, products, inside = moving[r, a:b], factor[r, a:b], has[r, a:b]
        row = zero
        for c in range(b - a):
            # chosen, not multiplied: what lies outside the valid pixels may be no number
            x = half * (right[c] * to_right[c] - left[c] * to_left[c]) if inside[c] > zero else zero
            y = half * (below[c] * to_below[c] - above[c] * to_above[c]) if inside[c] > zero else zero
            gx[c] = x
            gy[c] = y
            squares[c] = x * x + y * y
            products[c] = fx[c] * x + fy[c] * y
            row += x * x + y * y
        total += row
    if pixels < 16 or total == 0.0:
        return zero
    delta = np.float32(0.01 * total / pixels)
    box_within(factor, radius, inner, inner, scratch, factor)
    box_within(moving, radius, inner, outer, scratch, moving)
    for r in range(h):
        a, b = outer[r, 0], outer[r, 1]
        n, m = count[r, a:b], moving[r, a:b]
        for c in range(b - a):
            m[c] += delta * n[c]
        a, b = inner[r, 0], inner[r, 1]
        n, m, share, change = count[r, a:b], moving[r, a:b], factor[r, a:b], variance[r, a:b]
        gx, gy, fx, fy = gradient[0, r, a:b], gradient[1, r, a:b], fixed[0, r, a:b], fixed[1, r, a:b]
        for c in range(b - a):
            # a window without a pixel has neither
            share[c] = max(share[c] / (m[c] if n[c] > half else one), zero) if n[c] > half else zero
            product = fx[c] * gx[c] + fy[c] * gy[c]
            change[c] = share[c] * (share[c] * (gx[c] * gx[c] + gy[c] * gy[c]) - two * product)
    box_within(variance, radius, inner, outer, scratch, variance)
    for r in range(h):
        a, b = outer[r, 0], outer[r, 1]
        n, f, e = count[r, a:b], energy[r, a:b], variance[r, a:b]
        for c in range(b - a):
            e[c] = max(f[c] + e[c] / max(n[c], one), zero)
    return delta


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def judged(windows, sums, spans, power, delta, sigma2):  # type: ignore[no-untyped-def]
    """As ``match_kernels.judged``; ``power`` is the sum of ``energy`` over all pixels with a gradient."""
    has, count, energy = windows
    _, moving, variance = sums
    h, w = has.shape
    cost = 0.0
    noise = power
    left = 0.0
    seen = 0.0
    speaks = np.float32(26.0) * delta
    zero = np.float32(0.0)
    ratio = np.ones(w, np.float64)
    for r in range(h):
        first, last = spans[2, r, 0], spans[2, r, 1]
        inside, n, f = has[r, first:last], count[r, first:last], energy[r, first:last]
        m, e, product = moving[r, first:last], variance[r, first:last], ratio[first:last]
        row_noise = zero
        row_left = zero
        row_seen = zero
        for c in range(last - first):
            product[c] *= (e[c] + sigma2) / (f[c] + sigma2) if inside[c] > zero else np.float32(1.0)
            row_noise += e[c] - f[c] if inside[c] > zero else zero
            says = inside[c] > zero and m[c] > speaks * n[c]
            row_left += e[c] if says else zero
            row_seen += f[c] if says else zero
        noise += row_noise
        left += row_left
        seen += row_seen
        if r % 8 == 7 or r == h - 1:  # ``match_kernels._ROWS``
            for c in range(w):
                if ratio[c] != 1.0:
                    cost += np.log(ratio[c])
                    ratio[c] = 1.0
    return cost, seen - left, seen, max(noise, 0.0)


def derivatives(pictures, known, numbers, system, run=alone):  # type: ignore[no-untyped-def]
    """As ``match_kernels.derivatives``.

    ``pictures``: ``images`` [K, H, W], read within two pixels of the picture's spans, ``fixed`` and ``gradient``. ``known``:
    ``windows``, ``sums`` and ``spans``. ``numbers``: ``sigma2``, ``radius`` and ``block``. ``system``: ``hessian`` and
    ``scores``, which are added to.
    """
    images, fixed, gradient = pictures
    windows, sums, spans = known
    sigma2, radius, block = numbers
    hessian, scores = system
    number, h, _ = images.shape
    lines = -(-h // block)
    parts, weight = np.zeros((lines, number, number)), np.empty(windows[0].shape, np.float32)
    _weights(windows, sums, spans, sigma2, radius, weight)
    given = (images, fixed, gradient, windows[0], windows[1], sums[0], sums[1], weight, spans[INNER], radius, block)
    run(partial(_system, given, parts, scores), lines, smallest=5)
    hessian += parts.sum(0)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _weights(windows, sums, spans, sigma2, radius, work):  # type: ignore[no-untyped-def]
    has, count, _ = windows
    _, _, variance = sums
    h, w = has.shape
    zero, one = np.float32(0.0), np.float32(1.0)
    scratch = np.empty((h, w), np.float32)
    for r in range(h):
        first, last = spans[2, r, 0], spans[2, r, 1]
        inside, n, e, out = has[r, first:last], count[r, first:last], variance[r, first:last], work[r, first:last]
        for c in range(last - first):
            out[c] = one / ((e[c] + sigma2) * max(n[c], one)) if inside[c] > zero else zero
    box_within(work, radius, spans[2], spans[1], scratch, work)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _products(given, r, out, sums):  # type: ignore[no-untyped-def]
    """``<gF, gJ>`` and ``<gM, gJ>`` of row ``r`` by K parameters, summed over the windows' columns.

    ``sums`` [W + 2 radius, 2 K], from the first column less ``radius`` on; ``out`` holds what they are made of.
    """
    images, fixed, gradient, has, _, _, _, _, inner, radius, _ = given
    number = images.shape[0]
    zero, half = np.float32(0.0), np.float32(0.5)
    a, b = inner[r, 0], inner[r, 1]
    n = b - a
    inside = has[r, a:b]
    fx, fy, gx, gy = fixed[0, r, a:b], fixed[1, r, a:b], gradient[0, r, a:b], gradient[1, r, a:b]
    for k in range(number):
        before, after = images[k, r, a - 1 : b - 1], images[k, r, a + 1 : b + 1]
        above, below = images[k, r - 1, a:b], images[k, r + 1, a:b]
        for c in range(n):
            x = half * (after[c] - before[c]) if inside[c] > zero else zero
            y = half * (below[c] - above[c]) if inside[c] > zero else zero
            out[c, k] = fx[c] * x + fy[c] * y
            out[c, number + k] = gx[c] * x + gy[c] * y
    wide = 2 * number
    flat, total = out[:n].reshape(n * wide), sums[: n + 2 * radius].reshape((n + 2 * radius) * wide)
    total[:] = zero
    for d in range(2 * radius + 1):
        to = total[d * wide : (d + n) * wide]
        for i in range(n * wide):
            to[i] += flat[i]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _turns(given, r, ring, windowed, turn):  # type: ignore[no-untyped-def]
    """Derivatives of the factor at row ``r``, ``turn`` [K, W], from the products of the 2 radius + 1 rows about it."""
    images, _, _, _, count, factor, moving, _, inner, radius, _ = given
    number, h, _ = images.shape
    half, two, one, zero = np.float32(0.5), np.float32(2.0), np.float32(1.0), np.float32(0.0)
    a, b = inner[r, 0], inner[r, 1]
    n, wide = b - a, 2 * number
    total = windowed[:n].reshape(n * wide)
    total[:] = zero
    for k in range(max(r - radius, 1), min(r + radius + 1, h - 1)):
        if inner[k, 0] == inner[k, 1]:
            continue
        first, last = max(a, inner[k, 0] - radius), min(b, inner[k, 1] + radius)
        if first >= last:
            continue
        at = first - inner[k, 0] + radius
        of = ring[k % (2 * radius + 1), at : at + last - first].reshape((last - first) * wide)
        to = total[(first - a) * wide : (last - a) * wide]
        for i in range((last - first) * wide):
            to[i] += of[i]
    m, share, pixels = moving[r, a:b], factor[r, a:b], count[r, a:b]
    for k in range(number):
        out = turn[k]
        for c in range(n):
            both = windowed[c, k] - two * share[c] * windowed[c, number + k]
            out[c] = both / (m[c] if pixels[c] > half else one)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _system(given, parts, scores, first, last):  # type: ignore[no-untyped-def]
    """As ``match_kernels._system``, the derivatives of the factor made on the way, row by row."""
    images, fixed, gradient, has, _, factor, _, work, inner, radius, block = given
    number, h, w = images.shape
    zero, half = np.float32(0.0), np.float32(0.5)
    jx, jy = np.empty((number, w), np.float32), np.empty((number, w), np.float32)
    weight, left_x, left_y = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    score = np.zeros((number, w), np.float32)
    turn = np.empty((number, w), np.float32)
    products, windowed = np.empty((w, 2 * number), np.float32), np.empty((w, 2 * number), np.float32)
    ring = np.empty((2 * radius + 1, w + 2 * radius, 2 * number), np.float32)
    start, stop = max(1, first * block), min(h - 1, last * block)
    for r in range(max(start - radius, 1), min(start + radius, h - 1)):
        if inner[r, 0] < inner[r, 1]:
            _products(given, r, products, ring[r % (2 * radius + 1)])
    for r in range(start, stop):
        line = r // block
        new = r + radius
        if new < h - 1 and inner[new, 0] < inner[new, 1]:
            _products(given, new, products, ring[new % (2 * radius + 1)])
        a, b = inner[r, 0], inner[r, 1]
        n = b - a
        if n > 0:
            _turns(given, r, ring, windowed, turn)
            inside, share, v = has[r, a:b], factor[r, a:b], work[r, a:b]
            gx, gy, fx, fy = gradient[0, r, a:b], gradient[1, r, a:b], fixed[0, r, a:b], fixed[1, r, a:b]
            for c in range(n):
                weight[c] = max(v[c], zero) if inside[c] > zero and share[c] > zero else zero
                left_x[c] = weight[c] * (fx[c] - share[c] * gx[c])
                left_y[c] = weight[c] * (fy[c] - share[c] * gy[c])
            for k in range(number):
                before, after = images[k, r, a - 1 : b - 1], images[k, r, a + 1 : b + 1]
                above, below, turned = images[k, r - 1, a:b], images[k, r + 1, a:b], turn[k]
                own_x, own_y, out = jx[k], jy[k], score[k, a:b]
                for c in range(n):
                    x = half * (after[c] - before[c]) if inside[c] > zero else zero
                    y = half * (below[c] - above[c]) if inside[c] > zero else zero
                    own_x[c] = share[c] * x + gx[c] * turned[c]
                    own_y[c] = share[c] * y + gy[c] * turned[c]
                    out[c] += left_x[c] * own_x[c] + left_y[c] * own_y[c]
            for k in range(number):
                own_x, own_y = jx[k], jy[k]
                for c in range(n):
                    left_x[c] = weight[c] * own_x[c]
                    left_y[c] = weight[c] * own_y[c]
                for m in range(k, number):
                    its_x, its_y = jx[m], jy[m]
                    total = zero
                    for c in range(n):
                        total += left_x[c] * its_x[c] + left_y[c] * its_y[c]
                    parts[line, k, m] += total
        if r == stop - 1 or r % block == block - 1:
            columns = (w + block - 1) // block
            for k in range(number):
                for c in range(w):
                    scores[line * columns + c // block, k] += score[k, c]
            score[:] = zero
    for line in range(first, last):
        for k in range(number):
            for m in range(k):
                parts[line, k, m] = parts[line, m, k]
