"""CT volumes from DICOM: a folder of slices, or one Enhanced multi-frame file.

Sources: DICOM PS3.3 C.7.6.2 (image plane), C.8.2.1 (CT image), C.7.6.16 (functional groups), C.7.5.1.1.2 (padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.data import Volume
from raylign.errors import InputError
from raylign.io import dicomfile as df
from raylign.io.slices import Slice, slices_of, stack_affine

AIR = -1000.0  # HU
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_CT_MULTIFRAME = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # Enhanced, Legacy Converted Enhanced
_SUFFIXES = (".dcm", ".ima", ".dicom", "")
# Enough to choose a series; pixels and the rest are read for the chosen one only.
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "Rows", "NumberOfFrames"]


@dataclass(frozen=True)
class Series:
    """One CT series of a folder: its UID, what it calls itself, its files and how many slices they hold."""

    uid: str
    description: str
    files: tuple[Path, ...]
    slices: int

    def __str__(self) -> str:
        return f"{self.uid} ({self.description or 'no description'}, {self.slices} slices)"


def list_series(path: str | Path) -> list[Series]:
    """The CT series of a folder (searched to the bottom) or of one file, localizers and derived captures left out.

    Raises
    ------
    InputError: no such path, no DICOM file in it, a file that claims to be DICOM and cannot be read.
    """
    files = _candidates(Path(path))
    found: dict[str, list[tuple[Path, int, str]]] = {}
    others: set[str] = set()
    dicom = 0
    for file in files:
        with df.guarded(file):
            if not df.has_magic(file) and file.suffix.lower() not in _SUFFIXES:
                continue  # a note or a picture that lies beside the slices
            try:
                dataset = df.read(file, pixels=False, tags=_TAGS)
            except InputError:
                if file.suffix.lower() in _SUFFIXES[:-1] or len(files) == 1:
                    raise
                continue
            dicom += 1
            sop = df.text(dataset, "SOPClassUID")
            if not sop:
                raise InputError(
                    "missing, the header ends too early", field=df.label("SOPClassUID"), remedy="copy or export the file again"
                )
            if sop != _CT_IMAGE and sop not in _CT_MULTIFRAME:
                others.add(df.text(dataset, "Modality") or "unknown")
                continue
            if "LOCALIZER" in {str(x).upper() for x in (dataset.get("ImageType") or [])}:
                others.add("CT localizer")
                continue
            uid = df.text(dataset, "SeriesInstanceUID")
            if not uid:
                raise InputError("missing", field=df.label("SeriesInstanceUID"), remedy="export the series again")
            found.setdefault(uid, []).append((file, df.frame_count(dataset), df.text(dataset, "SeriesDescription")))
    if not dicom:
        raise InputError("no DICOM file here", file=path, remedy="name the folder that holds the CT slices")
    if not found:
        what = f"only {', '.join(sorted(others))}" if others else "no images"
        raise InputError(f"no CT image series, {what}", file=path, remedy="name the folder that holds the CT slices")
    return [
        Series(uid, entries[0][2], tuple(e[0] for e in entries), sum(e[1] for e in entries)) for uid, entries in found.items()
    ]


def _candidates(path: Path) -> list[Path]:
    with df.guarded(path):
        if not path.exists():
            raise InputError("there is no such file or folder", file=path, remedy="check the path")
        if not path.is_dir():
            return [path]
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != "DICOMDIR")
    if not files:
        raise InputError("the folder is empty", file=path, remedy="name the folder that holds the CT slices")
    return files


def choose_series(path: str | Path, series: str | None) -> Series:
    """The series of that UID, or the one volume there is.

    Raises
    ------
    InputError: no series of that UID; several volumes and none chosen (the message lists them).
    """
    every = list_series(path)
    if series is not None:
        for one in every:
            if one.uid == series.strip():
                return one
        raise InputError(
            f"no CT series has the UID {series!r}", file=path, field="--series", remedy=f"there is {'; '.join(map(str, every))}"
        )
    # A scout without LOCALIZER in its image type is still no volume
    volumes = [one for one in every if one.slices > 1] or every
    if len(volumes) > 1:
        listed = "; ".join(map(str, volumes[:8])) + ("; ..." if len(volumes) > 8 else "")
        raise InputError(
            f"{len(volumes)} CT series here: {listed}",
            file=path,
            field=df.label("SeriesInstanceUID"),
            remedy="choose one with --series UID",
        )
    return volumes[0]


def read_ct(path: str | Path, *, series: str | None = None) -> Volume:
    """A CT volume in HU from a DICOM folder or file.

    Slices are ordered by their position along the slice normal, never by instance number. Padding becomes air (-1000 HU).

    Parameters
    ----------
    path: a folder (searched to the bottom), one of its slices (its series is then read), or a multi-frame file.
    series: SeriesInstanceUID (0020,000E), needed where there are several volumes.

    Returns
    -------
    [D, H, W] float32 HU; ``affine`` maps (column, row, slice) to patient LPS mm.

    Raises
    ------
    InputError: nothing readable, several series, and whatever keeps slices from being one volume: missing, doubled, unevenly
        spaced, sheared (gantry tilt), of mixed orientation, frame of reference, shape or spacing, no rescale to HU, cut off.
    """
    path = Path(path)
    if path.is_file():
        single = choose_series(path, series)
        path, chosen = (path, single) if single.slices > 1 else (path.parent, choose_series(path.parent, series or single.uid))
    else:
        chosen = choose_series(path, series)
    datasets: list[Any] = []
    slices: list[Slice] = []
    for file in chosen.files:
        with df.guarded(file):
            dataset = df.read(file)
            slices.extend(slices_of(dataset, file, len(datasets)))
            datasets.append(dataset)
    slices, affine = stack_affine(slices, path)
    volume = _voxels(slices, datasets)
    with df.guarded(chosen.files[0]):
        meta = _meta(datasets[slices[0].dataset], chosen, slices)
    return Volume(torch.from_numpy(volume), torch.from_numpy(affine), unit="HU", meta=meta)


def _voxels(slices: Sequence[Slice], datasets: Sequence[Any]) -> np.ndarray:
    """[D, H, W] float32 HU."""
    decoded = {n: _decoded(datasets[n], slices) for n in sorted({s.dataset for s in slices}) if df.frame_count(datasets[n]) > 1}
    first = slices[0]
    with df.guarded(first.file):
        stored = _stored(first, datasets, decoded)  # before the volume is allocated: proves that the header tells the truth
    volume = np.empty((len(slices), *stored.shape), np.float32)

    def fill(k: int) -> None:
        s = slices[k]
        with df.converted(s.file):
            raw = _stored(s, datasets, decoded)
            np.multiply(raw, np.float32(s.slope), out=volume[k], casting="unsafe")
            volume[k] += np.float32(s.intercept)
            if s.padding is not None:
                low, high = s.padding
                volume[k][(raw >= low) & (raw <= high)] = AIR

    with df.quiet(), ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(len(slices))))
    return volume


def _decoded(dataset: Any, slices: Sequence[Slice]) -> np.ndarray:
    with df.guarded(slices[0].file):
        return df.stored_values(dataset)


def _stored(s: Slice, datasets: Sequence[Any], decoded: dict[int, np.ndarray]) -> np.ndarray:
    if s.dataset in decoded:
        return decoded[s.dataset][s.frame]
    return df.stored_values(datasets[s.dataset], 0)


def _meta(dataset: Any, chosen: Series, slices: Sequence[Slice]) -> dict[str, Any]:
    keys = ("PatientPosition", "Manufacturer", "KVP", "ConvolutionKernel", "ContrastBolusAgent", "StudyDate", "BodyPartExamined")
    said = {key: df.text(dataset, key) for key in keys}
    return {
        "format": "DICOM CT",
        "series": chosen.uid,
        "description": chosen.description,
        "slices": len(slices),
        "frame_of_reference": slices[0].frame_of_reference,
        **{key: value for key, value in said.items() if value},
    }
