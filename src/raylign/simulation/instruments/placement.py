"""Where instruments lie: with the tip at a target, along a vessel, or anywhere in the picture.

Everything is in world mm, and all that is random comes from the generator: the same seed, the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.simulation.instruments import lines
from raylign.simulation.instruments.design import uniform
from raylign.simulation.instruments.parts import Instrument, Placed, polyline


def _normal(generator: torch.Generator) -> float:
    return float(torch.randn((), generator=generator, dtype=torch.float64))


def _point(value: Any, name: str) -> Float[Tensor, "3"]:
    point = torch.as_tensor(value, dtype=torch.float64).cpu()
    if point.shape != (3,) or not bool(torch.isfinite(point).all()):
        raise InputError("expected three finite numbers", field=name, remedy="give world mm")
    return point


@dataclass(frozen=True, eq=False)
class Site:
    """What placing asks about the patient, in world mm.

    Parameters
    ----------
    target: [3] where instruments go.
    axis: [3] from the feet to the head; a unit vector, whatever its length given.
    vessels: centre lines [N, 3], each from where instruments enter to the end they can reach.
    spread: standard deviation in mm along each axis by which tips miss the target.

    Raises
    ------
    InputError: points that are not finite, a direction of no length, a negative spread.
    """

    target: Float[Tensor, "3"]
    axis: Float[Tensor, "3"] = field(default_factory=lambda: torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    vessels: tuple[Float[Tensor, "N 3"], ...] = ()
    spread: float = 15.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _point(self.target, "target"))
        axis = _point(self.axis, "axis")
        if not float(axis.norm()) > 0:
            raise InputError("a direction of no length", field="axis", remedy="give the direction from the feet to the head")
        object.__setattr__(self, "axis", axis / axis.norm())
        object.__setattr__(self, "vessels", tuple(polyline(line, "vessels") for line in self.vessels))
        if not (math.isfinite(self.spread) and self.spread >= 0):
            raise InputError(f"a spread of {self.spread} mm", field="spread", remedy="give 0 or more")

    def moved(self, pose: Float[Tensor, "4 4"]) -> Site:
        """The site of a patient who is moved: from the volume's mm to the world's by ``T_world_from_volume``."""
        pose = torch.as_tensor(pose, dtype=torch.float64).cpu()
        vessels = tuple(se3.transform(pose, line) for line in self.vessels)
        return Site(se3.transform(pose, self.target[None])[0], pose[:3, :3] @ self.axis, vessels, self.spread)


def at_target(
    instrument: Instrument,
    site: Site,
    generator: torch.Generator,
    direction: Float[Tensor, "3"] | None = None,
    degrees: float = 35.0,
) -> Placed:
    """The tip near the target, the shaft leaving it along a direction.

    Parameters
    ----------
    direction: [3] from the tip along the shaft, on average; towards the feet, where none is given.
    degrees: standard deviation of the shaft's angle against it, about each of two axes across.

    A shaft that bends sways about its direction behind the part that keeps its form; the roll about it is uniform.
    """
    mean = -site.axis if direction is None else _point(direction, "direction")
    tip = site.target + site.spread * torch.randn(3, generator=generator, dtype=torch.float64)
    return _laid(instrument, tip.numpy(), _about(mean.numpy(), degrees, generator), generator)


def along(
    instrument: Instrument,
    vessel: Float[Tensor, "N 3"],
    generator: torch.Generator,
    reach: tuple[float, float] = (0.3, 1.0),
    wobble: float = 2.0,
) -> Placed:
    """The instrument in a vessel: it enters at the first point of the centre line and ends somewhere on it.

    Parameters
    ----------
    vessel: [N, 3] world mm.
    reach: the share of the vessel's length at which the part that keeps its form ends lies evenly between these.
    wobble: mm (one standard deviation) by which the shaft swings about the centre line, slowly.

    The shaped part goes on from there with a random roll; before the vessel's beginning the shaft goes on straight. A rigid
    instrument has both ends on the centre line.

    Raises
    ------
    InputError: a line that is none.
    """
    path = polyline(vessel, "vessel").numpy()
    s = lines.lengths(path)
    end = uniform(generator, *reach) * s[-1]
    if instrument.rigid:
        tip, tail = lines.at(path, np.array([end, end - instrument.length]), s)
        return _laid(instrument, tip, tail - tip, generator)
    # from where the shape ends, back to the entry and beyond it
    back = lines.cut(path, min(0.0, end - instrument.length), end, s)[::-1]
    long = lines.lengths(back)[-1]
    back = lines.at(back, np.linspace(0, long, max(round(long / 4), 2)))
    sway = lines.wandering(long, wobble, generator)
    # swung in two directions across the vessel as a whole: what of it lies along the vessel only slides
    sides = lines.turned(back[-1] - back[0] + 1e-3, uniform(generator, 0.0, 2 * math.pi))[:, :2]
    at = np.linspace(0, long, len(back))
    shaft = back + np.stack([np.interp(at, sway[:, 2], sway[:, i]) for i in range(2)], 1) @ sides.T
    return _joined(instrument, shaft, generator)


def across(instrument: Instrument, site: Site, generator: torch.Generator, degrees: float = 25.0) -> Placed:
    """The tip near the target, the shaft leaving it across the body to any side, give or take ``degrees`` (one deviation)."""
    return at_target(instrument, site, generator, _sideways(site, generator), degrees)


def on_skin(instrument: Instrument, site: Site, generator: torch.Generator, away: tuple[float, float] = (90.0, 150.0)) -> Placed:
    """The tip ``away`` mm to any side of the body's axis through the target, the shaft in any direction along the surface."""
    out = _sideways(site, generator)
    where = site.target + uniform(generator, *away) * out + 60 * _normal(generator) * site.axis
    along_skin = torch.linalg.cross(out, torch.randn(3, generator=generator, dtype=torch.float64))
    return at_target(instrument, replace(site, target=where), generator, along_skin, 10.0)


def _sideways(site: Site, generator: torch.Generator) -> Float[Tensor, "3"]:
    """A direction across the body's axis."""
    turn = lines.turned(site.axis.numpy(), uniform(generator, 0.0, 2 * math.pi))
    return torch.from_numpy(turn[:, 0].copy())


def anywhere(instrument: Instrument, view: View, site: Site, generator: torch.Generator, depth: float = 80.0) -> Placed:
    """The tip under a pixel at random, about as deep as the target, the shaft in a direction that is seen from aside.

    Parameters
    ----------
    depth: mm (one standard deviation) before or behind the target's depth.

    Directions are uniform over the sphere but those within 30 degrees of the ray, in which an instrument is a dot.
    """
    h, w = view.shape
    c, r = (uniform(generator) * (n - 1) for n in (w, h))
    o, d, du, dv, ou, ov = view.ray_vectors.detach().cpu().unbind(0)
    begin, ray = o + c * ou + r * ov, d + c * du + r * dv
    unit = ray / ray.norm()
    deep = float((site.target - begin) @ unit) + depth * _normal(generator)
    tip = begin + min(max(deep, 0.2 * float(ray.norm())), 0.95 * float(ray.norm())) * unit
    while True:
        v = torch.randn(3, generator=generator, dtype=torch.float64)
        v = v / v.norm()
        if abs(float(v @ unit)) < math.cos(math.radians(30)):
            return _laid(instrument, tip.numpy(), v.numpy(), generator)


def _about(mean: NDArray[np.float64], degrees: float, generator: torch.Generator) -> NDArray[np.float64]:
    """A direction about another: turned about two axes across it, each by a normal angle."""
    axes = lines.turned(mean)
    a, b = (math.radians(degrees) * torch.randn(2, generator=generator, dtype=torch.float64)).tolist()
    angle = math.hypot(a, b)
    across = (a * axes[:, 0] + b * axes[:, 1]) / max(angle, 1e-12)
    return math.cos(angle) * axes[:, 2] + math.sin(angle) * across


def _laid(instrument: Instrument, tip: NDArray[np.float64], direction: NDArray[np.float64], generator: torch.Generator) -> Placed:
    """An instrument from its tip along a direction: rigid, or swaying."""
    roll = uniform(generator, 0.0, 2 * math.pi)
    turn = lines.turned(direction, roll)
    if instrument.rigid:
        return Placed(instrument, _pose(turn, tip))
    free = max(instrument.length - instrument.shaped, 1.0)
    shaft = lines.wandering(free, 0.03 * free, generator) @ turn.T + tip
    out = _joined(instrument, shaft, generator)
    # the shaped part was put before the beginning of the shaft: bring the tip itself to where it was asked for
    back = torch.eye(4, dtype=torch.float64)
    back[:3, 3] = torch.from_numpy(tip) - out.tip
    return out.moved(back)


def _joined(instrument: Instrument, shaft: NDArray[np.float64], generator: torch.Generator) -> Placed:
    """The part of an instrument that keeps its form, put on the beginning of a shaft with a random roll."""
    rest = instrument.line.numpy()
    s = lines.lengths(rest)
    shape = lines.cut(rest, 0.0, min(instrument.shaped, s[-1] - 1e-3), s)
    own = lines.turned(shape[-1] - shape[-2])
    turn = lines.turned(shaft[1] - shaft[0], uniform(generator, 0.0, 2 * math.pi)) @ own.T
    line = np.concatenate([(shape[:-1] - shape[-1]) @ turn.T + shaft[0], shaft])
    return Placed(instrument, _pose(turn, line[0]), torch.from_numpy(line))


def _pose(rotation: NDArray[np.float64], origin: NDArray[np.float64]) -> Float[Tensor, "4 4"]:
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3], out[:3, 3] = torch.from_numpy(rotation), torch.from_numpy(origin)
    return out
