"""Mottling of the trunk's tissues from lattices of random numbers fixed in the anatomy, by label."""

from __future__ import annotations

import numpy as np
from numba import njit

from raylign.projection.threads import run_chunks
from raylign.simulation.phantoms.field import Canvas
from raylign.simulation.phantoms.trunk_names import BONES, FAT, MOTTLE, NUMBER

_NODES, _COARSE, _FINE = 64, 7.0, 2.6  # a lattice repeats after so many nodes; pitches, mm


def mottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fat between the fibres of muscle, contents of the bowel, trabeculae of bone; a little everywhere but in air."""
    table = np.zeros((256, 3), np.float32)
    table[:, :2] = 5.0, 3.0
    for name, row in MOTTLE.items():
        table[NUMBER[name]] = row
    for name in BONES:
        table[NUMBER[name]] = 22.0, 48.0, 0.0
    table[NUMBER["bowel_gas"]] = 0.0
    nodes = rng.standard_normal((2, _NODES, _NODES, _NODES), dtype=np.float32)
    axes = canvas.grid.axes
    run_chunks(lambda a, b: _mottle(canvas.hu, canvas.labels, axes, nodes, table, a, b), len(canvas.grid.z), 8)


@njit(cache=True, nogil=True, error_model="numpy")
def _row(lattice, y, z, pitch):  # type: ignore[no-untyped-def]
    """The lattice along x at one y and z."""
    n = lattice.shape[0]
    ty, tz = (y + 1024.0) / pitch, (z + 1024.0) / pitch
    b, c = int(ty), int(tz)
    v, w = np.float32(ty - b), np.float32(tz - c)
    one = np.float32(1)
    low = lattice[c % n, b % n] * (one - v) + lattice[c % n, (b + 1) % n] * v
    high = lattice[(c + 1) % n, b % n] * (one - v) + lattice[(c + 1) % n, (b + 1) % n] * v
    return low * (one - w) + high * w


@njit(cache=True, nogil=True, error_model="numpy")
def _mottle(hu, labels, axes, nodes, table, first, last):  # type: ignore[no-untyped-def]
    x, y, z = axes
    n, one = nodes.shape[1], np.float32(1)
    for k in range(first, last):
        for j in range(len(y)):
            coarse, fine = _row(nodes[0], y[j], z[k], _COARSE), _row(nodes[1], y[j], z[k], _FINE)
            for i in range(len(x)):
                if hu[k, j, i] <= -300:
                    continue
                t = (x[i] + np.float32(1024)) / np.float32(_COARSE)
                a = int(t)
                p = np.float32(t - a)
                c = coarse[a % n] * (one - p) + coarse[(a + 1) % n] * p
                t = (x[i] + np.float32(1024)) / np.float32(_FINE)
                a = int(t)
                p = np.float32(t - a)
                f = fine[a % n] * (one - p) + fine[(a + 1) % n] * p
                row = table[labels[k, j, i]]
                hu[k, j, i] += row[0] * c + row[1] * f
                if row[2] > 0:
                    streak = row[2] * min(max(c + np.float32(0.6) * f - np.float32(1.2), np.float32(0)), np.float32(0.8))
                    hu[k, j, i] += streak * (np.float32(FAT) - hu[k, j, i])
