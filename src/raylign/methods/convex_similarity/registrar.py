"""The learned similarity as a Registrar: one volume, one X-ray, a descent from the start."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.methods.convex_similarity.descent import Descended, DescentConfig, descend
from raylign.methods.convex_similarity.model import Looks, centred, cube_of, look, uncentred
from raylign.methods.convex_similarity.weights import METHOD, Learned
from raylign.registration.problem import Problem
from raylign.registration.result import Confidence, Result, Step
from raylign.registration.versions import versions

BONE_HU = 200.0
"""From here on a voxel of a CT is taken for bone, where no labels say what is."""

_WATER_HU = 0.0
_WHY = "a descent brings a pose nearer and does not judge it: refine it by another method"


def bones(volume: Volume) -> Volume:
    """What most similarities are trained on: of a CT what is at least ``BONE_HU``, by how much it attenuates more than water.

    That is all bone; a similarity is trained on some (``Learned.structures``). Where there are labels, restrict the CT to these
    (``raylign.data.restricted``): a volume in 1/mm is taken as it is.

    Raises
    ------
    InputError: raw numbers, nothing that is bone.
    """
    if volume.unit == "1/mm":
        return volume
    if volume.unit != "HU":
        raise InputError(f"the volume is in {volume.unit}", field="volume", remedy="give a CT in HU, or a structure in 1/mm")
    whole = volume.decoded()
    held = whole.data >= BONE_HU
    if not bool(held.any()):
        raise InputError(f"nothing is {BONE_HU:g} HU or more", field="volume", remedy="give a CT that shows bone")
    water = replace(whole, data=torch.full_like(whole.data, _WATER_HU)).attenuation().data
    data = torch.where(held, whole.attenuation().data - water, torch.zeros((), dtype=torch.float32))
    return replace(whole, data=data, unit="1/mm")


@dataclass(frozen=True, eq=False)
class ConvexSimilarity:
    """Descends the learned similarity of one X-ray: moves a pose towards the right one, from far away; something else refines it.

    ``raylign.registration.Pipeline((ConvexSimilarity(learned), Direct(...)))`` does both.

    Parameters
    ----------
    learned: trained network.
    config: schedule of the steps; None for that of its training.
    """

    learned: Learned
    config: DescentConfig | None = None

    def register(self, problem: Problem) -> Result:
        """Where the descent from the start ends; never trusted.

        Raises
        ------
        InputError: several X-rays, one that is too small, a model without bone.
        """
        begun = time.perf_counter()
        if len(problem.xrays) > 1:
            raise InputError(
                f"{len(problem.xrays)} X-rays for a similarity that looks at one", field="xrays",
                remedy="give one, or use another method",
            )  # fmt: skip
        found, middle = self.descents(problem.model, problem.xrays[0], problem.start.matrix[None])
        path = uncentred(found.paths[0], middle)
        pose = path[-1]
        wide = torch.tensor([math.radians(30.0)] * 3 + [50.0] * 3, dtype=torch.float64)
        return Result(
            transform=Rigid(pose),
            start=problem.start,
            covariance=torch.diag(wide**2),
            centre=found.poses[0, :3, 3],
            score=-float(found.values[0]),
            confidence=Confidence(0.0, False, (_WHY,), {"similarity": float(found.values[0])}),
            trajectory=tuple(Step(0, n, 0.0, p) for n, p in enumerate(path)),
            timings={"descent": time.perf_counter() - begun},
            method=METHOD,
            versions=versions(),
            settings={**asdict(self.config or self.learned.descent), "cube": asdict(self.learned.cube)},
            renders=found.paths.shape[1] - 1,
        )

    def descents(self, model: Volume, xray: XRay, starts: Float[Tensor, "B 4 4"]) -> tuple[Descended, Float[Tensor, "3"]]:
        """Descents from many poses ``T_world_from_volume`` at once: poses of the cube, and the middle (LPS mm) of that cube.

        Raises
        ------
        InputError: as of ``register``.
        """
        structures = self.learned.structures
        if not structures and model.unit == "raw":
            raise InputError("the volume is in raw numbers", field="volume", remedy="give a CT in HU")
        cube, middle = cube_of(bones(model) if structures else model, self.learned.cube)
        device = next(self.learned.network.parameters()).device
        with torch.no_grad():
            channels = self.learned.network.expanded(cube.to(device))
        looks = seen(xray, self.learned.cube.pixels).repeated(torch.zeros(len(starts), dtype=torch.int64))
        config = self.config or self.learned.descent
        return descend(self.learned.similarity, channels, looks, centred(starts, middle), config), middle


def seen(xray: XRay, pixels: int) -> Looks:
    """An X-ray as the network sees it: its middle square, by means over blocks, brought to so many pixels along each side.

    Raises
    ------
    InputError: an X-ray of fewer pixels, or one that shows nothing there; a parallel beam.
    """
    h, w = xray.view.shape
    block = min(h, w) // pixels
    if block < 1:
        raise InputError(f"{h} x {w} pixels are fewer than {pixels} x {pixels}", field="image", remedy="give a larger X-ray")
    side = block * pixels
    rows, columns = ((n - side) // 2 for n in (h, w))
    part = (slice(rows, rows + side), slice(columns, columns + side))
    view: View = xray.view.crop(*part)
    image = torch.where(xray.mask, xray.image, 0).to(torch.float32)
    found = look(image[part][None], xray.mask[part][None], [view], pixels)
    if not found.images.any():
        raise InputError("its middle square shows nothing", field="image", remedy="check the X-ray and its mask, or crop it")
    return found
