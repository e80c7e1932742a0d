"""Methods that learn, by name, for those who register volumes: commands and evaluations.

``NAME``, ``NAME+METHOD`` and ``NAME-alone`` say what comes after the learned part: the direct method, another one of
``raylign.registration.METHODS`` or nothing. ``NAME-skipped`` is the direct method that looks as far about the start as ``NAME``
lets it look about where the learned part ended: what that part is worth. ``...@FILE`` takes weights of one's own in place of
those that come with raylign.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.registration import Registrar, SearchConfig

SIMILARITY, REGRESSION = LEARNED = ("convex-similarity", "pose-regression")
"""Methods that learn and take volumes."""

ALONE, SKIPPED = "-alone", "-skipped"
_KINDS = {"deepim": "DeepIM", "dmw": "DMW"}
_DIRECT = "direct"


@dataclass(frozen=True)
class Named:
    """What a name says.

    Parameters
    ----------
    method: one of ``LEARNED``. after: the method that goes on from its end; "" for none.
    weights: a file; None for those that come with raylign.
    skipped: whether only what comes after is done.
    """

    method: str
    after: str = _DIRECT
    weights: Path | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Asked:
    """With what a registrar is made.

    Parameters
    ----------
    search: what the method that comes after looks through about the learned method's end.
    seed: of whatever is random. progress: told what is done, and which share of all.
    """

    search: SearchConfig
    seed: int = 0
    progress: Callable[[str, float], None] | None = None


def parsed(name: str) -> Named | None:
    """What a name says; None where it is no learned method's.

    Raises
    ------
    InputError: a learned method, and an unknown one after it.
    """
    from raylign.registration import METHODS

    said, at, file = name.partition("@")
    weights = Path(file) if at else None
    for method in LEARNED:
        if said == method:
            return Named(method, weights=weights)
        if said == method + ALONE:
            return Named(method, "", weights)
        if said == method + SKIPPED:
            return Named(method, weights=weights, skipped=True)
        if said.startswith(f"{method}+"):
            after = said.removeprefix(f"{method}+")
            if after not in METHODS or after == "contour":
                known = ", ".join(m for m in METHODS if m != "contour")
                raise InputError(f"there is no method {after!r} to go on with", field="method", remedy=f"use one of {known}")
            return Named(method, after, weights)
    return None


def around(named: Named) -> SearchConfig:
    """What a method that comes after looks through about where the learned one ends: what that left open for validation patients.

    At least what is looked through by default, at most ``WIDE``, as densely as that.

    Raises
    ------
    InputError: weights that are not there or cannot be read.
    """
    from raylign.methods.weights import read_weights
    from raylign.registration import WIDE, SearchConfig

    least = SearchConfig()
    file = weights_file(named)
    _, said = read_weights(file)
    try:
        found = said["about"]["figures"]["validation"]
        left = [float(found[name]) for name in ("open_degrees", "open_mm", "open_depth")]
    except KeyError:  # of a training that did not measure it
        return least
    except (TypeError, ValueError):
        left = [math.nan]
    if not all(map(math.isfinite, left)):
        raise InputError("what it leaves open for validation patients is no number", file=file, remedy="train it again")
    ends = ((least.degrees, WIDE.degrees), (least.mm, WIDE.mm), (least.along, WIDE.along))
    degrees, mm, depth = (min(max(value, low), high) for value, (low, high) in zip(left, ends, strict=True))
    turns = max(least.hypotheses, round(WIDE.hypotheses * (degrees / WIDE.degrees) ** 2))
    return replace(WIDE, degrees=degrees, mm=mm, depth=depth, hypotheses=turns)


def learned_registrar(named: Named, asked: Asked) -> Registrar:
    """The registrar of a name.

    Raises
    ------
    InputError: weights that are not there or cannot be read.
    """
    from raylign.registration import Pipeline, registrar

    if named.skipped:
        return registrar(named.after, search=asked.search, seed=asked.seed, progress=asked.progress)
    first: Registrar
    if named.method == SIMILARITY:
        from raylign.methods.convex_similarity.registrar import ConvexSimilarity
        from raylign.methods.convex_similarity.weights import read_learned as similarity

        first = ConvexSimilarity(similarity(weights_file(named)))
    else:
        from raylign.methods.pose_regression.registrar import PoseRegression
        from raylign.methods.pose_regression.weights import read_learned as regressor

        first = PoseRegression(regressor(weights_file(named)))
    if not named.after:
        return first
    return Pipeline((first, registrar(named.after, search=asked.search, seed=asked.seed, progress=asked.progress)))


@dataclass(frozen=True)
class Described:
    """What weights say of themselves.

    Parameters
    ----------
    method: one of ``LEARNED``. kind: what papers call it. preset: of the recipe, where there was one.
    phantom: of whom: pelvis, lumbar.
    """

    method: str
    kind: str
    preset: str
    phantom: str


def describe(file: Path | None) -> Described:
    """What weights say of themselves; None: those of the convex similarity that come with raylign.

    Raises
    ------
    InputError: they cannot be read, or are of a method that takes no volumes.
    """
    from raylign.methods.weights import read_weights

    path = weights_file(Named(SIMILARITY, weights=file))
    _, said = read_weights(path)
    if said.get("method") not in LEARNED:
        raise InputError(f"holds {said.get('method', 'something else')}, not {' or '.join(LEARNED)}", file=path)
    about = dict(said.get("about", {}))
    data = dict(dict(about.get("settings", {})).get("data", {}))
    kind = _KINDS.get(str(dict(said.get("network", {})).get("kind", "")), "ProST")
    return Described(str(said["method"]), kind, str(about.get("preset", "")), str(data.get("phantom", "pelvis")))


def weights_file(named: Named) -> Path:
    """Where the weights of a name lie.

    Raises
    ------
    InputError: there is no such file.
    """
    from raylign.methods.convex_similarity.weights import shipped_file

    if named.method == REGRESSION and named.weights is None:
        raise InputError(
            "no weights come with this method", field="method",
            remedy=f"train some (raylign train recipes/gao2024_regression.yaml) and name {REGRESSION}@OUT/regressor.safetensors",
        )  # fmt: skip
    return shipped_file(named.weights)


def digest(named: Named) -> str:
    """SHA-256 of those weights.

    Raises
    ------
    InputError: they cannot be read.
    """
    file = weights_file(named)
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from None
