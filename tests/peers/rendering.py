"""A phantom and views that the comparisons with other renderers share."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign import Rigid, View, Volume, read_volume
from raylign.geometry import se3

D = torch.float64
SPACING = (3.0, 3.5, 4.0)


def smooth_phantom() -> Volume:
    """Blobs without symmetry that vanish before the faces, on an axis-aligned LPS grid off the origin, in HU from -1000."""
    shape = (44, 48, 52)
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=D) for n in shape), indexing="ij")
    mm = torch.stack([i, j, k], -1) * torch.tensor(SPACING, dtype=D)
    data = torch.zeros(shape, dtype=D)
    for centre, width, value in (((75, 80, 85), 16, 0.02), ((55, 100, 70), 9, 0.04), ((100, 65, 110), 11, 0.03)):
        data += value * torch.exp(-((mm - torch.tensor(centre, dtype=D)) ** 2).sum(-1) / (2 * width**2))
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=D))
    affine[:3, 3] = torch.tensor([-70.0, -90.0, -60.0], dtype=D)
    return Volume(data.to(torch.float32), affine)


def ras_affine(volume: Volume) -> np.ndarray:
    """Voxel (i, j, k) to RAS mm."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine.numpy()


def random_case(seed: int, *, flips: bool) -> tuple[View, Rigid]:
    """A C-arm view with its principal point off centre and pixels that are not square, and a pose."""
    r = random.Random(seed)
    view = View.from_carm(
        primary=r.uniform(-180, 180), secondary=r.uniform(-80, 80), sid=1100, sod=700, pixel_spacing=(3.5, 4.5), shape=(75, 68)
    )
    view = view.crop(slice(r.randint(0, 9), 75 - r.randint(0, 9)), slice(r.randint(0, 9), 68 - r.randint(0, 9)))
    twist = [r.gauss(0, 0.4) for _ in range(3)] + [r.gauss(0, 15) for _ in range(3)]
    return view.flip(columns=flips and seed % 2 == 0), Rigid(se3.exp(torch.tensor(twist, dtype=D)))


def relative_rms(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.to(D), b.to(D)
    assert float(b.max()) > 0.3
    return math.sqrt(float(((a - b) ** 2).mean() / (b**2).mean()))


def real_ct(shared: Path) -> Volume:
    """The pelvis CT of the shared data as attenuation, 122 x 101 x 112 voxels of 3 mm: the patient goes on beyond its faces."""
    path = shared / "ct" / "totalseg_pelvis_3mm_ct.nii.gz"
    if not path.exists():
        pytest.skip("the real pelvis CT is not on this machine")
    return read_volume(path).attenuation()


def real_views(volume: Volume) -> list[tuple[View, Rigid]]:
    """Three C-arm exposures of it, off centre and turned."""
    cases = []
    for primary, secondary, twist in (
        (0, 0, (0.0,) * 6),
        (35, -20, (0.1, 0.2, -0.1, 12, -9, 15)),
        (-85, 10, (0, 0, 0.1, 0, 8, 4)),
    ):
        view = View.from_carm(primary=primary, secondary=secondary, sid=1100, sod=750, pixel_spacing=(6, 5), shape=(70, 84))
        pose = se3.exp(torch.tensor(twist, dtype=D))
        pose[:3, 3] -= pose[:3, :3] @ volume.centre
        cases.append((view.crop(slice(4, 66), slice(6, 84)), Rigid(pose)))
    return cases


def framed(volume: Volume) -> Volume:
    """The volume with two voxels of air about it, so that where a grid ends, which packages see differently, does not matter."""
    affine = volume.affine.clone()
    affine[:3, 3] -= affine[:3, :3] @ torch.full((3,), 2.0, dtype=D)
    return Volume(torch.nn.functional.pad(volume.data, (2,) * 6), affine)
