"""The learned similarity as a Registrar: one volume, one X-ray, a descent from the start."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.methods.convex_similarity.descent import Descended, DescentConfig, descend
from raylign.methods.convex_similarity.weights import METHOD, Learned
from raylign.methods.cubes import centred, uncentred
from raylign.methods.looks import seen
from raylign.methods.unjudged import Came, bare, one_xray, shown_cube, unjudged
from raylign.registration.problem import Problem
from raylign.registration.result import Result

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
        one_xray(problem, "a similarity")
        found, middle = self.descents(bare(problem, self.learned.whole), problem.xrays[0], problem.start.matrix[None])
        value = float(found.values[0])
        came = Came(
            uncentred(found.paths[0], middle), found.poses[0, :3, 3], -value, {"similarity": value},
            {"descent": time.perf_counter() - begun},
        )  # fmt: skip
        settings = {**asdict(self.config or self.learned.descent), "cube": asdict(self.learned.cube)}
        return unjudged(problem, came, METHOD, _WHY, settings)

    def descents(self, model: Volume, xray: XRay, starts: Float[Tensor, "B 4 4"]) -> tuple[Descended, Float[Tensor, "3"]]:
        """Descents from many poses ``T_world_from_volume`` at once: poses of the cube, and the middle (LPS mm) of that cube.

        Raises
        ------
        InputError: as of ``register``.
        """
        cube, middle = shown_cube(model, self.learned.cube, self.learned.whole)
        device = next(self.learned.network.parameters()).device
        with torch.no_grad():
            channels = self.learned.network.expanded(cube.to(device))
        looks = seen(xray, self.learned.cube.pixels).repeated(torch.zeros(len(starts), dtype=torch.int64))
        config = self.config or self.learned.descent
        return descend(self.learned.similarity, channels, looks, centred(starts, middle), config), middle
