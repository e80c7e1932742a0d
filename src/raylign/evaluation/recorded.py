"""Cases of data that come with exposures and known poses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume, XRay, restricted
from raylign.errors import InputError
from raylign.evaluation import folders
from raylign.evaluation.subject_kinds import DeepFluoro, Folder, Ljubljana
from raylign.evaluation.subjects import needed
from raylign.evaluation.truth import Truth
from raylign.geometry import Rigid, View

Recorded = Folder | DeepFluoro | Ljubljana

_KEPT = 2  # scans of some hundred megabytes
_models: OrderedDict[tuple[object, ...], tuple[Volume, Tensor]] = OrderedDict()


def recorded_count(kind: Recorded, data: Path | None) -> int:
    """How many cases there are.

    Raises
    ------
    InputError: data that are not there.
    """
    return len(_listed(kind, data, 1))


def recorded(kind: Recorded, number: int, data: Path | None, block: int = 1) -> tuple[str, Truth]:
    """Whose anatomy a case shows, and the case.

    Parameters
    ----------
    block: so many cases in a row are one subject's; of folders, whose sets are taken in turn, it means nothing.

    Raises
    ------
    InputError: data that are not there, no case of that number.
    """
    one = _listed_as(kind, number, data, block)
    if isinstance(kind, Folder):
        return one.ct, folders.opened(needed(data, "cases"), one)
    file, (subject, which) = _file(kind, data), one
    return subject, _deepfluoro(kind, file, *one) if isinstance(kind, DeepFluoro) else _ljubljana(kind, file, subject, which)


def recorded_subject(kind: Recorded, number: int, data: Path | None, block: int = 1) -> str:
    """Whose anatomy a case shows; see ``recorded``."""
    one = _listed_as(kind, number, data, block)
    return str(one.ct if isinstance(kind, Folder) else one[0])


def _listed_as(kind: Recorded, number: int, data: Path | None, block: int) -> Any:
    there = _listed(kind, data, block)
    if number >= len(there):
        raise InputError(f"there is no case {number}", file=data, field="index", remedy=f"there are {len(there)}")
    return there[number]


def _listed(kind: Recorded, data: Path | None, block: int) -> Sequence[Any]:
    if isinstance(kind, Folder):
        place = needed(data, "cases")
        there = sorted(place.glob("cases/*/*/truth.json"))
        return _entries(place, kind.sets, tuple((file, file.stat().st_mtime_ns) for file in there))
    file = _file(kind, data)
    return _in_turn(kind, file, file.stat().st_mtime_ns, block)


@lru_cache(maxsize=2)
def _entries(data: Path, sets: tuple[str, ...], changed: tuple[tuple[Path, int], ...]) -> Sequence[folders.Entry]:
    """The cases of a folder; read again where a record of cases has changed."""
    return folders.entries(data, sets)


@lru_cache(maxsize=8)
def _in_turn(kind: DeepFluoro | Ljubljana, file: Path, changed: int, block: int) -> Sequence[tuple[str, Any]]:
    """(subject, which of its exposures), some of each subject in turn; asked again where the file has changed."""
    there: Mapping[str, Sequence[Any]]
    if isinstance(kind, DeepFluoro):
        from raylign.io.deepfluoro import list_projections

        there = list_projections(file, kind.structure)
        chosen, field = kind.specimens, "specimens"
    else:
        from raylign.io.ljubljana import list_subjects

        of_each = {"each": (("frontal",), ("lateral",)), "both": (("frontal", "lateral"),)}.get(kind.views, ((kind.views,),))
        there = dict.fromkeys(list_subjects(file), of_each)
        chosen, field = kind.subjects, "subjects"
    for name in chosen:
        if name not in there:
            raise InputError(f"there is no {name!r}", file=file, field=field, remedy=f"there are {', '.join(there)}")
    rows = [[(name, which) for which in there[name]] for name in (chosen or there)]
    blocks = [[row[i : i + block] for i in range(0, len(row), block)] for row in rows]
    return [case for turn in zip_longest(*blocks, fillvalue=[]) for some in turn for case in some]


_WHERE = {
    "deepfluoro": "download ipcai_2020_full_res_data.zip of doi:10.7281/T1/IFSXNV and put its .h5 file there",
    "ljubljana": "put the data set's ljubljana.h5 there; the page on protocols says where it is from",
}


def _file(kind: DeepFluoro | Ljubljana, data: Path | None) -> Path:
    file = needed(data, "exposures") / kind.file
    if not file.is_file():
        raise InputError("there is no such file", file=file, field="--data", remedy=_WHERE[kind.kind])
    return file


def _kept(key: tuple[object, ...], made: tuple[Volume, Tensor] | None = None) -> tuple[Volume, Tensor] | None:
    if made is not None:
        while len(_models) >= _KEPT:
            _models.popitem(last=False)
        _models[key] = made
    if key in _models:
        _models.move_to_end(key)
    return _models.get(key)


def _deepfluoro(kind: DeepFluoro, file: Path, specimen: str, name: str) -> Truth:
    from raylign.io import ExposureOptions
    from raylign.io.hdf5 import exposure, read_deepfluoro_projection, read_deepfluoro_specimen

    key = (file, specimen, kind.labels)
    found = _kept(key)
    if found is None:
        scanned = read_deepfluoro_specimen(file, specimen)
        model = restricted(scanned.volume, scanned.labels, kind.labels) if kind.labels else scanned.volume
        found = _kept(key, (model, scanned.landmarks.points.to(torch.float64)))
        assert found is not None
    shot = read_deepfluoro_projection(file, specimen, name)
    pixels, view = reduced(shot.pixels, shot.view, kind.border, kind.reduction)
    xray = exposure(replace(shot, pixels=pixels, view=view), ExposureOptions(relationship="LIN"), name=f"{specimen}/{name}")
    pose = shot.poses[kind.structure]
    return Truth(f"{specimen}/{name}", kind.structure, found[0], (xray,), pose, found[1])


def _ljubljana(kind: Ljubljana, file: Path, subject: str, views: tuple[str, ...]) -> Truth:
    from raylign.io.ljubljana import read_angiogram, read_exposure

    key = (file, subject, kind.nothing_below)
    found = _kept(key)
    if found is None:
        made = read_angiogram(file, subject, kind.nothing_below)
        found = _kept(key, (made.volume, made.points))
        assert found is not None
    xrays = tuple(_subtracted(*read_exposure(file, subject, view), f"{subject}/{view}", kind) for view in views)
    here = Rigid(torch.eye(4, dtype=torch.float64))
    return Truth(f"{subject}/{'+'.join(views)}", "vessels", found[0], xrays, here, found[1])


def _subtracted(pixels: Tensor, view: View, name: str, kind: Ljubljana) -> XRay:
    """A subtraction angiogram as attenuation: vessels are dark, and every pixel counts."""
    pixels, view = reduced(pixels, view, 0, kind.reduction)
    image = (pixels.max() + 1).log() - (pixels.clamp_min(0) + 1).log()
    return XRay(image, view, torch.ones(view.shape, dtype=torch.bool), name=name)


def reduced(pixels: Float[Tensor, "H W"], view: View, border: int, factor: int) -> tuple[Float[Tensor, "h w"], View]:
    """An exposure's stored counts without a border, averaged over squares of pixels, and the geometry of what is left.

    Raises
    ------
    InputError: nothing is left.
    """
    h, w = view.shape
    rows, columns = ((n - 2 * border) // factor * factor for n in (h, w))
    if min(rows, columns) < 2 * factor:
        raise InputError(f"of {h} x {w} pixels a border of {border} leaves too little", field="border", remedy="cut off less")
    part = slice(border, border + rows), slice(border, border + columns)
    small = torch.nn.functional.avg_pool2d(pixels[part][None, None], factor)[0, 0]
    return small, view.crop(*part).resample((rows // factor, columns // factor))
