"""One exposure's geometry: four vectors in world millimetres, an image shape, and whether the rays meet or run parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import se3

Beam = Literal["cone", "parallel"]

_VECTORS = ("source", "origin", "column_step", "row_step")


def _vector(value: Any, name: str) -> Tensor:
    v = torch.as_tensor(value, dtype=torch.float64)
    if v.shape != (3,):
        raise InputError(f"expected three numbers, got shape {tuple(v.shape)}", field=name)
    return v


def _shape(shape: Any) -> tuple[int, int]:
    try:
        h, w = (float(n) for n in shape)
    except (TypeError, ValueError):
        raise InputError(f"expected (rows, columns), got {shape!r}", field="shape") from None
    if not (h.is_integer() and w.is_integer()):
        raise InputError(f"rows and columns are whole numbers, got {shape!r}", field="shape")
    return int(h), int(w)


@dataclass(frozen=True, eq=False)
class View:
    """The geometry of one X-ray exposure in world millimetres (float64).

    Pixel centres lie at integers: the centre of pixel (row ``r``, column ``c``) is
    ``origin + c * column_step + r * row_step``; its ray runs from ``source`` to that point. Nothing else is stored; there is no
    rotation, no reflection flag and no half pixel anywhere. The rays of a parallel beam all run along ``origin - source``: that
    of pixel (r, c) begins at ``source + c * column_step + r * row_step``.

    Parameters
    ----------
    source: position of the X-ray focal spot, mm; of a parallel beam, where the ray of pixel row 0, column 0 begins.
    origin: centre of pixel row 0, column 0 (the first stored pixel), mm.
    column_step: from one pixel centre to the next in its row, mm.
    row_step: from one pixel centre to the one below, mm.
    shape: (rows, columns).
    beam: "cone" (every ray begins at the source) or "parallel".

    Raises
    ------
    InputError: vectors that are not finite, a detector without area, a source in the detector plane, an empty shape, an unknown
        kind of beam.
    """

    source: Float[Tensor, "3"]
    origin: Float[Tensor, "3"]
    column_step: Float[Tensor, "3"]
    row_step: Float[Tensor, "3"]
    shape: tuple[int, int]
    beam: Beam = "cone"

    def __post_init__(self) -> None:
        for name in _VECTORS:
            object.__setattr__(self, name, _vector(getattr(self, name), name))
        h, w = _shape(self.shape)
        object.__setattr__(self, "shape", (h, w))
        if h < 1 or w < 1:
            raise InputError(f"an image of {h} rows and {w} columns has no pixels", field="shape")
        if self.beam not in get_args(Beam):
            raise InputError(f"unknown kind of beam {self.beam!r}", field="beam", remedy='use "cone" or "parallel"')
        with torch.no_grad():
            vectors = torch.stack([getattr(self, name).detach() for name in _VECTORS])
            if not bool(torch.isfinite(vectors).all()):
                raise InputError("the view has a coordinate that is not a finite number", field="View")
            s, o, c, r = vectors
            area = torch.linalg.cross(c, r).norm()
            if area <= 1e-9 * max(float(c.norm() * r.norm()), 1e-300):
                raise InputError("column_step and row_step are parallel or zero", field="View")
            if abs(float((s - o) @ torch.linalg.cross(c, r))) <= 1e-9 * float(area):
                what = "the beam runs along" if self.beam == "parallel" else "the source lies in"
                raise InputError(f"{what} the detector plane", field="View")

    # -- how a view is made ------------------------------------------------------------------------------------------

    @staticmethod
    def from_carm(
        *,
        primary: Any = 0.0,
        secondary: Any = 0.0,
        sid: Any,
        sod: Any,
        pixel_spacing: Any,
        shape: tuple[int, int],
    ) -> View:
        """View of a C-arm in DICOM XA terms: see ``raylign.geometry.carm.from_carm``."""
        from raylign.geometry import carm

        return carm.from_carm(primary=primary, secondary=secondary, sid=sid, sod=sod, pixel_spacing=pixel_spacing, shape=shape)

    @staticmethod
    def from_parallel(
        *,
        primary: Any = None,
        secondary: Any = None,
        direction: Any = None,
        up: Any = (0.0, 0.0, 1.0),
        pixel_spacing: Any,
        shape: tuple[int, int],
        reach: float = 1000.0,
    ) -> View:
        """View of a parallel beam, by C-arm angles or by a direction: see ``raylign.geometry.carm.from_parallel``."""
        from raylign.geometry import carm

        if direction is None:
            axes = carm.frame(0.0 if primary is None else primary, 0.0 if secondary is None else secondary)
        elif primary is not None or secondary is not None:
            raise InputError("a direction and C-arm angles are both given", field="direction", remedy="give one of them")
        else:
            axes = carm.frame_along(direction, up)
        return carm.from_parallel(axes, pixel_spacing=pixel_spacing, shape=shape, reach=reach)

    @staticmethod
    def from_opencv(K: Any, R: Any, t: Any, shape: tuple[int, int], *, sdd: float | None = None) -> View:
        """View of a calibrated pinhole camera: see ``raylign.geometry.convert.from_opencv``."""
        from raylign.geometry import convert

        return convert.from_opencv(K, R, t, shape, sdd=sdd)

    @staticmethod
    def from_dicom(dataset: Any, frame: int = 0) -> View:
        """View that a DICOM X-ray header describes: see ``raylign.geometry.xa.view_from_header``."""
        from raylign.geometry import xa

        return xa.view_from_header(dataset, frame=frame)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> View:
        """View from the mapping that ``to_dict`` gives (the content of a ``view.json``)."""
        missing = [name for name in (*_VECTORS, "shape") if name not in values]
        if missing:
            raise InputError(
                f"missing {', '.join(missing)}", field="view", remedy="a view has source, origin, column_step, row_step, shape"
            )
        try:
            h, w = (int(n) for n in values["shape"])
            vectors = {name: torch.tensor([float(x) for x in values[name]], dtype=torch.float64) for name in _VECTORS}
        except (TypeError, ValueError) as error:
            raise InputError(f"not numbers ({error})", field="view", remedy="give lists of numbers in mm") from None
        return View(**vectors, shape=(h, w), beam=values.get("beam", "cone"))

    # -- what it says ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain lists of numbers, for JSON; ``beam`` is there where it is not a cone."""
        out: dict[str, Any] = {name: getattr(self, name).detach().tolist() for name in _VECTORS}
        out["shape"] = list(self.shape)
        if self.beam != "cone":
            out["beam"] = self.beam
        return out

    def __repr__(self) -> str:
        lists = ", ".join(f"{name}=[{', '.join(f'{x:.6g}' for x in getattr(self, name).detach().tolist())}]" for name in _VECTORS)
        beam = "" if self.beam == "cone" else f", beam={self.beam!r}"
        return f"View({lists}, shape={self.shape}{beam})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, View):
            return NotImplemented
        same = self.shape == other.shape and self.beam == other.beam
        return same and all(torch.equal(getattr(self, name), getattr(other, name)) for name in _VECTORS)

    __hash__ = None  # type: ignore[assignment]

    def isclose(self, other: View, tolerance: float = 1e-6) -> bool:
        """Whether two views agree in every vector to ``tolerance`` mm, in shape and in beam."""
        same = self.shape == other.shape and self.beam == other.beam
        return same and all(bool((getattr(self, name) - getattr(other, name)).abs().max() <= tolerance) for name in _VECTORS)

    @property
    def vectors(self) -> Float[Tensor, "4 3"]:
        """source, origin, column_step, row_step, stacked."""
        return torch.stack([self.source, self.origin, self.column_step, self.row_step])

    @property
    def ray_vectors(self) -> Float[Tensor, "6 3"]:
        """Every ray, in world mm: from ``o`` to ``o + d`` with ``o = o00 + c ou + r ov`` and ``d = d00 + c du + r dv``.

        Stacked are o00, d00, du, dv, ou, ov. A cone's rays share their beginning (ou = ov = 0), those of a parallel beam their
        direction (du = dv = 0).
        """
        first, still = self.origin - self.source, torch.zeros_like(self.source)
        if self.beam == "parallel":
            return torch.stack([self.source, first, still, still, self.column_step, self.row_step])
        return torch.stack([self.source, first, self.column_step, self.row_step, still, still])

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """(row, column) pitch of the detector in mm, DICOM's order."""
        return float(self.row_step.detach().norm()), float(self.column_step.detach().norm())

    @property
    def normal(self) -> Float[Tensor, "3"]:
        """Unit normal of the detector, from the source towards it."""
        n = torch.linalg.cross(self.column_step, self.row_step)
        n = n / n.norm()
        return torch.where((self.origin - self.source) @ n < 0, -n, n)

    @property
    def sid(self) -> Float[Tensor, ""]:
        """Source-to-detector distance along the normal, mm.

        Raises
        ------
        InputError: a parallel beam, which has no focal spot.
        """
        require_cone(self, "a source-to-detector distance")
        return (self.origin - self.source) @ self.normal

    @property
    def principal_point(self) -> Float[Tensor, "2"]:
        """(column, row) of the foot of the perpendicular from the source to the detector.

        Raises
        ------
        InputError: a parallel beam, which has no focal spot.
        """
        require_cone(self, "a principal point")
        return self._pixel(self.source + self.sid * self.normal)

    @property
    def camera(self) -> Float[Tensor, "3 4"]:
        """Projection matrix: ``camera @ (x, y, z, 1)`` is a positive multiple of ``(column, row, 1)`` before the source.

        That of a parallel beam is affine, its last row (0, 0, 0, 1): the multiple is 1 everywhere.
        """
        inverse = torch.linalg.inv(torch.stack([self.column_step, self.row_step, self.origin - self.source], 1))
        if self.beam == "parallel":
            last = torch.eye(4, dtype=inverse.dtype, device=inverse.device)[3:]
            return torch.cat([torch.cat([inverse[:2], -(inverse[:2] @ self.source)[:, None]], 1), last])
        return torch.cat([inverse, -(inverse @ self.source)[:, None]], 1)

    def project(self, points: Any) -> Float[Tensor, "*batch n 2"]:
        """Pixel coordinates (column, row) of world points in mm, differentiable by both.

        A point in the plane through the source parallel to the detector has no image: NaN or infinity. One behind the source
        is mapped through it, as any central projection does. A parallel beam gives every point an image.
        """
        p = torch.as_tensor(points, dtype=torch.float64)
        homogeneous = p @ self.camera[:, :3].T + self.camera[:, 3]
        return homogeneous[..., :2] / homogeneous[..., 2:]

    def _pixel(self, point: Tensor) -> Tensor:
        return self.project(point[None])[0]

    def pixel_centres(self) -> Float[Tensor, "H W 3"]:
        """World mm of every pixel's centre."""
        h, w = self.shape
        c = torch.arange(w, dtype=torch.float64, device=self.origin.device)
        r = torch.arange(h, dtype=torch.float64, device=self.origin.device)
        return self.origin + c[None, :, None] * self.column_step + r[:, None, None] * self.row_step

    def rays(self) -> tuple[Float[Tensor, "*pixels 3"], Float[Tensor, "H W 3"]]:
        """Where rays begin and, for each pixel, the vector from there to its centre, mm.

        The beginnings are one point, [3], of a cone and one for each pixel, [H, W, 3], of a parallel beam: in both cases
        ``begin + t * vector`` broadcasts.
        """
        centres = self.pixel_centres()
        if self.beam == "parallel":
            along = self.origin - self.source
            return centres - along, along.expand_as(centres)
        return self.source, centres - self.source

    def ray_lengths(self) -> Float[Tensor, "H W"]:
        """Length of every ray, from where it begins to its pixel's centre, mm."""
        h, w = self.shape
        _, d, du, dv, _, _ = self.ray_vectors.unbind(0)
        c = torch.arange(w, dtype=torch.float64, device=d.device)
        r = torch.arange(h, dtype=torch.float64, device=d.device)
        # the square of d + c du + r dv, multiplied out: of rank 3 in (r, c), and a fraction of the work of making every vector
        rows = torch.stack([d @ d + r * (2 * (d @ dv) + r * (dv @ dv)), r, torch.ones_like(r)], 1)
        columns = torch.stack([torch.ones_like(c), c * (2 * (du @ dv)), c * (2 * (d @ du) + c * (du @ du))])
        return (rows @ columns).sqrt()

    def directions(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Unit vectors, towards the detector, of the rays through world points in mm."""
        along = (self.origin - self.source).expand_as(points) if self.beam == "parallel" else points - self.source
        return torch.nn.functional.normalize(along, dim=-1)

    # -- the same exposure, seen otherwise ---------------------------------------------------------------------------

    def to(self, device: str | torch.device) -> View:
        """The same view with its numbers on a device, beside the volume that it is to show."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _VECTORS})

    def transformed(self, matrix: Float[Tensor, "4 4"]) -> View:
        """The view moved by a 4x4 matrix (rigid, or affine: into the voxel frame of a volume, say)."""
        m = torch.as_tensor(matrix, dtype=torch.float64)
        points = se3.transform(m, torch.stack([self.source, self.origin]))
        steps = torch.stack([self.column_step, self.row_step]) @ m[:3, :3].T
        return replace(self, source=points[0], origin=points[1], column_step=steps[0], row_step=steps[1])

    def _begun(self, shift: Tensor, column_step: Tensor, row_step: Tensor, shape: tuple[int, int]) -> View:
        """The view whose first pixel lies ``shift`` away from this one's, with other steps and another shape."""
        source = self.source + shift if self.beam == "parallel" else self.source
        return View(source, self.origin + shift, column_step, row_step, shape, self.beam)

    def crop(self, rows: slice, columns: slice) -> View:
        """The view of ``image[rows, columns]``; plain slices with step 1, negative ends as in Python."""
        (r0, r1, rs), (c0, c1, cs) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        if rs != 1 or cs != 1:
            raise InputError("crop takes slices of step 1", remedy="use View.resample to change the scale", field="crop")
        shift = c0 * self.column_step + r0 * self.row_step
        return self._begun(shift, self.column_step, self.row_step, (max(r1 - r0, 0), max(c1 - c0, 0)))

    def resample(self, shape: tuple[int, int]) -> View:
        """The same detector area divided into ``shape`` pixels; a landmark stays under its pixel at every scale.

        Pixel edges coincide, not centres: the first pixel's centre moves by half the change of pitch.
        """
        (h, w), (nh, nw) = self.shape, _shape(shape)
        if nh < 1 or nw < 1:
            raise InputError(f"an image of {nh} rows and {nw} columns has no pixels", field="shape")
        fr, fc = h / nh, w / nw
        shift = (fc - 1) / 2 * self.column_step + (fr - 1) / 2 * self.row_step
        return self._begun(shift, self.column_step * fc, self.row_step * fr, (nh, nw))

    def flip(self, *, columns: bool = False, rows: bool = False) -> View:
        """The view of the image mirrored left to right (``columns``) or top to bottom (``rows``)."""
        shift, c, r = torch.zeros_like(self.origin), self.column_step, self.row_step
        if columns:
            shift, c = shift + (self.shape[1] - 1) * c, -c
        if rows:
            shift, r = shift + (self.shape[0] - 1) * r, -r
        return self._begun(shift, c, r, self.shape)

    def rotate(self, quarter_turns: int = 1) -> View:
        """The view of ``torch.rot90(image, quarter_turns)``: counter-clockwise quarter turns as displayed."""
        view = self
        for _ in range(quarter_turns % 4):
            h, w = view.shape
            # rot90 once: new[i, j] = old[j, w - 1 - i]
            view = view._begun((w - 1) * view.column_step, view.row_step, -view.column_step, (w, h))
        return view


def require_cone(view: View, what: str) -> None:
    """Refuse a parallel beam where ``what`` needs a focal spot.

    Raises
    ------
    InputError: the view's rays are parallel.
    """
    if view.beam != "cone":
        raise InputError(f"{what} needs a cone beam, and this view's rays are parallel", field="beam", remedy="give a cone beam")


def as_views(views: View | Sequence[View]) -> tuple[View, ...]:
    """One view or several as a tuple; all must share a shape.

    Raises
    ------
    InputError: no view, or views of different shapes.
    """
    many = (views,) if isinstance(views, View) else tuple(views)
    if not many:
        raise InputError("no view was given", field="views")
    if len({v.shape for v in many}) > 1:
        raise InputError(
            f"views of different shapes {sorted({v.shape for v in many})} cannot share one image batch",
            remedy="project them one by one, or resample them to one shape",
            field="views",
        )
    return many
