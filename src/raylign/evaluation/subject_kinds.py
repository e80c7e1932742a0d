"""Whose models and exposures an evaluation takes: the ``subjects`` of a protocol."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raylign.errors import InputError

USUAL = ("thorax", "pelvis", "lumbar")


class _Kind(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    exposed: ClassVar[bool] = False
    """Whether they come with exposures."""
    needs_data: ClassVar[bool] = True
    """Whether they are found in the folder that ``--data`` names."""


class Phantoms(_Kind):
    """Made patients that nothing in raylign is fitted to or trained on (seeds from ``HELD_OUT``).

    Parameters
    ----------
    bodies: kinds of body, in turn; see ``raylign.evaluation.subjects.BODIES``.
    people: how many different persons, each of one body.
    beyond: the exposure shows the patient beyond the model's first and last slice.
    isocentre: landmarks or labels, of which a case takes one at random to be brought to the isocentre; "centre": the model's.
    """

    needs_data: ClassVar[bool] = False

    kind: Literal["phantoms"]
    bodies: Annotated[tuple[str, ...], Field(min_length=1)] = USUAL
    people: Annotated[int, Field(ge=1, le=1000)] = 100
    beyond: bool = True
    isocentre: Annotated[tuple[str, ...], Field(min_length=1)] = ("centre",)

    @field_validator("bodies")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from raylign.evaluation.subjects import BODIES

        for name in value:
            if name not in BODIES:
                raise InputError(f"no body {name!r}", remedy=f"use some of {', '.join(BODIES)}")
        return value


class Scan(BaseModel):
    """A CT found by name under ``ct`` in the folder of data.

    Parameters
    ----------
    name: NAME.nii.gz, NAME_ct.nii.gz or a folder NAME of DICOM files (and a few endings more).
    labels, label_names: its segmentation, and a table of names where the file has none; relative to ``ct``.
    trim_mm: so much of the scan's first and last slices is left out of the model and stays in the exposure.
    beyond_mm: so far the exposure goes on beyond the scan's first and last slice, which are repeated.
    isocentre: as of phantoms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: str | None = None
    label_names: str | None = None
    trim_mm: Annotated[float, Field(ge=0, le=500)] = 0.0
    beyond_mm: Annotated[float, Field(ge=0, le=500)] = 0.0
    isocentre: Annotated[tuple[str, ...], Field(min_length=1)] = ("centre",)

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise InputError(f"{value!r} names no scan", remedy="give letters, digits, dots, dashes")
        return value


class Scans(_Kind):
    """CTs of the folder of data, exposed by the simulator; in turn."""

    kind: Literal["scans"]
    scans: Annotated[tuple[Scan, ...], Field(min_length=1)]


class Folder(_Kind):
    """Exposures that are there already: ``cases/CT/KIND/`` with ``truth.json``, from each set in turn.

    Parameters
    ----------
    sets: "CT/KIND" by name; none: all.
    """

    exposed: ClassVar[bool] = True

    kind: Literal["folder"]
    sets: tuple[str, ...] = ()


class DeepFluoro(_Kind):
    """The fluoroscopies of hips of Grupp et al. (2020), in one HDF5 file at full resolution.

    Parameters
    ----------
    file: relative to the folder of data.
    specimens: by name; none: all.
    structure: whose pose is the truth: "pelvis", "left-femur", "right-femur".
    labels: names in the segmentation that make the model; none: the whole CT.
    reduction: pixels along each side that are averaged into one.
    border: pixels (of the file) cut off on each side: they show the housing and no patient.
    """

    exposed: ClassVar[bool] = True

    kind: Literal["deepfluoro"]
    file: str = "deepfluoro/ipcai_2020_full_res_data.h5"
    specimens: tuple[str, ...] = ()
    structure: Literal["pelvis", "left-femur", "right-femur"] = "pelvis"
    labels: tuple[str, ...] = ()
    reduction: Annotated[int, Field(ge=1, le=16)] = 4
    border: Annotated[int, Field(ge=0, le=400)] = 50


class Ljubljana(_Kind):
    """The cerebral angiograms of Mitrović et al. (2013) in one HDF5 file; see ``raylign.io.ljubljana``.

    Parameters
    ----------
    file: relative to the folder of data.
    subjects: by name; none: all.
    views: of a case: "frontal", "lateral", "each" in turn, or "both" together.
    nothing_below: voxels of smaller numbers (the file's own) are taken as empty, so that vessels are left.
    reduction: pixels along each side that are averaged into one.
    """

    exposed: ClassVar[bool] = True

    kind: Literal["ljubljana"]
    file: str = "ljubljana/ljubljana.h5"
    subjects: tuple[str, ...] = ()
    views: Literal["frontal", "lateral", "each", "both"] = "each"
    nothing_below: Annotated[float, Field(ge=0)] = 500.0
    reduction: Annotated[int, Field(ge=1, le=16)] = 4


Subjects = Phantoms | Scans | Folder | DeepFluoro | Ljubljana
