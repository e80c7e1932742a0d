"""Two analytic bones that meet in a ball, small enough for tests: a socket with lugs, and a shaft with a head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.geometry import Rigid, View, se3
from raylign.projection import project
from raylign.registration.objects import Body, Joint, ObjectsProblem

CENTRE = torch.tensor([4.0, -3.0, -12.0], dtype=torch.float64)  # of the ball, LPS mm of both
_MU = 0.02  # 1/mm
_HEAD = 11.0


def _ellipsoid(p: np.ndarray, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """About the distance to its surface, mm, negative inside."""
    scaled = (p - np.array(centre)) / np.array(radii)
    return np.asarray((np.linalg.norm(scaled, axis=-1) - 1) * min(radii))


def socket(p: np.ndarray) -> np.ndarray:
    """Distance to a block with a hollow for the ball and two lugs."""
    block = np.minimum(_ellipsoid(p, (0, 0, 14), (34, 18, 24)), _ellipsoid(p, (-24, 6, 4), (9, 12, 22)))
    block = np.minimum(block, _ellipsoid(p, (20, -8, 30), (10, 14, 9)))
    ball = np.linalg.norm(p - CENTRE.numpy(), axis=-1) - (_HEAD + 2)
    return np.asarray(np.maximum(block, -ball))


def shaft(p: np.ndarray) -> np.ndarray:
    """Distance to a head, a neck, a knob and a shaft that is no body of revolution."""
    c = CENTRE.numpy()
    out = np.linalg.norm(p - c, axis=-1) - _HEAD
    for centre, radii in (
        ((10, 2, -14), (13, 7, 7)),
        ((22, 4, -14), (8, 9, 11)),
        ((20, 3, -44), (7, 8, 34)),
        ((16, -4, -70), (9, 6, 8)),
    ):
        out = np.minimum(out, _ellipsoid(p, tuple(c + np.array(centre)), radii))
    return np.asarray(out)


def volume(shape, voxel: float) -> Volume:  # type: ignore[no-untyped-def]
    """A solid of soft edges, 1/mm."""
    low, high = np.array([-50.0, -35.0, -100.0]), np.array([60.0, 35.0, 50.0])
    axes = [np.arange(a, b, voxel) for a, b in zip(low, high, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    data = _MU * np.clip(0.5 - shape(np.stack([x, y, z], -1)) / voxel, 0, 1)
    where = [np.flatnonzero(data.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    first = [max(int(w[0]) - 2, 0) for w in where]
    data = data[tuple(slice(f, int(w[-1]) + 3) for f, w in zip(first, where, strict=True))]
    affine = torch.eye(4, dtype=torch.float64) * voxel
    affine[3, 3] = 1
    affine[:3, 3] = torch.from_numpy(low + voxel * np.array(first[::-1]))
    return Volume(torch.from_numpy(data.astype(np.float32)), affine, "1/mm", truncated=((False, False),) * 3)


@lru_cache(maxsize=4)
def model(name: str, voxel: float = 2.0) -> Volume:
    return volume(socket if name == "socket" else shaft, voxel)


def truth() -> dict[str, Rigid]:
    """Both turned, and the shaft 22 degrees about the ball besides."""
    base = se3.exp(torch.tensor([0.10, -0.08, 0.12, 6.0, -5.0, 8.0], dtype=torch.float64))
    about = torch.eye(4, dtype=torch.float64)
    about[:3, 3] = CENTRE
    turn = se3.exp(torch.tensor([0.28, 0.24, -0.12, 0.0, 0.0, 0.0], dtype=torch.float64))
    return {"socket": Rigid(base), "shaft": Rigid(base @ about @ turn @ se3.inverse(about))}


@lru_cache(maxsize=4)
def exposure(primary: float) -> XRay:
    """Of the same bones in finer voxels, in soft tissue that no model holds, with noise."""
    view = View.from_carm(primary=primary, secondary=4, sid=1000, sod=700, pixel_spacing=1.6, shape=(160, 160))
    with torch.no_grad():
        image = sum(project(model(n, 1.2), view, p, step=0.8)[0, 0] for n, p in truth().items())
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 160), torch.linspace(-1, 1, 160), indexing="ij")
    tissue = 2.0 * (1 - 0.3 * columns**2 - 0.15 * (rows + 0.2) ** 2)
    noise = 0.01 * torch.randn(160, 160, generator=torch.Generator().manual_seed(int(primary)))
    return XRay(image + tissue + noise, view, torch.ones(160, 160, dtype=torch.bool))


def points(name: str) -> torch.Tensor:
    """[n, 3] LPS mm in a bone."""
    v = model(name)
    index = (v.data > 0.5 * _MU).nonzero()[::97].flip(1).double()
    return index @ v.affine[:3, :3].T + v.affine[:3, 3]


def error(name: str, pose: Rigid) -> float:
    """mTRE in mm."""
    return float((pose.apply(points(name)) - truth()[name].apply(points(name))).norm(dim=1).mean())


def off(pose: Rigid, twist: tuple[float, ...]) -> Rigid:
    """A pose with a twist (rad, mm; world) upon it."""
    return Rigid(se3.exp(torch.tensor(twist, dtype=torch.float64)) @ pose.matrix)


def problem(*angles: float, starts: dict[str, Rigid] | None = None) -> ObjectsProblem:
    starts = starts or {n: off(p, (0.03, -0.02, 0.03, 2.0, -1.5, 2.0)) for n, p in truth().items()}
    bodies = tuple(Body(n, model(n), starts[n]) for n in ("socket", "shaft"))
    return ObjectsProblem(bodies, tuple(exposure(a) for a in angles), (Joint("socket", "shaft", CENTRE),))
