"""What a data set is made of, as typed YAML: subjects, poses, apparatus, appearance, output.

A recipe holds names and numbers only. Reading one runs nothing, and says in one line what is wrong with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from raylign.errors import InputError
from raylign.io.plain_yaml import read_yaml
from raylign.simulation.datasets.typed import typed

SCHEMA = 1
"""Of recipes and of the data sets made by them; grows when an old one would be understood differently."""

Format = Literal["shards", "dicom"]


@dataclass(frozen=True)
class SubjectsFrom:
    """Where subjects come from: a phantom and a range of seeds, or a CT and deformed copies of it.

    Parameters
    ----------
    phantom: "thorax", "pelvis", "lumbar", "aorta" or "femur".
    seeds: first and last seed of the phantom; each is another patient.
    config: of the phantom's sampling (``voxel_mm``, ``contrast_hu``, ...).
    ct: a scan in HU, any file that ``read_volume`` reads; relative to the recipe.
    labels: its segmentation, and ``label_names`` a table of names where the segmentation's file has none.
    id: whose anatomy it is; the scan's file name where none is given. Splits go by it.
    source: where the scan comes from and under which licence; it is written into the data set.
    copies: deformed copies beside the original, 0 for none.
    variation: of the copies: fields of ``VariationConfig``.
    """

    phantom: str | None = None
    seeds: tuple[int, int] = (0, 0)
    config: dict[str, Any] = field(default_factory=dict)
    ct: str | None = None
    labels: str | None = None
    label_names: str | None = None
    id: str | None = None
    source: str | None = None
    copies: int = 0
    variation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.id):
            raise InputError(
                f"{self.id!r} names no file", field="id", remedy="give letters, digits, dots, dashes; a letter or digit first"
            )
        if (self.phantom is None) == (self.ct is None):
            raise InputError("neither phantom nor ct is given, or both", remedy="give one of them")
        if self.phantom is not None:
            low, high = self.seeds
            if not 0 <= low <= high:
                raise InputError(f"{low} to {high} is no range of seeds", field="seeds", remedy="[first, last], from 0")
            alien = [n for n in ("labels", "label_names", "id", "source") if getattr(self, n) is not None]
            if alien or self.copies or self.variation:
                raise InputError(
                    "belongs to a ct, not to a phantom", field=(alien or ["copies" if self.copies else "variation"])[0]
                )
        else:
            if self.source is None or not self.source.strip():
                raise InputError("is missing", field="source", remedy="say where the scan comes from and its licence")
            if self.copies < 0:
                raise InputError(f"{self.copies} copies", field="copies", remedy="give 0 or more")
            if self.config or self.seeds != (0, 0):
                raise InputError("belongs to a phantom, not to a ct", field="config" if self.config else "seeds")

    @property
    def count(self) -> int:
        """How many subjects these are, copies counted."""
        return self.seeds[1] - self.seeds[0] + 1 if self.phantom is not None else 1 + self.copies


@dataclass(frozen=True)
class Split:
    """Shares of the subjects, by who they are: a deformed copy goes where its parent goes, phantoms of one seed go together.

    Parameters
    ----------
    train, validation, test: shares; they add up to one.
    seed: another deal.
    """

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        shares = list(self.shares.values())
        if any(not 0 <= s <= 1 for s in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
            raise InputError(f"shares of {', '.join(f'{s:g}' for s in shares)}", remedy="give shares that add up to one")
        if self.seed < 0:
            raise InputError(f"{self.seed} is negative", field="seed")

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class TargetPoints:
    """Points over which mTRE is the mean: on the surface of structures that matter.

    Parameters
    ----------
    structures: labels by name, a ``*`` at the end for all that begin so; none: bone, by HU.
    count: of the points.
    """

    structures: tuple[str, ...] = ()
    count: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 100_000:
            raise InputError(f"{self.count} points", field="count", remedy="give 1 to 100000")


@dataclass(frozen=True)
class Output:
    """How a data set lies on disk.

    Parameters
    ----------
    format: "shards" (tar archives for training) or "dicom" (files as a hospital would send them, for trials).
    cases_per_shard: fixed; only the last shard may hold fewer.
    pixels: of shards: "png16" (16 bits over each image's range) or "npy" (float32, exact).
    volumes: whether the scans of the subjects are written beside the shards; beside DICOM files they always are.
    """

    format: Format = "shards"
    cases_per_shard: int = 256
    pixels: Literal["png16", "npy"] = "png16"
    volumes: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.cases_per_shard <= 100_000:
            raise InputError(f"{self.cases_per_shard} cases", field="cases_per_shard", remedy="give 1 to 100000")


@dataclass(frozen=True)
class Recipe:
    """A data set, before it is made.

    Parameters
    ----------
    name: of the data set.
    subjects: where they come from.
    schema: 1.
    seed: of everything but the subjects' anatomies.
    count: cases of the whole data set; a case is one exposure, or two of a biplane distribution under one pose.
    cases_per_subject: so many cases in a row show one subject (files), or so many on average (streams).
    resident: subjects from which a stream draws at any time.
    targets, starts: named distributions of ``raylign.simulation.poses``.
    isocentre: landmarks or labels by name, of which each case takes one at random to be brought to the isocentre; "centre" is
        the middle of the scan.
    image: (rows, columns); none: as the distribution of targets has it.
    exposure: ranges of the apparatus: fields of ``ExposureRanges``.
    instruments: in the beam: one of ``INSTRUMENT_SETS`` by name, or fields of ``InstrumentSet``, with ``set`` the one that they
        change; none: no instruments.
    appearance: a preset by name, or {name, steps} as ``Sequence.to_dict`` writes them.
    landmarks: whose image points a stream gives; files hold all that a subject has.
    segments: labels whose thickness, mm, is imaged beside the exposure.
    target_points: over which mTRE is the mean.
    split: of subjects into training, validation and test.
    output: on disk.
    """

    name: str
    subjects: tuple[SubjectsFrom, ...]
    schema: int = SCHEMA
    seed: int = 0
    count: int = 1000
    cases_per_subject: int = 100
    resident: int = 16
    targets: str = "raylign"
    starts: str = "raylign"
    isocentre: tuple[str, ...] = ("centre",)
    image: tuple[int, int] | None = None
    exposure: dict[str, Any] = field(default_factory=dict)
    instruments: str | dict[str, Any] | None = None
    appearance: str | dict[str, Any] = "plain"
    landmarks: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    target_points: TargetPoints = TargetPoints()
    split: Split = Split()
    output: Output = Output()

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema {self.schema} is not known", field="schema", remedy=f"this version writes schema {SCHEMA}")
        if not self.name.strip():
            raise InputError("is empty", field="name")
        for name in ("subjects", "isocentre"):
            if not getattr(self, name):
                raise InputError("is empty", field=name, remedy="give at least one")
        for name, least in (("seed", 0), ("count", 1), ("cases_per_subject", 1), ("resident", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{getattr(self, name)} is too few", field=name, remedy=f"give {least} or more")
        if self.image is not None and not all(8 <= n <= 8192 for n in self.image):
            raise InputError(f"{self.image[0]} x {self.image[1]} pixels", field="image", remedy="[rows, columns], 8 to 8192")

    def to_dict(self) -> dict[str, Any]:
        """Plain names and numbers, for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def fingerprint(self) -> str:
        """What two recipes share if, and only if, they make the same cases.

        The number of cases does not enter; scans, labels and their names do by what they hold, not by where they lie.
        """
        said = {k: v for k, v in self.to_dict().items() if k != "count"}
        for subject in said["subjects"]:
            for name in ("ct", "labels", "label_names"):
                if subject[name] is not None:
                    subject[name] = _content(subject[name])
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=256)
def _content(path: str) -> str:
    """SHA-256 of a file, or of the files of a folder by name."""
    place, sum_ = Path(path), hashlib.sha256()
    for file in sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]:
        sum_.update(str(file.relative_to(place)).encode() if file != place else b"")
        try:
            with file.open("rb") as handle:
                sum_.update(hashlib.file_digest(handle, "sha256").digest())
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", file=file, remedy="name a file that is there") from None
    return sum_.hexdigest()


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe; paths of scans in it are taken relative to its folder.

    Raises
    ------
    InputError: no such file, no YAML, a recipe of a training, an unknown key, a value of another type or out of range, an
        unknown name.
    """
    file = Path(path)
    values = read_yaml(file, "recipe", "name: and subjects:")
    if "method" in values:
        raise InputError("is the recipe of a training", file=file, field="method", remedy="use it with raylign train")
    recipe = typed(Recipe, values, "", file)
    base = file.parent

    def beside(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    entries = tuple(
        replace(s, ct=beside(s.ct), labels=beside(s.labels), label_names=beside(s.label_names), id=_id(s))
        for s in recipe.subjects
    )
    recipe = replace(recipe, subjects=entries)
    try:
        check(recipe)
    except InputError as error:
        raise error.at(file) from None
    return recipe


def check(recipe: Recipe) -> None:
    """See that everything a recipe names exists: distributions, phantoms and their fields, ranges, appearance, scans.

    Raises
    ------
    InputError: something does not.
    """
    from raylign.simulation.datasets.plan import Plan

    Plan(recipe)


def _id(entry: SubjectsFrom) -> str | None:
    if entry.ct is None or entry.id is not None:
        return entry.id
    return Path(entry.ct).name.split(".")[0] or "ct"
