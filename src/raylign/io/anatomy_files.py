"""Frames of bones as JSON, and poses with their covariance from ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry.anatomy import AnatomicalFrame, frame_from, long_bone
from raylign.geometry.joint_motion import BonePose
from raylign.io.files import read_json, reading
from raylign.io.transforms import read_pose

_ARCH = 0.3  # mm: a shaft that is straighter than that does not say where it is hollow


def read_bone_pose(path: str | Path) -> BonePose:
    """The pose of a bone, with its covariance where the file is a ``result.json``.

    Raises
    ------
    InputError: as ``read_pose``.
    """
    pose = read_pose(path).matrix
    stated = read_json(path, "a result").get("uncertainty") if str(path).lower().endswith(".json") else None
    if not isinstance(stated, Mapping):
        return BonePose(pose)
    with reading(path, "a result"):
        covariance = _numbers(stated.get("covariance"), (6, 6), "uncertainty.covariance")
        centre = _numbers(stated.get("centre"), (3,), "uncertainty.centre")
    return BonePose(pose, covariance, centre)


def read_frames(path: str | Path) -> tuple[AnatomicalFrame, AnatomicalFrame]:
    """The frames of the proximal and of the distal bone.

    A JSON object with ``side`` ("right" or "left"), ``proximal`` and ``distal``. A bone has ``model`` (a volume or mesh, beside
    the file) and ``distal`` (a vector in its LPS mm that points to the distal end), or ``origin`` and ``along`` (a vector that
    points proximally) in numbers; and ``mark``, a point [x, y, z], or of a model "tip" (its most distal point) or "arch" (the
    hollow side of its shaft), and ``mark_is``: radial, ulnar, palmar or dorsal, seen from the long axis.

    Raises
    ------
    InputError: something missing, or a model that does not say what it is asked.
    """
    values = read_json(path, "anatomical frames")
    with reading(path, "anatomical frames"):
        missing = [name for name in ("side", "proximal", "distal") if name not in values]
        if missing:
            raise InputError(f"missing {', '.join(missing)}", field="frames", remedy="state the side and both bones")
        return _frame(values, "proximal", Path(path).parent), _frame(values, "distal", Path(path).parent)


def _frame(values: Mapping[str, Any], bone: str, folder: Path) -> AnatomicalFrame:
    said = values[bone]
    try:
        return _made(said, values["side"], folder)
    except KeyError as error:
        raise InputError(f"missing {error.args[0]}", field=bone, remedy="see docs/rigs.md") from None


def _made(said: Mapping[str, Any], side: Any, folder: Path) -> AnatomicalFrame:
    mark, mark_is = said["mark"], said["mark_is"]
    if "model" not in said:
        origin, along = _numbers(said["origin"], (3,), "origin"), _numbers(said["along"], (3,), "along")
        point = _numbers(mark, (3,), "mark")
        return frame_from(origin, along, point - origin, mark_is, side, f"{side}; origin, axis and a {mark_is} mark as stated")
    bone = long_bone(_points(folder / str(said["model"])), _numbers(said["distal"], (3,), "distal"))
    words = f"{side}; long axis through the centroids of {said['model']}'s cross-sections, origin on it at its most distal point"
    if mark == "tip":
        return frame_from(bone.origin, bone.proximal, bone.tip - bone.origin, mark_is, side, f"{words}, which lies {mark_is}")
    if mark == "arch":
        if bone.bow < _ARCH:
            raise InputError(f"the shaft is straight to {bone.bow:.2f} mm", field="mark", remedy="state a point instead")
        return frame_from(bone.origin, bone.proximal, bone.arch, mark_is, side, f"{words}, its hollow side {mark_is}")
    point = _numbers(mark, (3,), "mark")
    return frame_from(bone.origin, bone.proximal, point - bone.origin, mark_is, side, f"{words}, a {mark_is} mark as stated")


def _points(path: Path) -> Tensor:
    """Points of a bone: of a mesh its vertices, of a volume what is bone in it."""
    from raylign.io import read_mesh, read_volume
    from raylign.io.meshes import FORMATS

    if path.suffix.lower() in FORMATS:
        return read_mesh(path).vertices.to(torch.float64)
    volume = read_volume(path)
    data = volume.data
    # of a cut-out everything that is not empty; of a scan what is bone
    inside = data > 150.0 if volume.unit == "HU" else data > 0.02 * float(data.max())
    voxels = inside.nonzero().flip(1).to(torch.float64)
    return voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _numbers(value: Any, shape: tuple[int, ...], field: str) -> Tensor:
    try:
        tensor = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not numbers ({error})", field=field) from None
    if tuple(tensor.shape) != shape or not bool(torch.isfinite(tensor).all()):
        raise InputError(f"expected {'x'.join(map(str, shape))} finite numbers", field=field)
    return tensor
