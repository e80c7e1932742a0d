"""Poses in files: JSON, and ITK transforms (.tfm, .txt, .h5) as ITK, SimpleITK and 3D Slicer read and write them.

raylign's pose is ``T_world_from_volume``: it moves points of the volume into the world. An ITK transform file holds the other
direction, the one that resampling needs: it maps points of the fixed (reference) space to the moving one, ``y = A (x - c) + c
+ t`` in LPS mm. Slicer keeps to that: what it loads from a file is the transform *from* parent, and its "to parent" matrix is
the inverse (Slicer developer guide, "Transforms"; in its scene that matrix is shown in RAS).

So ``pose.tfm`` holds ``A = inverse(T_world_from_volume)``, world to volume. In Slicer, load it and put the CT under it: the CT
moves to where it lies in the world. In SimpleITK, ``sitk.Resample(ct, reference_in_world, sitk.ReadTransform("pose.tfm"))``
gives the CT in the world, and ``sitk.ReadTransform("pose.tfm").GetInverse().TransformPoint(p)`` moves a point of the CT there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import Rigid, se3
from raylign.io.atomic import atomic_write, write_text
from raylign.io.files import existing_file, read_json, reading, silent, suffix

_ITK = (".tfm", ".txt", ".h5", ".hdf5", ".xfm", ".mat")
_TOLERANCE = 1e-3  # of R R^T against the identity: hand-typed matrices have few digits


def read_pose(path: str | Path) -> Rigid:
    """``T_world_from_volume`` from a file.

    - ``.json``: the key ``T_world_from_volume``, or ``pose.matrix`` (a ``result.json``), or ``matrix``: a 4x4 list of rows, mm.
    - ``.tfm``, ``.txt``, ``.h5``: an ITK transform, world to volume (see the module's text); any linear kind, a composite of
      such, centres respected. The pose is its inverse.

    A rotation written with few digits (within 1e-3 of orthonormal) is replaced by the nearest rotation.

    Raises
    ------
    InputError: not readable, no pose in it, not linear, scaled, sheared, mirrored or singular: naming the file.
    """
    file = existing_file(path)
    kind = suffix(file)
    if kind.endswith(".json"):
        values = read_json(file, "a pose")
        with reading(file, "a pose"):
            matrix = _json_matrix(values)
        return _rigid(matrix, file)
    if kind in _ITK:
        world_to_volume = _itk_matrix(file)
        if abs(float(torch.linalg.det(world_to_volume[:3, :3]))) < 1e-6:
            raise InputError("the transform is singular", file=file, remedy="give a rigid transform in mm")
        return _rigid(torch.linalg.inv(world_to_volume), file)
    raise InputError(f"{kind or 'no suffix'!r} is no pose format", file=file, remedy="give .json, .tfm, .txt or .h5")


def write_pose(pose: Rigid, path: str | Path) -> None:
    """Write a pose as JSON (``.json``) or as an ITK transform (``.tfm``, ``.txt``, ``.h5``), by suffix."""
    if suffix(path).endswith(".json"):
        write_text(path, json.dumps({"T_world_from_volume": pose.matrix.tolist()}, indent=1) + "\n")
    else:
        write_pose_itk(pose, path)


def write_pose_itk(pose: Rigid, path: str | Path, centre: Sequence[float] | None = None) -> None:
    """Write ``inverse(T_world_from_volume)`` as an ITK ``AffineTransform`` (double, 3D, LPS mm).

    Parameters
    ----------
    pose: ``T_world_from_volume``.
    path: ``.tfm``, ``.txt`` or ``.h5``; written whole or not at all.
    centre: the fixed point ``c`` of ITK's parametrisation, in world mm; it changes the numbers in the file, not the map.

    Raises
    ------
    InputError: another suffix, or a place that cannot be written.
    """
    if suffix(path) not in (".tfm", ".txt", ".h5", ".hdf5"):
        raise InputError("no ITK transform format", file=path, remedy="use the suffix .tfm, .txt or .h5")
    inverse = se3.inverse(pose.matrix)
    c = torch.tensor([0.0, 0.0, 0.0] if centre is None else [float(x) for x in centre], dtype=torch.float64)
    rotation = inverse[:3, :3]
    translation = inverse[:3, 3] + rotation @ c - c
    parameters = [*rotation.flatten().tolist(), *translation.tolist()]
    with atomic_write(path) as temporary:
        if suffix(path) in (".tfm", ".txt"):
            temporary.write_text(_itk_text(parameters, c.tolist()), encoding="ascii", newline="\n")
        else:
            _write_itk_binary(parameters, c.tolist(), temporary, path)


def _itk_text(parameters: Sequence[float], fixed: Sequence[float]) -> str:
    """ITK's text format; a few lines, for which loading ITK itself would take longer than the rest of a command."""
    numbers = [" ".join(repr(float(x)) for x in row) for row in (parameters, fixed)]
    return (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers[0]}\nFixedParameters: {numbers[1]}\n"
    )


def _write_itk_binary(parameters: Sequence[float], fixed: Sequence[float], temporary: Path, path: str | Path) -> None:
    import SimpleITK as sitk

    transform = sitk.AffineTransform(parameters[:9], parameters[9:], fixed)
    try:
        sitk.WriteTransform(transform, str(temporary))
    except RuntimeError as error:
        raise InputError(f"cannot be written ({str(error).strip().splitlines()[-1]})", file=path) from error


def _json_matrix(values: Mapping[str, Any]) -> Tensor:
    pose = values.get("pose")
    for found in (
        values.get("T_world_from_volume"),
        pose.get("matrix") if isinstance(pose, Mapping) else None,
        values.get("matrix"),
    ):
        if found is not None:
            matrix = torch.tensor(found, dtype=torch.float64)
            if matrix.numel() != 16:
                raise InputError(
                    f"{matrix.numel()} numbers where 4x4 are needed", field="matrix", remedy="give four rows of four numbers"
                )
            return matrix.reshape(4, 4)
    raise InputError(
        "no pose in it",
        field="T_world_from_volume",
        remedy="give T_world_from_volume, pose.matrix or matrix as a 4x4 list of rows",
    )


def _itk_matrix(file: Path) -> Float[Tensor, "4 4"]:
    """The 4x4 of a linear ITK transform, read off from where it sends four points."""
    import SimpleITK as sitk

    with reading(file, "an ITK transform"):
        if suffix(file) in (".h5", ".hdf5"):
            transform = _from_hdf5(file)
        else:
            with silent():
                transform = sitk.ReadTransform(str(file))
        if transform.GetDimension() != 3:
            raise InputError(f"a {transform.GetDimension()}D transform", file=file, remedy="give a 3D one")
        if not transform.IsLinear():
            raise InputError(f"{transform.GetName()} is not linear", file=file, remedy="give a rigid transform")
        corners = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        images = torch.tensor([transform.TransformPoint(p) for p in corners], dtype=torch.float64)
        result = se3.from_parts((images[1:] - images[0]).T, images[0])
    return result


def _from_hdf5(file: Path) -> Any:
    """ITK's HDF5 layout read by h5py and handed on as ITK's text: ITK's own reader writes pages on stderr about damaged files."""
    import h5py
    import SimpleITK as sitk

    lines = ["#Insight Transform File V1.0"]
    with h5py.File(file, "r") as h5:
        if "TransformGroup" not in h5:
            raise InputError("there is no ITK transform in it", field="TransformGroup", remedy="give a transform that ITK wrote")
        group = h5["TransformGroup"]
        for name in sorted(group, key=int):
            kind = group[name]["TransformType"][0].decode()
            lines += [f"#Transform {name}", f"Transform: {kind}"]
            for key in ("Parameters", "FixedParameters"):
                found = [n for n in group[name] if n in (f"Transform{key}", f"Tranform{key}")]  # ITK once misspelt it
                if found and group[name][found[0]].size > 1000:
                    raise InputError(f"{kind} is not linear", remedy="give a rigid transform")
                if found:
                    lines.append(f"{key}: " + " ".join(repr(float(x)) for x in group[name][found[0]][()]))
    with tempfile.TemporaryDirectory() as folder, silent():
        text = Path(folder) / "transform.tfm"
        text.write_text("\n".join(lines) + "\n")
        return sitk.ReadTransform(str(text))


def _rigid(matrix: Tensor, file: Path) -> Rigid:
    r = matrix[:3, :3]
    near = bool(torch.isfinite(matrix).all()) and float((r.T @ r - torch.eye(3, dtype=r.dtype)).abs().max()) <= _TOLERANCE
    if near and float(torch.linalg.det(r)) > 0:
        u, _, vh = torch.linalg.svd(r)
        matrix = torch.cat([torch.cat([u @ vh, matrix[:3, 3:]], 1), matrix[3:]])
    with reading(file, "a pose"):
        result = Rigid(matrix)
    return result
