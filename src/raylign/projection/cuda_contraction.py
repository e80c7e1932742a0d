"""The Triton kernel that turns an image's slopes into the gradient by its rays: one pass, sums in float64.

No ``from __future__ import annotations`` here: Triton reads the annotations.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _fold(out, at, s, c, r):
    """Writes the sums of a value and of it times column and row."""
    tl.store(out + at, tl.sum(s, axis=0))
    tl.store(out + at + 6, tl.sum(c, axis=0))
    tl.store(out + at + 12, tl.sum(r, axis=0))


@triton.jit(do_not_specialize=["height", "width", "steps"])
def contract(weights, slopes, out, height, width, steps, BLOCK: tl.constexpr):
    """Partial sums [B, chunks, 3, 6] over ``steps`` blocks of pixels of weight times slope, times 1, column and row."""
    view = tl.program_id(1).to(tl.int64)
    pixels = height * width
    zero = tl.zeros((BLOCK,), tl.float64)
    s0 = zero
    s1 = zero
    s2 = zero
    s3 = zero
    s4 = zero
    s5 = zero
    c0 = zero
    c1 = zero
    c2 = zero
    c3 = zero
    c4 = zero
    c5 = zero
    r0 = zero
    r1 = zero
    r2 = zero
    r3 = zero
    r4 = zero
    r5 = zero
    for step in range(steps):
        pixel = (tl.program_id(0) * steps + step) * BLOCK + tl.arange(0, BLOCK)
        live = pixel < pixels
        at = view * pixels + pixel
        row = (pixel // width).to(tl.float64)
        column = (pixel % width).to(tl.float64)
        w = tl.load(weights + at, mask=live, other=0.0).to(tl.float64)
        v = w * tl.load(slopes + at * 6, mask=live, other=0.0).to(tl.float64)
        s0 += v
        c0 += column * v
        r0 += row * v
        v = w * tl.load(slopes + at * 6 + 1, mask=live, other=0.0).to(tl.float64)
        s1 += v
        c1 += column * v
        r1 += row * v
        v = w * tl.load(slopes + at * 6 + 2, mask=live, other=0.0).to(tl.float64)
        s2 += v
        c2 += column * v
        r2 += row * v
        v = w * tl.load(slopes + at * 6 + 3, mask=live, other=0.0).to(tl.float64)
        s3 += v
        c3 += column * v
        r3 += row * v
        v = w * tl.load(slopes + at * 6 + 4, mask=live, other=0.0).to(tl.float64)
        s4 += v
        c4 += column * v
        r4 += row * v
        v = w * tl.load(slopes + at * 6 + 5, mask=live, other=0.0).to(tl.float64)
        s5 += v
        c5 += column * v
        r5 += row * v
    to = (view * tl.num_programs(0) + tl.program_id(0)) * 18
    _fold(out, to, s0, c0, r0)
    _fold(out, to + 1, s1, c1, r1)
    _fold(out, to + 2, s2, c2, r2)
    _fold(out, to + 3, s3, c3, r3)
    _fold(out, to + 4, s4, c4, r4)
    _fold(out, to + 5, s5, c5, r5)
