"""Which other poses are as right as the one that a registration states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from raylign.geometry import Rigid

_MOST = 24  # poses that are written out


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """What the exposures cannot tell of a pose, because the model looks the same in others.

    Parameters
    ----------
    poses: other poses (``T_world_from_volume``) in which the model is the same to within a tolerance; no exposure could tell them
        apart. Of a free turn they hold nothing.
    alike: other poses that the exposures at hand hardly tell from it, with the share of the stated pose's cost that each
        reaches: another view may.
    axis: [2, 3] a point (world mm) and a unit direction, where the turn about that line is not determined.
    free: free turns: 0; 1 about the axis; 3 of a ball about its centre.
    words: the same in plain sentences.
    """

    poses: tuple[Rigid, ...] = ()
    alike: tuple[tuple[Rigid, float], ...] = ()
    axis: Float[Tensor, "2 3"] | None = None
    free: int = 0
    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is ambiguous."""
        return bool(self.poses or self.alike or self.free)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, as ``result.json`` holds them; of more than 24 poses the first."""
        axis = None
        if self.axis is not None:
            point, direction = self.axis.tolist()
            axis = {"point": point, "direction": direction, "meaning": "world mm; the turn about it is unknown: 180 degrees"}
        return {
            "words": list(self.words),
            "free_turns": self.free,
            "axis": axis,
            "equivalent_poses": len(self.poses),
            "poses": [pose.matrix.tolist() for pose in self.poses[:_MOST]],
            "alike": [{"matrix": pose.matrix.tolist(), "share": share} for pose, share in self.alike],
        }
