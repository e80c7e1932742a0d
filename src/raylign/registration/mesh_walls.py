"""How thick the wall of a long bone is, as the exposures tell it: what a mesh's solid only guesses.

A mesh made solid is given a wall that is a share of the shaft's radius (``data.solids``). Where the real one is thicker or
thinner, the edges of the marrow canal lie elsewhere than in the picture, and the pose gives way: depth first. Once a pose is
known roughly, the exposures can be asked: the same solid with a wall of other thickness explains them better or worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit
from numpy.typing import NDArray

from raylign.data import Volume
from raylign.projection import cpu
from raylign.projection.threads import run_chunks
from raylign.registration.distances import distance_to
from raylign.registration.levels import Scale
from raylign.registration.pyramid import Array64, content, model_pyramid
from raylign.registration.refinement import refine
from raylign.registration.search import Bounds, camera_axes
from raylign.registration.settings import DirectConfig

_HOLLOW = 0.1  # of the largest attenuation: less is marrow
_UNIFORM = 0.2  # of the wall's voxels, at least, hold the largest attenuation: a CT's do not
_SMALLEST = 0.03  # of the solid: a canal that is smaller tells nothing
_THICKER = (1.35, 1.7)  # times the thickness that was guessed
_THINNER = (0.75,)
_BETTER = 1.02  # times the cost, at least: a guess is kept unless the exposures speak against it
_NEAR = (6.0, 8.0, 25.0)  # degrees, mm, mm along the beam: what a wrong wall has moved a pose by


_Parts = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
# by identity, with the version of the voxels
_known: WeakKeyDictionary[Volume, tuple[int, _Parts | None]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Tube:
    """A solid with a canal, ready to be given a wall of another thickness.

    Parameters
    ----------
    volume: as it was made, 1/mm.
    depth: [D, H, W] mm of a voxel's centre below the surface, 0 outside.
    wall: [D, H, W] mm, thickness of the wall that the voxel lies in or behind.
    canal: [D, H, W] what lies within the wall.
    """

    volume: Volume
    depth: Float32[NDArray[np.float32], "D H W"]
    wall: Float32[NDArray[np.float32], "D H W"]
    canal: Bool[NDArray[np.bool_], "D H W"]

    def walled(self, times: float) -> Volume:
        """The solid with a wall that many times as thick."""
        data = np.ascontiguousarray(self.volume.data.numpy(), np.float32)
        out = np.empty(data.shape, np.float32)
        numbers = (np.float32(data.max()), np.float32(times), np.float32(min(self.volume.spacing)))
        run_chunks(partial(_walled, data, self.depth, self.wall, self.canal, *numbers, out), len(data), smallest=16)
        return replace(self.volume, data=torch.from_numpy(out))


@njit(cache=True, nogil=True)
def _walled(data, depth, wall, canal, compact, times, voxel, out, first, last):  # type: ignore[no-untyped-def]
    """Slices ``first`` to ``last - 1`` of ``Tube.walled``."""
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    for k in range(first, last):
        for j in range(data.shape[1]):
            for i in range(data.shape[2]):
                value, deep = data[k, j, i], depth[k, j, i]
                share = min(max(half + (times * wall[k, j, i] - deep) / voxel, zero), one)
                if canal[k, j, i]:
                    value += (compact - value) * share
                elif deep > voxel:  # what the surface itself runs through is not touched
                    value *= share
                out[k, j, i] = value


def tube_of(volume: Volume) -> Tube | None:
    """What a volume in 1/mm is as a tube; None where it holds no canal, or was not made of a surface.

    Where a bone was cut (``Volume.truncated``) its canal is open and ends at the cut. Kept while the volume lives.
    """
    known = _known.get(volume)
    if known is None or known[0] != volume.data._version:
        known = _known[volume] = (volume.data._version, _parts(volume))
    return None if known[1] is None else Tube(volume, *known[1])


def _parts(volume: Volume) -> _Parts | None:
    """What ``Tube`` holds beside the volume."""
    from scipy.ndimage import binary_erosion

    data = volume.data.numpy()
    most = float(data.max())
    if most <= 0:
        return None
    ends = volume.truncated or ((False, False),) * 3
    wide = [(int(a), int(b)) for a, b in reversed(ends)]
    inner = tuple(slice(a, a + n) for (a, _), n in zip(wide, data.shape, strict=True))
    if not _hollow(data > _HOLLOW * most, wide):
        return None
    solid = _filled(np.pad(data > _HOLLOW * most, wide, constant_values=True))[inner]
    if (data[solid] < _HOLLOW * most).sum() < _SMALLEST * solid.sum() / 2:
        return None
    rim = solid & ~binary_erosion(np.pad(solid, wide, mode="edge"))[inner]
    solid &= ~(rim & (data < most / 2))
    canal = solid & (data < most / 2)
    if (data > 0.999 * most).sum() < _UNIFORM * (solid & ~canal).sum():
        return None
    if (canal & (data < _HOLLOW * most)).sum() < _SMALLEST * solid.sum():
        return None
    pitch = volume.spacing[::-1]
    voxel = min(pitch)
    # at a cut the bone goes on
    grown = np.pad(np.pad(solid, [(10 * a, 10 * b) for a, b in wide], mode="edge"), 1)
    shown = tuple(slice(1 + 10 * a, 1 + 10 * a + n) for (a, _), n in zip(wide, data.shape, strict=True))
    depth = distance_to(~grown, grown, pitch)[shown]
    behind = distance_to(~canal, canal, pitch)
    before = distance_to(canal, solid & ~canal, pitch)
    below = np.maximum(depth - voxel / 2, 0)
    wall = np.where(canal, below - (behind - voxel / 2), below + before - voxel / 2)
    return below.astype(np.float32), np.where(solid, wall, 0).astype(np.float32), canal


def _hollow(held: Bool[NDArray[np.bool_], "D H W"], ends: list[tuple[int, int]]) -> bool:
    """Whether something is enclosed at half the resolution: of most bones nothing is, and that is soon seen."""
    even = np.pad(held, [(0, n % 2) for n in held.shape])
    coarse = even[::2] | even[1::2]
    coarse = coarse[:, ::2] | coarse[:, 1::2]
    coarse = coarse[:, :, ::2] | coarse[:, :, 1::2]
    closed = np.pad(coarse, ends, constant_values=True)
    return bool((_filled(closed) & ~closed).any())


def _filled(held: Bool[NDArray[np.bool_], "D H W"]) -> Bool[NDArray[np.bool_], "D H W"]:
    """What is held, and what it encloses: all that cannot be reached from the grid's faces."""
    from scipy.ndimage import label

    parts, _ = label(np.pad(~held, 1, constant_values=True))
    out: Bool[NDArray[np.bool_], "D H W"] = parts[1:-1, 1:-1, 1:-1] != parts[0, 0, 0]
    return out


def with_wall(scales: Sequence[Scale], tube: Tube, times: float) -> list[Scale]:
    """Levels with the tube's wall that many times as thick, in place of their model."""
    if times == 1:
        return list(scales)
    model = tube.walled(times)
    levels = model_pyramid(model, content(model), [scale.model.spacing for scale in scales])
    return [replace(scale, model=replace(level, faces=scale.model.faces)) for scale, level in zip(scales, levels, strict=True)]


def wall_at(scale: Scale, tube: Tube, matrix: Array64, config: DirectConfig) -> float:
    """How many times as thick as in a level's model the wall is, by the exposures of the level, near a pose [4, 4].

    Every thickness is refined by itself from there: the pose that suits a wrong wall does not suit the right one. Thicker ones
    are tried first, then thinner ones, as long as they explain more; 1 unless another explains clearly more. The poses are not
    kept: a level above the finest hardly sees the depth of a shaft, and each refinement lets it wander.
    """
    centre = matrix[:3, :3] @ scale.model.middle + matrix[:3, 3]
    bounds = Bounds(matrix, camera_axes(scale.images[0].view), centre, *_NEAR)

    def cost(level: Scale) -> float:
        return refine(level, matrix, bounds, config, threaded=False).normal.cost

    # side by side: a level above the finest is too small to be shared out, and mostly the first of either side is asked
    asked = (1.0, _THICKER[0], _THINNER[0])
    levels = [with_wall([scale], tube, times)[0] for times in asked]
    costs = dict(zip(asked, cpu.pool(cpu.threads()).map(cost, levels), strict=True))
    own = costs[1.0]
    best, least = 1.0, own
    for side in (_THICKER, _THINNER):
        for times in side:
            trial = costs[times] if times in costs else cost(with_wall([scale], tube, times)[0])
            if trial >= least:
                break
            best, least = times, trial
        if best != 1:
            break
    return best if least < _BETTER * own else 1.0
