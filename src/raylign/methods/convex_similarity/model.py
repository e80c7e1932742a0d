"""The similarity of a volume under poses with exposures, and its gradient by the pose: what is trained, and what is descended."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.methods.convex_similarity.network import SimilarityNetwork
from raylign.methods.cubes import CubeConfig
from raylign.methods.geodesic import moved
from raylign.methods.looks import Looks, shadows


@dataclass(frozen=True, eq=False)
class Similarity:
    """The network's similarity of cubes under poses with exposures.

    Parameters
    ----------
    network: of ``cube.pixels`` pixels.
    cube: how models are shown.
    """

    network: SimilarityNetwork
    cube: CubeConfig = field(default_factory=CubeConfig)

    def of(self, channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, " B"]:
        """The similarity under each pose: the smaller, the more alike."""
        out: Tensor = self.network(shadows(channels, looks, poses, self.cube), looks.images.to(channels.device))
        return out

    def gradient(
        self, channels: Float[Tensor, "C D H W"], looks: Looks, poses: Float[Tensor, "B 4 4"], *, twice: bool = False
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B 6"]]:
        """The similarity, and its gradient by motions as ``geodesic.moved`` makes them (radians, units, world axes).

        ``twice``: whether the gradient is to be differentiated again, by the networks' weights.
        """
        with torch.enable_grad():
            motion = torch.zeros(len(poses), 6, dtype=poses.dtype, device=poses.device, requires_grad=True)
            values = self.of(channels, looks, moved(poses, motion, self.cube.unit_mm))
            (slopes,) = torch.autograd.grad(values.sum(), motion, create_graph=twice)
        return values if twice else values.detach(), slopes
