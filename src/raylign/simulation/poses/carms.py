"""The C-arms that the papers state, and the part of an image that shows what lies about a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View, carm
from raylign.simulation.poses.laws import Law, fixed


@dataclass(frozen=True)
class CArmModel:
    """Distances and detector of a C-arm; distances may vary from exposure to exposure.

    Parameters
    ----------
    sid: source to detector, mm.
    sod: source to isocentre, mm.
    shape: (rows, columns).
    pitch: of the columns at the detector, mm.
    row_pitch: of the rows, as a multiple of that of the columns.
    """

    sid: Law
    sod: Law
    shape: tuple[int, int]
    pitch: Law
    row_pitch: float = 1.0

    def resized(self, shape: tuple[int, int]) -> CArmModel:
        """The same detector area in other pixels; only for a pitch that does not vary.

        Raises
        ------
        InputError: a pitch that varies.
        """
        low, high = self.pitch.at(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if low != high:
            raise InputError("the pitch varies", field="pitch", remedy="give a model of another shape")
        (h, w), (rows, columns) = self.shape, shape
        pitch = low * w / columns
        return replace(self, shape=shape, pitch=fixed(pitch), row_pitch=low * self.row_pitch * h / rows / pitch)

    def views(self, primary: Float[Tensor, " n"], secondary: Float[Tensor, " n"], u: Float[Tensor, "n 3"]) -> list[View]:
        """Centred C-arm views (see ``raylign.geometry.carm``) at n pairs of angles in degrees, on the CPU.

        ``u`` are the quantiles of source-to-detector distance, source-to-isocentre distance and pitch.
        """
        axes = carm.frame(primary, secondary)  # [3, 3, n]: components, then (u, v, d), then samples
        across, down, away = axes.permute(1, 2, 0).unbind(0)
        sid, sod, pitch = (law.at(q)[:, None] for law, q in zip((self.sid, self.sod, self.pitch), u.unbind(1), strict=True))
        h, w = self.shape
        column, row = pitch * across, pitch * self.row_pitch * down
        origin = (sid - sod) * away - (w - 1) / 2 * column - (h - 1) / 2 * row
        vectors = torch.stack([-sod * away, origin, column, row], 1)
        return [View(v[0], v[1], v[2], v[3], self.shape) for v in vectors.unbind(0)]

    def __str__(self) -> str:
        h, w = self.shape
        pitch = f"{self.pitch} mm" if self.row_pitch == 1 else f"{self.pitch} mm across, {self.row_pitch:.4g} times that down"
        return f"source to detector {self.sid} mm, source to isocentre {self.sod} mm, {h} x {w} pixels of {pitch}"


def field_pitch(field_mm: float, pixels: int, sid: float, sod: float) -> float:
    """Pitch at the detector of an image that is ``field_mm`` wide in the plane of the isocentre."""
    return field_mm / pixels * sid / sod


def region(view: View, point: Float[Tensor, "3"], field_mm: float, shape: tuple[int, int]) -> View:
    """The view of the part of the detector about one point's image: the region of interest that follows a model.

    Toth et al. (2018): "The moving image [...] was generated with a smaller FOV, i.e., 120 mm x 120 mm, having the LV centered.
    The model projection image will correspond to a subregion of the fixed image". Where a field of view is measured the paper
    does not say; here it is the plane of the isocentre, in which a field of 120 mm holds a left ventricle.

    Parameters
    ----------
    view: the whole image's geometry, its isocentre at the world's origin.
    point: world mm of what stays in the middle.
    field_mm: width and height in the plane of the isocentre, mm.
    shape: (rows, columns) of the part.

    Returns
    -------
    View with the same focal spot and detector plane. It may reach beyond the edge of the whole image.

    Raises
    ------
    InputError: a field that is not positive.
    """
    if not field_mm > 0:
        raise InputError(f"a field of {field_mm:g} mm", field="field_mm", remedy="give a positive width")
    h, w = shape
    at = view.project(torch.as_tensor(point, dtype=torch.float64)[None])[0]
    depth = float(-view.source @ view.normal)  # of the world's origin before the focal spot
    side = field_mm * float(view.sid) / depth
    rows, columns = view.pixel_spacing
    column_step, row_step = view.column_step * (side / w / columns), view.row_step * (side / h / rows)
    middle = view.origin + at[0] * view.column_step + at[1] * view.row_step
    origin = middle - (w - 1) / 2 * column_step - (h - 1) / 2 * row_step
    return replace(view, origin=origin, column_step=column_step, row_step=row_step, shape=shape)


def image_axes(views: Sequence[View]) -> Float[Tensor, "B 3 3"]:
    """Unit vectors as rows for each view: along the columns, along the rows, and along the view's normal to the detector.

    Rows that are not perpendicular to the columns are made so. In the usual display (u, v, d) is left-handed
    (see the conventions' page); what turns about one of them turns as a right-handed rotation about that vector.
    """
    vectors = torch.stack([view.vectors for view in views])
    source, origin, column, row = vectors.unbind(1)
    across = torch.nn.functional.normalize(column, dim=-1)
    down = torch.nn.functional.normalize(row - (row * across).sum(-1, keepdim=True) * across, dim=-1)
    normal = torch.linalg.cross(across, down)
    away = torch.where(((origin - source) * normal).sum(-1, keepdim=True) < 0, -normal, normal)
    return torch.stack([across, down, away], 1)
