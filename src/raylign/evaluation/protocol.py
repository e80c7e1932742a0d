"""What an evaluation measures, as typed YAML: who, exposed how, started where, disturbed how, by which methods, in which numbers.

A protocol holds names and numbers only. Reading one runs nothing, and says in one line what is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raylign.errors import InputError
from raylign.evaluation.arms import Arm, Disturbance
from raylign.evaluation.ranges import Length, Range, Sides, law
from raylign.evaluation.starts import Start
from raylign.evaluation.subject_kinds import Subjects
from raylign.evaluation.yaml_files import field_of
from raylign.io.plain_yaml import read_yaml
from raylign.registration import SearchConfig
from raylign.simulation.datasets.recipes import TargetPoints
from raylign.simulation.instruments import INSTRUMENT_SETS, InstrumentSet
from raylign.simulation.physics.ranges import ExposureRanges
from raylign.simulation.poses.motions import Motion

SEARCHED = "search+direct"
"""The direct method from nothing, which evaluations know by a name of its own."""

NOTHING = "start"
"""The row of every table that stands for no registration at all."""


def named(method: str, field: str | None = None) -> None:
    """See that a method has a name that there is, or is MODULE:FACTORY of one's own, which the runner loads.

    Raises
    ------
    InputError: neither.
    """
    from raylign.methods.named import LEARNED, parsed
    from raylign.registration import METHODS

    if method not in METHODS and method != SEARCHED and parsed(method) is None and ":" not in method:
        known = ", ".join((*METHODS, SEARCHED, *LEARNED))
        raise InputError(
            f"there is no method {method!r}", field=field, remedy=f"use some of {known}, or MODULE:FACTORY of your own"
        )


class Part(BaseModel):
    """A part of a protocol: frozen, and nothing in it that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Angles(Part):
    """One C-arm position in degrees (DICOM: LAO and CRA positive)."""

    primary: Range = 0.0
    secondary: Range = 0.0


class Views(Part):
    """What differs from the C-arm that the targets come with.

    Parameters
    ----------
    angles: C-arm positions; an exposure is of one of them, each equally probable.
    together: all positions are exposed under one pose, as views of one case.
    sid: source to detector, mm. sod: source to isocentre, mm.
    shape: (rows, columns). pitch: of the pixels at the detector, mm.
    """

    angles: tuple[Angles, ...] = ()
    together: bool | None = None
    sid: Length | None = None
    sod: Length | None = None
    shape: Sides | None = None
    pitch: Length | None = None


class Targets(Part):
    """A distribution of true poses of one's own: shifts (mm) and turns (degrees) along and about an image's axes.

    Parameters
    ----------
    column_mm, row_mm, depth_mm, column_deg, row_deg, depth_deg: see ``raylign.simulation.poses.Motion``.
    axes: "view" or "patient". disc_mm: an additional shift within a disc in the image plane.
    """

    column_mm: Range = 0.0
    row_mm: Range = 0.0
    depth_mm: Range = 0.0
    column_deg: Range = 0.0
    row_deg: Range = 0.0
    depth_deg: Range = 0.0
    axes: Literal["view", "patient"] = "view"
    disc_mm: Annotated[float, Field(ge=0)] = 0.0

    @property
    def motion(self) -> Motion:
        """The six laws."""
        return Motion(**{name: law(getattr(self, name)) for name in Motion.__dataclass_fields__})


class Search(Part):
    """How far the truth may lie from the start, as the methods are told: half widths of the box that they look through.

    Parameters
    ----------
    degrees: about each axis. mm: across the beam. depth: mm along it, where it is not ``mm``.
    """

    degrees: Annotated[float, Field(gt=0, le=180)]
    mm: Annotated[float, Field(gt=0, le=1000)]
    depth: Annotated[float, Field(gt=0, le=2000)] | None = None

    @property
    def config(self) -> SearchConfig:
        """As the methods take it."""
        return SearchConfig(degrees=self.degrees, mm=self.mm, depth=self.depth)


class Points(Part):
    """Over which errors are means: points on the surface of structures; of none named, of bone.

    Parameters
    ----------
    structures: labels by name, a ``*`` at the end for all that begin so.
    count: of the points.
    """

    structures: tuple[str, ...] = ()
    count: Annotated[int, Field(ge=1, le=100_000)] = 200

    @property
    def wanted(self) -> TargetPoints:
        """As the simulation takes it."""
        return TargetPoints(self.structures, self.count)


class Protocol(Part):
    """An evaluation, before it is run.

    Parameters
    ----------
    name, title: of the protocol.
    source: citation of what it follows.
    description: what it measures, what differs from the source, what it takes.
    seed, cases: defaults; the command line may say otherwise (``with_``). With arms, so many cases in each.
    per_subject: so many exposures in a row show one subject.
    subjects: whose models and exposures.
    views, targets: how they are exposed and where they lie: the name of a distribution of ``raylign.simulation.poses.targets``,
        or one's own. Not of data that come with exposures.
    points: over which errors are means; not of data that come with points.
    starts: names of ``Start``, taken in turn; "bins" stands for one start in each of ``bins_mm``.
    search: what starts leave open; none: what ``Start.search`` says of each, and of bins the widest's.
    repeats: so many starts of every exposure.
    exposure: ranges of the apparatus, fields of ``ExposureRanges``. instruments: in the beam: a set of
        ``INSTRUMENT_SETS`` by name, or fields of ``InstrumentSet``, with ``set`` the one that they change.
    disturbances: each a kind with levels; every level is an arm beside the undisturbed one, on the same cases.
    methods: by name, as ``raylign.registration.METHODS`` and ``raylign.methods.named`` have them, "search+direct", or
        MODULE:FACTORY of one's own.
    thresholds_mm: under which a registration counts as a success.
    bins_mm: edges of the bins of starting mTRE in which success is told.
    criterion: what errors are judged by. success_mm: and under how much of it, for capture range and confidence.
    capture_share: success up to which the capture range reaches.

    Raises
    ------
    pydantic.ValidationError: a value of another type or out of range, an unknown name; ``load_protocol`` makes one line of it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    title: str
    subjects: Annotated[Subjects, Field(discriminator="kind")]
    source: str = ""
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    cases: Annotated[int, Field(ge=1)] = 100
    per_subject: Annotated[int, Field(ge=1)] = 4
    views: Views = Views()
    targets: str | Targets = "raylign"
    points: Points = Points()
    starts: str | Annotated[tuple[str, ...], Field(min_length=1)] = "center"
    search: Search | None = None
    repeats: Annotated[int, Field(ge=1)] = 1
    exposure: dict[str, Any] = {}
    instruments: str | dict[str, Any] | None = None
    disturbances: tuple[Disturbance, ...] = ()
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("direct",)
    thresholds_mm: Annotated[tuple[float, ...], Field(min_length=1)] = (1.0, 2.0, 5.0, 10.0)
    bins_mm: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
    criterion: Literal["mtre", "mrpd"] = "mtre"
    success_mm: Annotated[float, Field(gt=0)] = 2.0
    capture_share: Annotated[float, Field(gt=0, le=1)] = 0.95

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, value: str | Targets) -> str | Targets:
        from raylign.simulation.poses import targets

        if isinstance(value, str):
            targets(value)
        return value

    @field_validator("starts")
    @classmethod
    def _known_starts(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if name != "bins":
                try:
                    Start(name)
                except InputError as error:  # the field is this one, not the option of a command
                    raise InputError(error.problem, remedy=f"{error.remedy}, or bins") from None
        return value

    @field_validator("exposure")
    @classmethod
    def _known_exposure(cls, value: dict[str, Any]) -> dict[str, Any]:
        _ranges(value)
        return value

    @field_validator("instruments")
    @classmethod
    def _known_instruments(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        _instruments(value)
        return value

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            named(name)
        if len(set(value)) < len(value):
            raise InputError("a method stands there twice", remedy="name each once")
        return value

    @field_validator("thresholds_mm", "bins_mm")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not math.isfinite(x) or x < 0 for x in value) or any(b <= a for a, b in pairwise(value)):
            raise InputError(f"{list(value)} do not rise", remedy="give rising numbers of mm")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Protocol:
        if "bins" in self._given_starts and len(self.bins_mm) < 2:
            raise InputError("starts are of bins, and there is none", field="bins_mm", remedy="give at least two edges")
        if self.subjects.exposed:
            for name in ("views", "targets", "exposure", "instruments"):
                if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                    raise InputError("these data come with exposures of their own", field=name, remedy="leave it out")
            for n, one in enumerate(self.disturbances):
                if one.before_exposing:
                    raise InputError(
                        "exposures that are there already cannot be made otherwise", field=f"disturbances.{n}.kind",
                        remedy="leave it out, or take phantoms or scans",
                    )  # fmt: skip
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise InputError("two arms are the same", field="disturbances", remedy="name each kind and level once")
        return self

    @property
    def _given_starts(self) -> tuple[str, ...]:
        return (self.starts,) if isinstance(self.starts, str) else self.starts

    @cached_property
    def start_kinds(self) -> tuple[tuple[str, SearchConfig], ...]:
        """The kinds of starts that cases take in turn, bins written out, each with what it leaves open.

        In which bin a start lies the methods are not told: all leave open what the widest does.
        """
        told = None if self.search is None else self.search.config
        out = []
        for one in self._given_starts:
            if one == "bins":
                widest = told or Start(f"0-{self.bins_mm[-1]:g}mm").search
                out += [(f"{low:g}-{high:g}mm", widest) for low, high in self.bins]
            else:
                out.append((one, told or Start(one).search))
        return tuple(out)

    def start_kind(self, case: int) -> str:
        """The kind of start that a case has, by its number: arms of an exposure share one."""
        kinds = self.start_kinds
        return kinds[case // len(self.arms) % len(kinds)][0]

    @property
    def bins(self) -> tuple[tuple[float, float], ...]:
        """Bins of starting mTRE as pairs, mm."""
        return tuple(pairwise(self.bins_mm))

    @property
    def ranges(self) -> ExposureRanges:
        """The distribution of the apparatus."""
        return _ranges(self.exposure)

    @property
    def instrument_set(self) -> InstrumentSet | None:
        """What lies in the beam."""
        return _instruments(self.instruments)

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The undisturbed arm, then every level of every disturbance."""
        return (Arm(), *(Arm(one.kind, level) for one in self.disturbances for level in one.levels))

    def with_(self, *, seed: int | None = None, cases: int | None = None, methods: tuple[str, ...] | None = None) -> Protocol:
        """The same protocol with another seed, number of cases, or methods; checked again.

        Raises
        ------
        InputError: a value out of range, an unknown method.
        """
        given = {"seed": seed, "cases": cases, "methods": methods}
        values = {**self.model_dump(), **{k: v for k, v in given.items() if v is not None}}
        return _checked(values, None)


def _instruments(said: str | Mapping[str, Any] | None) -> InstrumentSet | None:
    from raylign.simulation.datasets.typed import typed

    if said is None:
        return None
    values = {"set": said} if isinstance(said, str) else dict(said)
    name = values.pop("set", "everything")
    if name not in INSTRUMENT_SETS:
        raise InputError(f"no set of instruments {name!r}", remedy=f"there are {', '.join(INSTRUMENT_SETS)}")
    base = INSTRUMENT_SETS[name]
    return typed(InstrumentSet, {**vars(base), "weights": dict(base.weights), **values}, "")


def _ranges(values: Mapping[str, Any]) -> ExposureRanges:
    from raylign.simulation.datasets.typed import typed

    return typed(ExposureRanges, json.loads(json.dumps(values)), "")


def _checked(values: Mapping[str, Any], file: Path | None) -> Protocol:
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"holds something that is no number, word or list ({error})", file=file) from None
    try:
        # by way of JSON, in which a list is what becomes a tuple; strict, so that "3" is no number
        return Protocol.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise field_of(error, file) from None


def is_shipped(name: str) -> bool:
    """Whether a protocol of that name comes with raylign."""
    return not set(name) & {"/", "\\"} and bool((_shelf() / f"{name}.yaml").is_file())


def _shelf() -> Any:
    return resources.files("raylign.evaluation") / "protocols"


def shipped() -> dict[str, str]:
    """Titles of the protocols that raylign comes with, by name."""
    names = sorted(entry.name.removesuffix(".yaml") for entry in _shelf().iterdir() if entry.name.endswith(".yaml"))
    return {name: load_protocol(name).title for name in names}


def load_protocol(name_or_path: str | Path) -> Protocol:
    """A shipped protocol by its name, or one from a YAML file.

    Raises
    ------
    InputError: neither a name nor a file; no YAML, an unknown key, a value of another type or out of range, an unknown name. The
        line names the file and the field.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and (is_shipped(str(name_or_path)) or not path.is_file()):
        on_shelf = _shelf() / f"{name_or_path}.yaml"
        if not is_shipped(str(name_or_path)):
            known = ", ".join(sorted(e.name.removesuffix(".yaml") for e in _shelf().iterdir() if e.name.endswith(".yaml")))
            raise InputError(
                f"there is no protocol {str(name_or_path)!r}", field="PROTOCOL", remedy=f"use one of {known}, or a YAML file"
            )
        path = Path(str(on_shelf))
    return _checked(read_yaml(path, "protocol", "name:, title: and subjects:"), path)
