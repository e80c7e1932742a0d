"""The regressors: FlowNetSimple with heads for a motion (DeepIM), DenseNet blocks (DMW).

Both see two images, the model's shadow and the exposure, and say six numbers. There is no normalisation over a minibatch, all of
which is of one patient in training: groups of channels of one image are normalised, so that what a network says of an exposure
does not depend on what else it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raylign.errors import InputError

_SLOPE = 0.1  # of leaky rectifiers, as FlowNetSimple has them


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of DeepIM's encoder, FlowNetSimple (Dosovitskiy et al. 2015), without weights of any earlier training.

    Parameters
    ----------
    widths: channels of the stages, each of half the resolution; the first convolves 7 pixels, the next two 5, all others 3.
    decoder: channels of each step of the decoder, which says the optical flow (in training alone); 0 for none.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 1024)
    decoder: int = 64


@dataclass(frozen=True)
class DenseConfig:
    """Sizes of DMW's blocks, those of DenseNet (Huang et al. 2017); the defaults are DenseNet-121's.

    Parameters
    ----------
    stem: channels of the first convolution, 7 pixels wide, which halves the resolution; a pooling halves it again.
    growth: channels that each layer adds.
    layers: of every block. Between blocks channels and resolution are halved.
    """

    stem: int = 64
    growth: int = 32
    layers: tuple[int, ...] = (6, 12, 24, 16)


@dataclass(frozen=True)
class NetworkConfig:
    """Which regressor, and its sizes.

    Parameters
    ----------
    kind: deepim, dmw.
    flow: of deepim. dense: of dmw.
    hidden: numbers of the two layers before the heads.
    groups: into which channels are normalised; 0 for no normalisation.

    Raises
    ------
    InputError: sizes that are not positive or do not divide.
    """

    kind: Literal["deepim", "dmw"] = "deepim"
    flow: FlowConfig = field(default_factory=FlowConfig)
    dense: DenseConfig = field(default_factory=DenseConfig)
    hidden: int = 256
    groups: int = 8

    def __post_init__(self) -> None:
        sizes = (*self.flow.widths, self.dense.stem, self.dense.growth, *self.dense.layers, self.hidden)
        if min(sizes) < 1 or min(self.flow.decoder, self.groups) < 0 or not self.flow.widths or not self.dense.layers:
            raise InputError("sizes are positive, and there are stages and blocks", field="network")
        widths = self.flow.widths if self.kind == "deepim" else (self.dense.stem, self.dense.growth)
        if self.groups and any(width % self.groups for width in widths):
            raise InputError(f"{self.groups} groups do not divide the channels", field="network", remedy="choose other widths")


@dataclass(frozen=True, eq=False)
class Said:
    """What a network says of pairs of images.

    Parameters
    ----------
    motion: [B, 6] turn, shift; in what units, ``model.Regressor`` says.
    flows: optical flow from the shadow to the exposure in tenths of the image's side, from coarse to fine; of deepim in training.
    """

    motion: Float[Tensor, "B 6"]
    flows: tuple[Float[Tensor, "B 2 H W"], ...] = ()


def _normalised(width: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, width) if groups else nn.Identity()


class FlowNet(nn.Module):
    """The contracting part of FlowNetSimple, and its expanding part for the flow."""

    def __init__(self, config: FlowConfig, groups: int) -> None:
        super().__init__()
        self.stages, channels = nn.ModuleList(), 2
        for number, width in enumerate(config.widths):
            size = 7 if number == 0 else 5 if number < 3 else 3
            layers = [nn.Conv2d(channels, width, size, 2, size // 2), _normalised(width, groups), nn.LeakyReLU(_SLOPE)]
            if number >= 2:
                layers += [nn.Conv2d(width, width, 3, 1, 1), _normalised(width, groups), nn.LeakyReLU(_SLOPE)]
            self.stages.append(nn.Sequential(*layers))
            channels = width
        self.flows, self.ups, self.carried = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        if config.decoder:
            seen = config.widths[-1]
            for below in config.widths[-2:0:-1]:
                self.flows.append(nn.Conv2d(seen, 2, 3, 1, 1))
                self.ups.append(nn.Sequential(nn.ConvTranspose2d(seen, config.decoder, 4, 2, 1), nn.LeakyReLU(_SLOPE)))
                self.carried.append(nn.ConvTranspose2d(2, 2, 4, 2, 1))
                seen = below + config.decoder + 2
            self.flows.append(nn.Conv2d(seen, 2, 3, 1, 1))

    def forward(self, images: Float[Tensor, "B 2 N N"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The last stage's channels, and the flows in training."""
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images)
        if not self.training or not len(self.flows):
            return found[-1], ()
        flows, seen = [self.flows[0](found[-1])], found[-1]
        for up, carry, say, beside in zip(self.ups, self.carried, self.flows[1:], found[-2:0:-1], strict=True):
            h, w = beside.shape[-2:]
            seen = torch.cat([beside, up(seen)[..., :h, :w], carry(flows[-1])[..., :h, :w]], 1)
            flows.append(say(seen))
        return found[-1], tuple(flows)


class Dense(nn.Module):
    """One layer of a DenseNet: what it makes of all channels so far is put beside them."""

    def __init__(self, channels: int, growth: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _normalised(channels, groups), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False),
            _normalised(4 * growth, groups), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return torch.cat([images, self.layers(images)], 1)


class DenseNet(nn.Module):
    """Blocks of dense layers; the last block's channels come out as they lie, since a pose is a matter of where things are."""

    def __init__(self, config: DenseConfig, groups: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(2, config.stem, 7, 2, 3, bias=False), _normalised(config.stem, groups), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]  # fmt: skip
        channels = config.stem
        for number, count in enumerate(config.layers):
            if number:
                half = channels // 2
                half += -half % max(groups, 1)
                layers += [_normalised(channels, groups), nn.ReLU(), nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
                channels = half
            for _ in range(count):
                layers.append(Dense(channels, config.growth, groups))
                channels += config.growth
        self.layers = nn.Sequential(*layers, _normalised(channels, groups), nn.ReLU())

    def forward(self, images: Float[Tensor, "B 2 N N"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.layers(images), ()


class RegressionNetwork(nn.Module):
    """An encoder, two layers, and heads for turn and shift.

    Parameters
    ----------
    config: sizes. pixels: along each side of both images.
    """

    def __init__(self, config: NetworkConfig, pixels: int) -> None:
        super().__init__()
        self.config, self.pixels = config, pixels
        halvings = len(config.flow.widths) if config.kind == "deepim" else 1 + len(config.dense.layers)
        if pixels >> halvings < 1:
            raise InputError(
                f"{pixels} pixels are halved {halvings} times", field="network", remedy="give fewer stages or blocks"
            )
        if config.kind == "deepim":
            self.encoder: nn.Module = FlowNet(config.flow, config.groups)
        else:
            self.encoder = DenseNet(config.dense, config.groups)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, _SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            count = self.encoder(torch.zeros(1, 2, pixels, pixels))[0].numel()
        self.between = nn.Sequential(
            nn.Flatten(), nn.Linear(count, config.hidden), nn.LeakyReLU(_SLOPE),
            nn.Linear(config.hidden, config.hidden), nn.LeakyReLU(_SLOPE),
        )  # fmt: skip
        self.turn, self.shift = nn.Linear(config.hidden, 3), nn.Linear(config.hidden, 3)
        for head in (self.turn, self.shift):  # at first nothing is moved
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)

    def forward(self, images: Float[Tensor, "B 2 N N"]) -> Said:
        """Of shadow and exposure."""
        found, flows = self.encoder(images)
        hidden = self.between(found)
        return Said(torch.cat([self.turn(hidden), self.shift(hidden)], -1), flows)


def make_network(config: NetworkConfig, pixels: int, seed: int) -> RegressionNetwork:
    """A network whose weights follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RegressionNetwork(config, pixels)
