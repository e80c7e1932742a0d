"""A made-up registration, small and complete, for the tests of this folder."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from raylign.evaluation.content import Exposure, ReportContent, Truth
from raylign.geometry import Rigid, View, se3
from raylign.registration.result import Confidence, Result, Step

SHAPE = (90, 120)


def view(primary: float = 0.0, shape: tuple[int, int] = SHAPE) -> View:
    return View.from_carm(primary=primary, secondary=5, sid=1100, sod=700, pixel_spacing=(2.0, 2.0), shape=shape)


def disc(row: float, column: float, radius: float, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    """A smooth-edged disc of height 1 on a slow ramp."""
    r = torch.arange(shape[0], dtype=torch.float64)[:, None]
    c = torch.arange(shape[1], dtype=torch.float64)[None]
    distance = ((r - row) ** 2 + (c - column) ** 2).sqrt()
    return (torch.sigmoid((radius - distance) / 0.7) + 0.002 * c).float()


def moved(pose: torch.Tensor, centre: torch.Tensor, twist: list[float]) -> torch.Tensor:
    c = torch.eye(4, dtype=torch.float64)
    c[:3, 3] = centre
    return c @ se3.exp(torch.tensor(twist, dtype=torch.float64)) @ se3.inverse(c) @ pose


def result(**changes: object) -> Result:
    centre = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    end = se3.exp(torch.tensor([0.05, -0.1, 0.02, 10.0, -5.0, 20.0], dtype=torch.float64))
    start = moved(end, centre, [0.1, 0.0, 0.05, 12.0, 0.0, -9.0])
    back = se3.log(start @ se3.inverse(end))
    steps = tuple(Step(2 - k // 3, k, 1.0 / (k + 1), se3.exp(back * math.exp(-0.8 * k) * (k < 8)) @ end) for k in range(9))
    made = Result(
        transform=Rigid(end),
        start=Rigid(start),
        covariance=torch.diag(torch.tensor([1e-3, 1e-3, 2e-3, 0.1, 1.2, 0.1], dtype=torch.float64) ** 2),
        centre=centre,
        score=0.87,
        confidence=Confidence(0.97, True),
        trajectory=steps,
        timings={"pyramids": 0.1, "level 2": 0.2, "level 0": 0.4},
        method="direct",
        seed=7,
        versions={"raylign": "0.1.0", "torch": "2.13"},
        settings={"levels": 3, "loss": {"huber": 1.3}},
    )
    return replace(made, **changes)


def exposure(name: str = "AP.dcm", primary: float = 0.0) -> Exposure:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[:, :8] = False
    return Exposure(name, view(primary), disc(45, 60, 25), disc(38, 72, 25), disc(45, 60, 25), mask)


def content(count: int = 1, truth: bool = True, **changes: object) -> ReportContent:
    made = result()
    targets = torch.tensor([[0.0, 0, 0], [30, 0, 0], [0, 30, 0], [0, 0, 30]], dtype=torch.float64)
    known = Truth(Rigid(moved(made.transform.matrix, made.centre, [0, 0, 0, 0.1, 0.5, 0.0])), targets) if truth else None
    values = {
        "result": made,
        "exposures": tuple(exposure(f"view {k}.dcm", 80.0 * k) for k in range(count)),
        "truth": known,
        "points": targets,
        "command": "raylign register ct AP.dcm --out out",
        "inputs": {"CT": "64 x 64 x 64 voxels of 1 mm", "X-ray": "AP.dcm"},
    }
    return ReportContent(**(values | changes))
