"""Mottling of tissue and noise of the scan, from lattices of random numbers fixed in the anatomy: no voxel size changes them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylign.projection.threads import run_chunks
from raylign.simulation.phantoms.field import Array, Canvas, Union
from raylign.simulation.phantoms.thorax_names import FAT, NUMBER

_NODES = 64  # a lattice repeats after so many nodes: 166 mm at the finest pitch, more than any structure whose texture is seen
_COARSE, _FINE, _LUNG = 7.0, 2.6, 9.0  # pitch of the lattices, mm
LOW = -512.0  # mm, below every coordinate


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _steps(axis: NDArray[np.float32], pitch: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Node below each coordinate, and how far beyond it."""
    n = len(axis)
    low, part = np.empty(n, np.int64), np.empty(n, np.float32)
    for i in range(n):
        t = (axis[i] + 512.0) / pitch
        low[i] = int(t)
        part[i] = np.float32(t - low[i])
    return low, part


@njit(cache=True, nogil=True, error_model="numpy")
def _rows(
    lattice: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32], pitch: float, j: int, k: int
) -> NDArray[np.float32]:
    """The lattice's values along x [nodes] at one y and z."""
    n = lattice.shape[0]
    ty, tz = (y[j] + 512.0) / pitch, (z[k] + 512.0) / pitch
    b, c = int(ty), int(tz)
    v, w = np.float32(ty - b), np.float32(tz - c)
    one = np.float32(1)
    b0, b1, c0, c1 = b % n, (b + 1) % n, c % n, (c + 1) % n
    low = lattice[c0, b0] * (one - v) + lattice[c0, b1] * v
    high = lattice[c1, b0] * (one - v) + lattice[c1, b1] * v
    return low * (one - w) + high * w


@njit(cache=True, nogil=True, error_model="numpy")
def _lattice_values(
    out: NDArray[np.float32], axes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    lattice: NDArray[np.float32], pitch: float, first: int, last: int,
) -> None:  # fmt: skip
    x, y, z = axes
    low, part = _steps(x, pitch)
    n, one = lattice.shape[0], np.float32(1)
    for k in range(first, last):
        for j in range(len(y)):
            row = _rows(lattice, y, z, pitch, j, k)
            for i in range(len(x)):
                out[k, j, i] = row[low[i] % n] * (one - part[i]) + row[(low[i] + 1) % n] * part[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _mottle(
    hu: NDArray[np.float32], labels: NDArray[np.uint8], bone: NDArray[np.float32],
    axes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    coarse: NDArray[np.float32], fine: NDArray[np.float32], kinds: tuple[int, int, float], first: int, last: int,
) -> None:  # fmt: skip
    x, y, z = axes
    ca, cp = _steps(x, 7.0)
    fa, fp = _steps(x, 2.6)
    n, one = coarse.shape[0], np.float32(1)
    muscle, cartilage, calcified = kinds
    for k in range(first, last):
        for j in range(len(y)):
            cr, fr = _rows(coarse, y, z, 7.0, j, k), _rows(fine, y, z, 2.6, j, k)
            for i in range(len(x)):
                if hu[k, j, i] <= -300:
                    continue
                c = cr[ca[i] % n] * (one - cp[i]) + cr[(ca[i] + 1) % n] * cp[i]
                f = fr[fa[i] % n] * (one - fp[i]) + fr[(fa[i] + 1) % n] * fp[i]
                if bone[k, j, i] < -1.5:
                    hu[k, j, i] += np.float32(55) * f + np.float32(25) * c
                    continue
                hu[k, j, i] += np.float32(9) * c + np.float32(4) * f
                if labels[k, j, i] == muscle:
                    streak = min(max(c + np.float32(0.6) * f - np.float32(1.3), np.float32(0)), np.float32(0.8))
                    hu[k, j, i] += streak * (np.float32(-98) - hu[k, j, i])
                elif labels[k, j, i] == cartilage:
                    flake = min(
                        max((f + np.float32(0.5) * c + np.float32(calcified)) * np.float32(2), np.float32(0)), np.float32(1)
                    )
                    hu[k, j, i] += flake * np.float32(250)


def lattice(rng: np.random.Generator) -> Array:
    """Random numbers of unit variance at the nodes."""
    return rng.standard_normal((_NODES,) * 3, dtype=np.float32)


def lung_mottle(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Smooth noise [D, H, W] for the lungs."""
    nodes, out = lattice(rng), np.empty(canvas.grid.shape, np.float32)
    run_chunks(lambda a, b: _lattice_values(out, canvas.grid.axes, nodes, _LUNG, a, b), len(canvas.grid.z), 8)
    return out


def mottle(canvas: Canvas, bones: Union, calcified: float, rng: np.random.Generator) -> None:
    """Fat in muscle, trabeculae in bone, flakes of calcium in cartilage (``calcified``: their share), little in organs."""
    assert FAT == -98.0 and (_COARSE, _FINE) == (7.0, 2.6)  # the kernel's constants
    coarse, fine = lattice(rng), lattice(rng)
    from scipy.special import ndtri

    # the flakes' pattern has a standard deviation of about 0.6 between nodes
    threshold = 0.6 * float(ndtri(min(max(calcified, 1e-3), 0.9))) - 0.1
    kinds = NUMBER["muscle"], NUMBER["costal_cartilages"], threshold

    def slab(first: int, last: int) -> None:
        _mottle(canvas.hu, canvas.labels, bones.distance, canvas.grid.axes, coarse, fine, kinds, first, last)

    run_chunks(slab, len(canvas.grid.z), 8)


def noise(hu: Array, sigma: float, rng: np.random.Generator) -> None:
    """Scan noise, correlated over neighbouring voxels of a slice as a reconstruction filter leaves it."""
    if sigma > 0:
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        white[:, :, 1:] += np.float32(0.5) * white[:, :, :-1]
        white[:, 1:] += np.float32(0.5) * white[:, :-1]
        white *= np.float32(sigma / 1.25)
        hu += white
    np.clip(hu, -1024, 3071, out=hu)
