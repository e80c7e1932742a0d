"""The cerebral angiograms of the University of Ljubljana, as one HDF5 file.

The data: Mitrović, Špiclin, Likar and Pernuš, "3D-2D registration of cerebral angiograms: a method and evaluation on clinical
images" (IEEE TMI 2013): ten patients, each a 3D angiogram, a frontal and a lateral subtraction angiogram, and gold poses from
markers. The file: as DiffPose and xvr distribute it (``ljubljana.h5``), of which their readers are the only description. It
holds ``subjectNN/`` with ``volume/pixels`` [x, y, z] and ``volume/spacing``; ``proj-ap``, ``proj-lat`` (and ``-max``, those of
the strongest contrast), each with ``pixels``, ``intrinsic`` (focal lengths negative, as xReg's), ``extrinsic`` (volume mm to
camera), ``row-spacing``, ``col-spacing``; and ``points``, volume mm.

What no reader says and is taken here: coordinates begin at the first voxel's centre, and the image's are those of pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.geometry.convert.xreg import NEG_Z, XRegCamera, from_xreg
from raylign.io.files import existing_file, reading

VIEWS = {"frontal": "proj-ap", "lateral": "proj-lat"}
"""Names of the two exposures, and what the file calls them."""


@dataclass(frozen=True, eq=False)
class Angiogram:
    """One patient.

    Parameters
    ----------
    volume: the 3D angiogram, raw numbers; voxel (0, 0, 0) lies at the origin, axes as stored.
    points: [N, 3] volume mm of points on the vessels, over which the data set's errors are means.
    """

    volume: Volume
    points: Float[Tensor, "N 3"]


def list_subjects(path: str | Path) -> tuple[str, ...]:
    """The patients of a file: "subject01", ...

    Raises
    ------
    InputError: not such a file.
    """
    with reading(existing_file(path), "a file of angiograms"), _opened(path) as h5:
        names = tuple(name for name in h5 if "volume" in h5[name] and VIEWS["frontal"] in h5[name])
        if not names:
            raise InputError("it has no subjectNN/volume", field="subject01", remedy="give the data set's file, ljubljana.h5")
    return names


def read_angiogram(path: str | Path, subject: str, nothing_below: float = 0.0) -> Angiogram:
    """The volume and the points of a patient.

    Parameters
    ----------
    nothing_below: voxels of smaller numbers become zero.

    Raises
    ------
    InputError: not such a file, a patient who is not in it.
    """
    with reading(existing_file(path), "a file of angiograms"), _opened(path) as h5:
        group = _get(h5, subject)
        stored = np.asarray(_get(group, "volume/pixels")[()], dtype=np.float32)
        spacing = np.asarray(_get(group, "volume/spacing")[()], dtype=np.float64).reshape(-1)
        points = np.asarray(_get(group, "points")[()], dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points):
            raise InputError(f"points of shape {points.shape}", field=f"{subject}/points")
        if stored.ndim != 3 or len(spacing) != 3 or not (spacing > 0).all():
            raise InputError(f"{stored.ndim} axes, a spacing of {spacing.tolist()}", field=f"{subject}/volume")
        data = np.ascontiguousarray(np.where(stored < nothing_below, 0, stored).transpose(2, 1, 0))
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return Angiogram(Volume(torch.from_numpy(data), affine, "raw", meta={"subject": subject}), torch.from_numpy(points))


def read_exposure(path: str | Path, subject: str, view: str) -> tuple[Float[Tensor, "H W"], View]:
    """The stored pixels of a patient's "frontal" or "lateral" exposure (dark vessels), and its geometry in volume mm.

    The world is the volume's frame: the gold pose is the identity.

    Raises
    ------
    InputError: not such a file, a patient who is not in it, a camera that is none.
    """
    if view not in VIEWS:
        raise InputError(f"no exposure {view!r}", field="view", remedy=f"there are {', '.join(VIEWS)}")
    with reading(existing_file(path), "a file of angiograms"), _opened(path) as h5:
        group = _get(h5, f"{subject}/{VIEWS[view]}")
        pixels = np.asarray(_get(group, "pixels")[()], dtype=np.float32)
        if pixels.ndim != 2:
            raise InputError(f"an image of {pixels.ndim} axes", field=f"{subject}/{VIEWS[view]}/pixels")
        spacing = (_number(group, "row-spacing"), _number(group, "col-spacing"))
        shape = (pixels.shape[0], pixels.shape[1])
        camera = XRegCamera(_matrix(group, "intrinsic"), _matrix(group, "extrinsic"), shape, spacing, NEG_Z)
        geometry = from_xreg(camera)
    return torch.from_numpy(pixels), geometry


def _opened(path: str | Path) -> Any:
    import h5py

    return h5py.File(path, "r")


def _get(group: Any, name: str) -> Any:
    if name not in group:
        raise InputError(
            "missing", field=f"{group.name.rstrip('/')}/{name}", remedy="check that the file is of that kind and whole"
        )
    return group[name]


def _number(group: Any, name: str) -> float:
    return float(np.asarray(_get(group, name)[()]).reshape(-1)[0])


def _matrix(group: Any, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(_get(group, name)[()], dtype=np.float64).copy())
