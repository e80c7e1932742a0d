"""What the Triton kernels share: pixels of a tile, rays in float64, clipping, positions, culling, deposits.

One program renders a tile of ``ROWS x COLUMNS`` pixels of one view. Each pixel has LANES lanes, which take the samples of its ray
in turn: tensors are flat, [E] with E = ROWS COLUMNS LANES, lanes fastest. (Tensors of pixels by lanes would read better, but
Triton 3.6 moves them from thread to thread within the loops.)

Rays are set up once in float64. From there on a position along an axis is an int64 in units of 2^-32 voxel: the upper half is the
cell, the lower half the fraction. Stepping is integer addition, hence exact: a position depends neither on the order of the
steps nor on whether others were skipped, and its error stays below N 2^-33 voxel.

No ``from __future__ import annotations`` here: Triton reads the annotations.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from raylign.projection import cuda

INTEGRALS = tl.constexpr(cuda.INTEGRALS)
JACOBIAN = tl.constexpr(cuda.JACOBIAN)
LABELS = tl.constexpr(cuda.LABELS)
CURVATURE = tl.constexpr(cuda.CURVATURE)
LABELS_AT_ONCE = tl.constexpr(cuda.LABELS_AT_ONCE)

_ONE = tl.constexpr(4294967296.0)
_ULP = tl.constexpr(2.3283064365386963e-10)
_MARGIN = tl.constexpr(1e-6)  # several float32 roundings of t in [0, 1]; what is let in too much is masked out by its index
_FLAT = tl.constexpr(1e-20)  # a ray that moves less than this many voxels along an axis does not move along it
FIXED_POINT = tl.constexpr(2305843009213693952.0)  # 2^61: weights are scaled so that no voxel's sum exceeds 1


@triton.jit
def tile_pixels(height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr):
    """View, row [E], column [E] of this program's pixels, and which of them exist."""
    across = tl.cdiv(width, COLUMNS)
    tiles = across * tl.cdiv(height, ROWS)
    view = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    pixel = tl.arange(0, ROWS * COLUMNS * LANES) // LANES
    row = (tile // across) * ROWS + pixel // COLUMNS
    column = (tile % across) * COLUMNS + pixel % COLUMNS
    return view.to(tl.int64), row, column, (row < height) & (column < width)


@triton.jit
def lanes_of(ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr):
    """Which of its pixel's lanes an element is, [E]."""
    return tl.arange(0, ROWS * COLUMNS * LANES) % LANES


@triton.jit
def outputs(height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where the tile's pixels lie in [B, H, W], and which of them exist: [P], one element a pixel."""
    view, row, column, exists = tile_pixels(height, width, ROWS, COLUMNS, 1)
    return (view * height + row) * width + column, exists


@triton.jit
def fold(x, PIXELS: tl.constexpr, LANES: tl.constexpr):
    """The sum of a pixel's lanes, [E] to [P]."""
    return tl.sum(tl.reshape(x, (PIXELS, LANES)), axis=1)


@triton.jit
def tile_rays(rays, view, row, column, VECTORS: tl.constexpr):
    """Origin and direction [E] of a tile's rays, float64; VECTORS is 4 for a common source, 6 otherwise."""
    at = rays + view * (VECTORS * 3)
    r = row.to(tl.float64)
    c = column.to(tl.float64)
    dx = tl.load(at + 3) + c * tl.load(at + 6) + r * tl.load(at + 9)
    dy = tl.load(at + 4) + c * tl.load(at + 7) + r * tl.load(at + 10)
    dz = tl.load(at + 5) + c * tl.load(at + 8) + r * tl.load(at + 11)
    if VECTORS == 6:
        ox = tl.load(at) + c * tl.load(at + 12) + r * tl.load(at + 15)
        oy = tl.load(at + 1) + c * tl.load(at + 13) + r * tl.load(at + 16)
        oz = tl.load(at + 2) + c * tl.load(at + 14) + r * tl.load(at + 17)
    else:
        nothing = c * 0.0
        ox = tl.load(at) + nothing
        oy = tl.load(at + 1) + nothing
        oz = tl.load(at + 2) + nothing
    return ox, oy, oz, dx, dy, dz


@triton.jit
def is_flat(d):
    """Whether a ray does not move along this axis."""
    return tl.abs(d) < _FLAT


@triton.jit
def _clip_axis(o, d, size, t0, t1):
    flat = is_flat(d)
    inverse = 1.0 / tl.where(flat, 1.0, d).to(tl.float32)
    # the difference in float64: its relative error is then that of float32 even where o is far away
    a = (-1.0 - o).to(tl.float32) * inverse
    b = (size - o).to(tl.float32) * inverse
    inside = (o >= -1.0) & (o <= size)
    t0 = tl.maximum(t0, tl.where(flat, tl.where(inside, 0.0, 2.0), tl.minimum(a, b)))
    t1 = tl.minimum(t1, tl.where(flat, 1.0, tl.maximum(a, b)))
    return t0, t1


@triton.jit
def clip(ox, oy, oz, dx, dy, dz, nx, ny, nz):
    """Range of t within [0, 1] that contains all of [-1, size] along every axis; empty (1, 0) for a miss. float64."""
    t0 = tl.zeros(ox.shape, tl.float32)
    t1 = t0 + 1.0
    t0, t1 = _clip_axis(ox, dx, nx, t0, t1)
    t0, t1 = _clip_axis(oy, dy, ny, t0, t1)
    t0, t1 = _clip_axis(oz, dz, nz, t0, t1)
    t0 = tl.maximum(t0 - _MARGIN, 0.0)
    t1 = tl.minimum(t1 + _MARGIN, 1.0)
    hit = t0 < t1
    return tl.where(hit, t0, 1.0).to(tl.float64), tl.where(hit, t1, 0.0).to(tl.float64)


@triton.jit
def fixed(x):
    """float64 voxels to int64 in units of 2^-32 voxel."""
    return tl.floor(x * _ONE + 0.5).to(tl.int64)


@triton.jit
def cell_of(position):
    """The voxel index below a position."""
    return (position >> 32).to(tl.int32)


@triton.jit
def fraction_of(position):
    """The part of a position above its voxel index, in [0, 1], float32."""
    return position.to(tl.uint32).to(tl.float32) * _ULP


@triton.jit
def offset_of(ix, iy, iz, nx, ny, WIDE: tl.constexpr):
    """Where a voxel lies in the volume; int64 where 2^31 voxels or more ask for it."""
    if WIDE:
        return (iz.to(tl.int64) * ny + iy) * nx + ix
    else:
        return (iz * ny + iy) * nx + ix


@triton.jit
def within(i, size):
    """Whether an index exists: one comparison, since a negative one is large as an unsigned number."""
    return i.to(tl.uint32) < tl.cast(size, tl.uint32)


@triton.jit
def _brick(low, limit, BITS: tl.constexpr):
    return tl.minimum(tl.maximum(low >> BITS, -1), limit - 1) + 1


@triton.jit
def windows_busy(table, ax, ay, az, bx, by, bz, nx, ny, nz, table_x, table_y, table_z, BITS: tl.constexpr):
    """Whether the cells between two cells ``a`` and ``b`` (inclusive, with their upper neighbours) may hold anything.

    ``table`` tells of the bricks b and b + 1 along each axis, entry b + 1 (``cuda.occupancy``). A window of up to a brick's
    length touches no others; a longer one is taken to be busy.
    """
    lx = tl.minimum(ax, bx)
    ly = tl.minimum(ay, by)
    lz = tl.minimum(az, bz)
    far = tl.maximum(tl.maximum(tl.abs(bx - ax), tl.abs(by - ay)), tl.abs(bz - az))
    kx = _brick(lx, (nx + (1 << BITS) - 1) >> BITS, BITS)
    ky = _brick(ly, (ny + (1 << BITS) - 1) >> BITS, BITS)
    kz = _brick(lz, (nz + (1 << BITS) - 1) >> BITS, BITS)
    found = tl.load(table + kx * table_x + ky * table_y + kz * table_z).to(tl.int32)
    return (found != 0) | (far >= (1 << BITS))


@triton.jit
def busy_runs(busy, PIXELS: tl.constexpr, LANES: tl.constexpr):
    """One number whose bit r says whether lane r of any pixel is busy. Each lane looks at one run for all the others."""
    bits = tl.where(busy, 1 << lanes_of(PIXELS, 1, LANES), 0)
    return tl.sum(tl.max(tl.reshape(bits, (PIXELS, LANES)), axis=0), axis=0)


@triton.jit
def voxel(volume, labels, mask, HAS_VOLUME: tl.constexpr, HAS_LABELS: tl.constexpr):
    """The value that a pointer shows (1 where there is no volume, 0 outside) and its label (0 outside)."""
    if HAS_VOLUME:
        value = tl.load(volume, mask=mask, other=0).to(tl.float32)
    else:
        value = tl.where(mask, 1.0, 0.0)
    if HAS_LABELS:
        label = tl.load(labels, mask=mask, other=0).to(tl.int32)
    else:
        label = 0
    return value, label


@triton.jit
def add_label(s0, s1, s2, s3, s4, s5, s6, s7, label, value):
    """Adds values to the sums of their labels 0 .. 7."""
    s0 += tl.where(label == 0, value, 0.0)
    s1 += tl.where(label == 1, value, 0.0)
    s2 += tl.where(label == 2, value, 0.0)
    s3 += tl.where(label == 3, value, 0.0)
    s4 += tl.where(label == 4, value, 0.0)
    s5 += tl.where(label == 5, value, 0.0)
    s6 += tl.where(label == 6, value, 0.0)
    s7 += tl.where(label == 7, value, 0.0)
    return s0, s1, s2, s3, s4, s5, s6, s7


@triton.jit
def store_label(out, channel, channels, height, width, sum_, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr):
    """Writes a tile of one channel of [B, C, H, W]."""
    view, row, column, exists = tile_pixels(height, width, ROWS, COLUMNS, 1)
    index = row * 0 + channel
    at = ((view * channels + index) * height + row) * width + column
    tl.store(out + at, fold(sum_, ROWS * COLUMNS, LANES), mask=exists & (index < channels))


@triton.jit
def deposit(place, value, mask, FIXED: tl.constexpr):
    """Adds values to voxels that other rays add to as well; as integers where the order must not matter."""
    if FIXED:
        tl.atomic_add(place, (value * FIXED_POINT).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(place, value, mask=mask, sem="relaxed")


@triton.jit
def where_given(count, w, a, b, c, d, e, f, SLOPES: tl.constexpr):
    """The count of rays that have anything to give away, zero for the others: masked pixels cost nothing."""
    given = w != 0.0
    if SLOPES:
        given = given | (a != 0.0) | (b != 0.0) | (c != 0.0) | (d != 0.0) | (e != 0.0) | (f != 0.0)
    return tl.where(given, count, 0)


@triton.jit
def store_six(slopes, at, mask, sx, sy, sz, tx, ty, tz, PIXELS: tl.constexpr, LANES: tl.constexpr):
    """Writes the six slopes of a tile's pixels."""
    tl.store(slopes + at * 6, fold(sx, PIXELS, LANES), mask=mask)
    tl.store(slopes + at * 6 + 1, fold(sy, PIXELS, LANES), mask=mask)
    tl.store(slopes + at * 6 + 2, fold(sz, PIXELS, LANES), mask=mask)
    tl.store(slopes + at * 6 + 3, fold(tx, PIXELS, LANES), mask=mask)
    tl.store(slopes + at * 6 + 4, fold(ty, PIXELS, LANES), mask=mask)
    tl.store(slopes + at * 6 + 5, fold(tz, PIXELS, LANES), mask=mask)


@triton.jit
def load_six(slopes, at, mask):
    """A pixel's six slope weights (or vectors), float32."""
    sx = tl.load(slopes + at * 6, mask=mask, other=0.0)
    sy = tl.load(slopes + at * 6 + 1, mask=mask, other=0.0)
    sz = tl.load(slopes + at * 6 + 2, mask=mask, other=0.0)
    tx = tl.load(slopes + at * 6 + 3, mask=mask, other=0.0)
    ty = tl.load(slopes + at * 6 + 4, mask=mask, other=0.0)
    tz = tl.load(slopes + at * 6 + 5, mask=mask, other=0.0)
    return sx, sy, sz, tx, ty, tz
