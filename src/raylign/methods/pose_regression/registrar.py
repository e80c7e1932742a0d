"""The regressors as a Registrar: one volume, one X-ray, iterations from the start."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.methods.cubes import centred, uncentred
from raylign.methods.looks import seen
from raylign.methods.pose_regression.iterate import IterateConfig, Iterated, iterate
from raylign.methods.pose_regression.weights import METHOD, Learned
from raylign.methods.unjudged import Came, bare, one_xray, shown_cube, unjudged
from raylign.registration.problem import Problem
from raylign.registration.result import Result

_WHY = "a regressor brings a pose nearer and does not judge it: refine it by another method"


@dataclass(frozen=True, eq=False)
class PoseRegression:
    """Moves a pose as a network says, again and again; something else refines it.

    ``raylign.registration.Pipeline((PoseRegression(learned), Direct(...)))`` does both.

    Parameters
    ----------
    learned: trained network.
    config: when iterations end; None for what its training had.
    """

    learned: Learned
    config: IterateConfig | None = None

    def register(self, problem: Problem) -> Result:
        """Where the iterations from the start end; never trusted. The score is minus the length of the last motion.

        Raises
        ------
        InputError: several X-rays, one that is too small, a model without bone.
        """
        begun = time.perf_counter()
        one_xray(problem, "a regressor")
        found, middle = self.iterations(bare(problem, self.learned.whole), problem.xrays[0], problem.start.matrix[None])
        last = float(found.lengths[0])
        came = Came(
            uncentred(found.paths[0], middle), found.poses[0, :3, 3], -last, {"last_motion": last},
            {"iterations": time.perf_counter() - begun},
        )  # fmt: skip
        kind = self.learned.network.config.kind
        settings = {"kind": kind, **asdict(self.config or self.learned.iterate), "cube": asdict(self.learned.cube)}
        return unjudged(problem, came, METHOD, _WHY, settings)

    def iterations(self, model: Volume, xray: XRay, starts: Float[Tensor, "B 4 4"]) -> tuple[Iterated, Float[Tensor, "3"]]:
        """Iterations from many poses ``T_world_from_volume`` at once: poses of the cube, and the middle (LPS mm) of that cube.

        Raises
        ------
        InputError: as of ``register``.
        """
        cube, middle = shown_cube(model, self.learned.cube, self.learned.whole)
        device = next(self.learned.network.parameters()).device
        looks = seen(xray, self.learned.cube.pixels).repeated(torch.zeros(len(starts), dtype=torch.int64))
        config = self.config or self.learned.iterate
        return iterate(self.learned.regressor, cube.to(device), looks, centred(starts, middle), config), middle
