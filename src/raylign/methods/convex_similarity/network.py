"""The learned similarity: a 3D network that expands the volume, an encoder of moving and target image (Gao et al. 2024, Fig. 2).

All layers can be differentiated twice, since the training's loss is made of the output's gradient by the pose. PyTorch's fused
attention cannot everywhere, so that attention is written out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raylign.errors import InputError

_REACH = 3  # voxels that three convolutions see beyond a place


@dataclass(frozen=True)
class BranchConfig:
    """One branch of the encoder: patches of one size.

    Parameters
    ----------
    patch: pixels along each side of a patch.
    width: numbers a token.
    layers: of self-attention in every block.
    """

    patch: int
    width: int
    layers: int = 1


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks.

    Parameters
    ----------
    expand: whether there is a 3D network at all (the paper's ablation "No 3D Net" has none).
    features: channels of its two hidden layers.
    channels: that are projected; the volume itself is added to each.
    encoder: crossvit; residual (the blocks of the paper's predecessor, MICCAI 2020).
    fine, coarse: branches of the CrossViT (Chen et al. 2021).
    blocks: of both branches, their tokens exchanged after each.
    heads: of attention.
    widths: channels of the residual encoder's stages.

    Raises
    ------
    InputError: sizes that are not positive or do not divide.
    """

    expand: bool = True
    features: tuple[int, int] = (4, 8)
    channels: int = 3
    encoder: Literal["crossvit", "residual"] = "crossvit"
    fine: BranchConfig = field(default_factory=lambda: BranchConfig(8, 48))
    coarse: BranchConfig = field(default_factory=lambda: BranchConfig(16, 96, 2))
    blocks: int = 2
    heads: int = 3
    widths: tuple[int, ...] = (16, 32, 64, 64)

    def __post_init__(self) -> None:
        both = (self.fine, self.coarse)
        of_branches = [n for branch in both for n in (branch.patch, branch.width, branch.layers)]
        sizes = (*self.features, self.channels, *of_branches, self.blocks, self.heads, *self.widths)
        if min(sizes) < 1 or self.fine.width % self.heads or self.coarse.width % self.heads:
            raise InputError("sizes are positive, and heads divide the widths of both branches", field="network")


class Expansion(nn.Module):
    """[D, H, W] -> [C, D, H, W]: the volume in every channel, and what three convolutions add to it.

    Without biases, so that air stays zero: no ray has to be followed through it, and the box around the volume casts no shadow.
    The volume is worked on in two halves that overlap, since PyTorch's fast kernels for the CPU want a batch of two at least.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        a, b = config.features
        self.layers = nn.Sequential(
            nn.Conv3d(1, a, 3, padding=(0, 1, 1), bias=False),
            nn.ReLU(),
            nn.Conv3d(a, b, 3, padding=(0, 1, 1), bias=False),
            nn.ReLU(),
            nn.Conv3d(b, config.channels, 3, padding=(0, 1, 1), bias=False),
        )

    def forward(self, volume: Float[Tensor, "D H W"]) -> Float[Tensor, "C D H W"]:
        """The volume, in units in which bone is about one."""
        half = -(-len(volume) // 2)
        padded = nn.functional.pad(volume, (0, 0, 0, 0, _REACH, 2 * half - len(volume) + _REACH))
        halves = torch.stack([padded[: half + 2 * _REACH], padded[half:]])
        added: Tensor = self.layers(halves[:, None]).transpose(0, 1).flatten(1, 2)
        return volume + added[:, : len(volume)]


class Attention(nn.Module):
    """Attention of some tokens to others, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, asking: Float[Tensor, "B Q D"], asked: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        shares = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        out: Tensor = self.out((shares @ v).transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """Self-attention and two linear layers, each added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        seen = self.first(tokens)
        tokens = tokens + self.attention(seen, seen)
        out: Tensor = tokens + self.wide(self.second(tokens))
        return out


class Exchange(nn.Module):
    """The class token of one branch attends to the patches of the other (CrossViT, Fig. 3d)."""

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(width, other), nn.Linear(other, width)
        self.norm = nn.LayerNorm(other)
        self.attention = Attention(other, heads)

    def forward(self, tokens: Float[Tensor, "B N D"], others: Float[Tensor, "B M E"]) -> Float[Tensor, "B 1 D"]:
        own = self.there(tokens[:, :1])
        seen = self.norm(torch.cat([own, others[:, 1:]], 1))
        out: Tensor = tokens[:, :1] + self.back(own + self.attention(seen[:, :1], seen))
        return out


class Branch(nn.Module):
    """Patches of one size as tokens, a class token before them."""

    def __init__(self, config: BranchConfig, channels: int, pixels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, config.width, config.patch, config.patch)
        count = (pixels // config.patch) ** 2
        self.place = nn.Parameter(0.02 * torch.randn(1, count + 1, config.width))
        self.whole = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(self, images: Float[Tensor, "B C N N"]) -> Float[Tensor, "B T D"]:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        out: Tensor = torch.cat([self.whole.expand(len(images), -1, -1), patches], 1) + self.place
        return out


class CrossViT(nn.Module):
    """Two images as patches of two sizes, which attend to themselves and to each other's; one number comes out."""

    def __init__(self, config: NetworkConfig, pixels: int) -> None:
        super().__init__()
        both, channels = (config.fine, config.coarse), config.channels + 1
        if any(pixels % branch.patch for branch in both):
            raise InputError(f"patches do not divide {pixels} pixels", field="network", remedy="choose other patches or pixels")
        self.branches = nn.ModuleList(Branch(branch, channels, pixels) for branch in both)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Sequential(*(Layer(b.width, config.heads) for _ in range(b.layers))) for b in both)
            for _ in range(config.blocks)
        )
        self.exchanges = nn.ModuleList(
            nn.ModuleList([Exchange(a.width, b.width, config.heads) for a, b in (both, both[::-1])]) for _ in range(config.blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(b.width) for b in both)
        self.heads = nn.ModuleList(nn.Linear(b.width, 1) for b in both)

    def forward(self, images: Float[Tensor, "B C N N"]) -> Float[Tensor, " B"]:
        fine, coarse = (branch(images) for branch in self.branches)
        for block, exchange in zip(self.blocks, self.exchanges, strict=True):
            layers, across = list(block), list(exchange)  # type: ignore[call-overload]
            fine, coarse = layers[0](fine), layers[1](coarse)
            whole_fine, whole_coarse = across[0](fine, coarse), across[1](coarse, fine)
            fine, coarse = (torch.cat([w, t[:, 1:]], 1) for w, t in ((whole_fine, fine), (whole_coarse, coarse)))
        said = [head(norm(t[:, 0])) for head, norm, t in zip(self.heads, self.norms, (fine, coarse), strict=True)]
        return (said[0] + said[1])[:, 0]


class Residual(nn.Module):
    """The encoder of the paper's predecessor: one of residual blocks for each image, and how far their features lie apart."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.moving, self.target = (_stages(c, config.widths) for c in (config.channels, 1))

    def forward(self, images: Float[Tensor, "B C N N"]) -> Float[Tensor, " B"]:
        apart = self.moving(images[:, :-1]) - self.target(images[:, -1:])
        out: Tensor = (apart**2).mean((1, 2, 3))
        return out


def _stages(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    stages: list[nn.Module] = []
    for width in widths:
        stages += [nn.Conv2d(channels, width, 3, 2, 1), _Block(width)]
        channels = width
    return nn.Sequential(*stages)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class SimilarityNetwork(nn.Module):
    """Both networks.

    Parameters
    ----------
    config: sizes. pixels: along each side of both images.
    """

    def __init__(self, config: NetworkConfig, pixels: int) -> None:
        super().__init__()
        self.config, self.pixels = config, pixels
        self.expansion = Expansion(config) if config.expand else None
        self.encoder: nn.Module = CrossViT(config, pixels) if config.encoder == "crossvit" else Residual(config)

    def expanded(self, volume: Float[Tensor, "D H W"]) -> Float[Tensor, "C D H W"]:
        """The channels that are projected; without a 3D network the volume alone."""
        return volume[None] if self.expansion is None else self.expansion(volume)

    def forward(self, moving: Float[Tensor, "B C N N"], target: Float[Tensor, "B 1 N N"]) -> Float[Tensor, " B"]:
        """The similarity: the smaller, the more alike."""
        if moving.shape[1] == 1 < self.config.channels:
            moving = moving.expand(-1, self.config.channels, -1, -1)
        out: Tensor = self.encoder(torch.cat([moving, target], 1))
        return out


def make_network(config: NetworkConfig, pixels: int, seed: int) -> SimilarityNetwork:
    """A network whose weights follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SimilarityNetwork(config, pixels)
        if network.expansion is not None:  # at first the volume is projected as it is
            last = network.expansion.layers[-1]
            assert isinstance(last, nn.Conv3d)
            nn.init.normal_(last.weight, std=1e-2)
    return network
