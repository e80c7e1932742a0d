"""What is timed of a renderer that PyTorch differentiates: the same lines for all of them."""

from __future__ import annotations

import os
from typing import Any

import torch

WHATS = ("forward", "forward+pose", "forward+volume", "double-backward")


def _generators() -> torch.Tensor:
    """[6, 4, 4]: the motions that a twist (rotation, translation) is a combination of, to first order."""
    basis = torch.zeros(6, 4, 4)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        basis[axis, i, j], basis[axis, j, i] = -1, 1
        basis[3 + axis, axis, 3] = 1
    return basis


class Derivatives:
    """A side with a twist leaf: image and gradients.

    The pose is moved by the exponential of a twist at zero, so that six numbers an image are the leaf whose gradient is taken.
    The scalar is a weighted sum of the image with fixed weights; that of the double backward, whose gradient by the volume is
    taken, a weighted sum of the pose gradient.
    """

    def __init__(self, side: Any, device: str) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self.side, self.device = side, torch.device(device)
        self.ladders = side.ladders

    def prepare(self, what: str, case: dict[str, Any], setting: dict[str, Any]) -> None:
        """Leaves and weights of a case."""
        side, batch = self.side, case["batch"]
        self.what = what
        side.volume.requires_grad_(what in ("forward+volume", "double-backward"))
        side.prepare(case, setting | {"what": what})
        exact = torch.float64 if getattr(side, "double", False) else torch.float32
        self.basis = _generators().to(self.device, exact)
        self.eye = torch.eye(4, device=self.device, dtype=exact)
        by_pose = what in ("forward+pose", "double-backward")
        self.twist = torch.zeros(batch, 6, device=self.device, dtype=exact, requires_grad=by_pose)
        random = torch.Generator().manual_seed(0)
        self.weights = None if what == "forward" else torch.rand(batch, *case["shape"], generator=random).to(self.device)
        self.directions = torch.rand(batch, 6, generator=random).to(self.device, exact)

    def call(self) -> dict[str, Any]:
        """One call: the image, and the gradient that the case asks for."""
        if self.what == "forward":
            with torch.no_grad():
                image = self.side.render(self._motion())
        else:
            image = self.side.render(self._motion())
            self._gradients((image * self.weights).sum())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        kept = image.detach()
        return {"image": lambda index: kept[index].cpu().numpy()}

    def _gradients(self, total: torch.Tensor) -> None:
        if self.what == "forward+pose":
            torch.autograd.grad(total, self.twist)
        elif self.what == "forward+volume":
            torch.autograd.grad(total, self.side.volume)
        else:
            (by_pose,) = torch.autograd.grad(total, self.twist, create_graph=True)
            torch.autograd.grad((by_pose * self.directions).sum(), self.side.volume)

    def _motion(self) -> torch.Tensor:
        """[B, 4, 4], the exponential to second order, which at zero has its exact value and first two derivatives."""
        x = torch.einsum("bk,kij->bij", self.twist, self.basis)
        return self.eye + x + x @ x / 2

    def memory_mb(self, which: str) -> float | None:
        """On a GPU, what PyTorch has allocated there, and its peak; elsewhere nothing, and the process is asked."""
        if self.device.type != "cuda":
            return None
        if which == "forget":
            torch.cuda.reset_peak_memory_stats()
        return (torch.cuda.max_memory_allocated() if which == "peak" else torch.cuda.memory_allocated()) / 2**20
