"""What a view's geometry may be wrong by, and how its images change with it.

Six numbers a view say how it differs from its header (``PARAMETERS``). With ``u``, ``v``, ``n`` the view's unit vectors along
columns, along rows (square to them) and along the beam, source ``s`` and first pixel ``o`` become

    s' = q + R (s - sid n - q),        o' = q + R (o - principal_column u - principal_row v - q),
    R = exp(-primary v - secondary u + roll n),

q being the isocentre: the source moves along the detector's normal, the principal point moves on the detector, the gantry turns.

Derivatives come from the ray integrals that the pose's come from. The ray from s to x = s + d has the image
``l int V(s + t d) dt``.
With the S0 and S1 of the projector, and ``S0 . d = 0``, ``S1 . d = -I`` along the ray, the part of dI/dd along it and the
change of the length l cancel, and what remains is

    d(image) = l (S0 - S1)_across . ds  +  l S1_across . dx.

Every parameter, the pose's too, moves s, o and both steps by vectors that do not depend on the pixel; those are all that a
derivative needs (``motions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from scipy.spatial.transform import Rotation
from torch import Tensor

from raylign.geometry import View
from raylign.registration.match_kernels import FAST
from raylign.registration.pyramid import Array64, ImageLevel
from raylign.registration.search import camera_axes

PARAMETERS = ("sid", "principal_column", "principal_row", "primary", "secondary", "roll")
UNITS = ("mm", "mm", "mm", "degrees", "degrees", "degrees")
_RADIANS = np.pi / 180


def _turn(axes: Array64, offsets: Array64) -> Array64:
    """Rotation vector (rad, world) of the three angles in degrees."""
    return (-offsets[3] * axes[:, 1] - offsets[4] * axes[:, 0] + offsets[5] * axes[:, 2]) * _RADIANS


def adjusted(view: View, offsets: Float[Tensor, "6"] | Sequence[float] | Array64, isocentre: Sequence[float] = (0, 0, 0)) -> View:
    """A view as it is where its header is wrong by ``offsets`` (mm and degrees, as ``PARAMETERS``).

    At secondary angle 0, ``primary`` adds to the C-arm's primary angle; ``secondary`` adds to its secondary angle always.
    """
    given = np.asarray(offsets, float)
    axes = camera_axes(view)
    q = np.asarray(isocentre, float)
    u, v, n = axes.T
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(_turn(axes, given)).as_matrix()
    turn[:3, 3] = q - turn[:3, :3] @ q
    source = view.source.detach() - torch.from_numpy(given[0] * n)
    origin = view.origin.detach() - torch.from_numpy(given[1] * u + given[2] * v)
    return replace(view, source=source, origin=origin).transformed(torch.from_numpy(turn))


def motions(view: View, offsets: Array64, isocentre: Sequence[float], centre: Array64) -> Array64:
    """[12, 4, 3]: how source, first pixel, column step and row step of the adjusted view move, seen from the model.

    The first six are a unit twist of the model about ``centre`` (world mm; rad, then mm), against which the view moves; the
    others a unit (mm or degree) of each of ``PARAMETERS``. Exact derivatives of ``adjusted`` at ``offsets``.
    """
    axes = camera_axes(view)
    vectors = adjusted(view, offsets, isocentre).vectors.detach().numpy()
    out = np.zeros((12, 4, 3))
    for i in range(3):
        out[i] = _turned(np.eye(3)[i], vectors, centre, -1.0)
        out[3 + i, :2] = -np.eye(3)[i]
    turn = _turn(axes, offsets)
    u, v, n = (Rotation.from_rotvec(turn).as_matrix() @ axes).T
    out[6, 0], out[7, 1], out[8, 1] = -n, -u, -v
    # a change of the rotation vector turns by the left Jacobian of SO(3) times it
    angle, cross = float(np.linalg.norm(turn)), _cross(turn)
    left = np.eye(3) + cross / 2 + cross @ cross / 6
    if angle > 1e-4:
        left = np.eye(3) + (1 - np.cos(angle)) / angle**2 * cross + (angle - np.sin(angle)) / angle**3 * cross @ cross
    for i, axis in enumerate((-axes[:, 1], -axes[:, 0], axes[:, 2])):
        out[9 + i] = _turned(left @ axis, vectors, np.asarray(isocentre, float), _RADIANS)
    return out


def _cross(w: Array64) -> Array64:
    return np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])


def _turned(axis: Array64, vectors: Array64, about: Array64, sign: float) -> Array64:
    """[4, 3]: velocity of two points and two directions that turn about ``axis`` through ``about``."""
    return sign * np.cross(axis, vectors - np.array([about, about, np.zeros(3), np.zeros(3)]))


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def moved_images(integrals, slopes, lengths, world, steps, moves, images):  # type: ignore[no-untyped-def]
    """Line integral, then its derivative by each of ``moves`` [K, 4, 3] (float32, from ``motions``): [1 + K, H, W].

    ``integrals`` and ``slopes`` as the projector gives them, ``world`` = transposed 3x3 of voxel-from-world, ``steps`` and
    ``lengths`` those of the adjusted view.
    """
    h, w = lengths.shape
    count = moves.shape[0]
    for r in range(h):
        for c in range(w):
            length = lengths[r, c]
            images[0, r, c] = length * integrals[r, c]
            dx = np.float32(steps[0, 0] + c * steps[1, 0] + r * steps[2, 0])
            dy = np.float32(steps[0, 1] + c * steps[1, 1] + r * steps[2, 1])
            dz = np.float32(steps[0, 2] + c * steps[1, 2] + r * steps[2, 2])
            gx = gy = gz = hx = hy = hz = np.float32(0.0)
            for i in range(3):
                s0 = slopes[r, c, i]
                s1 = slopes[r, c, 3 + i]
                gx += world[0, i] * s0
                gy += world[1, i] * s0
                gz += world[2, i] * s0
                hx += world[0, i] * s1
                hy += world[1, i] * s1
                hz += world[2, i] * s1
            square = dx * dx + dy * dy + dz * dz
            along = (gx * dx + gy * dy + gz * dz) / square
            gx -= along * dx
            gy -= along * dy
            gz -= along * dz
            along = (hx * dx + hy * dy + hz * dz) / square
            hx -= along * dx
            hy -= along * dy
            hz -= along * dz
            gx -= hx
            gy -= hy
            gz -= hz
            for k in range(count):
                m = moves[k]
                px = m[1, 0] + c * m[2, 0] + r * m[3, 0]
                py = m[1, 1] + c * m[2, 1] + r * m[3, 1]
                pz = m[1, 2] + c * m[2, 2] + r * m[3, 2]
                shift = gx * m[0, 0] + gy * m[0, 1] + gz * m[0, 2] + hx * px + hy * py + hz * pz
                images[1 + k, r, c] = length * shift


def seen_as(image: ImageLevel, offsets: Array64, isocentre: Sequence[float]) -> ImageLevel:
    """The same pixels with the rays of the adjusted view."""
    view = adjusted(image.view, offsets, isocentre)
    vectors = view.vectors.detach().numpy()
    lengths = view.ray_lengths().detach().numpy().astype(np.float32)
    steps = np.stack([vectors[1] - vectors[0], vectors[2], vectors[3]])
    return replace(image, view=view, source=vectors[0], steps=steps, lengths=lengths, longest=float(lengths.max()))
