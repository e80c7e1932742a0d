"""Rotation vectors and matrices, one at a time: a registration asks for thousands, and SciPy's are made for arrays of them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def matrix_of(vector):  # type: ignore[no-untyped-def]
    """The rotation matrix [3, 3] of a rotation vector [3] in radians (Rodrigues)."""
    x, y, z = vector[0], vector[1], vector[2]
    square = x * x + y * y + z * z
    angle = math.sqrt(square)
    if angle < 1e-4:  # the next terms are below the last digit
        sine, cosine = 1 - square / 6, 0.5 - square / 24
    else:
        sine, cosine = math.sin(angle) / angle, (1 - math.cos(angle)) / square
    out = np.empty((3, 3))
    out[0, 0] = 1 - cosine * (y * y + z * z)
    out[1, 1] = 1 - cosine * (x * x + z * z)
    out[2, 2] = 1 - cosine * (x * x + y * y)
    out[0, 1] = cosine * x * y - sine * z
    out[1, 0] = cosine * x * y + sine * z
    out[0, 2] = cosine * x * z + sine * y
    out[2, 0] = cosine * x * z - sine * y
    out[1, 2] = cosine * y * z - sine * x
    out[2, 1] = cosine * y * z + sine * x
    return out


@njit(cache=True, nogil=True)
def vector_of(matrix):  # type: ignore[no-untyped-def]
    """The rotation vector [3], radians, of at most half a turn, of a rotation matrix [3, 3] (by its quaternion, as Shepperd)."""
    trace = matrix[0, 0] + matrix[1, 1] + matrix[2, 2]
    largest = 3
    most = trace
    for i in range(3):
        if matrix[i, i] > most:
            largest, most = i, matrix[i, i]
    q = np.empty(4)  # x, y, z, w
    if largest == 3:
        q[0] = matrix[2, 1] - matrix[1, 2]
        q[1] = matrix[0, 2] - matrix[2, 0]
        q[2] = matrix[1, 0] - matrix[0, 1]
        q[3] = 1 + trace
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = 1 - trace + 2 * matrix[i, i]
        q[j] = matrix[j, i] + matrix[i, j]
        q[k] = matrix[k, i] + matrix[i, k]
        q[3] = matrix[k, j] - matrix[j, k]
    length = math.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2)
    if q[3] < 0:
        q[:] = -q
    angle = 2 * math.atan2(length, q[3])
    if length < 1e-4 * q[3]:
        scale = 2 / q[3]  # atan x is x
    else:
        scale = angle / length
    return q[:3] * scale
