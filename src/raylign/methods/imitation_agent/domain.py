"""What an agent was trained and measured on, as its file says: beyond it, nobody knows how far it is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.errors import InputError
from raylign.methods.imitation_agent.rollout import RolloutConfig
from raylign.simulation.datasets.typed import typed

_FRONTAL = (0.0, -1.0, 0.0)  # patient LPS: from the back to the front, about which the distributions of Toth et al. turn
_FRONTAL_TARGETS = ("toth2018", "toth2018/clinical")
_FIELD_MM = 300.0  # of the distributions' exposures, in the plane of the isocentre
_BEYOND = (10.0, 6.0)  # mm and degrees by which ``trust.about`` spreads starts: ends may lie so much farther than states did
_BEAM_DEGREES = 20.0  # 15 and 5 degrees of the two angles make 15.8 at most; the rest is for patients who do not lie straight


@dataclass(frozen=True)
class Domain:
    """Settings of a training that its agent's confidence holds for.

    Parameters
    ----------
    rollout, starts: how it walked, and from how many starts, when its agreement was measured.
    cell_mm: models were made coarser to a vertex in each cell of so many mm.
    pixel_mm: of the exposures, in the plane of the isocentre.
    far: mm and degrees from the start beyond which it has not been.
    beam: mean direction from source to detector, patient LPS; None where the training's distribution of views is not known here.
    """

    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    starts: int = 5
    cell_mm: float = 4.0
    pixel_mm: float = _FIELD_MM / 256
    far: tuple[float, float] = (35.0 + _BEYOND[0], 15.0 + _BEYOND[1])  # ``reach`` of the published ranges
    beam: tuple[float, float, float] | None = _FRONTAL

    def beyond(self, moved: Float[Tensor, "*B 3"]) -> Bool[Tensor, "*B"]:
        """Whether ends lie farther from their starts (mm, mm, degrees) than it has been."""
        return (moved[..., :2].abs() > self.far[0]).any(-1) | (moved[..., 2].abs() > self.far[1])

    def outside(self, rotation: Float[Tensor, "3 3"], frame: Float[Tensor, "3 3"]) -> tuple[str, ...]:
        """Why a view is none of those that the agent was trained on; empty where it is one.

        Parameters
        ----------
        rotation: of ``T_world_from_model``. frame: unit vectors as rows, world: columns, rows, away from the source.

        All views that ``View.from_carm`` makes, and so all of training, have (columns, rows, away) left-handed. In a flipped
        one the same turn looks like the opposite one.
        """
        reasons = []
        if self.beam is None:
            reasons.append("from which directions its training saw patients is not known")
        else:
            away = rotation.T.to(torch.float64) @ frame[2].to(torch.float64)
            cosine = float(away @ torch.tensor(self.beam, dtype=torch.float64))
            angle = math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))
            if angle > _BEAM_DEGREES:
                reasons.append(f"the beam passes the model {angle:.0f} degrees from the direction that it was trained for")
        if float(torch.linalg.det(frame)) > 0:
            reasons.append("the image is flipped against those that it was trained on")
        return tuple(reasons)


def domain_of(about: Mapping[str, Any], file: str | Path | None = None) -> Domain:
    """The domain of an agent, from what stands in its file; where that says nothing, that of the published recipe.

    Raises
    ------
    InputError: settings that are none.
    """
    usual = Domain()
    settings = _part(about, "settings", file)
    data, states = (_part(settings, name, file) for name in ("data", "states"))
    rollout = typed(RolloutConfig, settings["rollout"], "rollout", file) if "rollout" in settings else usual.rollout
    try:
        starts = int(settings.get("agreement_starts", usual.starts))
        cell, pixels = float(data.get("cell_mm", usual.cell_mm)), int(data.get("pixels", round(_FIELD_MM / usual.pixel_mm)))
        mm, degrees = float(states.get("mm", 35.0)), float(states.get("degrees", 15.0))
    except (TypeError, ValueError) as error:
        raise InputError(f"its settings are damaged ({error})", field="settings", file=file) from None
    if starts < 1 or pixels < 1 or not all(math.isfinite(x) for x in (cell, mm, degrees)):
        raise InputError("its settings are damaged (a number out of range)", field="settings", file=file)
    beam = _FRONTAL if data.get("targets", "toth2018") in _FRONTAL_TARGETS else None
    return Domain(rollout, starts, cell, _FIELD_MM / pixels, reach(mm, degrees), beam)


def reach(mm: float, degrees: float) -> tuple[float, float]:
    """mm and degrees from a start beyond which an agent has not been that was trained so far from the truth."""
    return mm + _BEYOND[0], degrees + _BEYOND[1]


def _part(values: Mapping[str, Any], name: str, file: str | Path | None) -> Mapping[str, Any]:
    found = values.get(name, {})
    if not isinstance(found, Mapping):
        raise InputError("its settings are damaged (expected names and values)", field=name, file=file)
    return found
