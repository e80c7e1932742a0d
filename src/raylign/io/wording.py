"""Geometry and contents in plain words: one function a noun, each giving rows of (what, value) and warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Landmarks, Mesh, Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.geometry.carm import CArm, to_carm

Row = tuple[str, str]
_TOWARDS = (("the patient's left", "the patient's right"), ("the back", "the front"), ("the head", "the feet"))
_OBLIQUE = 0.5  # degrees off an axis that are worth a word
_AIR_HU = -300.0
_METAL_HU = 2800.0


def number(value: float, digits: int = 4) -> str:
    """A number with few digits and no exponent for everyday sizes."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and abs(value) < 1e9 else text


def times(values: Sequence[float], digits: int = 4) -> str:
    """ "0.7 x 0.7 x 2.5"."""
    return " x ".join(number(v, digits) for v in values)


def direction(vector: Tensor) -> str:
    """Where an LPS vector points, in words: "the head", with the angle where it is oblique."""
    unit = vector / vector.norm()
    axis = int(unit.abs().argmax())
    word = _TOWARDS[axis][0 if unit[axis] > 0 else 1]
    off = math.degrees(math.acos(min(1.0, float(unit[axis].abs()))))
    return word if off < _OBLIQUE else f"{word} ({off:.0f} degrees oblique)"


def grid_rows(affine: Float[Tensor, "4 4"], shape: torch.Size) -> list[Row]:
    """Size, spacing, extent, orientation and place of a voxel grid."""
    d, h, w = shape
    spacing = affine[:3, :3].norm(dim=0)
    extent = [float(n * s) for n, s in zip((w, h, d), spacing, strict=True)]
    middle = affine @ torch.tensor([(w - 1) / 2, (h - 1) / 2, (d - 1) / 2, 1.0], dtype=torch.float64)
    columns, rows, slices = (direction(affine[:3, k]) for k in range(3))
    out = [
        ("size", f"{w} columns x {h} rows x {d} slices"),
        ("voxel", f"{times(spacing.tolist())} mm"),
        ("extent", f"{times(extent, 3)} mm"),
        ("orientation", f"columns run to {columns}, rows to {rows}, slices to {slices}"),
        ("centre", f"({', '.join(f'{x:.1f}' for x in middle[:3].tolist())}) mm in patient LPS"),
    ]
    return out


def grid_warnings(affine: Float[Tensor, "4 4"]) -> list[str]:
    """What is odd about a grid: a mirrored or sheared one, thick slices."""
    spacing = affine[:3, :3].norm(dim=0)
    unit = affine[:3, :3] / spacing
    found = []
    if float(torch.linalg.det(unit)) < 0:
        found.append("the voxel axes are left-handed; that is allowed, and honoured")
    off = float((unit.T @ unit - torch.eye(3, dtype=unit.dtype)).abs().max())
    if off > 1e-3:
        found.append(f"the voxel axes are not perpendicular ({math.degrees(math.asin(min(off, 1.0))):.1f} degrees off)")
    if float(spacing.max()) > 3.5:
        found.append(f"voxels are {number(float(spacing.max()))} mm thick: expect a registration of that order")
    return found


def volume_words(volume: Volume) -> tuple[list[Row], list[str]]:
    """A CT or other volume."""
    data = volume.decoded().data
    low, high = float(data.min()), float(data.max())
    unit = {"HU": "HU", "1/mm": "1/mm (linear attenuation)", "raw": "raw numbers, 0 where there is nothing"}[volume.unit]
    rows = grid_rows(volume.affine, data.shape)
    rows.append(("values", f"{number(low)} to {number(high)} {unit}"))
    warnings = grid_warnings(volume.affine)
    if volume.unit == "HU":
        body = data > _AIR_HU
        rows.append(("body", f"{100 * float(body.float().mean()):.0f} % of the voxels are above {_AIR_HU:.0f} HU"))
        ends = [name for name, face in (("first", body[0]), ("last", body[-1])) if float(face.float().mean()) > 0.02]
        if ends:
            rows.append(("cut faces", f"the body goes on beyond the {' and the '.join(ends)} slice"))
        metal = int((data > _METAL_HU).sum())
        if metal:
            rows.append(("metal", f"{metal} voxels above {_METAL_HU:.0f} HU"))
    if low == high:
        warnings.append("every voxel has the same value")
    return rows, warnings


def label_words(labels: LabelMap) -> tuple[list[Row], list[str]]:
    """A label map: its grid and, for every label, the volume in ml."""
    rows = grid_rows(labels.affine, labels.data.shape)
    voxel_ml = abs(float(torch.linalg.det(labels.affine[:3, :3]))) / 1000
    numbers, counts = torch.unique(labels.data, return_counts=True)
    size = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    present = labels.present()
    rows.append(("labels", str(len(present))))
    rows += [(f"label {n}", f"{name}, {number(size[n] * voxel_ml, 3)} ml") for n, name in present.items()]
    unnamed = [str(n) for n in present if n not in labels.names]
    return rows, [f"no name is known for label {', '.join(unnamed[:8])}{', ...' if len(unnamed) > 8 else ''}"] if unnamed else []


def view_words(view: View) -> list[Row]:
    """An exposure's geometry: as a C-arm where it is one, else as a calibrated camera or a parallel beam."""
    if view.beam == "parallel":
        return _parallel_words(view)
    carm, display = _as_carm(view)
    sid = float(view.sid)
    rows: list[Row] = []
    if carm is not None:
        lao = f"{abs(carm.primary):.1f} degrees {'LAO' if carm.primary >= 0 else 'RAO'}"
        cranial = f"{abs(carm.secondary):.1f} degrees {'cranial' if carm.secondary >= 0 else 'caudal'}"
        rows.append(("geometry", f"C-arm {lao}, {cranial}{display}"))
        rows.append(
            (
                "distances",
                f"source {carm.sod:.1f} mm before the isocentre, detector {carm.sid - carm.sod:.1f} mm behind it "
                f"(source to detector {carm.sid:.1f} mm, magnification {carm.sid / carm.sod:.3f})",
            )
        )
    else:
        column, row = view.principal_point.tolist()
        rows.append(("geometry", "calibrated camera, no centred C-arm"))
        rows.append(("source", f"({', '.join(f'{x:.1f}' for x in view.source.tolist())}) mm in the world"))
        rows.append(("principal point", f"column {column:.1f}, row {row:.1f}"))
    h, w = view.shape
    row_pitch, column_pitch = view.pixel_spacing
    depth = float(-(view.source @ view.normal))
    rows.append(("detector", f"{w} columns x {h} rows"))
    if carm is not None:
        rows.append(("pixel on the detector", f"{number(row_pitch)} x {number(column_pitch)} mm (rows x columns)"))
    if depth > 0:
        place = "at the isocentre" if carm is not None else "at the world's origin"
        at = depth / sid
        rows.append((f"pixel {place}", f"{number(row_pitch * at)} x {number(column_pitch * at)} mm"))
        rows.append((f"field {place}", f"{number(h * row_pitch * at, 3)} x {number(w * column_pitch * at, 3)} mm"))
    if carm is not None:  # a calibration's world has axes of its own
        rows.append(("image axes", f"columns run to {direction(view.column_step)}, rows to {direction(view.row_step)}"))
    return rows


def _parallel_words(view: View) -> list[Row]:
    h, w = view.shape
    row_pitch, column_pitch = view.pixel_spacing
    along = view.origin - view.source
    return [
        ("geometry", "parallel beam: nothing is magnified"),
        ("beam", f"runs to {direction(along)}, {float(along.norm()):.1f} mm to the detector"),
        ("detector", f"{w} columns x {h} rows"),
        ("pixel", f"{number(row_pitch)} x {number(column_pitch)} mm (rows x columns)"),
        ("image axes", f"columns run to {direction(view.column_step)}, rows to {direction(view.row_step)}"),
    ]


def _as_carm(view: View) -> tuple[CArm | None, str]:
    for turns in range(4):
        for mirror in (False, True):
            candidate = view.flip(columns=True) if mirror else view
            try:
                carm = to_carm(candidate.rotate(turns))
            except InputError:
                continue
            if abs(carm.primary) > 120 or abs(carm.secondary) > 90:
                continue  # the same exposure described from behind; another turn says it as a C-arm would
            words = [f"turned by {90 * turns} degrees"] if turns else []
            words += ["mirrored left to right"] if mirror else []
            return carm, f", image {' and '.join(words)}" if words else ""
    return None, ""


def xray_words(xray: XRay) -> tuple[list[Row], list[str]]:
    """An exposure: geometry, values, mask."""
    rows = view_words(xray.view)
    stated = str(xray.meta.get("relationship", ""))
    meaning = {"LIN": "counts (LIN)", "LOG": "logarithms (LOG)", "DISP": "display values (DISP), whose order alone counts"}
    rows.append(("stored values", meaning.get(stated, stated or "not stated")))
    scale = "line integrals, up to a factor and an offset" if xray.scale == "line-integral" else "monotone in the line integral"
    rows.append(("used as", scale))
    valid = float(xray.mask.float().mean())
    rows.append(("valid pixels", f"{100 * valid:.0f} % (inside the collimator, not saturated, no text)"))
    kept = {
        "PatientPosition": "patient position",
        "BodyPartExamined": "body part",
        "Manufacturer": "maker",
        "KVP": "tube voltage, kV",
    }
    rows += [(name, str(xray.meta[key])) for key, name in kept.items() if xray.meta.get(key)]
    if int(xray.meta.get("frames", 1)) > 1:
        rows.append(("frames", str(xray.meta["frames"])))
    warnings = [f"only {100 * valid:.0f} % of the pixels are valid: look at the mask"] if valid < 0.2 else []
    if xray.meta.get("bright stated") is False:
        warnings.append("bright pixels are taken for air, since nothing says so: state --bright bone if bone is bright here")
    return rows, warnings


def mesh_words(mesh: Mesh, space: str | None) -> tuple[list[Row], list[str]]:
    """A surface: counts, extent, whether it is closed, what it holds."""
    low, high = mesh.vertices.min(0).values, mesh.vertices.max(0).values
    extent = (high - low).tolist()
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)
    volume = float((a * torch.linalg.cross(b, c)).sum() / 6) / 1000
    edges = np.sort(mesh.faces.numpy()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    open_edges = int((uses != 2).sum())
    rows = [
        ("size", f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles"),
        ("extent", f"{times(extent, 4)} mm"),
        ("centre", f"({', '.join(f'{x:.1f}' for x in ((low + high) / 2).tolist())}) mm in patient LPS"),
        ("frame", f"{space}, as the file says" if space else "LPS (the file does not say)"),
        (
            "closed",
            "yes, watertight" if open_edges == 0 else f"no, {open_edges} edges belong to one triangle or to more than two",
        ),
        ("area", f"{number(area / 100, 4)} cm2"),
    ]
    warnings = []
    if open_edges == 0:
        rows.append(("volume", f"{number(abs(volume), 4)} ml"))
        if volume < 0:
            warnings.append("the triangles face inwards")
    if not 5 <= max(extent) <= 3000:
        warnings.append(f"the largest extent is {number(max(extent))} mm: are the coordinates in millimetres?")
    return rows, warnings


def landmark_words(landmarks: Landmarks) -> list[Row]:
    """Named points."""
    three = landmarks.points.shape[1] == 3
    rows = [("points", f"{len(landmarks.names)} in {'patient LPS mm' if three else '(column, row) pixels'}")]
    return rows + [
        (name, ", ".join(f"{x:.2f}" for x in point))
        for name, point in zip(landmarks.names, landmarks.points.tolist(), strict=True)
    ]


def pose_words(pose: Rigid) -> list[Row]:
    """A pose: how far it turns and moves."""
    twist = se3.log_rotation(pose.matrix[:3, :3])
    angle = float(torch.rad2deg(twist.norm()))
    rows = [("pose", "T_world_from_volume: patient LPS mm of the volume to world mm")]
    if angle > 1e-6:
        axis = (twist / twist.norm()).tolist()
        rows.append(("rotation", f"{angle:.3f} degrees about ({', '.join(f'{x:.3f}' for x in axis)})"))
    else:
        rows.append(("rotation", "none"))
    rows.append(("translation", f"({', '.join(f'{x:.3f}' for x in pose.matrix[:3, 3].tolist())}) mm"))
    return rows
