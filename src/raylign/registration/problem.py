"""What a registration is asked: a model, the exposures that show it, and where to begin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from raylign.data import LabelMap, Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.geometry.view import require_cone
from raylign.registration.result import Result


@dataclass(frozen=True, eq=False)
class Problem:
    """A rigid 2D/3D registration problem.

    Parameters
    ----------
    model: the volume whose pose is sought (restricted to a structure beforehand where only that one moves).
    xrays: one exposure or several of one and the same pose.
    start: a rough ``T_world_from_volume``.
    bones: what of the model is bone, where labels say so: all of their structures. Methods that were trained on bones alone are
        shown the model restricted to these; without them they tell bone by its HU. No other method looks at them.

    Raises
    ------
    InputError: no exposure, or one of a parallel beam: the methods' own kernels take rays from one source.
    """

    model: Volume
    xrays: tuple[XRay, ...]
    start: Rigid
    bones: LabelMap | None = None

    def __post_init__(self) -> None:
        xrays = (self.xrays,) if isinstance(self.xrays, XRay) else tuple(self.xrays)
        if not xrays:
            raise InputError("no X-ray was given", field="xrays", remedy="give at least one exposure")
        for xray in xrays:
            try:
                require_cone(xray.view, "registration")
            except InputError as error:
                raise error.at(xray.name) from None
        object.__setattr__(self, "xrays", xrays)


class Registrar(Protocol):
    """Anything that solves a problem: the classical methods, the learned ones, and pipelines of them."""

    def register(self, problem: Problem) -> Result:
        """The pose under which the model explains the exposures."""
        ...


def as_read(problem: Problem, result: Result) -> Problem:
    """The problem with its model's faces cut as a registration took them, where the model does not state them itself."""
    cut = result.settings.get("cut_faces")
    if problem.model.truncated is not None or cut is None:
        return problem
    x, y, z = ((bool(a), bool(b)) for a, b in cut)
    return replace(problem, model=replace(problem.model, truncated=(x, y, z)))


def centred(model: Volume) -> Rigid:
    """The "center" start: a pure translation that puts the volume's centre at the isocentre."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = -model.centre
    return Rigid(matrix)
