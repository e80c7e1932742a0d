"""Starts from nowhere: a model in two or more calibrated exposures, turned in any way, anywhere that all of them see.

Two exposures together are far harder to fool than one: a shadow that looks like the bone must lie at the same height in both, and
look like it from both sides. ``anywhere_scan`` scores every turn at every place; the best are refined on coarse levels, all of
the same pixels, so that their costs compare: on the first by thousands, on the second the better ones, and the best few of these
by the direct method to the end, each about itself. The most probable is the result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.projection import cpu
from raylign.registration.anywhere_scan import AnywhereConfig as AnywhereConfig
from raylign.registration.anywhere_scan import Axis as Axis
from raylign.registration.anywhere_scan import Body as Body
from raylign.registration.anywhere_scan import Found, crossing, rendered, scan
from raylign.registration.anywhere_scan import Region as Region
from raylign.registration.confidence import Evidence, judge
from raylign.registration.direct import Direct, Progress
from raylign.registration.levels import Scale, evaluate
from raylign.registration.problem import Problem
from raylign.registration.pyramid import (
    Array64,
    Footprint,
    ImageLevel,
    box_corners,
    content,
    image_level,
    model_pyramid,
    plain_level,
)
from raylign.registration.refinement import refine
from raylign.registration.result import Result
from raylign.registration.search import Bounds, camera_axes, separation
from raylign.registration.settings import SearchConfig

_FINAL = SearchConfig(degrees=10.0, mm=10.0, hypotheses=64, refined=8)  # about a finalist: coarse valleys are a few mm apart
_APART = 5.0  # mm: finalists nearer than that would be found from one another
_MARGIN = 12  # pixels about the model that a coarse refinement looks at
_ASIDE, _ALONG = 8, (-16.0, -8.0, 8.0, 16.0)  # how many poses are tried at other depths in each exposure, and at which, mm
_FAR = 1e4  # mm: as good as no bound


def _whole_levels(problem: Problem, config: AnywhereConfig) -> list[Scale]:
    """Levels of the whole exposures, finest first: at twice and once the scan's resolution, and at four times where asked for.

    All places are looked at on the same pixels.
    """
    count = 3 if config.finer else 2
    model = problem.model
    corners = box_corners(model, *content(model))
    cross = crossing([x.view for x in problem.xrays])
    extent = float(np.sort(np.linalg.norm(corners[[1, 2, 4]] - corners[0], axis=1))[1])
    factors, pitches = [], []
    for xray in problem.xrays:
        view = xray.view
        depth = float((torch.from_numpy(cross) - view.source.detach()) @ view.normal.detach())
        pitch = max(view.pixel_spacing) * depth / float(view.sid)
        factors.append(max(1, round(extent / pitch / (2 ** (count - 1) * config.pixels))))
        pitches.append(pitch * factors[-1])
    models = model_pyramid(model, content(model), [1.5 * min(pitches) * 2**i for i in range(count)])
    scales = []
    for i in range(count):
        images = []
        for xray, factor in zip(problem.xrays, factors, strict=True):
            h, w = xray.view.shape
            image = image_level(xray, Footprint(slice(0, h), slice(0, w), max(h, w), min(h, w), 0.0), factor * 2**i)
            images.append(replace(image, background=rendered(config.known, image)) if config.known else image)
        scales.append(Scale(i, models[i], images))
    return scales


def _shifted(matrix: Array64, by: Array64) -> Array64:
    out = matrix.copy()
    out[:3, 3] += by
    return out


def _about(scale: Scale, matrix: Array64, corners: Array64) -> Scale:
    """The part of a level that a model under a pose shows itself on, and a margin: sums of costs stay what they are."""
    return replace(scale, images=[_cut(image, corners @ matrix[:3, :3].T + matrix[:3, 3]) for image in scale.images])


def _cut(image: ImageLevel, world: Array64) -> ImageLevel:
    pixels = image.view.project(torch.from_numpy(world)).numpy()[:, ::-1]
    limit = np.array(image.shape)
    low = np.clip(np.floor(pixels.min(0)).astype(int) - _MARGIN, 0, limit - 4)
    high = np.clip(np.ceil(pixels.max(0)).astype(int) + _MARGIN + 1, low + 4, limit)
    rows, columns = slice(low[0], high[0]), slice(low[1], high[1])
    valid = np.ascontiguousarray(image.valid[rows, columns])
    has = valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    background = None if image.background is None else np.ascontiguousarray(image.background[rows, columns])
    return replace(
        plain_level(image.view.crop(rows, columns), valid),
        gradient=np.ascontiguousarray(image.gradient[:, rows, columns]),
        energy=image.energy,
        usable=max(1, int(has.sum())),
        background=background,
    )


@dataclass(frozen=True)
class Anywhere:
    """The direct method from nowhere as a Registrar; the start of a problem counts for nothing. Deterministic.

    Where ``config.known`` names bodies, coarse levels count them as explained; at the end the model is refined without them.
    """

    config: AnywhereConfig = field(default_factory=AnywhereConfig)
    progress: Progress | None = None

    def register(self, problem: Problem) -> Result:
        """The pose under which the model explains the exposures.

        The rival of the confidence is the best other finalist. A result that is not trusted is what it is: there is no second
        look.

        Raises
        ------
        InputError: fewer than two exposures, beams that do not cross, a model that no exposure shows, or none in a pose that
            agrees with the region and the axes that are given.
        """
        config = self.config
        clock = [time.perf_counter()]
        found = scan(problem, config)
        self._tell("search", 0.5)
        clock.append(time.perf_counter())
        poses = self.coarse(problem, found)
        if found and not poses:
            raise self._against()
        middle = box_corners(problem.model, *content(problem.model)).mean(0)
        self._tell("coarse levels", 0.7)
        clock.append(time.perf_counter())
        results: list[Result] = []
        strayed = False
        direct = Direct(replace(config.direct, search=_FINAL))
        for _, matrix in poses[: config.finalists]:
            with contextlib.suppress(InputError):  # it hardly shows in one of the exposures
                result = direct.register(replace(problem, start=Rigid(torch.from_numpy(matrix.copy()))))
                if not config.allows(result.transform.matrix.numpy(), middle):
                    strayed = True
                    continue
                results.append(result)
                if result.confidence.trusted:
                    break
        if not results and strayed:
            raise self._against()
        if not results:
            raise InputError(
                "no pose makes the model show itself on all exposures",
                field="xrays",
                remedy="check that they show it, and that the calibrations belong to them",
            )
        clock.append(time.perf_counter())
        results.sort(key=_worth, reverse=True)
        best = self._rivalled(results, problem)
        stages = dict(zip(("search", "pyramids", "refinement"), np.diff(clock).tolist(), strict=True))
        settings = {**best.settings, "turns": config.turns, "lattice": config.lattice, "anywhere": True}
        return replace(best, start=problem.start, timings=stages, settings=settings, renders=sum(r.renders for r in results))

    def coarse(self, problem: Problem, found: Sequence[Found]) -> list[Found]:
        """Poses of a scan refined on coarse levels: (cost at the finest of them, pose), best first, no two alike.

        At the third level the best ones are tried at other depths in each exposure too: where one shows the model well and
        another hardly, a pose may be right in the one and some way along its beam.
        """
        config = self.config
        scales = _whole_levels(problem, config)
        corners = box_corners(problem.model, *content(problem.model))
        middle = corners.mean(0)
        axes = camera_axes(problem.xrays[0].view)

        def refined(level: int, matrix: Array64) -> Array64:
            centre = matrix[:3, :3] @ middle + matrix[:3, 3]
            bounds = Bounds(matrix, axes, centre, 180.0, _FAR, _FAR)
            return refine(_about(scales[level], matrix, corners), matrix, bounds, config.direct, threaded=False).matrix

        def judged(level: int, matrix: Array64) -> Found:
            scale = _about(scales[level], matrix, corners)
            return evaluate(scale, matrix, config.direct.match).cost * sum(i.usable for i in scale.images), matrix

        def brought(level: int, at: int, poses: Sequence[Array64], apart: float) -> list[Found]:
            done = list(cpu.pool(cpu.threads()).map(lambda m: judged(at, refined(level, m)), poses))
            return _distinct(sorted(done, key=lambda d: d[0]), middle, scales[0].model.radius, apart)

        def allowed(poses: Sequence[Found]) -> list[Array64]:
            return [m for _, m in poses if config.allows(m, middle)]

        last = len(scales) - 1
        crossed = crossing([x.view for x in problem.xrays])
        first = brought(last, last - 1, [m for _, m in found[: config.tried]], 2.0)
        second = brought(last - 1, last - 1, allowed(first[: config.refined]), 1.0)
        if config.finer:
            second = brought(0, 0, allowed(second)[: config.finer], 1.0)
            beams = [crossed - x.view.source.detach().numpy() for x in problem.xrays]
            ways = [mm / np.linalg.norm(beam) * beam for beam in beams for mm in _ALONG]
            aside = [(cost, _shifted(m, way)) for cost, m in second[:_ASIDE] for way in ways]
            second = sorted(second + brought(0, 0, allowed(aside), 1.0), key=lambda d: d[0])
        return _distinct([f for f in second if config.allows(f[1], middle)], middle, scales[0].model.radius, _APART)

    def _rivalled(self, results: Sequence[Result], problem: Problem) -> Result:
        """The first of some results, its confidence with the best of the others that lies elsewhere as its rival."""
        best = results[0]
        here = best.transform.matrix.numpy()
        others = [
            r.trajectory[-1].cost
            for r in results[1:]
            if separation(here, r.transform.matrix.numpy(), best.centre.numpy(), 20.0) > 5.0 and r.trajectory
        ]
        evidence = dict(best.confidence.evidence)
        rival = float(np.clip(min(others, default=0.0) / min(best.trajectory[-1].cost, -1e-9), 0, 1))
        if rival <= evidence["rival"]:
            return best
        stated = Evidence(**{**evidence, "rival": rival})  # type: ignore[arg-type]
        confidence = judge(stated, self.config.direct.trust)
        if best.confidence.probability < confidence.probability:
            confidence = best.confidence
        return replace(best, confidence=confidence)

    def _against(self) -> InputError:
        """What to say where every pose was refined away from what is known."""
        given = (("region", self.config.region is not None), ("axis", bool(self.config.axes)))
        return InputError(
            "every pose that explains the exposures lies against what is known of the model",
            field=", ".join(name for name, known in given if known),
            remedy="check it against the exposures, or give a larger region or a wider cone",
        )

    def _tell(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)


def _worth(result: Result) -> tuple[bool, float]:
    """What decides between finalists: trust, then how much of the images is explained, all at about the same resolution."""
    return result.confidence.trusted, -result.trajectory[-1].cost if result.trajectory else 0.0


def _distinct(found: Sequence[Found], middle: NDArray[np.float64], radius: float, apart: float) -> list[Found]:
    """The poses best first, those within ``apart`` mm of a better one left out."""
    kept: list[Found] = []
    for cost, matrix in found:
        centre = matrix[:3, :3] @ middle + matrix[:3, 3]
        if all(separation(matrix, other, centre, radius) > apart for _, other in kept):
            kept.append((cost, matrix))
    return kept
