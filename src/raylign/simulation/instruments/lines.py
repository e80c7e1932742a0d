"""Polylines in space: lengths, cuts, frames that do not twist, arcs, helices, gentle bends (NumPy, float64, mm)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

Line = Float64[NDArray[np.float64], "N 3"]


def lengths(line: Line) -> Float64[NDArray[np.float64], " N"]:
    """Length along a polyline up to each of its points, mm."""
    steps = np.sqrt((np.diff(line, axis=0) ** 2).sum(1))
    return np.concatenate([[0.0], np.cumsum(steps)])


def at(line: Line, along: Float64[NDArray[np.float64], " M"], s: NDArray[np.float64] | None = None) -> Line:
    """Points of a polyline at lengths along it; beyond its ends it goes on straight.

    ``s`` are the line's own ``lengths``, where they are known.
    """
    s = lengths(line) if s is None else s
    i = np.clip(np.searchsorted(s, along, side="right") - 1, 0, len(line) - 2)
    share = (along - s[i]) / np.maximum(s[i + 1] - s[i], 1e-12)
    return line[i] + share[:, None] * (line[i + 1] - line[i])


def cut(line: Line, start: float, end: float, s: NDArray[np.float64] | None = None) -> Line:
    """The polyline between two lengths along it; beyond its ends it goes on straight."""
    s = lengths(line) if s is None else s
    last = len(line) - 2
    i, j = (min(max(int(s.searchsorted(x)) - 1, 0), last) for x in (start, end))
    first, after = i + 1, j + 1
    while first <= last and s[first] <= start + 1e-6:
        first += 1
    while after > first and s[after - 1] >= end - 1e-6:
        after -= 1
    out = np.empty((2 + max(after - first, 0), 3))
    for at_, k, x in ((0, i, start), (-1, j, end)):
        out[at_] = line[k] + (x - s[k]) / max(s[k + 1] - s[k], 1e-12) * (line[k + 1] - line[k])
    if after > first:
        out[1:-1] = line[first:after]
    return out


def thinned(line: Line, tolerance: float = 0.03, longest: float = 25.0) -> Line:
    """The polyline with as few points as keep its chords within about ``tolerance`` mm of it, both ends kept.

    A chord over an arc of curvature k has a sagitta of ``k chord^2 / 8``: points are spread evenly in the integral of
    ``sqrt(k / (8 tolerance))`` along the line, and stand no farther apart than ``longest``.
    """
    if len(line) < 3:
        return line
    s = lengths(line)
    u = np.diff(line, axis=0) / np.maximum(np.diff(s), 1e-12)[:, None]
    turn = 2 * np.arcsin(np.minimum(np.sqrt((np.diff(u, axis=0) ** 2).sum(1)) / 2, 1.0))
    curvature = np.concatenate([[0.0], turn / np.maximum((s[2:] - s[:-2]) / 2, 1e-12), [0.0]])
    # a bend acts on both pieces that meet at it
    density = np.sqrt(np.maximum(curvature[1:], curvature[:-1]) / (8 * tolerance)) + 1 / longest
    place = np.concatenate([[0.0], np.cumsum(density * np.diff(s))])
    count = max(math.ceil(place[-1]), 1)
    return line if count >= len(line) - 1 else at(line, np.interp(np.linspace(0, place[-1], count + 1), place, s), s)


def tangents(line: Line) -> Line:
    """Unit tangents at the points: of both neighbours together, of the one at the ends."""
    u = _units(np.diff(line, axis=0))
    return _units(np.concatenate([u[:1], u[:-1] + u[1:], u[-1:]]))


def frames(line: Line, first: NDArray[np.float64] | None = None) -> Float64[NDArray[np.float64], "N 3 3"]:
    """Frames along a polyline that turn as little as they can: columns x, y across it, z along it.

    Parallel transport by two reflections (Wang, Juettler, Zheng, Liu 2008, Computation of rotation minimizing frames), which has
    none of the jumps of Frenet's frame where a curve is straight. ``first`` is the x axis at the first point, made
    perpendicular; any, where none is given.
    """
    z = tangents(line)
    x = np.empty_like(z)
    start = across(z[0]) if first is None else np.asarray(first, float) - (np.asarray(first, float) @ z[0]) * z[0]
    x[0] = start / np.linalg.norm(start)
    for i in range(len(line) - 1):
        v = line[i + 1] - line[i]
        c = max(float(v @ v), 1e-18)
        r, t = x[i] - 2 / c * (v @ x[i]) * v, z[i] - 2 / c * (v @ z[i]) * v
        w = z[i + 1] - t
        c = float(w @ w)
        x[i + 1] = r if c < 1e-18 else r - 2 / c * (w @ r) * w
    return np.stack([x, np.cross(z, x), z], 2)


def across(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A unit vector perpendicular to one, always the same."""
    other = np.zeros(3)
    other[int(np.abs(direction).argmin())] = 1.0
    out = cross(direction, other)
    return out / math.sqrt(out @ out)


def cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cross product of two vectors; NumPy's takes ten times as long for so few."""
    (x, y, z), (u, v, w) = a.tolist(), b.tolist()
    return np.array([y * w - z * v, z * u - x * w, x * v - y * u])


def turned(z: NDArray[np.float64], roll: float = 0.0) -> Float64[NDArray[np.float64], "3 3"]:
    """A rotation whose third column is along ``z``, turned about it by ``roll`` radians."""
    z = np.asarray(z, float)
    z = z / math.sqrt(z @ z)
    a = across(z)
    x = math.cos(roll) * a + math.sin(roll) * cross(z, a)
    return np.stack([x, cross(z, x), z], 1)


def arcs(turns: Sequence[tuple[float, float]], step: float = 0.5) -> Line:
    """A planar curve from the origin along +z: arcs of (length mm, turn in degrees, positive towards +x), end to end."""
    directions, steps, heading = [], [], 0.0
    for length, degrees in turns:
        n = max(math.ceil(length / step if degrees else length / 20), 1)
        angles = heading + np.radians(degrees) * (np.arange(n) + 0.5) / n
        directions.append(angles)
        steps.append(np.full(n, length / n))
        heading += math.radians(degrees)
    angle, size = np.concatenate(directions), np.concatenate(steps)
    moves = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], 1) * size[:, None]
    return np.concatenate([np.zeros((1, 3)), np.cumsum(moves, 0)])


def helix(radius: float, pitch: float, length: float, sides: int = 12) -> Line:
    """A helix about the z axis from z = 0 to ``length``."""
    n = max(math.ceil(sides * length / pitch), 2)
    z = np.linspace(0, length, n + 1)
    angle = 2 * math.pi * z / pitch
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)


def wandering(length: float, bend_mm: float, generator: torch.Generator, step: float = 4.0) -> Line:
    """A line from the origin along +z that sways: slow waves across it of about ``bend_mm`` mm (one standard deviation)."""
    n = max(math.ceil(length / step), 2)
    t = np.linspace(0, 1, n + 1)
    size, phase = (torch.randn(2, 3, 2, generator=generator, dtype=torch.float64).numpy() for _ in range(2))
    out = np.zeros((n + 1, 3))
    out[:, 2] = t * length
    for k in range(3):
        wave = 2 * math.pi * (0.5 + k) * t
        for axis in range(2):
            out[:, axis] += bend_mm * size[0, k, axis] / (k + 1) ** 2 * (np.sin(wave + phase[0, k, axis]))
    # the beginning stays where it was, and points where it did
    out[:, :2] -= out[0, :2]
    slope = (out[1, :2] - out[0, :2]) / out[1, 2]
    out[:, :2] -= slope * out[:, 2:]
    return out


def _units(v: Line) -> Line:
    return v / np.maximum(np.sqrt((v**2).sum(1)), 1e-12)[:, None]
