"""The learned similarity as a Registrar: one volume, one X-ray, a descent from the start."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay, restricted
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.methods.convex_similarity.descent import Descended, DescentConfig, descend
from raylign.methods.convex_similarity.weights import METHOD, Learned
from raylign.methods.cubes import bones, centred, cube_of, uncentred
from raylign.methods.looks import seen
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.versions import versions

_WHY = "a descent brings a pose nearer and does not judge it: refine it by another method"


@dataclass(frozen=True, eq=False)
class ConvexSimilarity:
    """Descends the learned similarity of one X-ray: moves a pose towards the right one, from far away; something else refines it.

    ``raylign.registration.Pipeline((ConvexSimilarity(learned), Direct(...)))`` does both.

    Parameters
    ----------
    learned: trained network.
    config: schedule of the steps; None for that of its training.
    """

    learned: Learned
    config: DescentConfig | None = None

    def register(self, problem: Problem) -> Result:
        """Where the descent from the start ends; never trusted.

        Raises
        ------
        InputError: several X-rays, one that is too small, a model without bone.
        """
        begun = time.perf_counter()
        if len(problem.xrays) > 1:
            raise InputError(
                f"{len(problem.xrays)} X-rays for a similarity that looks at one", field="xrays",
                remedy="give one, or use another method",
            )  # fmt: skip
        model = problem.model
        if problem.bones is not None and not self.learned.whole:
            model = restricted(model, problem.bones, list(problem.bones.present()))
        found, middle = self.descents(model, problem.xrays[0], problem.start.matrix[None])
        path = uncentred(found.paths[0], middle)
        pose = path[-1]
        wide = torch.tensor([math.radians(30.0)] * 3 + [50.0] * 3, dtype=torch.float64)
        return Result(
            transform=Rigid(pose),
            start=problem.start,
            covariance=torch.diag(wide**2),
            centre=found.poses[0, :3, 3],
            score=-float(found.values[0]),
            confidence=Confidence(0.0, False, (_WHY,), {"similarity": float(found.values[0])}),
            trajectory=tuple(Step(0, n, 0.0, p) for n, p in enumerate(path)),
            timings={"descent": time.perf_counter() - begun},
            method=METHOD,
            versions=versions(),
            settings={**asdict(self.config or self.learned.descent), "cube": asdict(self.learned.cube)},
            renders=found.paths.shape[1] - 1,
        )

    def descents(self, model: Volume, xray: XRay, starts: Float[Tensor, "B 4 4"]) -> tuple[Descended, Float[Tensor, "3"]]:
        """Descents from many poses ``T_world_from_volume`` at once: poses of the cube, and the middle (LPS mm) of that cube.

        Raises
        ------
        InputError: as of ``register``.
        """
        whole = self.learned.whole
        if whole and model.unit == "raw":
            raise InputError("the volume is in raw numbers", field="volume", remedy="give a CT in HU")
        cube, middle = cube_of(model if whole else bones(model), self.learned.cube)
        device = next(self.learned.network.parameters()).device
        with torch.no_grad():
            channels = self.learned.network.expanded(cube.to(device))
        looks = seen(xray, self.learned.cube.pixels).repeated(torch.zeros(len(starts), dtype=torch.int64))
        config = self.config or self.learned.descent
        return descend(self.learned.similarity, channels, looks, centred(starts, middle), config), middle
