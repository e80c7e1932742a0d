"""nanodrr (MIT), by its function ``render``. Nothing of raylign may be imported here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch

_SAMPLES = (32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024, 1280)


class Side:
    """``nanodrr.drr.render`` with its samples spread over the part of each ray that lies inside the volume."""

    whats = ("forward", "forward+pose", "forward+volume", "double-backward")
    differentiable = True

    def __init__(self, scene: dict[str, Any]) -> None:
        import torchio
        from nanodrr.data import Subject

        data = torch.from_numpy(np.load(scene["volume"]))
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(scene["affine"])
        image = torchio.ScalarImage(tensor=data.permute(2, 1, 0)[None], affine=ras)
        self.device = torch.device(scene["device"])
        self.subject = Subject.from_images(image, convert_to_mu=False).to(self.device)
        self.volume = self.subject.image

    @staticmethod
    def load() -> None:
        import nanodrr.data
        import nanodrr.drr  # noqa: F401

    @staticmethod
    def version() -> str:
        return version("nanodrr")

    @staticmethod
    def ladders() -> list[list[dict[str, Any]]]:
        return [[{"model": "trilinear", "samples": n} for n in _SAMPLES]]

    def prepare(self, case: dict[str, Any], setting: dict[str, Any]) -> None:
        batch = case["batch"]
        self.k_inv = torch.tensor(case["k_inv"], device=self.device).expand(batch, 3, 3)
        self.rt_inv = torch.tensor(case["rt_inv"], device=self.device)
        self.sdd = torch.full((batch,), case["sdd"], device=self.device)
        self.shape, self.samples = case["shape"], setting["samples"]
        # its fused kernels have no double backward; "auto" takes them where they can run
        self.backend = "torch" if setting["what"] == "double-backward" else "auto"

    def render(self, motion: torch.Tensor) -> torch.Tensor:
        from nanodrr.drr import render

        moved = motion @ self.rt_inv
        return render(self.subject, self.k_inv, moved, self.sdd, *self.shape, n_samples=self.samples, backend=self.backend)[:, 0]
