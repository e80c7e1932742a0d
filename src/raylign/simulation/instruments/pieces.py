"""Wires and tubes as a list of straight cylinders, each cut by a plane at either end.

Two pieces that meet share the plane that halves the angle between them: they fill the bend without a gap and without a double
count, so that the thickness of a curve is the plain sum over its pieces. A tube is a solid of its outer radius less one of its
inner radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

Tube = tuple[NDArray[np.float64], float, float, str, float]
"""Points [N, 3] mm, outer and inner radius, material, filling."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """S cut cylinders.

    Parameters
    ----------
    numbers: [S, 15]: end a (3), end b (3), the normal of the plane through a (3) and of that through b (3), both along a to b;
        radius; weight; outer radius of its tube. What is on the b side of the first plane and on the a side of the second
        belongs to the piece.
    image: [S] which image each is drawn in, ascending.
    channel: [S] which material.
    """

    numbers: Float64[NDArray[np.float64], "S 15"]
    image: Int64[NDArray[np.int64], " S"]
    channel: Int64[NDArray[np.int64], " S"]


def pieces(tubes: Sequence[Sequence[Tube]], materials: Sequence[str]) -> Pieces:
    """The tubes of each image as pieces."""
    points, sizes, channels, images = [], [], [], []
    for image, some in enumerate(tubes):
        for line, outer, inner, material, fill in some:
            for radius, weight in ((outer, fill), (inner, -fill)):
                if radius > 0:
                    points.append(line)
                    sizes.append((radius, weight, outer))
                    channels.append(materials.index(material))
                    images.append(image)
    if not points:
        return Pieces(np.empty((0, 15)), np.empty(0, np.int64), np.empty(0, np.int64))
    counts = np.array([len(p) for p in points])
    every = np.concatenate(points)
    last = np.cumsum(counts) - 1
    owner = np.repeat(np.arange(len(counts)), counts)
    # a step between the last point of a curve and the first of the next is none
    keep = np.ones(len(every) - 1, bool)
    keep[last[:-1]] = False
    step = np.diff(every, axis=0)
    size = np.sqrt((step**2).sum(1))
    keep &= size > 1e-9
    a, b, u, owner = every[:-1][keep], every[1:][keep], step[keep] / size[keep, None], owner[:-1][keep]
    joined = owner[1:] == owner[:-1]
    middle = u[1:] + u[:-1]
    norm = np.sqrt((middle**2).sum(1))
    joined &= norm > 1e-3  # a line that turns back on itself is cut square
    middle /= np.maximum(norm, 1e-3)[:, None]
    at_a, at_b = u.copy(), u.copy()
    at_a[1:][joined] = middle[joined]
    at_b[:-1][joined] = middle[joined]
    numbers = np.concatenate([a, b, at_a, at_b, np.array(sizes)[owner]], 1)
    return Pieces(numbers, np.array(images, np.int64)[owner], np.array(channels, np.int64)[owner])
