"""Triton kernels of Joseph's model: one bilinear sample on every plane of voxel centres across a ray's steepest axis.

A ray's axes are taken in its own order: ``a`` the steepest, ``b`` and ``c`` the other two, with strides that differ from ray to
ray. On plane k the ray is at ``t = (k - o_a) / d_a`` and ``p_b = o_b + t d_b``; with G_b, H_b the sums of the in-plane derivative
and of t times it, the exact derivatives of ``I = sum V / |d_a|`` are (Joseph 1982 for I; the chain rule for the rest)

    S0_b = G_b    S1_b = H_b    S0_a = -sum_b (d_b / d_a) G_b    S1_a = -sum_b (d_b / d_a) H_b - I / d_a

No ``from __future__ import annotations`` here: Triton reads the annotations.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from raylign.projection.cuda_rays import (
    JACOBIAN,
    LABELS,
    LABELS_AT_ONCE,
    add_label,
    busy_runs,
    cell_of,
    clip,
    deposit,
    fixed,
    fold,
    fraction_of,
    is_flat,
    lanes_of,
    load_six,
    outputs,
    store_label,
    store_six,
    tile_pixels,
    tile_rays,
    voxel,
    where_given,
    windows_busy,
    within,
)

_SIZES = ["height", "width", "nx", "ny", "nz", "table_x", "table_y", "table_z", "channels", "run"]


@triton.jit
def _steepest(dx, dy, dz):
    """Which axis is the steepest, the first of equals: two masks, of x and of y."""
    x = (tl.abs(dx) >= tl.abs(dy)) & (tl.abs(dx) >= tl.abs(dz))
    y = (x == 0) & (tl.abs(dy) >= tl.abs(dz))
    return x, y


@triton.jit
def _first(is_x, is_y, x, y, z):
    return tl.where(is_x, x, tl.where(is_y, y, z))


@triton.jit
def _second(is_x, x, y):
    return tl.where(is_x, y, x)


@triton.jit
def _third(is_x, is_y, y, z):
    return tl.where(is_x | is_y, z, y)


@triton.jit
def _start(
    rays, height, width, nx, ny, nz, VECTORS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr
):
    """A tile's pixels and rays in their own order of axes: planes, positions and steps in the plane, t of the first plane."""
    view, row, column, exists = tile_pixels(height, width, ROWS, COLUMNS, LANES)
    ox, oy, oz, dx, dy, dz = tile_rays(rays, view, row, column, VECTORS)
    t0, t1 = clip(ox, oy, oz, dx, dy, dz, nx, ny, nz)
    is_x, is_y = _steepest(dx, dy, dz)
    oa = _first(is_x, is_y, ox, oy, oz)
    da = _first(is_x, is_y, dx, dy, dz)
    ob = _second(is_x, ox, oy)
    db = _second(is_x, dx, dy)
    oc = _third(is_x, is_y, oy, oz)
    dc = _third(is_x, is_y, dy, dz)
    still = is_flat(da)
    start = oa + t0 * da
    end = oa + t1 * da
    low = tl.maximum(tl.ceil(tl.minimum(start, end)), 0.0)
    high = tl.minimum(tl.floor(tl.maximum(start, end)), _first(is_x, is_y, nx, ny, nz) - 1.0)
    hit = exists & (t0 < t1) & (low <= high) & (still == 0)
    count = tl.where(hit, high - low + 1.0, 0.0).to(tl.int32)
    inverse = 1.0 / tl.where(still, 1.0, da)
    low = tl.where(hit, low, 0.0)
    t = tl.where(hit, (low - oa) * inverse, 0.0)
    mb = db * inverse
    mc = dc * inverse
    b = fixed(tl.where(hit, ob + t * db, 0.0))
    c = fixed(tl.where(hit, oc + t * dc, 0.0))
    at = (view * height + row) * width + column
    first = low.to(tl.int32)
    return at, exists, is_x, is_y, first, count, b, c, fixed(mb), fixed(mc), t.to(tl.float32), inverse.to(tl.float32)


@triton.jit
def _strides(is_x, is_y, nx, ny, WIDE: tl.constexpr):
    one = tl.full((1,), 1, tl.int64) if WIDE else tl.full((1,), 1, tl.int32)
    y = one * nx
    z = y * ny
    return _first(is_x, is_y, one, y, z), _second(is_x, one, y), _third(is_x, is_y, y, z)


@triton.jit(do_not_specialize=_SIZES)
def march(
    volume,
    labels,
    rays,
    table,
    out,
    slopes,
    height,
    width,
    nx,
    ny,
    nz,
    table_x,
    table_y,
    table_z,
    channels,
    run,
    VECTORS: tl.constexpr,
    WHAT: tl.constexpr,
    HAS_VOLUME: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
):
    """Sums over the planes that a tile's rays cross, in runs; those in empty bricks are skipped."""
    _at, _exists, is_x, is_y, first, count, b0, c0, mb, mc, t0, inverse = _start(
        rays, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES
    )
    stride_a, stride_b, stride_c = _strides(is_x, is_y, nx, ny, WIDE)
    na = _first(is_x, is_y, nx, ny, nz)
    nb = _second(is_x, nx, ny)
    nc = _third(is_x, is_y, ny, nz)
    table_a = _first(is_x, is_y, table_x, table_y, table_z)
    table_b = _second(is_x, table_x, table_y)
    table_c = _third(is_x, is_y, table_y, table_z)
    HAS_LABELS: tl.constexpr = WHAT == LABELS
    lane = lanes_of(ROWS, COLUMNS, LANES)
    s0 = tl.zeros((ROWS * COLUMNS * LANES,), tl.float32)
    s1 = s0
    s2 = s0
    s3 = s0
    s4 = s0
    s5 = s0
    s6 = s0
    s7 = s0
    channel = tl.program_id(1) * LABELS_AT_ONCE
    for group in range(tl.cdiv(tl.max(count, axis=0), run * LANES)):
        # lane r looks ahead at run r of the next LANES runs
        ahead = (group * LANES + lane) * run
        b = b0 + ahead * mb
        c = c0 + ahead * mc
        busy = windows_busy(
            table,
            first + ahead,
            cell_of(b),
            cell_of(c),
            first + ahead + (run - 1),
            cell_of(b + (run - 1) * mb),
            cell_of(c + (run - 1) * mc),
            na,
            nb,
            nc,
            table_a,
            table_b,
            table_c,
            BITS,
        )
        runs = busy_runs(busy & (ahead < count), ROWS * COLUMNS, LANES)
        for bit in range(LANES):
            if ((runs >> bit) & 1) > 0:
                begin = (group * LANES + bit) * run
                b = b0 + (begin + lane) * mb
                c = c0 + (begin + lane) * mc
                for step in range(run // LANES):
                    rank = begin + step * LANES + lane
                    live = rank < count
                    ib = cell_of(b)
                    ic = cell_of(c)
                    fb = fraction_of(b)
                    fc = fraction_of(c)
                    near = live & within(ic, nc)
                    far = live & within(ic + 1, nc)
                    place = (first + rank) * stride_a + ib * stride_b + ic * stride_c
                    p0 = volume + place
                    p1 = p0 + stride_c
                    q0 = labels + place
                    q1 = q0 + stride_c
                    v00, l00 = voxel(p0, q0, near & within(ib, nb), HAS_VOLUME, HAS_LABELS)
                    v01, l01 = voxel(p0 + stride_b, q0 + stride_b, near & within(ib + 1, nb), HAS_VOLUME, HAS_LABELS)
                    v10, l10 = voxel(p1, q1, far & within(ib, nb), HAS_VOLUME, HAS_LABELS)
                    v11, l11 = voxel(p1 + stride_b, q1 + stride_b, far & within(ib + 1, nb), HAS_VOLUME, HAS_LABELS)
                    if WHAT == LABELS:
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l00 - channel, v00 * ((1.0 - fc) * (1.0 - fb))
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l01 - channel, v01 * ((1.0 - fc) * fb)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l10 - channel, v10 * (fc * (1.0 - fb))
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(s0, s1, s2, s3, s4, s5, s6, s7, l11 - channel, v11 * (fc * fb))
                    else:
                        e0 = v01 - v00
                        e1 = v11 - v10
                        a0 = v00 + fb * e0
                        a1 = v10 + fb * e1
                        s0 += a0 + fc * (a1 - a0)
                        if WHAT == JACOBIAN:
                            t = t0 + rank.to(tl.float32) * inverse
                            d = e0 + fc * (e1 - e0)
                            s1 += d
                            s3 += t * d
                            d = a1 - a0
                            s2 += d
                            s4 += t * d
                    b += LANES * mb
                    c += LANES * mc
    weight = tl.abs(inverse)
    s0 *= weight
    s1 *= weight
    s2 *= weight
    s3 *= weight
    s4 *= weight
    if WHAT == LABELS:
        s5 *= weight
        s6 *= weight
        s7 *= weight
        store_label(out, channel, channels, height, width, s0, ROWS, COLUMNS, LANES)
        store_label(out, channel + 1, channels, height, width, s1, ROWS, COLUMNS, LANES)
        store_label(out, channel + 2, channels, height, width, s2, ROWS, COLUMNS, LANES)
        store_label(out, channel + 3, channels, height, width, s3, ROWS, COLUMNS, LANES)
        store_label(out, channel + 4, channels, height, width, s4, ROWS, COLUMNS, LANES)
        store_label(out, channel + 5, channels, height, width, s5, ROWS, COLUMNS, LANES)
        store_label(out, channel + 6, channels, height, width, s6, ROWS, COLUMNS, LANES)
        store_label(out, channel + 7, channels, height, width, s7, ROWS, COLUMNS, LANES)
    else:
        to, there = outputs(height, width, ROWS, COLUMNS)
        PIXELS: tl.constexpr = ROWS * COLUMNS
        tl.store(out + to, fold(s0, PIXELS, LANES), mask=there)
        if WHAT == JACOBIAN:
            # the sums are linear in what the lanes hold: combined before they are folded
            slope_b = mb.to(tl.float32) * 2.3283064365386963e-10
            slope_c = mc.to(tl.float32) * 2.3283064365386963e-10
            ga = -(slope_b * s1 + slope_c * s2)
            ha = -(slope_b * s3 + slope_c * s4) - s0 * inverse
            sx = tl.where(is_x, ga, s1)
            sy = tl.where(is_x, s1, tl.where(is_y, ga, s2))
            sz = tl.where(is_x | is_y, s2, ga)
            tx = tl.where(is_x, ha, s3)
            ty = tl.where(is_x, s3, tl.where(is_y, ha, s4))
            tz = tl.where(is_x | is_y, s4, ha)
            store_six(slopes, to, there, sx, sy, sz, tx, ty, tz, PIXELS, LANES)


@triton.jit
def _share(fb, fc, w, gb, gc, CB: tl.constexpr, CC: tl.constexpr, SLOPES: tl.constexpr):
    """What a sample of weight w and in-plane gradient weight g gives to one of its corners."""
    wb = fb if CB == 1 else 1.0 - fb
    wc = fc if CC == 1 else 1.0 - fc
    if SLOPES:
        return wb * wc * w + wc * (gb if CB == 1 else -gb) + wb * (gc if CC == 1 else -gc)
    else:
        return wb * wc * w


@triton.jit(do_not_specialize=_SIZES)
def scatter(
    weights,
    slope_weights,
    rays,
    scale,
    out,
    height,
    width,
    nx,
    ny,
    nz,
    VECTORS: tl.constexpr,
    SLOPES: tl.constexpr,
    FIXED: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The transpose of ``march``: every plane gives to the four voxels around the ray."""
    at, exists, is_x, is_y, first, count, b, c, mb, mc, t0, inverse = _start(
        rays, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES
    )
    stride_a, stride_b, stride_c = _strides(is_x, is_y, nx, ny, WIDE)
    nb = _second(is_x, nx, ny)
    nc = _third(is_x, is_y, ny, nz)
    lane = lanes_of(ROWS, COLUMNS, LANES)
    factor = tl.abs(inverse)
    if FIXED:
        factor = tl.load(scale) * factor
    w = tl.load(weights + at, mask=exists, other=0.0)
    if SLOPES:
        slope_b = mb.to(tl.float32) * 2.3283064365386963e-10
        slope_c = mc.to(tl.float32) * 2.3283064365386963e-10
        sx, sy, sz, tx, ty, tz = load_six(slope_weights, at, exists)
        sa = _first(is_x, is_y, sx, sy, sz)
        ta = _first(is_x, is_y, tx, ty, tz)
        w = w - ta * inverse
        ub = ((_second(is_x, sx, sy) - slope_b * sa) * factor).to(tl.float32)
        uc = ((_third(is_x, is_y, sy, sz) - slope_c * sa) * factor).to(tl.float32)
        vb = ((_second(is_x, tx, ty) - slope_b * ta) * factor).to(tl.float32)
        vc = ((_third(is_x, is_y, ty, tz) - slope_c * ta) * factor).to(tl.float32)
    w = (w * factor).to(tl.float32)
    if SLOPES:
        count = where_given(count, w, ub, uc, vb, vc, vb, vc, SLOPES)
    else:
        count = where_given(count, w, w, w, w, w, w, w, SLOPES)
    b += lane * mb
    c += lane * mc
    for step in range(tl.cdiv(tl.max(count, axis=0), LANES)):
        rank = step * LANES + lane
        live = rank < count
        ib = cell_of(b)
        ic = cell_of(c)
        fb = fraction_of(b)
        fc = fraction_of(c)
        if SLOPES:
            t = t0 + rank.to(tl.float32) * inverse
            gb = ub + t * vb
            gc = uc + t * vc
        p = (first + rank) * stride_a + ib * stride_b + ic * stride_c
        if SLOPES == 0:
            gb = fb
            gc = fc
        for corner in tl.static_range(4):
            value = _share(fb, fc, w, gb, gc, corner % 2, corner // 2, SLOPES)
            inside = live & within(ib + corner % 2, nb) & within(ic + corner // 2, nc)
            deposit(out + p + (corner % 2) * stride_b + (corner // 2) * stride_c, value, inside, FIXED)
        b += LANES * mb
        c += LANES * mc
