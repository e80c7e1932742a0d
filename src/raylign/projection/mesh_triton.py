"""Triton kernels of the mesh projector: one program a tile of pixels, or one a pair of a tile and what lies in it.

All arithmetic is float64. No operation may be fused (``enable_fp_fusion=False`` at every launch): the two triangles at an edge
must compute the very same number for it. A tile's faces come in ascending order, so that images are the same in every run.

A face's row of the table: x, y, w of its three corners, then p0 p1 p2 q0 q1 q2 of
``t = (p0 + c p1 + r p2) / (q0 + c q1 + r q2)``, then the least and the largest t of its corners.

No ``from __future__ import annotations`` here: Triton reads the annotations.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

COLUMNS_OF_TABLE = tl.constexpr(17)


@triton.jit
def _pixels(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column of a tile's pixels, flat, which of them exist, and where they lie in [H, W]."""
    across = tl.cdiv(width, COLUMNS)
    at = tl.arange(0, ROWS * COLUMNS)
    row = (tile // across) * ROWS + at // COLUMNS
    column = (tile % across) * COLUMNS + at % COLUMNS
    return row, column, (row < height) & (column < width)


@triton.jit
def _side(xi, yi, xj, yj):
    """What one side adds to the winding number about the origin, reckoned from its upper end: see ``mesh_reference.winding``."""
    ui = yi > 0
    uj = yj > 0
    xu = tl.where(ui, xi, xj)
    yu = tl.where(ui, yi, yj)
    xl = tl.where(ui, xj, xi)
    yl = tl.where(ui, yj, yi)
    right = yu * xl - yl * xu > 0
    counts = right & (ui != uj)
    return tl.where(counts, tl.where(uj, 1.0, -1.0), 0.0)


@triton.jit
def _meet(face, c, r):
    """Winding number, t and n.d of a face, given by its row of the table, for pixels (c, r)."""
    x0 = tl.load(face) - c * tl.load(face + 2)
    y0 = tl.load(face + 1) - r * tl.load(face + 2)
    x1 = tl.load(face + 3) - c * tl.load(face + 5)
    y1 = tl.load(face + 4) - r * tl.load(face + 5)
    x2 = tl.load(face + 6) - c * tl.load(face + 8)
    y2 = tl.load(face + 7) - r * tl.load(face + 8)
    turns = _side(x0, y0, x1, y1) + _side(x1, y1, x2, y2) + _side(x2, y2, x0, y0)
    p = tl.load(face + 9) + r * tl.load(face + 11) + c * tl.load(face + 10)
    q = tl.load(face + 12) + r * tl.load(face + 14) + c * tl.load(face + 13)
    low = tl.load(face + 15)
    edge_on = q == 0
    t = p / tl.where(edge_on, 1.0, q)
    t = tl.where((t > low) & (q != 0), t, low)
    high = tl.load(face + 16)
    return turns, tl.where(t < high, t, high), q


@triton.jit
def meet_tiles(
    table, items, starts, signs, out, faces, height, width, FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sum of signed t, float32, or with FIRST the nearest face, int64, of every pixel of a tile."""
    tiles = tl.cdiv(width, COLUMNS) * tl.cdiv(height, ROWS)
    view = tl.program_id(0) // tiles
    row, column, exists = _pixels(tl.program_id(0) % tiles, height, width, ROWS, COLUMNS)
    c = column.to(tl.float64)
    r = row.to(tl.float64)
    sign = tl.load(signs + view)
    total = tl.zeros((ROWS * COLUMNS,), tl.float64)
    nearest = total + 2.0
    face = tl.full((ROWS * COLUMNS,), -1, tl.int64)
    for at in range(tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)):
        item = tl.load(items + at)
        turns, t, _ = _meet(table + item * COLUMNS_OF_TABLE, c, r)
        if FIRST:
            nearer = (turns != 0) & (t >= 0) & (t <= 1) & (t < nearest)
            nearest = tl.where(nearer, t, nearest)
            face = tl.where(nearer, item % faces, face)
        else:
            t = tl.where(t > 0, t, 0.0)
            total += turns * sign * tl.where(t < 1, t, 1.0)
    place = out + (view.to(tl.int64) * height + row) * width + column
    if FIRST:
        tl.store(place, face, mask=exists)
    else:
        tl.store(place, total.to(tl.float32), mask=exists)


@triton.jit
def gather_moments(table, items, keys, signs, weights, out, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The six sums of ``mesh_reference.gradients`` over one tile's hits with one face."""
    at = tl.program_id(0)
    key = tl.load(keys + at)
    tiles = tl.cdiv(width, COLUMNS) * tl.cdiv(height, ROWS)
    view = key // tiles
    row, column, exists = _pixels(key % tiles, height, width, ROWS, COLUMNS)
    c = column.to(tl.float64)
    r = row.to(tl.float64)
    turns, t, q = _meet(table + tl.load(items + at) * COLUMNS_OF_TABLE, c, r)
    moves = exists & (turns != 0) & (t > 0) & (t < 1) & (q != 0)
    weight = tl.load(weights + (view * height + row) * width + column, mask=moves, other=0.0)
    g = tl.where(moves, weight * turns * tl.load(signs + view) / tl.where(q == 0, 1.0, q), 0.0)
    sums = out + at * 6
    tl.store(sums, tl.sum(g, axis=0))
    tl.store(sums + 1, tl.sum(g * c, axis=0))
    tl.store(sums + 2, tl.sum(g * r, axis=0))
    tl.store(sums + 3, tl.sum(g * t, axis=0))
    tl.store(sums + 4, tl.sum(g * t * c, axis=0))
    tl.store(sums + 5, tl.sum(g * t * r, axis=0))


@triton.jit
def _ramp(z, box):
    """The integral of ``clamp(z / box, 0, 1)`` from 0 to z."""
    return tl.where(z <= 0, 0.0, tl.where(z < box, z * z / (2 * box), z - box / 2))


@triton.jit
def cover_tiles(contour, items, starts, out, box, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean number of layers over the box of every pixel of a tile: what every contour edge beside or left of it adds."""
    tiles = tl.cdiv(width, COLUMNS) * tl.cdiv(height, ROWS)
    row, column, exists = _pixels(tl.program_id(0) % tiles, height, width, ROWS, COLUMNS)
    c = column.to(tl.float64)
    r = row.to(tl.float64)
    size = tl.load(box)
    half = size / 2
    total = tl.zeros((ROWS * COLUMNS,), tl.float64)
    for at in range(tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)):
        edge = contour + tl.load(items + at) * 4
        ax = tl.load(edge)
        ay = tl.load(edge + 1)
        bx = tl.load(edge + 2)
        by = tl.load(edge + 3)
        rises = ay > by
        top = tl.where(rises, by, ay)
        low = tl.where(rises, ay, by)
        x = tl.where(rises, bx, ax)
        flat = ay == by
        slope = (bx - ax) / tl.where(flat, 1.0, by - ay)
        y0 = tl.where(top > r - half, top, r - half)
        y1 = tl.where(low < r + half, low, r + half)
        full = tl.where(y1 > y0, tl.where(rises, 1.0, -1.0) * (y1 - y0) / size, 0.0)
        x0 = x + (y0 - top) * slope
        x1 = x + (y1 - top) * slope
        left = tl.where(x0 < x1, x0, x1)
        right = tl.where(x0 < x1, x1, x0)
        z0 = c + half - right
        z1 = c + half - left
        wide = right - left > 1e-6 * size
        mean = (_ramp(z1, size) - _ramp(z0, size)) / tl.where(wide, right - left, 1.0)
        middle = (z0 + z1) / (2 * size)
        middle = tl.where(middle > 0, tl.where(middle < 1, middle, 1.0), 0.0)
        share = tl.where(z0 >= size, 1.0, tl.where(wide, mean, middle))
        total += full * share
    view = (tl.program_id(0) // tiles).to(tl.int64)
    tl.store(out + (view * height + row) * width + column, total.to(tl.float32), mask=exists)


@triton.jit
def _cut(a, b, low, high, t0, t1):
    """The part of [t0, t1] in which ``a + t (b - a)`` lies between low and high; empty where it never does."""
    still = a == b
    run = tl.where(still, 1.0, b - a)
    p = (low - a) / run
    q = (high - a) / run
    first = tl.where(p < q, p, q)
    last = tl.where(p < q, q, p)
    outside = (a <= low) | (a >= high)
    first = tl.where(still, tl.where(outside, 2.0, 0.0), first)
    last = tl.where(still, 1.0, last)
    return tl.where(first > t0, first, t0), tl.where(last < t1, last, t1)


@triton.jit
def gather_edges(contour, items, keys, weights, out, box, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums over one tile of ``weight * integral of (1 - t) and of t`` along the part of one edge in each pixel's box."""
    at = tl.program_id(0)
    key = tl.load(keys + at)
    tiles = tl.cdiv(width, COLUMNS) * tl.cdiv(height, ROWS)
    row, column, exists = _pixels(key % tiles, height, width, ROWS, COLUMNS)
    c = column.to(tl.float64)
    r = row.to(tl.float64)
    half = tl.load(box) / 2
    edge = contour + tl.load(items + at) * 4
    whole = tl.zeros((ROWS * COLUMNS,), tl.float64)
    t0, t1 = _cut(tl.load(edge + 1), tl.load(edge + 3), r - half, r + half, whole, whole + 1.0)
    t0, t1 = _cut(tl.load(edge), tl.load(edge + 2), c - half, c + half, t0, t1)
    crossed = exists & (t1 > t0)
    weight = tl.load(weights + ((key // tiles) * height + row) * width + column, mask=crossed, other=0.0)
    second = (t1 * t1 - t0 * t0) / 2
    tl.store(out + at * 2, tl.sum(tl.where(crossed, weight * (t1 - t0 - second), 0.0), axis=0))
    tl.store(out + at * 2 + 1, tl.sum(tl.where(crossed, weight * second, 0.0), axis=0))
