"""A chest and its exposures, small enough for tests."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.geometry import Rigid, View, se3
from raylign.simulation import ExposureConfig, ThoraxConfig, expose, thorax
from raylign.simulation.physics.apparatus import Collimator

POSE = torch.tensor([0.12, -0.10, 0.14, 14.0, -9.0, 12.0], dtype=torch.float64)  # radians and mm off the centre start


@lru_cache(maxsize=1)
def chest() -> Volume:
    """The model: 3 mm voxels, cut at both ends."""
    return thorax(ThoraxConfig(voxel_mm=3.0), seed=3).volume


@lru_cache(maxsize=1)
def patient() -> Volume:
    """The same patient, finer voxels, going on beyond the model's ends."""
    return thorax(ThoraxConfig(voxel_mm=2.5, z_range=(-200, 190)), seed=3).volume


def centre_start() -> Rigid:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = -chest().centre
    return Rigid(matrix)


def truth() -> Rigid:
    return Rigid(se3.exp(POSE) @ centre_start().matrix)


def view(primary: float = 10.0, shape: tuple[int, int] = (192, 192)) -> View:
    return View.from_carm(primary=primary, secondary=4, sid=1050, sod=720, pixel_spacing=300 / shape[0], shape=shape)


@lru_cache(maxsize=4)
def exposure(primary: float = 10.0) -> XRay:
    """Polyenergetic, scattered, noisy, collimated, of the whole patient."""
    config = ExposureConfig(collimator=Collimator.round(0.95))
    return expose(patient(), view(primary), truth(), config, torch.Generator().manual_seed(5)).xray


def targets() -> Tensor:
    """Points of the model, LPS mm."""
    offsets = torch.tensor([[x, y, z] for x in (-60, 60) for y in (-40, 50) for z in (-70, 70)], dtype=torch.float64)
    return chest().centre + offsets


def error(pose: Rigid) -> float:
    """mTRE in mm."""
    return float((pose.apply(targets()) - truth().apply(targets())).norm(dim=1).mean())
