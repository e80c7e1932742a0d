"""The cheapest setting of each renderer that is as good as it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raylign.bench.process import Failed

Setting = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """What a setting gave: relative RMS error against the exact image, and ms of a forward call."""

    setting: Setting
    error: float
    ms: float


@dataclass(frozen=True)
class Choice:
    """A setting, the finer ones of the same kind in order, and whether it met the error asked for."""

    setting: Setting
    finer: tuple[Setting, ...]
    reached: bool


def choose(
    ladders: Sequence[Sequence[Setting]], target: float, measure: Callable[[Setting], Trial | None]
) -> tuple[Choice, list[Trial]]:
    """The cheapest setting whose error is at most ``target``, and every trial made.

    A ladder is climbed from its cheap end to the first setting that is good enough; of these, one a ladder, the fastest is
    taken. Where none is good enough it is the fastest of those within 1 % of the smallest error: such a renderer is timed at its
    best. A ladder is left where three settings in a row have brought less than 1 % each: what remains is the grid's error, not
    the step's. A setting that ``measure`` cannot compute ends its ladder.

    Raises
    ------
    Failed: no setting could be computed.
    """
    trials: list[Trial] = []
    good: list[tuple[Trial, tuple[Setting, ...]]] = []
    for ladder in ladders:
        flat, last = 0, float("inf")
        for rung, setting in enumerate(ladder):
            trial = measure(setting)
            if trial is None:
                break
            trials.append(trial)
            if trial.error <= target:
                good.append((trial, tuple(ladder[rung + 1 :])))
                break
            flat = flat + 1 if trial.error > 0.99 * last else 0
            last = min(last, trial.error)
            if flat == 3:
                break
    if good:
        trial, finer = min(good, key=lambda pair: pair[0].ms)
        return Choice(trial.setting, finer, True), trials
    if not trials:
        raise Failed("no setting of it could be computed")
    least = min(t.error for t in trials)
    best = min((t for t in trials if t.error <= 1.01 * least), key=lambda t: t.ms)
    return Choice(best.setting, (), False), trials


def described(setting: Setting) -> str:
    """A setting in a few words."""
    words = [str(setting["model"])]
    if "step" in setting:
        words.append(f"step {setting['step']:g} voxels")
    if "samples" in setting:
        words.append(f"{setting['samples']} samples")
    return ", ".join(words)
