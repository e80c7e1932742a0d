"""The agent's network: two encoders of images, joined, and a decoder that says what each action is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raylign.errors import InputError
from raylign.methods.imitation_agent.mdp import ACTIONS


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes that Toth et al. (2018) do not state.

    Parameters
    ----------
    channels: of the convolutions of each encoder, four stages.
    hidden: of the fully connected layers but the last, which has one output an action.
    kernel: side of the convolutions' windows, pixels, odd.

    Raises
    ------
    InputError: another number of stages or layers, sizes that are not positive.
    """

    channels: tuple[int, int, int, int] = (8, 16, 32, 64)
    hidden: tuple[int, int, int] = (128, 128, 64)
    kernel: int = 3

    def __post_init__(self) -> None:
        if min(*self.channels, *self.hidden) < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError("layers need channels, and windows an odd side", field="network", remedy="give positive numbers")


def _encoder(config: NetworkConfig) -> nn.Sequential:
    """Four stages of convolution, ReLU, max-pooling and batch normalisation.

    The pooling stands before the ReLU: both grow with their argument, so that their order changes nothing but the cost.
    """
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in config.channels:
        layers += [
            nn.Conv2d(inputs, outputs, config.kernel, padding=config.kernel // 2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(outputs),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten())


class AgentNetwork(nn.Module):
    """Rewards of six actions from a fixed and a moving image (Toth et al. 2018, "Architecture" and Fig. 2).

    Each image has an encoder of its own, of four stages; the features are concatenated and decoded by four fully connected
    layers, with ReLU and batch normalisation between them. The last gives the rewards as they are: these have either sign.

    Parameters
    ----------
    config: sizes.
    pixels: side of the images, a multiple of 16.
    """

    def __init__(self, config: NetworkConfig, pixels: int = 128) -> None:
        super().__init__()
        if pixels < 16 or pixels % 16:
            raise InputError(f"{pixels} pixels", field="pixels", remedy="give a multiple of 16: four stages halve the image")
        self.config, self.pixels = config, pixels
        self.fixed, self.moving = _encoder(config), _encoder(config)
        width = 2 * config.channels[-1] * (pixels // 16) ** 2
        layers: list[nn.Module] = []
        for size in config.hidden:
            layers += [nn.Linear(width, size), nn.ReLU(inplace=True), nn.BatchNorm1d(size)]
            width = size
        self.decoder = nn.Sequential(*layers, nn.Linear(width, len(ACTIONS)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, fixed: Float[Tensor, "B 1 n n"], moving: Float[Tensor, "B 1 n n"]) -> Float[Tensor, "B 6"]:
        """Rewards, in the order of ``mdp.ACTIONS``."""
        features = [encoder(image) for encoder, image in ((self.fixed, fixed), (self.moving, moving))]
        rewards: Tensor = self.decoder(torch.cat(features, 1))
        return rewards


def make_network(config: NetworkConfig, pixels: int, seed: int) -> AgentNetwork:
    """A network with random weights that depend on the seed alone; the global stream of random numbers stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AgentNetwork(config, pixels)


class Ensemble(nn.Module):
    """Several networks that see the same.

    Each walks by itself where ends are to be voted on; as one network they say the mean of their rewards.

    Parameters
    ----------
    members: of one size of image; their layers may differ.

    Raises
    ------
    InputError: fewer than two, or images of different sizes.
    """

    def __init__(self, members: Sequence[AgentNetwork]) -> None:
        super().__init__()
        if len(members) < 2 or len({m.pixels for m in members}) > 1:
            raise InputError(f"{len(members)} networks that are to vote", field="members", remedy="give two or more of one size")
        self.members = nn.ModuleList(members)
        self.pixels = members[0].pixels

    def forward(self, fixed: Float[Tensor, "B 1 n n"], moving: Float[Tensor, "B 1 n n"]) -> Float[Tensor, "B 6"]:
        """Mean rewards, in the order of ``mdp.ACTIONS``."""
        return torch.stack([member(fixed, moving) for member in self.members]).mean(0)
