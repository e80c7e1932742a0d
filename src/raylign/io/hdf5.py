"""xReg's projection files and the DeepFluoro data set, both HDF5.

Both keep a camera as an extrinsic (world to camera, LPS mm) and an intrinsic matrix. A stored pose ``cam-to-X-vol`` maps the
*camera world* frame, the one the extrinsic starts from, to the volume, so ``T_world_from_volume`` is its inverse and a point of
the volume is seen at ``intrinsic @ extrinsic @ inverse(cam-to-X-vol) @ point``.

Sources: xReg (MIT), its HDF5 writer; Grupp et al., "Automatic annotation of hip anatomy in fluoroscopy" (IPCAI 2020), data
set description, "HDF5 layouts".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import LabelMap, Landmarks, Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.convert.xreg import DEEPFLUORO_SHIFT, NEG_Z, XRegCamera, from_xreg, pose_from_xreg
from raylign.io.files import existing_file, reading
from raylign.io.masks import exposure_mask
from raylign.io.options import ExposureOptions

_SEGMENTATION = {
    1: "left-hemipelvis",
    2: "right-hemipelvis",
    3: "vertebrae",
    4: "upper-sacrum",
    5: "left-femur",
    6: "right-femur",
}


@dataclass(frozen=True, eq=False)
class Projection:
    """One exposure as stored.

    Parameters
    ----------
    pixels: [H, W] stored values (counts in DeepFluoro), float32.
    view: its geometry; the world is the file's camera world.
    landmarks: (column, row) of named points, where there are any.
    degrees_to_up: by how much the file wants the image turned to bring the patient's head up (0 where not stated); image, view
        and landmarks here are as stored, not turned.
    poses: structure ("pelvis", "left-femur", ...) to ``T_world_from_volume``, where the file knows them.
    valid: structure to whether the file vouches for its pose (enough of it in the field of view).
    """

    pixels: Float[Tensor, "H W"]
    view: View
    landmarks: Landmarks | None = None
    degrees_to_up: int = 0
    poses: Mapping[str, Rigid] = field(default_factory=dict)
    valid: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Specimen:
    """The CT of one DeepFluoro specimen (HU), its segmentation and its landmarks."""

    volume: Volume
    labels: LabelMap
    landmarks: Landmarks


def kind_of(path: str | Path) -> str:
    """ "xreg", "deepfluoro", "itk-transform", or "unknown" by what the file holds.

    Raises
    ------
    InputError: not HDF5.
    """
    with _open(path) as h5:
        if _text(h5.attrs.get("xreg-type", "")) == "proj-data" or "num-projs" in h5:
            return "xreg"
        if "proj-params" in h5:
            return "deepfluoro"
        return "itk-transform" if "TransformGroup" in h5 else "unknown"


def read_xreg(path: str | Path) -> tuple[Projection, ...]:
    """Every projection of an xReg projection file (``xreg-type`` = ``proj-data``).

    Raises
    ------
    InputError: not such a file, a projection without image or camera, a camera frame that is unknown.
    """
    with _open(path) as h5:
        count = int(_scalar(h5, "num-projs"))
        projections = []
        for n in range(count):
            group = _get(h5, f"proj-{n:03d}")
            camera = _xreg_camera(_get(group, "cam"))
            degrees = int(_scalar(group, "rot-to-pat-up")) if "rot-to-pat-up" in group else 0
            pixels = _pixels(_get(group, "img"), camera.shape)
            projections.append(Projection(pixels, from_xreg(camera), _points_2d(group, "landmarks"), degrees))
    if not projections:
        raise InputError("it holds no projections", file=path, field="num-projs", remedy="give a file with projections")
    return tuple(projections)


def read_xray_hdf5(path: str | Path, options: ExposureOptions) -> XRay:
    """One projection of an xReg projection file as an exposure; ``options.frame`` says which.

    Such a file does not say what its pixels are: xReg writes counts and line integrals alike, so ``options.relationship`` must.

    Raises
    ------
    InputError: what ``read_xreg`` refuses, another kind of HDF5, no such projection, options that contradict the file.
    """
    file = existing_file(path)
    if kind_of(file) != "xreg":
        raise InputError("no xReg projection file", file=file, remedy="read DeepFluoro projections with raylign.io.hdf5")
    if any(x is not None for x in (options.view, options.sid, options.sod, options.primary, options.secondary)):
        raise InputError("the file has its own geometry", file=file, field="--view", remedy="leave the geometry to it")
    projections = read_xreg(file)
    if not 0 <= options.frame < len(projections):
        remedy = f"projections count from 0 to {len(projections) - 1}"
        raise InputError(f"there is no projection {options.frame}", file=file, field="--frame", remedy=remedy)
    with reading(file, "an exposure"):
        return exposure(projections[options.frame], options, name=f"{file.name}:{options.frame}")


def exposure(projection: Projection, options: ExposureOptions, name: str = "projection") -> XRay:
    """A projection as attenuation. DeepFluoro's pixels are counts: ``ExposureOptions(relationship="LIN")``.

    Raises
    ------
    InputError: no relationship stated, a blank image, a mask that leaves nothing.
    """
    if options.relationship is None:
        raise InputError(
            "the file does not say whether its pixels are counts or line integrals",
            field="relationship",
            remedy="state it with --relationship LIN or LOG",
        )
    sign = {"air": 1, "bone": -1, None: -1 if options.relationship == "LOG" else 1}[options.bright]
    encoding = Encoding(options.relationship, sign)
    mask = exposure_mask(projection.pixels, encoding, options.mask)
    image, scale = to_line_integrals(projection.pixels, encoding, mask)
    meta = {"format": "HDF5", "relationship": options.relationship, "sign": sign, "degrees to up": projection.degrees_to_up}
    return XRay(image, projection.view, mask, scale, name=name, meta=meta)


def list_deepfluoro(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The specimens of a DeepFluoro file and the names of their projections."""
    with _open(path) as h5:
        return {name: tuple(h5[name]["projections"]) for name in h5 if name != "proj-params" and "projections" in h5[name]}


def read_deepfluoro_specimen(path: str | Path, specimen: str) -> Specimen:
    """The CT (HU), the segmentation and the 3D landmarks (LPS mm) of a specimen, "17-1882" say.

    Raises
    ------
    InputError: not such a file, a specimen that is not in it.
    """
    with _open(path) as h5:
        group = _specimen(h5, specimen)
        data, affine = _volume(_get(group, "vol"))
        volume = Volume(torch.from_numpy(data.astype(np.float32)), affine, "HU", meta={"specimen": specimen})
        segmentation = _get(group, "vol-seg")
        stored, labels_affine = _volume(_get(segmentation, "image"))
        names = dict(_SEGMENTATION)
        if "labels-def" in segmentation:
            names = {int(n): _text(value[()]) for n, value in segmentation["labels-def"].items()}
        labels = LabelMap(torch.from_numpy(stored.astype(np.int32)), labels_affine, names)
        points = _get(group, "vol-landmarks")
        landmarks = Landmarks(tuple(points), torch.tensor([np.asarray(p).reshape(-1)[:3].tolist() for p in points.values()]))
    return Specimen(volume, labels, landmarks)


def read_deepfluoro_projection(path: str | Path, specimen: str, number: int | str, *, loader_shift: bool = False) -> Projection:
    """One projection of a specimen with its ground-truth poses.

    Parameters
    ----------
    path: the full-resolution file.
    specimen: "17-1882", "18-1109", "18-0725", "18-2799", "18-2800" or "17-1905" in the published file.
    number: 5 or "005".
    loader_shift: move the stored poses by (-0.5, -0.5, -0.5) mm in the volume first, as xReg's own loader does to undo how its
        renderer of the time indexed voxels. False gives what is stored.

    Raises
    ------
    InputError: not such a file, a specimen or projection that is not in it, a pose that is not rigid.
    """
    name = f"{number:03d}" if isinstance(number, int) else str(number)
    with _open(path) as h5:
        camera = _deepfluoro_camera(_get(h5, "proj-params"))
        projections = _get(_specimen(h5, specimen), "projections")
        if name not in projections:
            raise InputError(
                f"specimen {specimen} has no projection {name}", field="projections", remedy=f"it has {_some(projections)}"
            )
        group = projections[name]
        stored = _get(group, "gt-poses")
        poses, valid = {}, {}
        for key in stored:
            if key.startswith("cam-to-") and key.endswith("-vol"):
                bone = key[len("cam-to-") : -len("-vol")]
                poses[bone] = _pose(_matrix(stored, key, (4, 4)), key, loader_shift)
                good = f"{bone}-good-fov"
                valid[bone] = bool(_scalar(stored, good)) if good in stored else True
        degrees = 180 if bool(_scalar(group, "rot-180-for-up")) else 0
        pixels = _pixels(_get(group, "image"), camera.shape)
        landmarks = _points_2d(group, "gt-landmarks")
    return Projection(pixels, from_xreg(camera), landmarks, degrees, poses, valid)


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    import h5py

    file = existing_file(path)
    with reading(file, "HDF5"), h5py.File(file, "r") as h5:
        yield h5


def _get(group: Any, name: str) -> Any:
    if name not in group:
        raise InputError(
            "missing", field=f"{group.name.rstrip('/')}/{name}", remedy="check that the file is of that kind and whole"
        )
    return group[name]


def _scalar(group: Any, name: str) -> float:
    return float(np.asarray(_get(group, name)[()]).reshape(-1)[0])


def _matrix(group: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    values = np.asarray(_get(group, name)[()], dtype=np.float64)
    if values.size != int(np.prod(shape)):
        raise InputError(f"{values.size} numbers where {' x '.join(map(str, shape))} belong", field=f"{group.name}/{name}")
    return torch.from_numpy(values.reshape(shape).copy())


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _specimen(h5: Any, specimen: str) -> Any:
    if specimen not in h5 or specimen == "proj-params":
        known = [name for name in h5 if name != "proj-params"]
        raise InputError(f"there is no specimen {specimen!r}", field="specimen", remedy=f"there are {_some(known)}")
    return h5[specimen]


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") or "none"


def _xreg_camera(group: Any) -> XRegCamera:
    return XRegCamera(
        _matrix(group, "intrinsic", (3, 3)),
        _matrix(group, "extrinsic", (4, 4)),
        (int(_scalar(group, "num-rows")), int(_scalar(group, "num-cols"))),
        (_scalar(group, "row-spacing"), _scalar(group, "col-spacing")),
        _frame_type(_get(group, "cam-coord-frame-type")[()]),
    )


def _frame_type(value: Any) -> str:
    # stored as a string, in some builds with a trailing null or of fixed length
    return _text(value).strip("\0 ")


def _deepfluoro_camera(group: Any) -> XRegCamera:
    shape = (int(_scalar(group, "num-rows")), int(_scalar(group, "num-cols")))
    spacing = (_scalar(group, "pixel-row-spacing"), _scalar(group, "pixel-col-spacing"))
    return XRegCamera(_matrix(group, "intrinsic", (3, 3)), _matrix(group, "extrinsic", (4, 4)), shape, spacing, NEG_Z)


def _pixels(group: Any, shape: tuple[int, int]) -> Tensor:
    values = np.asarray(_get(group, "pixels")[()], dtype=np.float32)
    if values.shape != shape:
        raise InputError(f"the image is {values.shape}, its camera {shape}", field=f"{group.name}/pixels")
    return torch.from_numpy(values)


def _volume(group: Any) -> tuple[np.ndarray, Tensor]:
    data = np.asarray(_get(group, "pixels")[()])
    if data.ndim != 3:
        raise InputError(f"{data.ndim} axes", field=f"{group.name}/pixels", remedy="a volume has three")
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = _matrix(group, "dir-mat", (3, 3)) * _matrix(group, "spacing", (3,))
    affine[:3, 3] = _matrix(group, "origin", (3,))
    return data, affine


def _points_2d(group: Any, name: str) -> Landmarks | None:
    if name not in group or not len(group[name]):
        return None
    points = group[name]
    return Landmarks(tuple(points), torch.stack([_matrix(points, key, (2,)) for key in points]))


def _pose(stored: Tensor, key: str, shift: bool) -> Rigid:
    try:
        return pose_from_xreg(stored, DEEPFLUORO_SHIFT if shift else (0.0, 0.0, 0.0))
    except InputError as error:
        raise InputError(error.problem, field=key, remedy=error.remedy) from None
