"""The agent as a Registrar: one mesh, one X-ray, three numbers in the image plane."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Mesh, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.methods.imitation_agent.agent import METHOD, Agent, read_agent
from raylign.methods.imitation_agent.domain import Domain, domain_of
from raylign.methods.imitation_agent.models import coarsened, middle
from raylign.methods.imitation_agent.rollout import Rollout, RolloutConfig, walk
from raylign.methods.imitation_agent.trust import agreed, voted
from raylign.methods.imitation_agent.world import Exposures, World, merged
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.settings import TRUST
from raylign.registration.versions import versions

SHIPPED = Path(__file__).parent / "weights" / "agent.safetensors"
"""Weights that come with raylign, where some do."""


@dataclass(frozen=True)
class AgentConfig:
    """How the agent is used.

    None stands for what the agent's agreement with itself was measured with. With anything else its confidence is not known.

    Parameters
    ----------
    rollout: how it walks.
    starts: the given one and others about it, whose ends are to agree.
    cell_mm: the model is made coarser to a vertex in each cell of so many mm; 0 leaves it.
    trust: probability of success from which a result is called trustworthy.
    unsought: standard deviations, degrees and mm, that the covariance states of what the agent leaves as it is: the two turns
        out of the image plane, and depth.
    """

    rollout: RolloutConfig | None = None
    starts: int | None = None
    cell_mm: float | None = None
    trust: float = TRUST
    unsought: tuple[float, float] = (15.0, 35.0)

    def __post_init__(self) -> None:
        if (self.starts is not None and self.starts < 1) or not 0 <= self.trust <= 1 or min(self.unsought) < 0:
            raise InputError("starts, trust or unsought is out of range", field="AgentConfig")


def shipped(path: str | Path | None = None) -> Agent:
    """The agent of a file, or the one that comes with raylign.

    Raises
    ------
    InputError: there is none, or it cannot be read.
    """
    if path is None and not SHIPPED.is_file():
        raise InputError(
            "no weights come with this version", field="--weights",
            remedy="train some (raylign train recipes/toth2018.yaml --out DIR) and name DIR/agent.safetensors",
        )  # fmt: skip
    return read_agent(SHIPPED if path is None else path)


@dataclass(frozen=True, eq=False)
class ImitationAgent:
    """An agent that moves one mesh, as a Registrar.

    ``Problem.model`` may be any solid of the mesh; it is not looked at.

    Parameters
    ----------
    mesh: the closed outer surface of a left ventricle, patient LPS mm.
    agent: trained.
    config: how it is used.
    """

    mesh: Mesh
    agent: Agent
    config: AgentConfig = field(default_factory=AgentConfig)

    def register(self, problem: Problem) -> Result:
        """The pose, in the plane of the start, at which the agent's walks from several starts end; their median.

        Of an agent of several members, each walks from all starts.

        Raises
        ------
        InputError: several X-rays; a model that is not between source and detector, or wholly outside the image.
        """
        begun, used = time.perf_counter(), self._used
        if len(problem.xrays) > 1:
            raise InputError(
                f"{len(problem.xrays)} X-rays for an agent that looks at one", field="xrays",
                remedy="give one, or use another method",
            )  # fmt: skip
        world = self.world(problem.xrays[0], problem.start)
        zero = torch.zeros(1, dtype=torch.int64)
        here = torch.zeros(1, 3, dtype=torch.float64)
        ends, found = voted(self.agent, world, zero, here, (used.starts, used.rollout))
        end, spread = agreed(ends[0])
        _, shown = self.agent.rewards(world, zero, end[None])
        pose = world.poses(zero, end[None])[0]
        outside = self._measured.outside(pose[:3, :3], world.frames[0])
        confidence = self._confidence(end, (float(spread), float(shown[0])), found, outside)
        centre = pose[:3, :3] @ world.centres[0] + pose[:3, 3]
        return Result(
            transform=Rigid(pose),
            start=problem.start,
            covariance=self._covariance(world.frames[0], found.ends, end),
            centre=centre,
            score=float((found.ends - end).norm(dim=-1).le(5.0).double().mean()),
            confidence=confidence,
            trajectory=self._trajectory(world, found),
            timings={"agent": time.perf_counter() - begun},
            method=METHOD,
            versions=versions(),
            settings={**self._settings(), "weights": _named(self.agent.about)},
            renders=int(found.count.sum()) + 1,
        )

    def ends(self, xray: XRay, base: Rigid, starts: Float[Tensor, "B 3"]) -> Rollout:
        """Walks from many starts at once, one each: states (mm, mm, degrees) counted from a base pose.

        Raises
        ------
        InputError: as of ``register``.
        """
        world = self.world(xray, base)
        return walk(self.agent, world, torch.zeros(len(starts), dtype=torch.int64), starts, self._used.rollout)

    def world(self, xray: XRay, base: Rigid) -> World:
        """The X-ray, reduced to about the pixels that the agent knows, and the mesh."""
        mesh = coarsened(self.mesh, self._used.cell_mm)
        centre = middle(mesh)
        _check_before(xray, base, centre)
        image, vectors = reduced(xray, self._measured.pixel_mm)
        exposures = Exposures(
            image[None], vectors[None], base.matrix[None], torch.zeros(1, dtype=torch.int64), (mesh,), centre[None]
        )
        return World(exposures, self.agent.world)

    @cached_property
    def _measured(self) -> Domain:
        """What the agent's confidence holds for."""
        return domain_of(self.agent.about)

    @cached_property
    def _used(self) -> Domain:
        """The same with what the caller wants otherwise."""
        wanted = {name: getattr(self.config, name) for name in ("rollout", "starts", "cell_mm")}
        return replace(self._measured, **{name: value for name, value in wanted.items() if value is not None})

    def _settings(self) -> dict[str, Any]:
        used = self._used
        return {**asdict(self.config), "rollout": asdict(used.rollout), "starts": used.starts, "cell_mm": used.cell_mm}

    def _confidence(self, end: Tensor, seen: tuple[float, float], found: Rollout, outside: tuple[str, ...]) -> Confidence:
        """``seen``: the ends' spread, mm, and the share of the field that is shown; ``outside``: what the view is not."""
        (spread, shown), domain = seen, self._measured
        arrived = float(found.arrived.double().mean())
        far = bool(domain.beyond(end))
        agreement, used = self.agent.agreement, self._used
        other = [name for name in ("rollout", "starts", "cell_mm") if getattr(used, name) != getattr(domain, name)]
        known = agreement is not None and not other
        probability = agreement.probability(spread) * arrived if agreement is not None and known else 0.0
        reasons = []
        if agreement is None:
            reasons.append("nobody has measured how far this agent is to be trusted")
        elif other:
            reasons.append(f"how far it is to be trusted was measured with another {', '.join(other)}")
        if outside:
            reasons += outside
            probability = 0.0
        if far:
            reasons.append(
                f"it went {float(end[:2].norm()):.0f} mm and {float(end[2]):.0f} degrees, farther than it was trained for"
            )
            probability = 0.0
        if shown < 0.6:
            reasons.append(f"the X-ray shows {100 * shown:.0f} % of the field about the model")
            probability *= shown
        if arrived < 1:
            reasons.append(f"{100 * (1 - arrived):.0f} % of its walks did not converge")
        if probability < self.config.trust and known and not outside and not far:
            told = (
                f"{len(found.arrived)} walks that end {spread:.1f} mm apart make it right with a probability of {probability:.2f}"
            )
            reasons.append(told)
        x, y, turn = end.tolist()
        evidence = {"spread_mm": spread, "arrived": arrived, "shown": shown, "x_mm": x, "y_mm": y, "turn_degrees": turn}
        trusted = probability >= self.config.trust
        return Confidence(probability, trusted, () if trusted else tuple(reasons), evidence)

    def _covariance(self, frame: Tensor, ends: Tensor, end: Tensor) -> Float[Tensor, "6 6"]:
        """In plane the larger of the ends' scatter and the agent's usual error; out of plane what the start leaves open."""
        usual = _usual_error(self.agent.about)
        scatter = (ends - end).T @ (ends - end) / max(len(ends) - 1, 1)
        plane = scatter + usual**2 * torch.eye(3, dtype=torch.float64)
        across, down, away = frame
        zero = torch.zeros(3, dtype=torch.float64)
        radian = math.pi / 180
        within = torch.stack([torch.cat([zero, across]), torch.cat([zero, down]), torch.cat([radian * away, zero])], 1)
        degrees, mm = self.config.unsought
        out = [torch.cat([degrees * radian * v, zero]) for v in (across, down)] + [torch.cat([zero, mm * away])]
        covariance: Tensor = within @ plane @ within.T + sum(torch.outer(v, v) for v in out)
        return covariance

    def _trajectory(self, world: World, found: Rollout) -> tuple[Step, ...]:
        """The walk from the given start; the cost of a step is the reward that was expected of it, less than nothing."""
        steps = self._used.rollout.steps
        count = int(found.count[0])
        path = found.paths[0, : count + 1]
        poses = world.poses(torch.zeros(len(path), dtype=torch.int64), path)
        sizes = (path[1:] - path[:-1]).abs().amax(1)
        out = []
        for n, (size, reward) in enumerate(zip(sizes.tolist(), found.rewards[0, :count].tolist(), strict=True)):
            level = len(steps) - 1 - min(range(len(steps)), key=lambda k: abs(steps[k] - size))
            out.append(Step(level, n, -reward, poses[n + 1]))
        return tuple(out)


def reduced(xray: XRay, pixel_mm: float) -> tuple[Float[Tensor, "h w"], Float[Tensor, "4 3"]]:
    """An X-ray by means over square blocks of pixels, as near as they come to the pixels of training, and its view's vectors.

    ``pixel_mm``: of these, in the plane of the isocentre.

    A block of which less than half is valid is NaN.
    """
    view = xray.view
    vectors = view.vectors.detach()
    depth = float(-vectors[0] @ view.normal.detach())
    pitch = min(view.pixel_spacing) * depth / float(view.sid)
    factor = max(1, min(round(pixel_mm / pitch), *(n // 8 for n in view.shape))) if pitch > 0 else 1
    h, w = (n // factor for n in view.shape)
    valid = xray.mask[: h * factor, : w * factor].to(torch.float32)
    known = torch.where(xray.mask, xray.image, 0)[: h * factor, : w * factor]
    sums, counts = (t.unflatten(0, (h, factor)).unflatten(2, (w, factor)).sum((1, 3)) for t in (known, valid))
    image = torch.where(counts >= factor**2 / 2, sums / counts.clamp_min(1), torch.nan)
    return image, merged(vectors, factor)


def _check_before(xray: XRay, base: Rigid, centre: Tensor) -> None:
    """Refuse a model that the agent would not see."""
    view = xray.view
    at = base.apply(centre[None])[0]
    depth = float((at - view.source.detach()) @ view.normal.detach())
    if not 0 < depth < float(view.sid):
        raise InputError("the model is not between source and detector", field="start", remedy="give another --init")
    if not float(-view.source.detach() @ view.normal.detach()) > 0:
        raise InputError(
            "the isocentre lies behind the source, and fields are measured there", field="view",
            remedy="give a view whose world has the isocentre at its origin",
        )  # fmt: skip
    column, row = view.project(at[None])[0].tolist()
    h, w = view.shape
    if not (-0.5 <= column <= w - 0.5 and -0.5 <= row <= h - 0.5):
        raise InputError("the model's middle is outside the image", field="start", remedy="give another --init")


def _named(about_it: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about_it[name] for name in ("name", "preset", "seed", "iterations") if name in about_it}


def _usual_error(about_it: Mapping[str, Any]) -> float:
    """Median TRE on validation patients, mm; 5 mm where nobody measured it."""
    figures = about_it.get("figures", {})
    return float(figures.get("validation", {}).get("tre_median", 5.0))
