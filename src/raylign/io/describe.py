"""What a file or folder is, in plain words: the content of ``raylign info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.data import LabelMap, Volume
from raylign.errors import InputError
from raylign.io import dicomfile, grids, hdf5, pictures, wording
from raylign.io.files import existing_file, read_json, read_text, reading, suffix
from raylign.io.images import read_volume_image, read_xray_image, told_unit
from raylign.io.labels import read_label_names, read_labels
from raylign.io.landmarks import read_landmarks
from raylign.io.meshes import FORMATS as MESHES
from raylign.io.meshes import read_mesh, stated_space
from raylign.io.options import ExposureOptions
from raylign.io.transforms import read_pose
from raylign.io.views import read_view
from raylign.io.wording import Row

_DEFAULT = ExposureOptions()
_MANY_LABELS = 200  # a picture of grey values has more of them than any segmentation has structures
_SUPPORTED = "DICOM, NIfTI, NRRD, MetaImage, PNG, TIFF, npy, STL, PLY, OBJ, VTK, fcsv, mrk.json, csv, json, tfm, txt or h5"


@dataclass(frozen=True)
class Description:
    """What something is.

    Parameters
    ----------
    kind: "ct", "volume", "xray", "picture", "labels", "mesh", "landmarks", "pose", "view", "hdf5", "folder" or "label names".
    title: one line.
    rows: (what, value) pairs in reading order.
    warnings: what deserves a second look; whole sentences.
    """

    kind: str
    title: str
    rows: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; rows as a list of ``{"what", "value"}`` since their order tells."""
        rows = [{"what": what, "value": value} for what, value in self.rows]
        return {"kind": self.kind, "title": self.title, "rows": rows, "warnings": list(self.warnings)}


def describe(path: str | Path, options: ExposureOptions = _DEFAULT) -> Description:
    """Explain a file or folder that raylign can read.

    Parameters
    ----------
    path: any supported input.
    options: for exposures: geometry of a picture, overrides.

    Raises
    ------
    InputError: nothing there, nothing that raylign reads, or a file that is broken.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    file = existing_file(place)
    kind = suffix(file)
    with reading(file, "a supported input"):
        if _is_dicom(file, kind):
            return _dicom(file, options)
        if kind in grids.FORMATS and not _is_plane(file, kind):
            return _grid(file)
        if kind in pictures.FORMATS:
            return _picture(file, options)
        if kind in MESHES:
            mesh_rows, mesh_warnings = wording.mesh_words(read_mesh(file), stated_space(file))
            return _made("mesh", f"{file.name}: a triangle mesh", mesh_rows, mesh_warnings)
        if kind in (".fcsv", ".mrk.json"):
            return _landmarks(file)
        reader = {".json": _json, ".view.json": _json, ".csv": _table, ".txt": _text, ".h5": _hdf5, ".hdf5": _hdf5}.get(kind)
        if reader is not None:
            return reader(file)
        if kind == ".tfm":
            return _pose(file)
        if kind in (".yml", ".yaml"):
            return _view(file)
    raise InputError(f"{kind or 'no suffix'!r} is nothing that raylign reads", file=file, remedy=f"give {_SUPPORTED}")


def _made(kind: str, title: str, rows: Sequence[Row], warnings: Sequence[str] = ()) -> Description:
    return Description(kind, title, tuple(rows), tuple(warnings))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _is_dicom(file: Path, kind: str) -> bool:
    return kind in (".dcm", ".ima", ".dicom") or dicomfile.has_magic(file)


def _dicom(file: Path, options: ExposureOptions) -> Description:
    with dicomfile.guarded(file):
        modality = dicomfile.text(dicomfile.read(file, pixels=False, tags=["SOPClassUID", "Modality"]), "Modality")
    if modality == "CT":
        return _ct(file)
    from raylign.io.xray_dicom import read_xray_dicom

    xray = read_xray_dicom(file, options)
    rows, warnings = wording.xray_words(xray)
    return _made("xray", f"{file.name}: an X-ray exposure ({xray.meta.get('format', 'DICOM')})", rows, warnings)


def _ct(place: Path, series: str | None = None) -> Description:
    from raylign.io.dicom import read_ct

    volume = read_ct(place, series=series)
    rows, warnings = wording.volume_words(volume)
    names = {
        "description": "series",
        "PatientPosition": "patient position",
        "BodyPartExamined": "body part",
        "Manufacturer": "maker",
        "KVP": "tube voltage, kV",
        "ConvolutionKernel": "kernel",
        "ContrastBolusAgent": "contrast",
        "StudyDate": "date",
        "frame_of_reference": "frame of reference",
        "series": "series UID",
    }
    rows += [(name, str(volume.meta[key])) for key, name in names.items() if volume.meta.get(key)]
    return _made("ct", f"{place.name}: a CT of {volume.data.shape[0]} slices (DICOM)", rows, warnings)


def _folder(place: Path) -> Description:
    from raylign.io.dicom import list_series

    try:
        series = list_series(place)
    except InputError as error:
        return _loose_files(place, error)
    volumes = [s for s in series if s.slices > 1] or series
    if len(volumes) == 1:
        return _ct(place, volumes[0].uid)
    rows = [(f"series {n + 1}", str(s)) for n, s in enumerate(series)]
    return _made("folder", f"{place.name}: {len(series)} CT series", rows, ["choose one by its UID with --series"])


def _loose_files(place: Path, why: InputError) -> Description:
    """A folder without CT: the X-rays, meshes and other inputs that lie in it."""
    rows: list[Row] = []
    known = {*grids.FORMATS, *pictures.FORMATS, *MESHES, ".fcsv", ".mrk.json", ".tfm", ".h5", ".hdf5"}
    for file in sorted(p for p in place.iterdir() if p.is_file()):
        if file.stat().st_size and _is_dicom(file, suffix(file)):
            with dicomfile.guarded(file):
                dataset = dicomfile.read(file, pixels=False, tags=["Modality", "NumberOfFrames"])
                frames = dicomfile.frame_count(dataset)
                modality = dicomfile.text(dataset, "Modality") or "unknown modality"
            rows.append((file.name, f"DICOM {modality}{f', {frames} frames' if frames > 1 else ''}"))
        elif suffix(file) in known:
            rows.append((file.name, f"{suffix(file)[1:]} file"))
    if not rows:
        raise why
    return _made("folder", f"{place.name}: a folder of {len(rows)} inputs", rows, ["ask about one of them for more"])


def _is_plane(file: Path, kind: str) -> bool:
    if kind in grids.NIFTI:
        return False
    size = grids.itk_size(file)
    return len(size) == 2 or (len(size) == 3 and size[2] == 1)


def _grid(file: Path) -> Description:
    grid = grids.read_grid(file)
    if _looks_like_labels(grid.data) or suffix(file) == ".seg.nrrd":
        labels: LabelMap = read_labels(file)
        rows, warnings = wording.label_words(labels)
        return _made("labels", f"{file.name}: a label map, {_count(len(labels.present()), 'structure')}", rows, warnings)
    volume = Volume(torch.from_numpy(np.ascontiguousarray(grid.data, np.float32)), grid.affine, "raw")
    try:
        told_unit(volume)
    except InputError as error:
        rows, warnings = wording.volume_words(volume)
        rows = [(what, value.split(" raw")[0] if what == "values" else value) for what, value in rows]
        return _made("volume", f"{file.name}: a volume", rows, [*warnings, f"{error.problem}: {error.remedy}"])
    volume = read_volume_image(file)
    rows, warnings = wording.volume_words(volume)
    rows.append(("unit", f"{volume.unit}, told by the values (--unit states another)"))
    rows.append(("stored as", str(grid.data.dtype)))
    return _made("ct" if volume.unit == "HU" else "volume", f"{file.name}: a volume in {volume.unit}", rows, warnings)


def _looks_like_labels(data: np.ndarray) -> bool:
    sample = data.reshape(-1)[:: max(1, data.size // 10000)]
    if not bool((sample == np.round(sample)).all()) or len(np.unique(sample)) > _MANY_LABELS:
        return False
    return float(data.min()) == 0 and float(data.max()) < 2**15 and len(np.unique(data)) <= _MANY_LABELS


def _picture(file: Path, options: ExposureOptions) -> Description:
    picture = pictures.read_picture(file, options.frame)
    h, w = picture.values.shape
    rows = [
        ("size", f"{w} columns x {h} rows"),
        ("values", f"{wording.number(float(picture.values.min()))} to {wording.number(float(picture.values.max()))}"),
        ("stored as", str(picture.values.dtype)),
    ]
    try:
        xray = read_xray_image(file, options)
    except InputError as error:
        if error.field not in ("view", "relationship"):
            raise
        return _made("picture", f"{file.name}: a picture, not yet an exposure", rows, [f"{error.problem}: {error.remedy}"])
    words, warnings = wording.xray_words(xray)
    words.append(("geometry from", str(xray.meta["geometry from"])))
    return _made("xray", f"{file.name}: an X-ray exposure ({xray.meta['format']})", [*rows[1:], *words], warnings)


def _landmarks(file: Path) -> Description:
    landmarks = read_landmarks(file)
    return _made("landmarks", f"{file.name}: {_count(len(landmarks.names), 'landmark')}", wording.landmark_words(landmarks))


def _pose(file: Path) -> Description:
    rows = wording.pose_words(read_pose(file))
    if suffix(file) != ".json":
        rows.append(("in the file", "the inverse, world to volume, as ITK stores transforms"))
    return _made("pose", f"{file.name}: a pose", rows)


def _view(file: Path) -> Description:
    return _made("view", f"{file.name}: the geometry of an exposure", wording.view_words(read_view(file)))


def _json(file: Path) -> Description:
    values = read_json(file, "a JSON input")
    if "markups" in values:
        return _landmarks(file)
    if {"T_world_from_volume", "matrix", "pose"} & set(values):
        return _pose(file)
    if {"source", "view", "sid", "sod"} & set(values) or {"K", "camera_matrix", "cameraMatrix"} & set(values):
        return _view(file)
    raise InputError(
        f"the keys are {', '.join(list(values)[:6]) or 'none'}",
        file=file,
        remedy="a pose has T_world_from_volume, a view has source, a calibration K, R and t",
    )


def _table(file: Path) -> Description:
    try:
        return _landmarks(file)
    except InputError as no_points:
        try:
            names = read_label_names(file)
        except InputError:
            raise no_points from None
    rows = [(f"label {n}", name) for n, name in sorted(names.items())]
    return _made("label names", f"{file.name}: names of {len(names)} labels", rows)


def _text(file: Path) -> Description:
    if read_text(file, "text").startswith("#Insight Transform File"):
        return _pose(file)
    return _view(file)


def _hdf5(file: Path) -> Description:
    kind = hdf5.kind_of(file)
    if kind == "itk-transform":
        return _pose(file)
    if kind == "xreg":
        projections = hdf5.read_xreg(file)
        rows: list[Row] = [("projections", str(len(projections)))]
        for n, projection in enumerate(projections):
            points = "no landmarks" if projection.landmarks is None else f"{len(projection.landmarks.names)} landmarks"
            rows.append((f"projection {n}", f"{points}, turn by {projection.degrees_to_up} degrees for head up"))
        rows += wording.view_words(projections[0].view)
        return _made("hdf5", f"{file.name}: xReg projection data", rows)
    if kind == "deepfluoro":
        rows = [(name, f"{len(numbers)} projections") for name, numbers in hdf5.list_deepfluoro(file).items()]
        return _made("hdf5", f"{file.name}: the DeepFluoro data set", rows)
    raise InputError("HDF5 of an unknown layout", file=file, remedy="xReg projections, DeepFluoro and ITK transforms are read")
