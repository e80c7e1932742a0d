"""What the agent sees: a field of the X-ray about the model, and the model's own projection there, both anew in every state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.geometry import se3
from raylign.methods.imitation_agent.mdp import image_frame, placed
from raylign.projection import mesh_operator
from raylign.projection.mesh_surface import closed_surface


@dataclass(frozen=True)
class WorldConfig:
    """Fields of view (Toth et al. 2018, "3D/2D registration model"), measured in the plane of the isocentre.

    Parameters
    ----------
    moving_mm: side of what the agent sees about the model.
    pixels: of both images' sides.
    thickness_mm: of the model that counts as one; inputs near one suit a network.

    Raises
    ------
    InputError: a number that is not positive.
    """

    moving_mm: float = 120.0
    pixels: int = 128
    thickness_mm: float = 50.0

    def __post_init__(self) -> None:
        if min(self.moving_mm, self.pixels, self.thickness_mm) <= 0:
            raise InputError("fields, pixels and thicknesses are positive", field="world", remedy="give positive numbers")


@dataclass(frozen=True, eq=False)
class Exposures:
    """X-rays of one shape, each with a model and a base pose.

    Parameters
    ----------
    images: [E, H, W] line integrals, NaN where a pixel says nothing; any float type.
    vectors: [E, 4, 3] source, origin, column and row step of each view, world mm, float64.
    base: [E, 4, 4] ``T_world_from_model`` from which states are counted.
    model: [E] which of ``meshes`` each shows.
    meshes: closed surfaces, model mm.
    centres: [M, 3] of each mesh, model mm: what turns go about.
    """

    images: Float[Tensor, "E H W"]
    vectors: Float[Tensor, "E 4 3"]
    base: Float[Tensor, "E 4 4"]
    model: Int64[Tensor, " E"]
    meshes: tuple[Mesh, ...]
    centres: Float[Tensor, "M 3"]

    def __len__(self) -> int:
        return len(self.images)


class World:
    """Exposures in which models are moved in the image plane; many states are looked at at once.

    Parameters
    ----------
    exposures: on the device on which the agent is to see them; geometry stays on the CPU.
    config: what is shown.

    Raises
    ------
    InputError: a mesh that is not closed.
    """

    def __init__(self, exposures: Exposures, config: WorldConfig | None = None) -> None:
        self.exposures, self.config = exposures, config or WorldConfig()
        self.device = exposures.images.device
        self.frames = image_frame(exposures.vectors)
        self.centres = exposures.centres[exposures.model]
        self._surfaces = [(m.vertices.to(self.device), closed_surface(m).faces.to(self.device)) for m in exposures.meshes]
        self._pixels = torch.arange(self.config.pixels, dtype=torch.float64)

    def poses(self, which: Int64[Tensor, " B"], states: Float[Tensor, "B 3"]) -> Float[Tensor, "B 4 4"]:
        """``T_world_from_model`` of states (mm, mm, degrees) counted from the exposures' base poses."""
        return placed(self.exposures.base[which], self.centres[which], self.frames[which], states)

    def fields(self, which: Int64[Tensor, " B"], poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 4 3"]:
        """Vectors of the views of ``moving_mm`` about the models' centres: same source, same detector plane.

        What ``simulation.poses.region`` gives of one view, for many: the field is measured in the plane of the isocentre.
        """
        vectors, frame = self.exposures.vectors[which], self.frames[which]
        source, origin, column, row = vectors.unbind(1)
        at = (poses[:, :3, :3] @ self.centres[which][..., None])[..., 0] + poses[:, :3, 3] - source
        away = frame[:, 2]
        sid = ((origin - source) * away).sum(-1, keepdim=True)
        image = source + at * (sid / (at * away).sum(-1, keepdim=True))
        side = self.config.moving_mm * sid / -(source * away).sum(-1, keepdim=True)  # of the field, mm on the detector
        pixel = side / self.config.pixels
        across, down = (pixel * torch.nn.functional.normalize(step, dim=-1) for step in (column, row))
        first = image - (self.config.pixels - 1) / 2 * (across + down)
        return torch.stack([source, first, across, down], 1)

    def observe(
        self, which: Int64[Tensor, " B"], states: Float[Tensor, "B 3"]
    ) -> tuple[Float[Tensor, "B 1 n n"], Float[Tensor, "B 1 n n"], Float[Tensor, " B"]]:
        """Fixed and moving images of states, and the share of each fixed field that the exposure shows.

        The fixed field is brought to mean zero and standard deviation one over its valid pixels, the others are zero: blind to
        the scale of line integrals and to what lies far off. The moving image is thickness over ``thickness_mm``.
        """
        poses = self.poses(which, states)
        fields = self.fields(which, poses)
        fixed, share = self._seen(which, fields)
        return fixed[:, None], self._projected(which, poses, fields)[:, None], share

    def _seen(self, which: Tensor, fields: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.exposures.vectors[which]
        steps = vectors[:, 2:]  # [B, 2, 3] column and row step, in whose multiples pixels are counted
        gram = torch.linalg.inv(steps @ steps.mT)

        def pixels(points: Tensor) -> Tensor:
            return (points @ steps.mT @ gram)[:, 0]

        first = pixels((fields[:, 1] - vectors[:, 1])[:, None])
        by_column, by_row = pixels(fields[:, 2:3]), pixels(fields[:, 3:4])
        at = first[:, None, None] + self._pixels[None, None, :, None] * by_column[:, None, None]
        at = at + self._pixels[None, :, None, None] * by_row[:, None, None]
        h, w = self.exposures.images.shape[1:]
        inside = ((at >= -0.5) & (at <= torch.tensor([w - 0.5, h - 0.5]))).all(-1).to(self.device)
        scaled = (2 * at + 1) / torch.tensor([w, h]) - 1
        images = self.exposures.images[which.to(self.device)].to(torch.float32)[:, None]
        seen = torch.nn.functional.grid_sample(
            images, scaled.to(self.device, torch.float32), mode="bilinear", padding_mode="border", align_corners=False
        )[:, 0]
        return _normalised(seen, inside & seen.isfinite())

    def _projected(self, which: Tensor, poses: Tensor, fields: Tensor) -> Float[Tensor, "B n n"]:
        """Thickness of the models along the rays of their fields, each mesh's states together."""
        n, back = self.config.pixels, se3.inverse(poses)
        source = (back[:, :3, :3] @ fields[:, 0, :, None])[..., 0] + back[:, :3, 3]
        first, across, down = ((back[:, :3, :3] @ v[..., None])[..., 0] for v in _directions(fields))
        still = torch.zeros_like(source)
        rays = torch.stack([source, first, across, down, still, still], 1).to(self.device)
        model = self.exposures.model[which]
        out = torch.empty(len(which), n, n, dtype=torch.float32, device=self.device)
        for one in model.unique().tolist():
            rows = (model == one).nonzero()[:, 0].to(self.device)
            vertices, faces = self._surfaces[one]
            out[rows] = mesh_operator.thickness(rays[rows], vertices[None], faces, n, n)
        return out * (_lengths(rays, n) / self.config.thickness_mm)


def _directions(fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the source to the first pixel, and how that changes by column and by row."""
    return fields[:, 1] - fields[:, 0], fields[:, 2], fields[:, 3]


def _lengths(rays: Float[Tensor, "B 6 3"], n: int) -> Float[Tensor, "B n n"]:
    """mm from the source to every pixel."""
    d, c, r = rays[:, 1], rays[:, 2], rays[:, 3]
    i = torch.arange(n, dtype=rays.dtype, device=rays.device)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1)[:, None, None]

    column, row = i[None, None, :], i[None, :, None]
    square = dot(d, d) + column * (2 * dot(d, c) + column * dot(c, c)) + row * (2 * dot(d, r) + row * dot(r, r))
    return (square + 2 * column * row * dot(c, r)).sqrt().to(torch.float32)


def _normalised(seen: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean zero and standard deviation one over valid pixels, the others zero; and the share of valid ones."""
    count = valid.sum((1, 2)).clamp_min(1).to(torch.float32)
    known = torch.where(valid, seen, 0)
    mean = known.sum((1, 2)) / count
    centred = torch.where(valid, known - mean[:, None, None], 0)
    spread = (centred.square().sum((1, 2)) / count).sqrt()
    return centred / (spread + 1e-3)[:, None, None], valid.float().mean((1, 2)).cpu()


def merged(vectors: Float[Tensor, "*b 4 3"], factor: int) -> Float[Tensor, "*b 4 3"]:
    """Vectors of views whose pixels are square blocks of so many, from the first one on."""
    source, origin, column, row = vectors.unbind(-2)
    return torch.stack([source, origin + (factor - 1) / 2 * (column + row), factor * column, factor * row], -2)


def gathered(parts: Sequence[Exposures]) -> Exposures:
    """Several sets of exposures of one shape as one."""
    first, models = [], 0
    for part in parts:
        first.append(models)
        models += len(part.meshes)
    return Exposures(
        torch.cat([p.images for p in parts]),
        torch.cat([p.vectors for p in parts]),
        torch.cat([p.base for p in parts]),
        torch.cat([p.model + n for p, n in zip(parts, first, strict=True)]),
        tuple(m for p in parts for m in p.meshes),
        torch.cat([p.centres for p in parts]),
    )
