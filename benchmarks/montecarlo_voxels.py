"""A cone beam through a scan of several materials, by the photons of ``montecarlo``: scatter at a flat detector, energy given.

Photons fly from voxel to voxel by Woodcock's method. Every collision sends its expected contribution to random points of the
detector (forced detection), so that a few hundred thousand photons draw a smooth picture.
"""

# ruff: noqa: NPY002  (compiled code has no other generator)

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from montecarlo import _HC, _LOW, _MC2, KEV, _at, _at_x, _compton, _rayleigh, absorbed, medium, response, turned
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Body:
    """A scan in a frame of its own: voxel (i, j, k) fills ``[k, k+1] x [j, j+1] x [i, i+1]`` times ``spacing`` (x, y, z), mm.

    ``density`` [D, H, W] in g/cm^3; ``material`` [D, H, W] an index into ``names``.
    """

    density: NDArray[np.float32]
    material: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Detector:
    """In the body's frame, mm: the focal spot, the corner of the detector, its two edges; ``cells`` (rows, columns) to score in.

    ``lit`` (row, column fractions: top, bottom, left, right) is the part of the detector that the beam covers.
    """

    source: NDArray[np.float64]
    corner: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    cells: tuple[int, int]
    lit: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)


@numba.njit(cache=True)
def _span(p, u, size):  # pragma: no cover
    """Distances at which the ray from p along u enters and leaves the box; (1, 0) if it misses."""
    near, far = 0.0, 1e9
    for a in range(3):
        if abs(u[a]) < 1e-12:
            if p[a] < 0 or p[a] >= size[a]:
                return 1.0, 0.0
        else:
            t0, t1 = -p[a] / u[a], (size[a] - p[a]) / u[a]
            near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    return near, far


@numba.njit(cache=True)
def _depth(p, u, near, far, density, material, spacing, mu, step):  # pragma: no cover
    """Attenuation along the ray between two distances: samples at the middle of equal steps, nearest voxel."""
    n = max(int((far - near) / step) + 1, 1)
    h = (far - near) / n
    total = 0.0
    for i in range(n):
        t = near + (i + 0.5) * h
        x, y, z = int((p[0] + t * u[0]) / spacing[0]), int((p[1] + t * u[1]) / spacing[1]), int((p[2] + t * u[2]) / spacing[2])
        z, y, x = min(max(z, 0), density.shape[0] - 1), min(max(y, 0), density.shape[1] - 1), min(max(x, 0), density.shape[2] - 1)
        total += density[z, y, x] * mu[material[z, y, x]]
    return total * h


@numba.njit(cache=True)
def _voxels(seed, count, points, kevs, cdf_e, geometry, lit, density, material, spacing, tables, depth):  # pragma: no cover
    np.random.seed(seed)
    mus, s, f2, cdf, norm_i, norm_c, top = tables
    source, corner, across, down = geometry
    rows, columns = points
    scored = np.zeros((rows, columns))
    deposit = np.zeros(density.shape, dtype=np.float32)
    size = np.array([density.shape[2] * spacing[0], density.shape[1] * spacing[1], density.shape[0] * spacing[2]])
    normal = np.cross(across, down)
    area = math.sqrt((normal * normal).sum())
    normal = normal / area
    height = abs(((corner - source) * normal).sum())
    step = spacing.min()
    materials = mus.shape[0]
    mu = np.zeros(materials)
    p, u = np.zeros(3), np.zeros(3)
    to = np.zeros(3)
    for _ in range(count):
        a, b = lit[2] + (lit[3] - lit[2]) * np.random.random(), lit[0] + (lit[1] - lit[0]) * np.random.random()
        u[:] = corner + a * across + b * down - source
        length = math.sqrt((u * u).sum())
        w = (height / length) ** 3
        u /= length
        kev = kevs[np.searchsorted(cdf_e, np.random.random())]
        near, far = _span(source, u, size)
        if near >= far:
            continue
        p[:] = source + near * u
        while True:
            majorant = _at(top, kev)
            inside = True
            while True:
                p += -math.log(1 - np.random.random()) / majorant * u
                if (p < 0).any() or (p >= size).any():
                    inside = False
                    break
                x, y, z = int(p[0] / spacing[0]), int(p[1] / spacing[1]), int(p[2] / spacing[2])
                m = material[z, y, x]
                ph, inc, co = _at(mus[m, 0], kev), _at(mus[m, 1], kev), _at(mus[m, 2], kev)
                if np.random.random() * majorant < density[z, y, x] * (ph + inc + co):
                    break
            if not inside:
                break
            total = ph + inc + co
            deposit[z, y, x] += w * kev * ph / total
            w *= (inc + co) / total
            if w < 0.05:
                if np.random.random() > 0.25:
                    break
                w *= 4
            compton = np.random.random() * (inc + co) < inc
            # forced detection at one random point of the detector
            a, b = np.random.random(), np.random.random()
            to[:] = corner + a * across + b * down - p
            r = math.sqrt((to * to).sum())
            to /= r
            c = (u * to).sum()
            q = math.sqrt(max((1 - c) / 2, 0.0)) * kev / _HC
            if compton:
                k = 1 / (1 + kev / _MC2 * (1 - c))
                after = kev * k
                chance = k * k * (k + 1 / k - (1 - c * c)) / 2 * _at_x(s[m], q) / _at(norm_i[m], kev)
            else:
                after = kev
                chance = (1 + c * c) / 2 * _at_x(f2[m], q) / _at(norm_c[m], kev)
            if after > _LOW + 1:
                for i in range(materials):
                    mu[i] = _at(mus[i, 0], after) + _at(mus[i, 1], after) + _at(mus[i, 2], after)
                _, far = _span(p, to, size)
                cosine = abs((to * normal).sum())
                tau = _depth(p, to, 0.0, min(far, r), density, material, spacing, mu, step)
                scored[min(int(b * rows), rows - 1), min(int(a * columns), columns - 1)] += (
                    w * chance * area * cosine / (r * r) * math.exp(-tau) * absorbed(depth, after, cosine)
                )
            if compton:
                c = _compton(kev, s[m])
                after = kev / (1 + kev / _MC2 * (1 - c))
                deposit[z, y, x] += w * (kev - after)
                kev = after
            else:
                c = _rayleigh(kev, cdf[m])
            if kev < _LOW + 1:
                deposit[z, y, x] += w * kev
                break
            u[0], u[1], u[2] = turned(u[0], u[1], u[2], c)
    return scored, deposit


@numba.njit(cache=True)
def _primary(geometry, points, kevs, photons, density, material, spacing, mus, depth, fine):  # pragma: no cover
    """Primary signal, over that of the open beam, and mass, mm of water: every cell the mean of ``fine`` squared rays."""
    source, corner, across, down = geometry
    rows, columns = points
    out, mass = np.zeros((rows, columns)), np.zeros((rows, columns))
    size = np.array([density.shape[2] * spacing[0], density.shape[1] * spacing[1], density.shape[0] * spacing[2]])
    materials = mus.shape[0]
    length = np.zeros(materials)
    step = spacing.min() / 2
    unit = 0.0
    for e in range(kevs.shape[0]):
        unit += photons[e] * absorbed(depth, kevs[e], 1.0)
    for i in range(rows * fine):
        for j in range(columns * fine):
            u = corner + (j + 0.5) / (columns * fine) * across + (i + 0.5) / (rows * fine) * down - source
            u /= math.sqrt((u * u).sum())
            near, far = _span(source, u, size)
            signal = 1.0
            if near < far:
                for m in range(materials):
                    one = np.zeros(materials)
                    one[m] = 1.0
                    length[m] = _depth(source, u, near, far, density, material, spacing, one, step)
                mass[i // fine, j // fine] += length.sum() / fine**2
                signal = 0.0
                for e in range(kevs.shape[0]):
                    tau = 0.0
                    for m in range(materials):
                        tau += length[m] * _at(mus[m, 0] + mus[m, 1] + mus[m, 2], kevs[e])
                    signal += photons[e] * absorbed(depth, kevs[e], 1.0) * math.exp(-tau)
                signal /= unit
            out[i // fine, j // fine] += signal / fine**2
    return out, mass


@dataclass(frozen=True, eq=False)
class Picture:
    """``primary``, ``scatter`` [rows, columns] over the open beam's signal; ``mass`` on a ray, mm of water; ``noise``: relative
    standard error of the scatter in one cell; ``deposit`` [D, H, W]: keV a photon sent out."""

    primary: NDArray[np.float64]
    scatter: NDArray[np.float64]
    mass: NDArray[np.float64]
    noise: float
    deposit: NDArray[np.float32]


def voxels(
    body: Body, detector: Detector, beam: tuple[NDArray, NDArray], count: int = 200_000, seed: int = 0, csi: float = 0.2
) -> Picture:
    """Expose a body: ``beam`` is (keV, photons of each). The scatter's noise is that between four parts of the run."""
    media = [medium(name) for name in body.names]
    mus = np.stack([np.stack([m.photo, m.incoherent, m.coherent]) for m in media])
    densest = np.array([body.density[body.material == i].max(initial=0) for i in range(len(media))], dtype=float)
    top = (mus.sum(1) * densest[:, None]).max(0)
    stacked = [np.stack([getattr(m, name) for m in media]) for name in ("s", "f2", "cdf", "norm_i", "norm_c")]
    geometry = tuple(np.asarray(v, float) for v in (detector.source, detector.corner, detector.across, detector.down))
    kevs, photons = (np.asarray(v, float) for v in beam)
    spacing, depth, density = np.asarray(body.spacing, float), response(csi), body.density.astype(np.float32)
    parts, deposit = [], np.zeros(density.shape, np.float32)
    for part in range(4):
        scored, given = _voxels(
            seed * 4 + part, count // 4, detector.cells, kevs, np.cumsum(photons / photons.sum()), geometry,
            np.asarray(detector.lit, float), density, body.material, spacing, (mus, *stacked, top), depth,
        )  # fmt: skip
        parts.append(scored)
        deposit += given
    rows, columns = detector.cells
    at = np.stack(np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"), -1)
    ray = geometry[1] + at[..., 1:] * geometry[2] + at[..., :1] * geometry[3] - geometry[0]
    normal = np.cross(geometry[2], geometry[3])
    cosine = np.abs(ray @ normal) / np.linalg.norm(normal) / np.linalg.norm(ray, axis=-1)
    tau = np.interp(kevs, KEV, depth)
    open_beam = cosine**3 * ((photons * kevs) @ (1 - np.exp(-tau[:, None, None] / cosine)).reshape(len(kevs), -1)).reshape(
        rows, columns
    )
    share = (detector.lit[1] - detector.lit[0]) * (detector.lit[3] - detector.lit[2])
    scale = rows * columns * share / (count // 4) / (open_beam / photons.sum())
    pictures = np.stack([p * scale for p in parts])
    scatter = pictures.mean(0)
    noise = float(np.sqrt(((pictures - scatter) ** 2).sum(0).mean() / 12) / scatter.mean())
    primary, mass = _primary(geometry, detector.cells, kevs, photons, density, body.material, spacing, mus, depth, 3)
    return Picture(primary, scatter, mass, noise, deposit / (count // 4 * 4))
