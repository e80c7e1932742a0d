"""Triton kernels of the trilinear model: integrals, slopes, labels and curvature in one march, and its adjoint.

No ``from __future__ import annotations`` here: Triton reads the annotations.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from raylign.projection.cuda_rays import (
    CURVATURE,
    INTEGRALS,
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

_SIZES = ["height", "width", "nx", "ny", "nz", "table_x", "table_y", "table_z", "channels", "run"]


@triton.jit
def _start(
    rays,
    samples,
    height,
    width,
    nx,
    ny,
    nz,
    VECTORS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """First position and step of a tile's rays (units of 2^-32 voxel), first sample, how many samples, and 1 / N."""
    view, row, column, exists = tile_pixels(height, width, ROWS, COLUMNS, LANES)
    ox, oy, oz, dx, dy, dz = tile_rays(rays, view, row, column, VECTORS)
    t0, t1 = clip(ox, oy, oz, dx, dy, dz, nx, ny, nz)
    n = tl.load(samples + view).to(tl.float64)
    first = tl.maximum(tl.ceil(t0 * n - 0.5), 0.0)
    last = tl.minimum(tl.floor(t1 * n - 0.5), n - 1.0)
    count = tl.where(exists, tl.maximum(last - first + 1.0, 0.0), 0.0).to(tl.int32)
    t = (first + 0.5) / n
    hit = count > 0
    x = fixed(tl.where(hit, ox + t * dx, 0.0))
    y = fixed(tl.where(hit, oy + t * dy, 0.0))
    z = fixed(tl.where(hit, oz + t * dz, 0.0))
    sx = fixed(tl.where(hit, dx / n, 0.0))
    sy = fixed(tl.where(hit, dy / n, 0.0))
    sz = fixed(tl.where(hit, dz / n, 0.0))
    at = (view * height + row) * width + column
    return at, exists, x, y, z, sx, sy, sz, first.to(tl.float32), count, (1.0 / n).to(tl.float32)


@triton.jit(do_not_specialize=_SIZES)
def march(
    volume,
    labels,
    vectors,
    rays,
    samples,
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
    """Sums over the samples of a tile's rays, in runs; one that touches empty bricks alone is skipped.

    What is skipped would add zeros, and positions do not depend on it: the result is the same to the last bit.
    """
    at, exists, x0, y0, z0, sx, sy, sz, first, count, inverse = _start(
        rays, samples, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES
    )
    HAS_LABELS: tl.constexpr = WHAT == LABELS
    lane = lanes_of(ROWS, COLUMNS, LANES)
    channel = tl.program_id(1) * LABELS_AT_ONCE
    s0 = tl.zeros((ROWS * COLUMNS * LANES,), tl.float32)
    s1 = s0
    s2 = s0
    s3 = s0
    s4 = s0
    s5 = s0
    s6 = s0
    s7 = s0
    if WHAT == CURVATURE:
        ux, uy, uz, vx, vy, vz = load_six(vectors, at, exists)
    for group in range(tl.cdiv(tl.max(count, axis=0), run * LANES)):
        # lane r looks ahead at run r of the next LANES runs
        ahead = (group * LANES + lane) * run
        x = x0 + ahead * sx
        y = y0 + ahead * sy
        z = z0 + ahead * sz
        busy = windows_busy(
            table,
            cell_of(x),
            cell_of(y),
            cell_of(z),
            cell_of(x + (run - 1) * sx),
            cell_of(y + (run - 1) * sy),
            cell_of(z + (run - 1) * sz),
            nx,
            ny,
            nz,
            table_x,
            table_y,
            table_z,
            BITS,
        )
        runs = busy_runs(busy & (ahead < count), ROWS * COLUMNS, LANES)
        for bit in range(LANES):
            if ((runs >> bit) & 1) > 0:
                begin = (group * LANES + bit) * run
                x = x0 + (begin + lane) * sx
                y = y0 + (begin + lane) * sy
                z = z0 + (begin + lane) * sz
                for step in range(run // LANES):
                    rank = begin + step * LANES + lane
                    live = rank < count
                    ix = cell_of(x)
                    iy = cell_of(y)
                    iz = cell_of(z)
                    fx = fraction_of(x)
                    fy = fraction_of(y)
                    fz = fraction_of(z)
                    x0_in = within(ix, nx)
                    x1_in = within(ix + 1, nx)
                    near = within(iz, nz) & live
                    far = within(iz + 1, nz) & live
                    m00 = near & within(iy, ny)
                    m01 = near & within(iy + 1, ny)
                    m10 = far & within(iy, ny)
                    m11 = far & within(iy + 1, ny)
                    # pointers, not offsets, from here on: a neighbour along x is then the same address and a constant
                    place = offset_of(ix, iy, iz, nx, ny, WIDE)
                    beyond = offset_of(ix, iy, iz + 1, nx, ny, WIDE)
                    p00 = volume + place
                    p10 = volume + beyond
                    p01 = p00 + nx
                    p11 = p10 + nx
                    q00 = labels + place
                    q10 = labels + beyond
                    q01 = q00 + nx
                    q11 = q10 + nx
                    v000, l000 = voxel(p00, q00, m00 & x0_in, HAS_VOLUME, HAS_LABELS)
                    v001, l001 = voxel(p00 + 1, q00 + 1, m00 & x1_in, HAS_VOLUME, HAS_LABELS)
                    v010, l010 = voxel(p01, q01, m01 & x0_in, HAS_VOLUME, HAS_LABELS)
                    v011, l011 = voxel(p01 + 1, q01 + 1, m01 & x1_in, HAS_VOLUME, HAS_LABELS)
                    v100, l100 = voxel(p10, q10, m10 & x0_in, HAS_VOLUME, HAS_LABELS)
                    v101, l101 = voxel(p10 + 1, q10 + 1, m10 & x1_in, HAS_VOLUME, HAS_LABELS)
                    v110, l110 = voxel(p11, q11, m11 & x0_in, HAS_VOLUME, HAS_LABELS)
                    v111, l111 = voxel(p11 + 1, q11 + 1, m11 & x1_in, HAS_VOLUME, HAS_LABELS)
                    if WHAT == LABELS:
                        gx = 1.0 - fx
                        y0z0 = (1.0 - fz) * (1.0 - fy)
                        y1z0 = (1.0 - fz) * fy
                        y0z1 = fz * (1.0 - fy)
                        y1z1 = fz * fy
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l000 - channel, v000 * (y0z0 * gx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l001 - channel, v001 * (y0z0 * fx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l010 - channel, v010 * (y1z0 * gx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l011 - channel, v011 * (y1z0 * fx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l100 - channel, v100 * (y0z1 * gx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l101 - channel, v101 * (y0z1 * fx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l110 - channel, v110 * (y1z1 * gx)
                        )
                        s0, s1, s2, s3, s4, s5, s6, s7 = add_label(
                            s0, s1, s2, s3, s4, s5, s6, s7, l111 - channel, v111 * (y1z1 * fx)
                        )
                    else:
                        # differences along x at the four edges, along y at the two faces, along z
                        e00 = v001 - v000
                        e01 = v011 - v010
                        e10 = v101 - v100
                        e11 = v111 - v110
                        a00 = v000 + fx * e00
                        a01 = v010 + fx * e01
                        a10 = v100 + fx * e10
                        a11 = v110 + fx * e11
                        f0 = a01 - a00
                        f1 = a11 - a10
                        t = (first + rank.to(tl.float32) + 0.5) * inverse
                        if WHAT != CURVATURE:
                            b0 = a00 + fy * f0
                            b1 = a10 + fy * f1
                            s0 += b0 + fz * (b1 - b0)
                        if WHAT == JACOBIAN:
                            c0 = e00 + fy * (e01 - e00)
                            c1 = e10 + fy * (e11 - e10)
                            dx = c0 + fz * (c1 - c0)
                            dy = f0 + fz * (f1 - f0)
                            dz = b1 - b0
                            s1 += dx
                            s2 += dy
                            s3 += dz
                            s4 += t * dx
                            s5 += t * dy
                            s6 += t * dz
                        if WHAT == CURVATURE:
                            wx = ux + t * vx
                            wy = uy + t * vy
                            wz = uz + t * vz
                            h0 = e01 - e00
                            h1 = e11 - e10
                            hxy = h0 + fz * (h1 - h0)
                            hxz = (e10 - e00) + fy * (h1 - h0)
                            hyz = f1 - f0
                            dx = hxy * wy + hxz * wz
                            dy = hxy * wx + hyz * wz
                            dz = hxz * wx + hyz * wy
                            s1 += dx
                            s2 += dy
                            s3 += dz
                            s4 += t * dx
                            s5 += t * dy
                            s6 += t * dz
                    x += LANES * sx
                    y += LANES * sy
                    z += LANES * sz
    s0 *= inverse
    s1 *= inverse
    s2 *= inverse
    s3 *= inverse
    s4 *= inverse
    s5 *= inverse
    s6 *= inverse
    s7 *= inverse
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
        if WHAT != CURVATURE:
            tl.store(out + to, fold(s0, PIXELS, LANES), mask=there)
        if WHAT != INTEGRALS:
            store_six(slopes, to, there, s1, s2, s3, s4, s5, s6, PIXELS, LANES)


@triton.jit
def _share(fx, fy, fz, w, gx, gy, gz, CX: tl.constexpr, CY: tl.constexpr, CZ: tl.constexpr, SLOPES: tl.constexpr):
    """What a sample of weight w and gradient weight g gives to one of its corners."""
    wx = fx if CX == 1 else 1.0 - fx
    wy = fy if CY == 1 else 1.0 - fy
    wz = fz if CZ == 1 else 1.0 - fz
    if SLOPES:
        # the derivative of a weight is +1 or -1
        along_x = wx * w + (gx if CX == 1 else -gx)
        along_y = wy * along_x + wx * (gy if CY == 1 else -gy)
        return wz * along_y + wx * wy * (gz if CZ == 1 else -gz)
    else:
        return wx * wy * wz * w


@triton.jit(do_not_specialize=_SIZES)
def scatter(
    weights,
    slope_weights,
    rays,
    samples,
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
    """The transpose of ``march`` (integrals, or with slopes): every sample gives to its eight voxels."""
    at, exists, x, y, z, sx, sy, sz, first, count, inverse = _start(
        rays, samples, height, width, nx, ny, nz, VECTORS, ROWS, COLUMNS, LANES
    )
    lane = lanes_of(ROWS, COLUMNS, LANES)
    factor = inverse
    if FIXED:
        factor = tl.load(scale) * inverse
    w = (tl.load(weights + at, mask=exists, other=0.0) * factor).to(tl.float32)
    x += lane * sx
    y += lane * sy
    z += lane * sz
    if SLOPES:
        ux, uy, uz, vx, vy, vz = load_six(slope_weights, at, exists)
        ux = (ux * factor).to(tl.float32)
        uy = (uy * factor).to(tl.float32)
        uz = (uz * factor).to(tl.float32)
        vx = (vx * factor).to(tl.float32)
        vy = (vy * factor).to(tl.float32)
        vz = (vz * factor).to(tl.float32)
        count = where_given(count, w, ux, uy, uz, vx, vy, vz, SLOPES)
    else:
        count = where_given(count, w, w, w, w, w, w, w, SLOPES)
    for step in range(tl.cdiv(tl.max(count, axis=0), LANES)):
        rank = step * LANES + lane
        live = rank < count
        ix = cell_of(x)
        iy = cell_of(y)
        iz = cell_of(z)
        fx = fraction_of(x)
        fy = fraction_of(y)
        fz = fraction_of(z)
        if SLOPES:
            t = (first + rank.to(tl.float32) + 0.5) * inverse
            gx = ux + t * vx
            gy = uy + t * vy
            gz = uz + t * vz
        else:
            gx = fx
            gy = fy
            gz = fz
        for corner in tl.static_range(8):
            value = _share(fx, fy, fz, w, gx, gy, gz, corner % 2, corner // 2 % 2, corner // 4, SLOPES)
            jy = iy + corner // 2 % 2
            jz = iz + corner // 4
            inside = live & within(ix + corner % 2, nx) & within(jy, ny) & within(jz, nz)
            deposit(out + offset_of(ix, jy, jz, nx, ny, WIDE) + corner % 2, value, inside, FIXED)
        x += LANES * sx
        y += LANES * sy
        z += LANES * sz
