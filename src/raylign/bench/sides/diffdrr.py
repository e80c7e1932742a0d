"""DiffDRR (MIT), by its module ``DRR``. Nothing of raylign may be imported here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch

_SAMPLES = (32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024, 1280)


class Side:
    """``diffdrr.drr.DRR``: trilinear at a range of samples, which span the volume, and Siddon."""

    whats = ("forward", "forward+pose", "forward+volume", "double-backward")
    differentiable = True

    def __init__(self, scene: dict[str, Any]) -> None:
        import torchio

        self.device = torch.device(scene["device"])
        data = torch.from_numpy(np.load(scene["volume"]))
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(scene["affine"])
        # laid out in memory as it indexes it; its own reader would convert from Hounsfield units
        self.image = torchio.ScalarImage(tensor=data.permute(2, 1, 0).contiguous()[None], affine=ras)
        self.volume = self.image.data[0].to(self.device)

    @staticmethod
    def load() -> None:
        import diffdrr.data
        import diffdrr.drr
        import diffdrr.pose  # noqa: F401

    @staticmethod
    def version() -> str:
        return version("diffdrr")

    @staticmethod
    def ladders() -> list[list[dict[str, Any]]]:
        return [[{"model": "trilinear", "samples": n} for n in _SAMPLES], [{"model": "siddon"}]]

    def prepare(self, case: dict[str, Any], setting: dict[str, Any]) -> None:
        from diffdrr.data import read
        from diffdrr.drr import DRR

        subject = read(self.image, orientation=case["orientation"], center_volume=False)
        subject.density = self.image
        height, width = case["shape"]
        self.drr = DRR(
            subject,
            case["sdd"],
            height,
            case["delx"],
            width,
            case["dely"],
            case["x0"],
            case["y0"],
            reverse_x_axis=case["reverse_x_axis"],
            renderer=setting["model"],
        ).to(self.device)
        self.drr.density = self.volume
        self.matrix = torch.tensor(case["matrix"], device=self.device)
        self.options = {"n_points": setting["samples"]} if setting["model"] == "trilinear" else {}

    def render(self, motion: torch.Tensor) -> torch.Tensor:
        from diffdrr.pose import RigidTransform

        return self.drr(RigidTransform(motion @ self.matrix), **self.options)[:, 0]
