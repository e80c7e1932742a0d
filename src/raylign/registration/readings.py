"""The two readings of a model's faces, and the poses that are followed from level to level under each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raylign.data import Volume
from raylign.projection import cpu
from raylign.registration.levels import Scale, centre_under, evaluate
from raylign.registration.matching import answered
from raylign.registration.pyramid import Array64
from raylign.registration.refinement import Candidate, distinct, neighbours, refine
from raylign.registration.search import Bounds, moved, separation
from raylign.registration.settings import DirectConfig
from raylign.registration.whole import whole

_SHARE = 0.6  # of how well the pixels that a cut leaves are explained; beyond the cut as well, if the patient ends there
_PLAIN = 0.9, 2.0, 0.05  # as well as the others, times the other reading's cost, share of the pixels: then one level is enough
_ENOUGH = 0.4  # share of the pixels from which the last level can do without the rest
_GOOD_START = 0.3  # of the best cost, at least, is what a start explains as it was given if it is near enough to be refined
_VALLEYS = 40.0  # mm: candidates nearer than that belong to one group of valleys
_TURN = 9.0  # degrees
_HALF = 4  # steps of depth to either side that are tried, in each view but the first
_ALIKE = 0.98  # share of the pixels that a cut must leave for the two readings not to matter


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a model's faces: its levels, finest first, and the poses that are followed under it."""

    scales: list[Scale]
    matrices: list[Array64]
    candidates: tuple[Candidate, ...] = ()
    renders: int = 0  # by the last refinement

    def refined(self, level: int, count: int, bounds: Bounds, config: DirectConfig) -> Reading:
        """The best ``count`` poses and the given one, where it says anything, brought to their optimum at a level.

        Those that met are left out. What is known of a patient's place must not lose to what merely looks like it coarsely: the
        start of ``bounds`` begins at every level anew.
        """
        scale = self.scales[level]
        seeds = apart(self.matrices[:count], scale)
        known = any(np.array_equal(seed, bounds.start) for seed in seeds)
        if count > 1 and not known and speaks(scale, bounds.start, self.candidates, config):
            seeds = [*seeds, bounds.start]
        if len(seeds) > 1:
            pool = cpu.pool(cpu.threads())
            found = list(pool.map(lambda m: refine(scale, m, bounds, config, threaded=False), seeds))
        else:
            found = [refine(scale, m, bounds, config, threaded=True) for m in seeds]
        renders = sum(c.renders for c in found)
        found = distinct(found, 0.75 * scale.model.spacing, scale.model.radius)
        return replace(self, matrices=[c.matrix for c in found], candidates=tuple(found), renders=renders)


def apart(matrices: Sequence[Array64], scale: Scale) -> list[Array64]:
    """The poses without those that are nearly an earlier one, a quarter of a level's voxel from it: they would end there."""
    kept: list[Array64] = []
    for matrix in matrices:
        centre, radius, near = centre_under(scale, matrix), scale.model.radius, 0.25 * scale.model.spacing
        if all(separation(matrix, other, centre, radius) > near for other in kept):
            kept.append(matrix)
    return kept


def levels_as(scales: list[Scale], model: Volume, reading: int) -> list[Scale]:
    """The levels under a reading: 0, the patient goes on beyond the cut faces; 1, he ends at them."""
    return [replace(s, model=whole(s.model, model)) for s in scales] if reading else scales


def speaks(scale: Scale, matrix: Array64, others: Sequence[Candidate], config: DirectConfig) -> bool:
    """Whether a pose explains a good part of what the best of others did a level above; of none, whether it shows anything."""
    cost = evaluate(scale, matrix, config.match).cost
    return cost < _GOOD_START * others[0].normal.cost if others else cost < 0


def turned(candidate: Candidate, scale: Scale, axes: Array64) -> list[Array64]:
    """A pose turned either way about each of ``axes``, the model's centre kept: a coarse optimum is often a turn away."""
    twists = [np.concatenate([sign * np.radians(_TURN) * axis, np.zeros(3)]) for axis in axes.T for sign in (1, -1)]
    return [moved(candidate.matrix, twist, candidate.normal.centre) for twist in twists]


def leaders_first(candidates: Sequence[Candidate], scale: Scale) -> list[Candidate]:
    """Candidates, the best first, then the best of each other group of valleys, then the rest, all by their cost."""
    leaders = distinct(candidates, _VALLEYS, scale.model.radius)
    chosen = {id(c) for c in leaders}
    return [*leaders, *(c for c in candidates if id(c) not in chosen)]


def shaken(reading: Reading, level: int, count: int, bounds: Bounds, config: DirectConfig) -> Reading:
    """The best ``count`` candidates and what is reached from beside them: a search of valleys next to the ones that were found.

    Candidates from neighbouring valleys are one for this: several that all misread the picture in one way would else be the only
    ones to be followed. Repeated, once, where that found something better.
    """
    scale = reading.scales[level]
    renders = 0
    for _ in range(2):
        top = reading.candidates[0].normal.cost
        apart = distinct(reading.candidates, _VALLEYS, scale.model.radius)
        around = [m for c in apart[:count] for m in (*neighbours(c, scale), *turned(c, scale, bounds.axes))]
        seeds = [m for m in around if bounds.hold(m)]
        pool = cpu.pool(cpu.threads())
        found = list(pool.map(lambda m: refine(scale, m, bounds, config, threaded=False), seeds))
        joined = distinct([*reading.candidates, *found], 0.75 * scale.model.spacing, scale.model.radius)
        joined = leaders_first(joined, scale)
        renders += sum(c.renders for c in found)
        reading = replace(reading, matrices=[c.matrix for c in joined], candidates=tuple(joined), renders=renders)
        if joined[0].normal.cost > top - 0.02 * abs(top):
            break
    return reading


def alike(ruled: Reading, matrices: list[Array64], config: DirectConfig) -> bool:
    """Whether poses show next to nothing beyond the cut faces, so that it does not matter how these are read."""
    top = ruled.scales[-1]
    usable = sum(image.usable for image in top.images)
    return all(evaluate(top, m, config.match).pixels > _ALIKE * usable for m in matrices)


def exchanged(readings: list[Reading], count: int) -> list[Reading]:
    """Each reading with its own best poses and half as many of the other's: one may find what the other explains better."""
    ruled, whole = readings
    return [
        replace(a, matrices=a.matrices[:count] + b.matrices[: max(1, count // 2)]) for a, b in ((ruled, whole), (whole, ruled))
    ]


def decided(readings: list[Reading], level: int, config: DirectConfig) -> list[Reading]:
    """The reading that the images support, with the best pose of the other as one more candidate."""
    if len(readings) == 1:
        return readings
    right = int(ends_at_its_faces(readings[0], readings[1], level, config))
    chosen, other = readings[right], readings[1 - right]
    return [replace(chosen, matrices=[*chosen.matrices[:1], other.matrices[0], *chosen.matrices[1:]])]


def ends_at_its_faces(ruled: Reading, whole: Reading, level: int, config: DirectConfig) -> bool:
    """Whether the exposures show the model alone (a phantom, a specimen, a simulation) rather than a body that goes on.

    No file says so. At the pose that explains the images best under the reading that nothing was cut, pixels beyond the cut faces
    are explained about as well as all others if that is true, and hardly at all if it is not.
    """
    if whole.candidates[0].normal.cost >= ruled.candidates[0].normal.cost:
        return False
    as_well = explained_beyond(ruled, whole, level, config)
    return as_well is not None and as_well[0] > _SHARE


def explained_beyond(ruled: Reading, whole: Reading, level: int, config: DirectConfig) -> tuple[float, float] | None:
    """At the best pose of the reading that nothing was cut: how well the pixels beyond the cut faces are explained.

    As a share of how well the others are; and which share of all they are. None where there are none.
    """
    best = whole.candidates[0]
    inner = evaluate(ruled.scales[level], best.matrix, config.match)
    outer = evaluate(whole.scales[level], best.matrix, config.match)
    more = outer.pixels - inner.pixels
    if more <= 0:
        return None
    usable = max(1, sum(image.usable for image in whole.scales[level].images))
    beyond = (outer.cost - inner.cost) * usable / more
    # where the cut leaves next to nothing to compare with, the pixels beyond it stand for themselves
    measure = inner.cost * usable / inner.pixels if inner.pixels > 0.2 * usable else whole.candidates[0].normal.cost
    return beyond / min(measure, -1e-9), more / usable


def plainly(readings: list[Reading], count: int, config: DirectConfig) -> list[Reading]:
    """After the coarsest level: both readings, or the one that is right or as good as the other beyond doubt.

    It is where no pose that would be followed shows anything beyond the cut faces; where what lies beyond them is explained as
    well as the rest, and the other reading explains not half as much; and where what lies there speaks against the model.
    """
    ruled, whole = exchanged(readings, count)
    if alike(ruled, apart([*ruled.matrices, *whole.matrices], ruled.scales[-1]), config):
        return [ruled]
    level = len(ruled.scales) - 1
    found = explained_beyond(ruled, whole, level, config)
    cut, uncut = (reading.candidates[0].normal.cost for reading in (ruled, whole))
    as_well, times, share = _PLAIN
    if found is not None and found[1] > share:
        if found[0] > as_well and uncut < times * cut:
            return [whole]
        if found[0] < 0 and cut < uncut:
            return [ruled]
    return [ruled, whole]


def without_rim(reading: Reading, scales: list[Scale]) -> Reading:
    """The last level without the rays through cut faces, if enough others are left, even where the patient ends there.

    Where exactly the outermost voxels end is a matter of half a voxel, which would move a slab seen along its faces by
    millimetres in depth.
    """
    usable = sum(image.usable for image in scales[0].images)
    left = sum(int(mask.sum()) for mask in answered(scales[0].model, scales[0].images, reading.matrices[0]))
    return replace(reading, scales=scales) if left > _ENOUGH * usable else reading


def in_depth(reading: Reading, count: int, bounds: Bounds, config: DirectConfig, ratio: float = 1.15) -> Reading:
    """Every pose moved along the first beam to where all exposures together are explained best; the best ``count`` of them.

    One view hardly sees depth, and places that are alike in one are not in all.
    """
    scale = reading.scales[-1]
    # the first exposure itself hardly sees the depth: it is asked once a pose, for the choice among poses
    others = replace(scale, images=scale.images[1:])

    def deeper(matrix: Array64, factor: float) -> Array64:
        trial = matrix.copy()
        trial[:3, 3] += (factor - 1) * (centre_under(scale, matrix) - scale.images[0].source)
        return trial

    def best(matrix: Array64) -> tuple[float, Array64]:
        costs: dict[int, float] = {}

        def ask(steps: Iterable[int]) -> int:
            for step in steps:
                trial = deeper(matrix, ratio ** (step / _HALF))
                if step not in costs and (step == 0 or bounds.hold(trial)):
                    costs[step] = evaluate(others, trial, config.match).cost
            return min(costs, key=lambda s: (costs[s], abs(s)))

        middle = ask(range(-_HALF, _HALF + 1, 2))
        beside = (step for step in (middle - 1, middle + 1) if abs(step) <= _HALF)
        chosen = deeper(matrix, ratio ** (ask(beside) / _HALF))
        return evaluate(scale, chosen, config.match).cost, chosen

    found = sorted(cpu.pool(cpu.threads()).map(best, reading.matrices), key=lambda f: f[0])
    return replace(reading, matrices=[matrix for _, matrix in found[:count]])
