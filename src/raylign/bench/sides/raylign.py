"""raylign, by its public function."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from raylign.data import Volume
from raylign.geometry import View
from raylign.projection import project

_STEPS = (4.0, 3.2, 2.5, 2.0, 1.75, 1.5, 1.25, 1.0, 0.8, 0.63, 0.5, 0.4, 0.32, 0.25, 0.2, 0.1)  # voxels


class Side:
    """``raylign.project``: trilinear at a range of steps, Joseph, Siddon."""

    whats = ("forward", "forward+pose", "forward+volume", "double-backward")
    differentiable = True
    double = True

    def __init__(self, scene: dict[str, Any]) -> None:
        data = torch.from_numpy(np.load(scene["volume"])).to(scene["device"])
        self.subject = Volume(data, torch.tensor(scene["affine"], dtype=torch.float64))
        self.volume = self.subject.data

    @staticmethod
    def load() -> None:
        """Nothing is left to import."""

    @staticmethod
    def version() -> str:
        from raylign._version import __version__

        return __version__

    @staticmethod
    def ladders() -> list[list[dict[str, Any]]]:
        known = "model" in inspect.signature(project).parameters
        exact = [[{"model": "joseph"}], [{"model": "siddon"}]] if known else []
        return [[{"model": "trilinear", "step": s} for s in _STEPS], *exact]

    def prepare(self, case: dict[str, Any], setting: dict[str, Any]) -> None:
        self.view = View.from_dict(case["view"])
        self.poses = torch.tensor(case["poses"], dtype=torch.float64, device=self.volume.device)
        self.options: dict[str, Any] = {}
        if setting["model"] == "trilinear":
            self.options["step"] = setting["step"] * min(self.subject.spacing)
        else:
            self.options["model"] = setting["model"]

    def render(self, motion: torch.Tensor) -> torch.Tensor:
        return project(self.subject, self.view, motion @ self.poses, **self.options)[:, 0]
