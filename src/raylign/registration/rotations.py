"""Rotation vectors, matrices and what poses do to points, one at a time.

A registration asks for thousands, side by side on all threads. SciPy's and NumPy's are made for arrays of them: what they do
around a handful of numbers takes longer than the numbers, and no other thread can run Python meanwhile.
"""

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


@njit(cache=True, nogil=True)
def carried(pose, point):  # type: ignore[no-untyped-def]
    """A point [3] under a pose [4, 4]."""
    out = np.empty(3)
    for i in range(3):
        out[i] = pose[i, 0] * point[0] + pose[i, 1] * point[1] + pose[i, 2] * point[2] + pose[i, 3]
    return out


@njit(cache=True, nogil=True)
def rays_into(affine, pose, source, steps):  # type: ignore[no-untyped-def]
    """``matching.voxel_rays`` of a model's ``affine`` [4, 4] under a ``pose``: rays [4, 3], voxel-from-world [4, 4]."""
    back = np.linalg.inv(pose @ affine)
    turn = np.ascontiguousarray(back[:3, :3])
    rays = np.empty((4, 3))
    rays[0] = turn @ source + back[:3, 3]
    rays[1:] = steps @ turn.T
    return rays, back


@njit(cache=True, nogil=True)
def shown_at(ends, pose, source, steps):  # type: ignore[no-untyped-def]
    """Columns and rows [N, 2] at which points [N, 3] of the model show; ``steps`` as of an ``ImageLevel``."""
    away = np.empty((len(ends), 3))
    for n in range(len(ends)):
        away[n] = carried(pose, ends[n]) - source
    shares = away @ np.linalg.inv(steps)
    return shares[:, 1:] / shares[:, :1]


@njit(cache=True, nogil=True)
def offset_of(pose, start, axes, centre):  # type: ignore[no-untyped-def]
    """Rotation vector (degrees) and shift of ``centre`` (mm) [2, 3] from one pose to another, along ``axes`` (columns)."""
    turn = np.ascontiguousarray(pose[:3, :3]) @ np.ascontiguousarray(start[:3, :3]).T
    out = np.empty((2, 3))
    along = np.ascontiguousarray(axes).T
    out[0] = np.degrees(along @ vector_of(turn))
    out[1] = along @ (turn @ (centre - start[:3, 3]) + pose[:3, 3] - centre)
    return out
