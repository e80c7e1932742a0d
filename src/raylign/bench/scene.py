"""What every renderer is given: one phantom on one grid, one detector a size, one set of poses a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.bench.phantom import Ellipsoid, body, cube, line_integrals, voxelised
from raylign.data import Volume
from raylign.geometry import Rigid, View, convert, se3

SID, SOD, DETECTOR = 1100.0, 750.0, 400.0
"""Source to detector, source to isocentre and the detector's edge, mm: the body fills the image."""

_GOLDEN = (0.8567, 0.7339, 0.6287, 0.5386, 0.4614, 0.3952)  # powers of the root of x^7 = x + 1: a low-discrepancy sequence


@dataclass(frozen=True)
class Scene:
    """A phantom, the same on a grid, and the view of it at any size.

    Parameters
    ----------
    phantom: ellipsoids, LPS mm.
    volume: the phantom voxelised, float32, 1/mm.
    edge: edge of the detector, mm.
    """

    phantom: tuple[Ellipsoid, ...]
    volume: Volume
    edge: float = DETECTOR

    def view(self, size: int) -> View:
        """An oblique C-arm view of ``size`` by ``size`` pixels."""
        pitch = self.edge / size
        return View.from_carm(primary=20, secondary=10, sid=SID, sod=SOD, pixel_spacing=pitch, shape=(size, size))

    def truth(self, size: int, index: int = 0) -> Float[Tensor, "H W"]:
        """The exact image (float64) of pose ``index`` of any batch."""
        return line_integrals(self.phantom, self.view(size), Rigid(poses(index + 1)[index]))


def poses(count: int) -> Float[Tensor, "P 4 4"]:
    """``T_world_from_volume`` of a batch: within 10 degrees and 15 mm about a first one; a longer batch begins as a shorter."""
    first = torch.tensor([0.1, -0.2, 0.15, 3.0, -4.0, 5.0], dtype=torch.float64)
    n = torch.arange(count, dtype=torch.float64)[:, None]
    spread = (n * torch.tensor(_GOLDEN, dtype=torch.float64)) % 1.0
    spread = torch.where(spread > 0.5, spread - 1, spread)  # the first is zero
    reach = torch.tensor([0.35, 0.35, 0.35, 30.0, 30.0, 30.0], dtype=torch.float64)
    return se3.exp(first + spread * reach)


def scene(voxels: int, *, margin: float = 1.0, pitch: float | None = None) -> Scene:
    """The trunk on a cubic grid.

    Parameters
    ----------
    voxels: along an edge of the cube of 256 mm that holds the body.
    margin: edge of the grid over that of the cube: 2 puts as much empty space about it as makes the grid eight times as large.
    pitch: voxel size in mm, where it is not 256 mm over ``voxels``.
    """
    pitch = 256.0 / voxels if pitch is None else pitch
    count = round(voxels * margin)
    shape = (count, count, count)
    phantom = body()
    return Scene(phantom, voxelised(phantom, shape, cube(shape, pitch * count)))


def cameras(who: str, subject: Scene, size: int, batch: int) -> dict[str, Any]:
    """The batch of exposures in a renderer's own terms, as numbers that JSON can carry.

    Every package gets the camera in the frame that it keeps its volume in, so that all see one volume array with one affine.
    """
    view, matrices = subject.view(size), poses(batch)
    common: dict[str, Any] = {"shape": list(view.shape), "batch": batch}
    return {**common, **_CAMERAS[who](view, [Rigid(m) for m in matrices])}


def _raylign(view: View, matrices: Sequence[Rigid]) -> dict[str, Any]:
    return {"view": view.to_dict(), "poses": [m.matrix.tolist() for m in matrices]}


def _nanodrr(view: View, matrices: Sequence[Rigid]) -> dict[str, Any]:
    found = [convert.to_nanodrr(view, m) for m in matrices]
    return {"k_inv": found[0].k_inv.tolist(), "sdd": found[0].sdd, "rt_inv": [c.rt_inv.tolist() for c in found]}


def _diffdrr(view: View, matrices: Sequence[Rigid]) -> dict[str, Any]:
    found = [convert.to_diffdrr(view, m) for m in matrices]
    one = found[0]
    detector = {name: getattr(one, name) for name in ("sdd", "delx", "dely", "x0", "y0", "orientation", "reverse_x_axis")}
    return {**detector, "matrix": [c.matrix.tolist() for c in found]}


def _rtk(view: View, matrices: Sequence[Rigid]) -> dict[str, Any]:
    found = [convert.to_rtk(view, m) for m in matrices]
    image = found[0][1]
    return {
        "projections": [vars(p) for p, _ in found],
        "origin": image.origin,
        "spacing": image.spacing,
        "direction": image.direction,
        "volume_to_iec": convert.iec_from_lps().tolist(),
    }


def _plastimatch(view: View, matrices: Sequence[Rigid]) -> dict[str, Any]:
    return {"exposures": [plastimatch_camera(view, m) for m in matrices]}


def plastimatch_camera(view: View, pose: Rigid) -> dict[str, Any]:
    """Options of ``plastimatch drr`` for a view, in the volume's LPS frame, and whether its image's columns run against ours.

    ``nrm`` points from the detector to the source, ``vup`` against the rows; its columns run along ``vup x nrm``. The isocentre
    is put on the axis, midway between source and detector.
    """
    here = view.transformed(pose.inverse().matrix)
    normal = -here.normal
    up = -here.row_step / here.row_step.norm()
    mirrored = bool(torch.linalg.cross(up, normal) @ here.column_step < 0)
    sid = float(here.sid)
    h, w = here.shape
    column, row = here.principal_point.tolist()
    pitch_row, pitch_column = here.pixel_spacing
    return {
        "nrm": normal.tolist(),
        "vup": up.tolist(),
        "sid": sid,
        "sad": sid / 2,
        "isocentre": (here.source - sid / 2 * normal).tolist(),
        "centre": [row, w - 1 - column if mirrored else column],
        "size": [h * pitch_row, w * pitch_column],
        "mirrored": mirrored,
    }


_CAMERAS = {"raylign": _raylign, "nanodrr": _nanodrr, "diffdrr": _diffdrr, "rtk": _rtk, "plastimatch": _plastimatch}

RENDERERS = tuple(_CAMERAS)
"""Whom the comparison knows; the first is ours."""
