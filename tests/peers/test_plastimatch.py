"""plastimatch, run as a program: its exact path is our Siddon model, its uniform samples come close to our trilinear one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign import Rigid, View, Volume, project
from raylign.bench.phantom import body, line_integrals, voxelised
from raylign.bench.scene import plastimatch_camera
from raylign.bench.sides.plastimatch import Side
from tests.peers.rendering import framed, random_case, real_ct, real_views, relative_rms

pytestmark = pytest.mark.skipif(shutil.which("plastimatch") is None, reason="no program plastimatch (Debian has a package)")


def upright(volume: Volume) -> Volume:
    """The same volume with its axes along L, P and S: of one whose axes run the other way plastimatch makes an empty image."""
    affine, data = volume.affine.clone(), volume.data
    for axis in range(3):
        if affine[axis, axis] < 0:
            data = data.flip(2 - axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[2 - axis] - 1)
            affine[:3, axis] *= -1
    return Volume(data, affine)


def rendered(volume: Volume, view: View, pose: Rigid, algorithm: str, folder: Path) -> torch.Tensor:
    """plastimatch's image, 1/mm times mm."""
    volume = upright(volume)
    np.save(folder / "volume.npy", volume.data.numpy())
    side = Side({"volume": str(folder / "volume.npy"), "affine": volume.affine.tolist(), "scratch": str(folder)})
    case: dict[str, Any] = {"shape": list(view.shape), "exposures": [plastimatch_camera(view, pose)]}
    side.prepare("forward", case, {"algorithm": algorithm})
    return torch.from_numpy(side.call()["image"](0).copy())


@pytest.mark.parametrize("seed", range(4))
def test_any_view_of_the_phantom(seed: int, tmp_path: Path) -> None:
    """Views off centre, flipped and not, pixels not square: one model gives one image, near the exact one."""
    volume = voxelised(body(), (32, 32, 32))
    view, pose = random_case(seed, flips=True)
    theirs = rendered(volume, view, pose, "exact", tmp_path)
    assert relative_rms(project(volume, view, pose, model="siddon")[0, 0], theirs) < 1e-5  # single precision
    assert relative_rms(line_integrals(body(), view, pose), theirs) < 0.1  # voxels of 8 mm; a flip would be 60 %


@pytest.mark.parametrize("number", range(3))
def test_a_real_ct(number: int, shared: Path, tmp_path: Path) -> None:
    volume = real_ct(shared)
    view, pose = real_views(volume)[number]
    # as it is, cut at its faces: rays along a face are in its last layer of voxels for one of us and beside it for the other
    theirs = rendered(volume, view, pose, "exact", tmp_path)
    assert relative_rms(project(volume, view, pose, model="siddon")[0, 0], theirs) < 0.005
    volume = framed(volume)
    theirs = rendered(volume, view, pose, "exact", tmp_path)
    assert relative_rms(project(volume, view, pose, model="siddon")[0, 0], theirs) < 1e-5  # single precision
    # another interpolant, and samples at other places
    theirs = rendered(volume, view, pose, "uniform", tmp_path)
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 0.002
