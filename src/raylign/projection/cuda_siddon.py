"""Triton kernels of Siddon's model: exact sums over voxels that are boxes of constant value.

A ray's part inside the volume is cut into equal pieces of at most LENGTH voxels along its steepest axis; a lane walks one piece
at a time, from crossing to crossing, in float32 relative to the piece's beginning (Amanatides and Woo 1987). Which faces belong
to a piece follows from the integer positions of its ends, and the end of one piece is to the last bit the beginning of the next:
every face is crossed exactly once. With t_j the crossings of faces of axis a and V before and after them,

    I = sum over stretches of V dt    S0_a = -1/d_a sum_j (V_before - V_after)    S1_a = -1/d_a sum_j t_j (V_before - V_after)

(Siddon 1985 for I; the slopes follow from I = sum_j t_j (V_before - V_after), t_j = (face - o_a) / d_a.)

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
    cell_of,
    clip,
    deposit,
    fixed,
    fold,
    fraction_of,
    is_flat,
    lanes_of,
    load_six,
    offset_of,
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

_SIZES = ["height", "width", "nx", "ny", "nz", "table_x", "table_y", "table_z", "channels"]
_NEVER = tl.constexpr(1e30)


@triton.jit
def _start(
    rays,
    height,
    width,
    nx,
    ny,
    nz,
    VECTORS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """A tile's pixels; its rays' direction, first position and step from piece to piece, their t, and how many pieces."""
    view, row, column, exists = tile_pixels(height, width, ROWS, COLUMNS, LANES)
    ox, oy, oz, dx, dy, dz = tile_rays(rays, view, row, column, VECTORS)
    t0, t1 = clip(ox, oy, oz, dx, dy, dz, nx, ny, nz)
    steepest = tl.maximum(tl.maximum(tl.abs(dx), tl.abs(dy)), tl.abs(dz))
    hit = exists & (t0 < t1)
    span = tl.where(hit, t1 - t0, 0.0)
    pieces = tl.maximum(tl.ceil(span * steepest / LENGTH), 1.0)
    span = span / pieces
    # half a voxel on: the boxes' faces then lie at integers
    x = fixed(tl.where(hit, ox + t0 * dx + 0.5, 0.0))
    y = fixed(tl.where(hit, oy + t0 * dy + 0.5, 0.0))
    z = fixed(tl.where(hit, oz + t0 * dz + 0.5, 0.0))
    mx = fixed(tl.where(hit, span * dx, 0.0))
    my = fixed(tl.where(hit, span * dy, 0.0))
    mz = fixed(tl.where(hit, span * dz, 0.0))
    at = (view * height + row) * width + column
    count = tl.where(hit, pieces, 0.0).to(tl.int32)
    dx = tl.where(is_flat(dx), 0.0, dx).to(tl.float32)
    dy = tl.where(is_flat(dy), 0.0, dy).to(tl.float32)
    dz = tl.where(is_flat(dz), 0.0, dz).to(tl.float32)
    return at, exists, dx, dy, dz, x, y, z, mx, my, mz, t0.to(tl.float32), span.to(tl.float32), count


@triton.jit
def _inverse(d):
    return tl.where(d == 0.0, 0.0, 1.0 / tl.where(d == 0.0, 1.0, d))


@triton.jit
def _faces(start, end, live):
    """How many faces a piece crosses along an axis, which way, and how far (voxels) it is to the first."""
    here = cell_of(start)
    there = cell_of(end)
    fraction = fraction_of(start)
    count = tl.where(live, tl.abs(there - here), 0)
    forward = there >= here
    return count, tl.where(forward, 1, -1), tl.where(forward, 1.0 - fraction, fraction)


@triton.jit
def _next(crossed, count, to_first, pace):
    """When the next face of an axis is crossed, in t since the beginning of the piece."""
    return tl.where(crossed < count, (crossed.to(tl.float32) + to_first) * pace, _NEVER)


@triton.jit
def _choose(tx, ty, tz):
    """Which axis' face comes first: three masks, none true when no face is left."""
    left = tl.minimum(tl.minimum(tx, ty), tz) < _NEVER
    is_x = left & (tx <= ty) & (tx <= tz)
    is_y = left & (is_x == 0) & (ty <= tz)
    return is_x, is_y, left & (is_x == 0) & (is_y == 0), left


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
    VECTORS: tl.constexpr,
    WHAT: tl.constexpr,
    HAS_VOLUME: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    LENGTH: tl.constexpr,
    BITS: tl.constexpr,
):
    """Sums over the voxels that a tile's rays pass; rounds of pieces in empty bricks are skipped."""
    _at, _exists, dx, dy, dz, x0, y0, z0, mx, my, mz, t0, span, count = _start(
        rays, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES, LENGTH
    )
    rx = tl.abs(_inverse(dx))
    ry = tl.abs(_inverse(dy))
    rz = tl.abs(_inverse(dz))
    lane = lanes_of(ROWS, COLUMNS, LANES)
    s0 = tl.zeros((ROWS * COLUMNS * LANES,), tl.float32)
    s1 = s0
    s2 = s0
    s3 = s0
    s4 = s0
    s5 = s0
    s6 = s0
    s7 = s0
    HAS_LABELS: tl.constexpr = WHAT == LABELS
    channel = tl.program_id(1) * LABELS_AT_ONCE
    for turn in range(tl.cdiv(tl.max(count, axis=0), LANES)):
        piece = turn * LANES + lane
        live = piece < count
        x = x0 + piece * mx
        y = y0 + piece * my
        z = z0 + piece * mz
        ix = cell_of(x)
        iy = cell_of(y)
        iz = cell_of(z)
        busy = windows_busy(
            table,
            ix,
            iy,
            iz,
            cell_of(x + mx),
            cell_of(y + my),
            cell_of(z + mz),
            nx,
            ny,
            nz,
            table_x,
            table_y,
            table_z,
            BITS,
        )
        if tl.max((busy & live).to(tl.int32), axis=0) > 0:
            kx, step_x, fx = _faces(x, x + mx, live)
            ky, step_y, fy = _faces(y, y + my, live)
            kz, step_z, fz = _faces(z, z + mz, live)
            cx = tl.zeros((ROWS * COLUMNS * LANES,), tl.int32)
            cy = cx
            cz = cx
            t = tl.zeros((ROWS * COLUMNS * LANES,), tl.float32)
            begin = t0 + piece.to(tl.float32) * span
            inside = live & within(ix, nx) & within(iy, ny) & within(iz, nz)
            place = offset_of(ix, iy, iz, nx, ny, WIDE)
            value, label = voxel(volume + place, labels + place, inside, HAS_VOLUME, HAS_LABELS)
            for _ in range(tl.max(kx + ky + kz, axis=0)):
                tx = _next(cx, kx, fx, rx)
                ty = _next(cy, ky, fy, ry)
                tz = _next(cz, kz, fz, rz)
                is_x, is_y, is_z, left = _choose(tx, ty, tz)
                later = tl.where(left, tl.minimum(tl.minimum(tx, ty), tz), t)
                if WHAT == LABELS:
                    s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                        s0, s1, s2, s3, s4, s5, s6, s7, label - channel, value * (later - t)
                    )
                else:
                    s0 += value * (later - t)
                cx += is_x.to(tl.int32)
                cy += is_y.to(tl.int32)
                cz += is_z.to(tl.int32)
                ix += tl.where(is_x, step_x, 0)
                iy += tl.where(is_y, step_y, 0)
                iz += tl.where(is_z, step_z, 0)
                inside = live & within(ix, nx) & within(iy, ny) & within(iz, nz)
                place = offset_of(ix, iy, iz, nx, ny, WIDE)
                after, label = voxel(volume + place, labels + place, inside, HAS_VOLUME, HAS_LABELS)
                if WHAT == JACOBIAN:
                    drop = value - after
                    late = (begin + later) * drop
                    s1 += tl.where(is_x, drop, 0.0)
                    s2 += tl.where(is_y, drop, 0.0)
                    s3 += tl.where(is_z, drop, 0.0)
                    s4 += tl.where(is_x, late, 0.0)
                    s5 += tl.where(is_y, late, 0.0)
                    s6 += tl.where(is_z, late, 0.0)
                value = after
                t = later
            if WHAT == LABELS:
                s0, s1, s2, s3, s4, s5, s6, s7 = add_label(s0, s1, s2, s3, s4, s5, s6, s7, label - channel, value * (span - t))
            else:
                s0 += value * (span - t)
    if WHAT == LABELS:
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
            gx = -_inverse(dx)
            gy = -_inverse(dy)
            gz = -_inverse(dz)
            store_six(slopes, to, there, s1 * gx, s2 * gy, s3 * gz, s4 * gx, s5 * gy, s6 * gz, PIXELS, LANES)


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
    LENGTH: tl.constexpr,
):
    """The transpose of ``march``: a voxel gets what its stretch and the two faces that bound it carry, in one addition."""
    at, exists, dx, dy, dz, x0, y0, z0, mx, my, mz, t0, span, count = _start(
        rays, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES, LENGTH
    )
    rx = tl.abs(_inverse(dx))
    ry = tl.abs(_inverse(dy))
    rz = tl.abs(_inverse(dz))
    lane = lanes_of(ROWS, COLUMNS, LANES)
    w = tl.load(weights + at, mask=exists, other=0.0)
    if FIXED:
        factor = tl.load(scale)
        w = (w * factor).to(tl.float32)
    if SLOPES:
        ux, uy, uz, vx, vy, vz = load_six(slope_weights, at, exists)
        gx = -_inverse(dx)
        gy = -_inverse(dy)
        gz = -_inverse(dz)
        if FIXED:
            gx = gx * factor
            gy = gy * factor
            gz = gz * factor
        ux = (ux * gx).to(tl.float32)
        uy = (uy * gy).to(tl.float32)
        uz = (uz * gz).to(tl.float32)
        vx = (vx * gx).to(tl.float32)
        vy = (vy * gy).to(tl.float32)
        vz = (vz * gz).to(tl.float32)
        count = where_given(count, w, ux, uy, uz, vx, vy, vz, SLOPES)
    else:
        count = where_given(count, w, w, w, w, w, w, w, SLOPES)
    for turn in range(tl.cdiv(tl.max(count, axis=0), LANES)):
        piece = turn * LANES + lane
        live = piece < count
        x = x0 + piece * mx
        y = y0 + piece * my
        z = z0 + piece * mz
        ix = cell_of(x)
        iy = cell_of(y)
        iz = cell_of(z)
        kx, step_x, fx = _faces(x, x + mx, live)
        ky, step_y, fy = _faces(y, y + my, live)
        kz, step_z, fz = _faces(z, z + mz, live)
        cx = tl.zeros((ROWS * COLUMNS * LANES,), tl.int32)
        cy = cx
        cz = cx
        t = tl.zeros((ROWS * COLUMNS * LANES,), tl.float32)
        carried = t
        begin = t0 + piece.to(tl.float32) * span
        for _ in range(tl.max(kx + ky + kz, axis=0)):
            tx = _next(cx, kx, fx, rx)
            ty = _next(cy, ky, fy, ry)
            tz = _next(cz, kz, fz, rz)
            is_x, is_y, is_z, left = _choose(tx, ty, tz)
            later = tl.where(left, tl.minimum(tl.minimum(tx, ty), tz), t)
            value = carried + w * (later - t)
            if SLOPES:
                s = begin + later
                jump = tl.where(is_x, ux + s * vx, tl.where(is_y, uy + s * vy, uz + s * vz))
                value = value + jump
                carried = tl.where(left, -jump, carried)
            inside = left & within(ix, nx) & within(iy, ny) & within(iz, nz)
            deposit(out + offset_of(ix, iy, iz, nx, ny, WIDE), value, inside, FIXED)
            cx += is_x.to(tl.int32)
            cy += is_y.to(tl.int32)
            cz += is_z.to(tl.int32)
            ix += tl.where(is_x, step_x, 0)
            iy += tl.where(is_y, step_y, 0)
            iz += tl.where(is_z, step_z, 0)
            t = later
        inside = live & within(ix, nx) & within(iy, ny) & within(iz, nz)
        deposit(out + offset_of(ix, iy, iz, nx, ny, WIDE), carried + w * (span - t), inside, FIXED)
