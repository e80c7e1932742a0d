"""Pictures of the evaluation of Toth et al. (2018): outlines of the model over an exposure, and the ways of walks (figure 6)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh
from raylign.evaluation import overlay, pictures
from raylign.evaluation.markup import Markup, text
from raylign.geometry import View
from raylign.methods.imitation_agent.mdp import image_frame
from raylign.methods.imitation_agent.pool import Pool, as_exposures, read_patient
from raylign.methods.imitation_agent.world import Exposures, World
from raylign.projection import project_mesh

SIDE = 440
"""Pixels of a picture's longer side."""

COLOURS = (overlay.END, overlay.START, (96, 165, 255))
"""Of the truth, of what is wrong, of what is right or nearly so."""


def world_of(pool: Pool, seed: int) -> World:
    """The exposure of one test patient; states are counted from the true pose."""
    return World(as_exposures(read_patient(pool.path(seed, pool.config.exposures["test"]))))


def outlined(world: World, states: Float[Tensor, "S 3"], says: str) -> Markup:
    """The exposure with the model's outlines in up to three states, in the order of ``COLOURS``."""
    seen = world.exposures
    view = _view(seen)
    shape = overlay.display_shape(view.shape, view.pixel_spacing, SIDE)
    poses = world.poses(torch.zeros(len(states), dtype=torch.int64), states)
    shadows = project_mesh(_mesh(seen), view.resample(shape), poses)[:, 0]
    picture, mask = _radiograph(seen, shape)
    for k in reversed(range(len(states))):  # the truth on top
        lines = overlay.contours(overlay.resized((shadows[k] > 0).float(), shape), mask, width=2.2)
        picture = overlay.painted(picture, lines, COLOURS[k])
    return _image(pictures.data_uri(pictures.jpeg(picture, 82)), shape, says)


def ways(world: World, paths: list[list[list[float]]], says: str) -> Markup:
    """The exposure with the ways of the model's centre, each from a dot to where it ended; the truth is a cross."""
    seen = world.exposures
    view = _view(seen)
    shape = overlay.display_shape(view.shape, view.pixel_spacing, SIDE)
    shown = view.resample(shape)
    centre = world.exposures.base[0, :3, :3] @ world.centres[0] + world.exposures.base[0, :3, 3]
    frame = image_frame(seen.vectors)[0]

    def placed(shifts: Tensor) -> list[tuple[float, float]]:
        return [(x, y) for x, y in shown.project(centre + shifts @ frame[:2]).tolist()]

    picture, _ = _radiograph(seen, shape)
    lines = []
    for path in paths:
        points = placed(torch.tensor(path, dtype=torch.float64))
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline points="{joined}" fill="none" stroke="#60a5ff" stroke-width="1" stroke-opacity=".55"/>')
        lines.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="1.6" fill="#c084fc"/>')
    ends = [placed(torch.tensor(path[-1:], dtype=torch.float64))[0] for path in paths]
    lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#ff7a3d"/>' for x, y in ends]
    ((x, y),) = placed(torch.zeros(1, 2, dtype=torch.float64))
    lines.append(f'<path d="M{x - 6:.1f} {y:.1f}h12M{x:.1f} {y - 6:.1f}v12" stroke="#40ecbe" stroke-width="1.6"/>')
    h, w = shape
    uri = pictures.data_uri(pictures.jpeg(picture, 78))
    return Markup(
        f'<svg viewBox="0 0 {w} {h}" role="img" style="display:block;width:100%;height:auto"><title>{text(says)}</title>'
        f'<image href="{uri}" width="{w}" height="{h}"/>{"".join(lines)}</svg>'
    )


def towards(world: World, state: Float[Tensor, "3"]) -> str:
    """In words how far a state lies from the truth in the image plane, along the patient's axes."""
    across, down, _ = image_frame(world.exposures.vectors)[0]
    shift = state[0] * across + state[1] * down
    shift = torch.linalg.inv(world.exposures.base[0, :3, :3]) @ shift
    sides = (("left", "right"), ("back", "front"), ("head", "feet"))
    parts = [(float(value), pair[0] if value > 0 else pair[1]) for value, pair in zip(shift, sides, strict=True)]
    said = [
        f"{abs(value):.0f} mm towards the {name}" for value, name in sorted(parts, key=lambda p: -abs(p[0])) if abs(value) >= 3
    ]
    return " and ".join(said[:2]) or "less than 3 mm"


def _view(seen: Exposures) -> View:
    source, origin, column, row = seen.vectors[0]
    return View(source, origin, column, row, (int(seen.images.shape[1]), int(seen.images.shape[2])))


def _mesh(seen: Exposures) -> Mesh:
    return seen.meshes[int(seen.model[0])]


def _radiograph(seen: Exposures, shape: tuple[int, int]) -> tuple[overlay.Picture, overlay.Mask]:
    image = seen.images[0].to(torch.float32)
    mask = overlay.resized_mask(image.isfinite().numpy(), shape)
    return overlay.radiograph(overlay.resized(image.nan_to_num(), shape), mask), mask


def _image(uri: str, shape: tuple[int, int], says: str) -> Markup:
    return Markup(
        f'<img src="{uri}" width="{shape[1]}" height="{shape[0]}" style="max-width:100%;height:auto" alt="{text(says)}">'
    )
