"""Where in a wide box the model may be: every place across the beam at once, by correlation, for a grid of turns and depths.

A shift across the beam moves the picture of a model, to first order, without changing it. One rendering of a turn at a depth
therefore answers for all such shifts: its gradients, brought to one strength everywhere (else a wire outweighs a spine), are
correlated with those of the exposure by fast Fourier transforms. With ``f`` and ``m`` the locally normalised gradients and ``h``
the valid pixels,

    score(s) = <f, m(. - s)> / sqrt( <f, f> <h, m(. - s)^2> ),

the root of the share of the exposure's gradient energy that one gain explains: a small overlap cannot score high. What a shift
does change, the direction from which the model is seen, is undone by turning the model about the source by as much as the ray
through its centre turns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from raylign.data import XRay
from raylign.projection import cpu
from raylign.registration.match_kernels import FAST
from raylign.registration.matching import box_sum, clear_unanswered
from raylign.registration.problem import Problem
from raylign.registration.pyramid import (
    Array32,
    Array64,
    Footprint,
    ImageLevel,
    ModelLevel,
    box_corners,
    content,
    image_level,
    model_pyramid,
)
from raylign.registration.rotations import carried, matrix_of, rays_into
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import LocateConfig
from raylign.registration.whole import whole

_STEP = 1.5  # voxels between samples on a ray


@dataclass(frozen=True, eq=False)
class Place:
    """A hypothesis: a pose, how well it scores (0 to 1), and under which reading of the model's faces."""

    matrix: Array64
    score: float
    reading: int


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def to_one_strength(gradient, has, radius, floor, energy):  # type: ignore[no-untyped-def]
    """Brings gradients [2, H, W] to one strength, in place; ``energy`` of zero: their own mean is the measure."""
    h, w = has.shape
    squares = np.empty((h, w), np.float32)
    total = 0.0
    count = 0.0
    for r in range(h):
        for c in range(w):
            squares[r, c] = gradient[0, r, c] ** 2 + gradient[1, r, c] ** 2
            if squares[r, c] > 0.0:
                total += squares[r, c]
                count += 1.0
    if count == 0.0:
        return
    mean = energy if energy > 0.0 else total / count
    scratch = np.empty((h, w), np.float32)
    sums = np.empty((h, w), np.float32)
    number = np.empty((h, w), np.float32)
    box_sum(squares, radius, scratch, sums)
    box_sum(has, radius, scratch, number)
    for r in range(h):
        for c in range(w):
            if has[r, c] > 0.0:
                share = np.float32(1.0 / np.sqrt(max(sums[r, c], np.float32(0.0)) / number[r, c] + floor * mean))
                gradient[0, r, c] *= share
                gradient[1, r, c] *= share


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def into_template(integrals, lengths, valid, radius, floor, top, left, out):  # type: ignore[no-untyped-def]
    """Normalised gradients of a rendering and their squares into ``out`` [3, ., .] from row ``top``, column ``left``."""
    h, w = integrals.shape
    gradient = np.zeros((2, h, w), np.float32)
    has = np.zeros((h, w), np.float32)
    for r in range(1, h - 1):
        for c in range(1, w - 1):
            if valid[r, c] and valid[r, c - 1] and valid[r, c + 1] and valid[r - 1, c] and valid[r + 1, c]:
                has[r, c] = 1.0
                half = np.float32(0.5) * lengths[r, c]
                gradient[0, r, c] = half * (integrals[r, c + 1] - integrals[r, c - 1])
                gradient[1, r, c] = half * (integrals[r + 1, c] - integrals[r - 1, c])
    to_one_strength(gradient, has, radius, floor, 0.0)
    for r in range(h):
        for c in range(w):
            x = gradient[0, r, c]
            y = gradient[1, r, c]
            out[0, top + r, left + c] = x
            out[1, top + r, left + c] = y
            out[2, top + r, left + c] = x * x + y * y


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _peak(products, energies, rows, columns, energy):  # type: ignore[no-untyped-def]
    """Highest score among the first ``rows`` x ``columns`` shifts, and where."""
    most = np.float32(0.0)
    for y in range(rows):
        for x in range(columns):
            most = max(most, energies[y, x])
    best = np.float32(0.0)
    at_y = 0
    at_x = 0
    for y in range(rows):
        for x in range(columns):
            if products[y, x] > 0.0 and energies[y, x] > 1e-3 * most:
                value = products[y, x] / np.sqrt(energies[y, x] * energy)
                if value > best:
                    best = value
                    at_y = y
                    at_x = x
    return best, at_y, at_x


@dataclass(frozen=True, eq=False)
class CoarseField:
    """An exposure as the search sees it: coarse, its gradients normalised, with the vectors of its pixel grid."""

    image: ImageLevel
    features: Array32  # [3, H, W]: normalised gradients, validity
    energy: float
    source: Array64
    normal: Array64
    origin: Array64
    across: Array64  # [2, 3]: row step, column step
    inverse: Array64  # [3, 3]: of the columns row step, column step, origin minus source

    def ray(self, pixel: Array64) -> Array64:
        """Vector from the source to a pixel (row, column)."""
        return np.asarray(self.origin + pixel @ self.across - self.source)

    def point(self, pixel: Array64, depth: float) -> Array64:
        """The point at a depth (mm along the detector's normal) on the ray of a pixel."""
        ray = self.ray(pixel)
        return np.asarray(self.source + ray * (depth / (ray @ self.normal)))

    def pixel(self, points: Array64) -> Array64:
        """(row, column) of points [N, 3], world mm."""
        scaled = (points - self.source) @ self.inverse.T
        return np.asarray(scaled[:, :2] / scaled[:, 2:])


def coarse_field(xray: XRay, factor: int, config: LocateConfig) -> CoarseField:
    h, w = xray.view.shape
    image = image_level(xray, Footprint(slice(0, h), slice(0, w), max(h, w), min(h, w), 0.0), factor)
    gradient = image.gradient.copy()
    inner = image.valid.astype(np.float32)
    to_one_strength(gradient, inner, config.window, np.float32(config.floor), image.energy)
    view = image.view
    source, normal, origin = (np.asarray(v.detach().numpy()) for v in (view.source, view.normal, view.origin))
    across = np.stack([np.asarray(v.detach().numpy()) for v in (view.row_step, view.column_step)])
    features = np.concatenate([gradient, inner[None]])
    energy = float((gradient.astype(np.float64) ** 2).sum())
    inverse = np.linalg.inv(np.stack([*across, origin - source], 1))
    return CoarseField(image, features, max(energy, 1e-12), source, normal, origin, across, inverse)


@dataclass(frozen=True, eq=False)
class _Depth:
    """All places at one depth: where the middle of the shifts puts the model's centre, and how far they reach either way."""

    depth: float
    centre: Array64  # (row, column) of the image
    reach: tuple[int, int]
    size: tuple[int, int]  # of the transforms
    spectrum: NDArray[np.complex64]
    lengths: Array32  # mm from the source to every pixel of the image widened by the reach


def _depths(field: CoarseField, bounds: Bounds, ratio: float, extents: tuple[float, float]) -> list[_Depth]:
    """Depths of a box; ``extents``: half the model's largest and half its smallest, mm."""
    from scipy import fft

    h, w = field.image.shape
    sid = float(field.image.view.sid)
    at = float((bounds.centre - field.source) @ field.normal)
    if at + bounds.depth <= 0:  # all of the box lies behind the source
        return []
    half, thick = extents
    nearest = max(thick, 0.2 * sid)
    low = min(max(at - bounds.depth, min(nearest, at) if at > 0 else nearest), sid)
    high = max(min(at + bounds.depth, sid), low)
    count = max(1, math.ceil(math.log(high / low) / math.log(ratio) - 1e-9))
    edges = np.exp(np.linspace(math.log(low), math.log(high), 2 * count + 1))
    pitch = np.linalg.norm(field.across, axis=1)
    found = []
    for depth in edges[1::2]:
        scale = sid / depth / pitch  # pixels a mm at the model
        # where the start's centre would be at this depth, and the box about it
        middle = bounds.centre + (depth - at) * field.normal
        centre = field.pixel(middle[None])[0]
        shape = np.array([h, w])
        least = np.maximum(centre - bounds.mm * scale, -half * scale)
        most = np.minimum(centre + bounds.mm * scale, shape - 1 + half * scale)
        if (most < least).any():  # the box at this depth lies outside the image
            continue
        reach = np.ceil((most - least) / 2).astype(int)
        size = (fft.next_fast_len(int(h + 2 * reach[0]), True), fft.next_fast_len(int(w + 2 * reach[1]), True))
        spectrum = np.conj(fft.rfft2(field.features, size))
        rows, columns = (np.arange(n + 2 * r) - r for n, r in zip((h, w), reach, strict=True))
        rays = field.origin - field.source + rows[:, None, None] * field.across[0] + columns[None, :, None] * field.across[1]
        lengths = np.linalg.norm(rays, axis=-1).astype(np.float32)
        found.append(_Depth(float(depth), (least + most) / 2, (int(reach[0]), int(reach[1])), size, spectrum, lengths))
    return found


def turns(degrees: float, step: float, axes: Array64) -> list[Array64]:
    """Rotations about camera axes, a grid over +-degrees about each, neighbours at most ``step`` apart; none for no degrees."""
    count = max(1, math.ceil(2 * degrees / step - 1e-9))
    angles = np.radians((np.arange(count) + 0.5) / count * 2 - 1) * degrees
    return list(Rotation.from_rotvec(np.array(list(itertools.product(angles, angles, angles))) @ axes.T).as_matrix())


@dataclass(frozen=True, eq=False)
class _Peak:
    """The best shift (rows, columns) of one turn at one depth under one reading; its pose is made where it is wanted."""

    score: float
    reading: int
    matrix: Array64
    at: _Depth
    shift: Array64


@njit(cache=True, nogil=True)
def _placed(turned, centre, depth, grid, corners, reach, shape):  # type: ignore[no-untyped-def]
    """A turned model on the ray of a pixel at a depth: its pose [4, 4], and the pixels that it covers from the first to the last.

    Pixels count from ``reach`` before the image; some around the model are among them.
    """
    source, origin, across, normal, inverse = grid
    matrix, ray = np.eye(4), np.empty(3)
    for i in range(3):
        ray[i] = origin[i] + centre[0] * across[0, i] + centre[1] * across[1, i] - source[i]
    share = depth / (ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2])
    for i in range(3):
        matrix[i, 3] = source[i] + share * ray[i]
        for j in range(3):
            matrix[i, j] = turned[i, j]
            matrix[i, 3] -= turned[i, j] * corners[:, j].mean()
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for n in range(len(corners)):
        away = carried(matrix, corners[n]) - source
        scale = inverse[2, 0] * away[0] + inverse[2, 1] * away[1] + inverse[2, 2] * away[2]
        for k in range(2):
            pixel = (inverse[k, 0] * away[0] + inverse[k, 1] * away[1] + inverse[k, 2] * away[2]) / scale
            low[k], high[k] = min(low[k], pixel), max(high[k], pixel)
    first, last = np.empty(2, np.int64), np.empty(2, np.int64)
    for k in range(2):
        limit = shape[k] + 2 * reach[k]
        first[k] = min(max(int(np.floor(low[k])) - 2 + reach[k], 0), limit)
        last[k] = min(max(int(np.ceil(high[k])) + 3 + reach[k], 0), limit)
    return matrix, first, last


def _scores(
    field: CoarseField, readings: Sequence[ModelLevel], turned: Array64, at: _Depth, config: LocateConfig, corners: Array64
) -> list[_Peak]:
    """The best shift of one turn at one depth, for each reading; the last one's model is rendered for all."""
    from scipy import fft

    model = readings[-1]
    grid = (field.source, field.origin, field.across, field.normal, field.inverse)
    matrix, first, last = _placed(turned, at.centre, at.depth, grid, corners, at.reach, field.image.shape)
    if last[0] - first[0] < 4 or last[1] - first[1] < 4:
        return []
    # the part of the widened pixel grid that the model covers
    lengths = at.lengths[first[0] : last[0], first[1] : last[1]]
    world = np.empty((3, 3))
    world[0], world[1], world[2] = field.ray(first - at.reach), field.across[1], field.across[0]

    everywhere = np.ones(lengths.shape, np.bool_)
    longest = max(float(lengths[y, x]) for y in (0, -1) for x in (0, -1))  # of a flat detector's rays
    samples = np.array([max(1, math.ceil(longest / (_STEP * model.spacing)))])
    rays, _ = rays_into(model.affine, matrix, field.source, world)
    integrals = cpu.forward(model.grid, rays[None], lengths.shape, samples, everywhere[None], threaded=False)[0][0]
    peaks: list[_Peak] = []
    before = everywhere
    for number, reading in enumerate(readings):
        valid = everywhere.copy()
        clear_unanswered(reading, rays if reading is model else rays_into(reading.affine, matrix, field.source, world)[0], valid)
        if number and np.array_equal(valid, before):  # this reading sees what the last one did
            peaks += [replace(peak, reading=number) for peak in peaks[-1:]]
            continue
        before = valid
        template = np.zeros((3, *at.size), np.float32)
        into_template(integrals, lengths, valid, config.window, np.float32(config.floor), int(first[0]), int(first[1]), template)
        spectrum = fft.rfft2(template)
        products = fft.irfft2(
            np.stack([at.spectrum[0] * spectrum[0] + at.spectrum[1] * spectrum[1], at.spectrum[2] * spectrum[2]]), at.size
        )
        rows, columns = 2 * at.reach[0] + 1, 2 * at.reach[1] + 1
        score, y, x = _peak(products[0], products[1], rows, columns, np.float32(field.energy))
        if score > 0:
            shift = np.array([at.reach[0] - y, at.reach[1] - x], float)
            peaks.append(_Peak(float(score), number, matrix, at, shift))
    return peaks


def _shifted(field: CoarseField, matrix: Array64, at: _Depth, shift: Array64, middle: Array64) -> Array64:
    """A pose moved across the image by ``shift`` (rows, columns) so that its picture stays the same."""
    a, b = field.ray(at.centre), field.ray(at.centre + shift)
    axis = np.cross(a, b)
    sine = float(np.linalg.norm(axis))
    turn = np.eye(3)
    if sine > 0:
        turn = matrix_of(axis / sine * math.atan2(sine, float(a @ b)))
    moved = matrix.copy()
    moved[:3, :3] = turn @ matrix[:3, :3]
    moved[:3, 3] = field.point(at.centre + shift, at.depth) - moved[:3, :3] @ middle
    return moved


def locate(problem: Problem, bounds: Bounds, config: LocateConfig, keep: int, *, both: bool) -> tuple[list[Place], int]:
    """The most promising places of a model within bounds, on the first exposure, best first, no two alike; and how many
    renderings they took. None where the exposure shows nothing, or nothing that the box lets the model reach.

    Parameters
    ----------
    keep: places of each reading at most.
    both: whether to read the model as one that ends at its faces too (reading 1), beside the rule of ``pyramid.cut_faces`` (0).
    """
    xray, volume = problem.xrays[0], problem.model
    box = content(volume)
    corners = box_corners(volume, *box)
    half = float(np.linalg.norm(corners[0] - corners[-1])) / 2
    middle = corners.mean(0)
    extent = float(np.sort(np.linalg.norm(corners[[1, 2, 4]] - corners[0], axis=1))[1])
    view = xray.view
    sid, pitch = float(view.sid), max(view.pixel_spacing)
    away = (bounds.centre - view.source.detach().numpy()) @ view.normal.detach().numpy()
    at = float(np.clip(away, 0.3 * sid, sid))
    covered = min(extent * sid / at / pitch, *view.shape)
    factor = max(1, round(max(covered / config.pixels, max(view.shape) / 128)))
    field = coarse_field(xray, factor, config)
    if field.energy <= 1e-12:
        return [], 0
    # a box along the beam of another exposure lies across this one's
    aslant = abs(float(bounds.axes[:, 2] @ field.normal)) < 0.99
    reach = (max(bounds.mm, bounds.depth),) * 2 if aslant else (bounds.mm, bounds.depth)
    thick = float(np.linalg.norm(corners[[1, 2, 4]] - corners[0], axis=1).min()) / 2
    depths = _depths(field, replace(bounds, mm=reach[0], depth=reach[1]), config.ratio, (half, thick))
    level = model_pyramid(volume, box, [1.5 * pitch * factor * at / sid])[0]
    levels = [level, whole(level, volume)] if both else [level]
    axes = camera_axes(view)
    rotations = [r @ bounds.start[:3, :3] for r in turns(bounds.degrees, config.degrees, axes)]
    jobs = list(itertools.product(rotations, depths))
    pool = cpu.pool(cpu.threads())
    found = list(pool.map(lambda job: _scores(field, levels, job[0], job[1], config, corners), jobs))
    peaks = sorted((p for ps in found for p in ps), key=lambda p: -p.score)
    kept: list[Place] = []
    radius = levels[0].radius
    # a place is turned by as much as its ray; the refinement takes that back where the box is narrower
    slack = math.degrees(math.atan2(reach[0], at)) / 1.5
    loose = replace(bounds, degrees=bounds.degrees + slack)
    for reading in range(len(levels)):
        mine: list[Place] = []
        turned, centres = np.zeros((keep, 3, 3)), np.zeros((keep, 3))
        for peak in (p for p in peaks if p.reading == reading):
            if len(mine) == keep:
                break
            place = Place(_shifted(field, peak.matrix, peak.at, peak.shift, middle), peak.score, reading)
            if not loose.hold(place.matrix):
                continue
            turn, number = place.matrix[:3, :3], len(mine)
            centre = turn @ middle + place.matrix[:3, 3]
            # how far all others put the model, as ``search.separation`` counts it
            angles = np.arccos(np.clip(((turned[:number] * turn).sum((1, 2)) - 1) / 2, -1, 1))
            if (np.linalg.norm(centres[:number] - centre, axis=1) + radius * angles > 0.15 * half).all():
                turned[number], centres[number] = turn, centre
                mine.append(place)
        kept += mine
    return sorted(kept, key=lambda p: -p.score), len(jobs)
