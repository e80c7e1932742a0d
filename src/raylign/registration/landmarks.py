"""A start from landmarks: points of the model, and where they are seen on the exposures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, lgamma, log

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Landmarks
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.view import require_cone
from raylign.registration.pnp import Array64, Marks, Mode, PnPConfig, apart, flattened, modes, prior_of, without_limit
from raylign.registration.search import camera_axes
from raylign.registration.settings import SearchConfig

# by which a pose's score beats another's, for the other to be out of the question: where all marks agree, and where some do not
_ODDS, _ODDS_WITHOUT = 2 * np.log(20), 2 * np.log(200)
_OPEN_DEGREES = 12.0  # standard deviation of the turn about some axis from which landmarks leave the pose open
_FALSE_ALARMS = 0.1
_LEAST_AREA = 1e4  # mm^2 of the detector
_NEAR = (15.0, 15.0)  # degrees and mm between two poses that one search covers


@dataclass(frozen=True)
class Mark:
    """One mark and what the pose makes of it.

    Parameters
    ----------
    name: of the landmark.
    view: index of the view.
    pixels: reprojection error, px.
    mm: the same on the detector.
    agrees: whether the pose was computed from it.
    """

    name: str
    view: int
    pixels: float
    mm: float
    agrees: bool


@dataclass(frozen=True, eq=False)
class LandmarkPose:
    """A pose from landmarks.

    Parameters
    ----------
    pose: ``T_world_from_volume``.
    marks: every mark, in the order of views and names.
    rms: root mean square reprojection error of the marks that agree, px.
    covariance: 6x6 of the twist ``x`` (rotation in radians, translation in mm, world axes) in
        ``T = translate(centre) exp(x) translate(-centre) T_estimate``, as in ``Result``. Where two near poses explain the marks
        about as well, it covers both.
    centre: of the landmarks, world mm.
    notes: plain sentences on what is odd.
    """

    pose: Rigid
    marks: tuple[Mark, ...]
    rms: float
    covariance: Float[Tensor, "6 6"]
    centre: Float[Tensor, "3"]
    notes: tuple[str, ...] = ()

    @property
    def inliers(self) -> tuple[Mark, ...]:
        """The marks that the pose was computed from."""
        return tuple(m for m in self.marks if m.agrees)

    @property
    def outliers(self) -> tuple[Mark, ...]:
        """The marks that no good pose explains together with the others."""
        return tuple(m for m in self.marks if not m.agrees)

    def covariance_about(self, centre: Float[Tensor, "3"]) -> Float[Tensor, "6 6"]:
        """The covariance of the same pose with turns about another point, world mm."""
        lever = torch.as_tensor(centre, dtype=torch.float64) - self.centre
        change = torch.eye(6, dtype=torch.float64)
        x, y, z = lever.tolist()
        # a turn w about the landmarks moves the new centre by w x lever
        change[3:, :3] = torch.tensor([[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]], dtype=torch.float64)
        return change @ self.covariance @ change.T

    def search(self, model_centre: Float[Tensor, "3"], view: View) -> SearchConfig:
        """What this start leaves open: three standard deviations, within limits, along the axes of a view.

        3 to 15 degrees, 5 to 15 mm across the beam, 5 to 60 mm along it: landmarks of one view hardly see the depth.
        ``model_centre`` is that of the model which is registered, LPS mm.
        """
        there = self.pose.apply(torch.as_tensor(model_centre, dtype=torch.float64)[None])[0]
        axes = camera_axes(view)
        covariance = self.covariance_about(there).numpy()
        turn = 3 * np.degrees(np.sqrt(np.diag(axes.T @ covariance[:3, :3] @ axes)).max())
        shift = 3 * np.sqrt(np.diag(axes.T @ covariance[3:, 3:] @ axes))
        return SearchConfig(
            degrees=float(np.clip(turn, 3, 15)),
            mm=float(np.clip(shift[:2].max(), 5, 15)),
            depth=float(np.clip(shift[2], 5, 60)),
        )


def start_from_landmarks(
    points: Landmarks, marked: Sequence[Landmarks | None], views: Sequence[View], start: Rigid, config: PnPConfig | None = None
) -> LandmarkPose:
    """The pose under which named points of a model project onto marks of the same names.

    Parameters
    ----------
    points: [N, 3] in patient LPS mm.
    marked: for each view the marks on it, [n, 2] (column, row) pixels, or None.
    views: at least one.
    start: where the patient lies nominally (``centred(volume)``): the pose is sought within ``config.degrees`` of its rotation.
    config: the prior and the marks' accuracy.

    Raises
    ------
    InputError: what ``pnp`` refuses, a mark whose name no point has, points or marks of the wrong dimension.
    """
    if len(marked) != len(views):
        raise InputError(f"marks on {len(marked)} X-rays for {len(views)} views", field="marks")
    if points.points.shape[1] != 3:
        raise InputError("the points of the model are pixels", field="volume", remedy="give x, y and z in patient mm")
    observations = []
    for found in marked:
        pixels = torch.full((len(points.names), 2), torch.nan, dtype=torch.float64)
        if found is not None:
            if found.points.shape[1] != 2:
                raise InputError(
                    "the marks on an X-ray are points in space", field="marks", remedy="give column and row in pixels"
                )
            for name, pixel in zip(found.names, found.points, strict=True):
                if name not in points.names:
                    raise InputError(
                        f"it is marked on an X-ray, but is no point of the volume ({', '.join(points.names)})",
                        field=name,
                        remedy="use the same names on both",
                    )
                pixels[points.names.index(name)] = pixel
        observations.append(pixels)
    return pnp(points.points, observations, views, start, config, points.names)


def pnp(
    points: Float[Tensor, "N 3"],
    observations: Sequence[Float[Tensor, "N 2"]],
    views: Sequence[View],
    start: Rigid,
    config: PnPConfig | None = None,
    names: Sequence[str] | None = None,
) -> LandmarkPose:
    """The pose under which points project onto their observations, robustly: wrong observations are left out and told.

    The most probable pose under the prior about ``start`` (see ``PnPConfig``): where points are few, it decides. The method is
    told in ``raylign.registration.pnp``.

    Parameters
    ----------
    points: [N, 3] in patient LPS mm.
    observations: for each view [N, 2] (column, row) pixels, NaN where a point is not seen.
    views: at least one.
    start: the nominal pose.
    config: the prior and the marks' accuracy.
    names: of the points, for messages; numbers where not given.

    Raises
    ------
    InputError: fewer than three points seen, points on a line, poses that explain them equally well, observations that do not fit
        together, a parallel beam, arrays of the wrong shape.
    """
    config = PnPConfig() if config is None else config
    where = np.asarray(torch.as_tensor(points, dtype=torch.float64).detach())
    called = tuple(str(i + 1) for i in range(len(where))) if names is None else tuple(names)
    seen = [np.asarray(torch.as_tensor(o, dtype=torch.float64).detach()) for o in observations]
    _check(where, seen, views, called)
    marks = flattened(where, seen, views)
    begin = start.matrix.numpy()
    found = modes(marks, prior_of(begin, marks.centre, config), config)
    agreed = [m for m in found if _enough(m, marks)]
    if not agreed:
        raise _inconsistent(marks, found, begin, config, called)
    best = agreed[0]
    odds = _ODDS if best.agree.all() else _ODDS_WITHOUT
    rivals = [m for m in agreed if m.score - best.score < odds]
    for other in rivals[1:]:
        degrees, mm = apart(best, other)
        if degrees > _NEAR[0] or mm > 4 * _NEAR[1]:
            raise InputError(
                f"two poses explain the landmarks about as well, {degrees:.0f} degrees and {mm:.0f} mm apart",
                field="landmarks",
                remedy=f"{_more(marks, called)}, best in front of or behind the others, or mark them on a second view",
            )
    covariance = _together(best, rivals)
    largest = float(np.degrees(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])))
    if largest > _OPEN_DEGREES:
        raise InputError(
            f"the landmarks {_listed(marks, called)} leave a turn open (standard deviation {largest:.0f} degrees)",
            field="landmarks",
            remedy=f"{_more(marks, called)}, away from the line through the others",
        )
    return _told(best, covariance, marks, views, called)


def reprojection(
    pose: Rigid, points: Landmarks, marked: Sequence[Landmarks | None], views: Sequence[View]
) -> list[dict[str, float]]:
    """Distance in px of each mark from where a pose puts its landmark: by name, for each view."""
    errors = []
    for found, view in zip(marked, views, strict=True):
        seen = {} if found is None else {n: view.project(pose.apply(points[n][None]))[0] - found[n] for n in found.names}
        errors.append({name: float(away.norm()) for name, away in seen.items()})
    return errors


def _check(points: Array64, observations: Sequence[Array64], views: Sequence[View], names: Sequence[str]) -> None:
    if not views or len(observations) != len(views):
        raise InputError(f"{len(observations)} arrays of observations for {len(views)} views", field="observations")
    if points.ndim != 2 or points.shape[1] != 3 or len(names) != len(points) or not np.isfinite(points).all():
        raise InputError(f"points of shape {points.shape}, {len(names)} names", field="points", remedy="give [N, 3] finite mm")
    for view, pixels in zip(views, observations, strict=True):
        require_cone(view, "a pose from landmarks")
        if pixels.shape != (len(points), 2):
            raise InputError(f"observations of shape {pixels.shape} for {len(points)} points", field="observations")
    seen = [n for i, n in enumerate(names) if any(np.isfinite(o[i]).all() for o in observations)]
    if len(seen) < 3:
        told = f"{len(seen)} of the {len(names)} landmarks {'is' if len(seen) == 1 else 'are'} marked"
        others = [n for n in names if n not in seen]
        choice = f" of {', '.join(others)}" if len(others) >= 3 - len(seen) else ""
        raise InputError(
            f"{told} on the X-rays" + (f": {', '.join(seen)}" if seen else ""),
            field="landmarks",
            remedy=f"mark at least three: {3 - len(seen)} more{choice}",
        )


def _enough(mode: Mode, marks: Marks) -> bool:
    """Whether the marks that agree are more than chance would let agree.

    All of them, or at least four landmarks and more than half of the marks, with a number of false alarms (Moisan and Stival
    2004) below 0.1: choices of k agreeing marks of n and of the three that propose the pose, times the probability that the
    others fall as near as they did, were they anywhere among the marks of their view.
    """
    if mode.agree.all():
        return True
    total, count = len(mode.agree), int(mode.agree.sum())
    if len(np.unique(marks.landmark[mode.agree])) < 4 or 2 * count <= total:
        return False
    area = 0.0
    for v in np.unique(marks.view):
        places = (marks.metric[marks.view == v] @ marks.pixels[marks.view == v][..., None])[..., 0]
        area = max(area, float(np.prod(np.ptp(places, axis=0))))
    chance = np.pi * float((mode.errors[mode.agree] ** 2).sum(1).max()) / max(area, _LEAST_AREA)
    chance = min(chance, 1.0)
    alarms = (
        log(total - 3) + _log_choices(total, count) + _log_choices(count, 3)
    )  # in logarithms: of a thousand marks they overflow
    return alarms + (count - 3) * (log(chance) if chance > 0 else -inf) < log(_FALSE_ALARMS)


def _log_choices(n: int, k: int) -> float:
    """Logarithm of the number of ways to choose k of n."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _inconsistent(marks: Marks, found: Sequence[Mode], start: Array64, config: PnPConfig, names: Sequence[str]) -> InputError:
    """Why no pose was found, and whether one would be were any turn allowed."""
    count = len(np.unique(marks.landmark))
    if config.degrees < 180:
        free = without_limit(config)
        turned = [m for m in modes(marks, prior_of(start, marks.centre, free), free) if _enough(m, marks) and count > 3]
        if turned:
            angle = np.arccos(np.clip((np.trace(turned[0].rotation @ start[:3, :3].T) - 1) / 2, -1, 1))
            return InputError(
                f"the landmarks fit only with the patient turned by {np.degrees(angle):.0f} degrees from the start",
                field="landmarks",
                remedy="look whether left and right are exchanged; if he does lie so, allow a larger turn",
            )
    if found:
        odd = ", ".join(names[int(n)] for n in np.unique(marks.landmark[~found[0].agree]))
        most = f"at most {int(found[0].agree.sum())} of {len(marks.landmark)} marks agree on a pose (not {odd})"
    else:
        most = f"no pose explains the marks of {_listed(marks, names)}"
    return InputError(most, field="landmarks", remedy=f"check names and places, or {_more(marks, names)}")


def _listed(marks: Marks, names: Sequence[str]) -> str:
    return ", ".join(names[int(n)] for n in np.unique(marks.landmark))


def _more(marks: Marks, names: Sequence[str]) -> str:
    """What to mark in addition."""
    seen = {int(n) for n in marks.landmark}
    others = [n for i, n in enumerate(names) if i not in seen]
    return f"mark one more of {', '.join(others)}" if others else "mark another landmark"


def _together(best: Mode, rivals: Sequence[Mode]) -> Array64:
    """Covariance about the best of poses that cannot be told apart."""
    weights = np.exp([-0.5 * (m.score - best.score) for m in rivals])
    weights /= weights.sum()
    total = np.zeros((6, 6))
    for mode, weight in zip(rivals, weights, strict=True):
        turn = _rotation_vector(mode.rotation @ best.rotation.T)
        away = np.concatenate([turn, mode.shift - best.shift])
        total += weight * (mode.covariance + np.outer(away, away))
    return total


def _rotation_vector(rotation: Array64) -> Array64:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_matrix(rotation).as_rotvec())


def _told(best: Mode, covariance: Array64, marks: Marks, views: Sequence[View], names: Sequence[str]) -> LandmarkPose:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(best.rotation)
    matrix[:3, 3] = torch.from_numpy(best.shift - best.rotation @ marks.centre)
    pose = Rigid(matrix)
    away = np.linalg.norm((np.linalg.inv(marks.metric) @ best.errors[..., None])[..., 0], axis=1)
    mm = np.linalg.norm(best.errors, axis=1)
    told = tuple(
        Mark(names[int(n)], int(v), float(px), float(size), bool(agrees))
        for n, v, px, size, agrees in zip(marks.landmark, marks.view, away, mm, best.agree, strict=True)
    )
    notes = [_exchanged(pose, marks, views, names, best)]
    if len(np.unique(marks.landmark[best.agree])) == 3:
        notes.append("three landmarks: a wrong one would not show")
    return LandmarkPose(
        pose,
        told,
        float(np.sqrt((away[best.agree] ** 2).mean())),
        torch.from_numpy(covariance),
        torch.from_numpy(best.shift),
        tuple(n for n in notes if n),
    )


def _exchanged(pose: Rigid, marks: Marks, views: Sequence[View], names: Sequence[str], best: Mode) -> str:
    """Says so where two marks on one view that do not agree would with their names exchanged."""
    limit = 1.5 * float(np.linalg.norm(best.errors[best.agree], axis=1).max())
    odd = np.flatnonzero(~best.agree)
    world = pose.apply(torch.from_numpy(marks.points + marks.centre))
    for i, j in ((i, j) for i in odd for j in odd if i < j and marks.view[i] == marks.view[j]):
        swapped = views[int(marks.view[i])].project(world[[j, i]]).numpy() - marks.pixels[[i, j]]
        if float(np.linalg.norm((marks.metric[[i, j]] @ swapped[..., None])[..., 0], axis=1).max()) <= limit:
            return f"{names[int(marks.landmark[i])]} and {names[int(marks.landmark[j])]} look exchanged"
    return ""
