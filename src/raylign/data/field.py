"""Which pixels of an exposure say something about the patient: inside the collimator, not clipped, not written over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from raylign.data.apertures import Polygon, both, edge_apertures
from raylign.data.exposure import Encoding, brightness, check_not_blank

_GRID = 176  # pixels along the longer side on which the collimator is looked for: its edge is long, so little suffices
_RANGE = 4.0  # the span that display values and logarithms are given, as if they were natural logarithms of counts
_LOWEST = 9.0  # natural logarithm below the brightest, under which counts are nothing but noise
_STEP = 0.35  # least median drop of the logarithm from the field into the shadow
_FALLING = 0.03  # logarithm a pixel by which the blurred edge falls faster than the field does before it
_REACH = 16  # grid-independent pixels over which the blurred edge is followed


def validity_mask(stored: Float[Tensor, "H W"], encoding: Encoding) -> Bool[Tensor, "H W"]:
    """Pixels inside the collimated field, neither without counts (metal) nor part of burnt-in text.

    Direct exposure clipped at the top of the range stays valid: clipping is monotone, and "only air here" is worth knowing.

    The field is looked for as a convex region around the image's middle whose border drops sharply into a shadow that reaches
    the image's border: a round or a rectangular collimator, an image intensifier's circle, single blades. The blurred edge is
    left out. An image without a collimator keeps all its pixels.

    Raises
    ------
    InputError: a blank image, values that are not finite.
    """
    check_not_blank(stored)
    bright = brightness(stored, encoding).numpy()
    valid = ~_clipped(bright, encoding)
    level = _logarithm(bright, encoding)
    field = collimated(level)
    if field is not None:
        valid &= field
    return torch.from_numpy(valid)


def _logarithm(bright: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Something like the natural logarithm of the intensity, bounded below."""
    high = float(np.percentile(bright[::4, ::4], 99))
    if encoding.relationship == "LIN":
        high = high if high > 0 else float(bright.max())
        return np.log(np.maximum(bright, high * np.float32(np.exp(-_LOWEST)))).astype(np.float32)
    low = float(bright.min())
    return ((bright - low) * np.float32(_RANGE / max(high - low, 1e-12))).astype(np.float32)


# -- clipped values and text ------------------------------------------------------------------------------------------


def _clipped(bright: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Values without counts, and pixels of one extreme value that were written over the image (text)."""
    low, high = float(bright.min()), float(bright.max())
    bad = np.zeros(bright.shape, bool)
    if low <= 0:
        bad |= bright <= 0
    top = encoding.top
    if top is not None and high >= top:
        bad |= _written(bright, high)
    elif _stands_apart(bright, high, 1):
        bad |= bright >= high
    if low > 0 and _stands_apart(bright, low, -1):
        bad |= bright <= low
    if not bad.any():
        return bad
    # A single noisy pixel is just itself; what belongs to metal or to a letter has a blurred rim around it.
    crowd = bad & (ndimage.uniform_filter(bad.astype(np.float32), 3) > 0.3)
    return bad | ndimage.binary_dilation(crowd, iterations=2) if crowd.any() else bad


def _written(bright: np.ndarray, top: float) -> np.ndarray:
    """Small patches at the top of the range that rise from much darker surroundings; clipped direct exposure fades into them."""
    at = bright >= top
    patches, count = ndimage.label(at, np.ones((3, 3)))
    out = np.zeros(at.shape, bool)
    if count == 0:
        return out
    sizes = np.bincount(patches.ravel())
    spread = float(np.percentile(bright[::4, ::4], 99.5) - np.percentile(bright[::4, ::4], 0.5))
    for number, box in enumerate(ndimage.find_objects(patches), 1):
        if not 12 <= sizes[number] <= 0.005 * at.size:
            continue
        around = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in box)
        patch = patches[around] == number
        rim = ndimage.binary_dilation(patch, iterations=3) & ~at[around]
        if rim.any() and top - float(np.median(bright[around][rim])) > 0.25 * spread:
            out[around] |= patch
    return out


def _stands_apart(bright: np.ndarray, extreme: float, side: int) -> bool:
    """Whether the extreme value is written over the image: few pixels in thin strokes, a gap in the histogram below them.

    Strokes, because the open field of a noiseless simulation has one value too.
    """
    at = bright == extreme
    count = int(at.sum())
    if not 12 <= count <= 0.05 * bright.size:
        return False
    rest = bright[~at]
    nearest = float(rest.max() if side > 0 else rest.min())
    spread = float(np.percentile(rest[::7], 99.5) - np.percentile(rest[::7], 0.5))
    if abs(extreme - nearest) <= max(0.05 * spread, 2.0 if spread > 50 else 0.0):
        return False
    return not ndimage.binary_erosion(at, np.ones((3, 3)), iterations=max(3, min(bright.shape) // 100)).any()


# -- the collimator ---------------------------------------------------------------------------------------------------


def collimated(level: np.ndarray) -> np.ndarray | None:
    """[H, W] True inside the collimator's sharp part, or ``None`` where there is no collimator.

    ``level`` is the logarithm of the intensity. Every brightness between the darkest part of the image's border and its middle
    is tried as the threshold between shadow and field, and so are a circle and blades along the image's edges; the region whose
    border drops the most wins.
    """
    h, w = level.shape
    factor = max(1, -(-max(h, w) // _GRID))
    if min(h, w) // factor < 16:
        return None
    small = level[: h // factor * factor, : w // factor * factor].reshape(h // factor, factor, w // factor, factor).mean((1, 3))
    small = np.pad(small, 1, mode="edge")[1:-1, 1:-1] if factor > 2 else ndimage.uniform_filter(small, 3, mode="nearest")
    ring = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    dark, usual = float(np.percentile(ring, 3)), float(np.median(small[small.shape[0] // 4 : -small.shape[0] // 4]))
    if usual - dark < _STEP:
        usual = float(np.percentile(small, 90))
    if usual - dark < _STEP:
        return None
    shares = (0.08, 0.16, 0.25, 0.35, 0.46, 0.58, 0.7, 0.85)
    hulls = [_lit_polygon(small, dark + share * (usual - dark), factor) for share in shares]
    lit = [p for p in hulls if p is not None and _edge_score(level, p, factor, strict=True)]
    # Where dense tissue meets the edge, or scatter fills the shadow, no one threshold parts them; the edge still does.
    edges = [p for p in _along_edges(level, small, factor) if _in_shadow(level, p, factor) and _plausible(level, p, factor)]
    scored = [(_edge_score(level, p, factor, strict=False) or 0.0, p) for p in [*lit, *edges]]
    top = max((score for score, _ in scored), default=0.0)
    if top <= 0:
        return None
    # Of borders about as sharp, the one that leaves the least, as the others miss a blade or a corner; but every cut that it
    # makes must be a step into a shadow.
    sharp = sorted((p for score, p in scored if score >= 0.6 * top), key=lambda p: -int(p.fill((h, w)).sum()))
    polygon = sharp[0]
    for other in sharp[1:]:
        if _cuts_a_shadow(level, other, polygon, factor):
            polygon = other
    return polygon.shrunk(_blur_margin(level, polygon)).fill((h, w))


def _plausible(level: np.ndarray, polygon: Polygon, factor: int) -> bool:
    """A straight edge alone is easily the patient's: it must be a deep step all along, with a dark shadow behind it."""
    if len(polygon.offsets) > 1:
        return True
    everything = Polygon(polygon.normals, polygon.offsets + 1e6)
    return _edge_score(level, polygon, factor, strict=True) is not None and _cuts_a_shadow(level, polygon, everything, factor)


def _cuts_a_shadow(level: np.ndarray, smaller: Polygon, larger: Polygon, factor: int) -> bool:
    """Whether what ``smaller`` leaves out of ``larger`` lies in the shadow of a blade.

    The border that is only the smaller one's is a step; the border that is only the larger one's is none, for on both sides of
    it there would be shadow; and hardly anything beyond is as bright as the field, unless the step is deep and the same all
    along. The edge of the diaphragm or the spine is no such border: dense tissue that a real blade's edge ends is lit.
    """
    kept = smaller.fill(level.shape)[::factor, ::factor]
    thin = level[::factor, ::factor]
    beyond = larger.fill(level.shape)[::factor, ::factor] & ~kept
    if beyond.sum() < 0.004 * thin.size:
        return True
    dark = bool(kept.any()) and bool(np.percentile(thin[beyond], 90) <= np.median(thin[kept]))
    own = _step_within(level, smaller, larger, factor)
    if own is None:
        return dark
    drop, slope = own
    middle, beside, share = float(np.median(drop)), float(np.median(slope)), float((drop > 0.15 * _STEP).mean())
    if middle < 0.6 * _STEP or middle < 2 * beside or share < 0.85:
        return False
    # what leaks through a thin blade beside the patient may be bright; a step like that is no patient's
    unmistakable = middle > 1 and middle > 6 * beside and share > 0.97
    if not (dark or unmistakable):
        return False
    return not _ends_outside(level, smaller, larger, factor, middle)


def _step_within(level: np.ndarray, polygon: Polygon, other: Polygon, factor: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Drops and slopes along the part of a border that runs well inside another polygon."""
    found = _drops(level, polygon, factor)
    if found is None:
        return None
    inside = (found.points @ other.normals.T <= other.offsets - 3.0 * factor - 3).all(1)
    return (found.drop[inside], found.slope[inside]) if inside.sum() >= 8 else None


def _ends_outside(level: np.ndarray, smaller: Polygon, larger: Polygon, factor: int, step: float) -> bool:
    """Whether the larger border drops sharply too where it runs outside the smaller polygon."""
    found = _drops(level, larger, factor)
    if found is None:
        return False
    outside = (found.points @ smaller.normals.T > smaller.offsets + 3.0 * factor + 3).any(1)
    if outside.sum() < 8:
        return False
    drop, slope = found.drop[outside], found.slope[outside]
    return float(np.median(drop)) > max(0.3 * _STEP, 0.3 * step) and float(np.median(drop)) > 2 * float(np.median(slope))


def _along_edges(level: np.ndarray, small: np.ndarray, factor: int) -> list[Polygon]:
    """The circle, the blades that are real, and both together."""
    circle, blades = (None if p is None else p.enlarged(factor) for p in edge_apertures(small))
    while blades is not None:
        drops = _drops(level, blades, factor)
        if drops is None or len(blades.offsets) == 1:
            break
        share = np.array([_share(drops.drop[drops.side == k], drops.drop) for k in range(len(blades.offsets))])
        worst = int(share.argmin())
        if share[worst] >= 0.85:
            false = [k for k in range(len(share)) if not _cuts_a_shadow(level, blades, _without(blades, k), factor)]
            if not false:
                break
            depth = [float(np.median(drops.drop[drops.side == k])) if (drops.side == k).any() else 0.0 for k in false]
            worst = false[int(np.argmin(depth))]
        blades = _without(blades, worst)
    if circle is None or blades is None:
        return [p for p in (circle, blades) if p is not None]
    found, together = [circle, blades], both(circle, blades)
    drops = _drops(level, together, factor)
    if drops is not None:
        drop, blade = drops.drop, drops.side >= len(circle.offsets)
        cut = together.fill(level.shape).sum() / max(int(circle.fill(level.shape).sum()), 1)
        # an edge in the picture is no second shadow, and a chord of the circle's own edge is no blade
        if blade.any() and np.median(drop[blade]) > 0.4 * np.median(drop) and cut < 0.92:
            found.append(together)
    return found


def _without(polygon: Polygon, side: int) -> Polygon:
    keep = np.arange(len(polygon.offsets)) != side
    return Polygon(polygon.normals[keep], polygon.offsets[keep])


def _share(of_side: np.ndarray, of_all: np.ndarray) -> float:
    """How much of a side drops at all; nothing where the others drop far more."""
    if not of_side.size:  # behind another blade, and not judged while that one stands
        return 1.0
    if np.median(of_side) < 0.3 * np.median(of_all):
        return 0.0
    return float((of_side > 0.15 * _STEP).mean())


def _in_shadow(level: np.ndarray, polygon: Polygon, factor: int) -> bool:
    """Whether what lies outside is as dark as the darkest part inside: beyond the chest's wall it is not."""
    inside = polygon.fill(level.shape)[::factor, ::factor]
    thin = level[::factor, ::factor]
    if inside.all() or not inside.any():
        return False
    return float(np.median(thin[~inside])) < float(np.percentile(thin[inside], 10)) + 0.2


def _lit_polygon(small: np.ndarray, threshold: float, factor: int) -> Polygon | None:
    """Convex hull of the region around the middle that is brighter than a shadow touching the image's border."""
    shape = small.shape
    labels, count = ndimage.label(small < threshold)
    if not count:
        return None
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    touching = np.zeros(count + 1, bool)
    touching[edge] = True
    touching[0] = False
    shadow = touching[labels]
    if not 0.002 < shadow.mean() < 0.9:
        return None
    lit, _ = ndimage.label(~shadow)
    middle = lit[shape[0] // 3 : -(shape[0] // 3), shape[1] // 3 : -(shape[1] // 3)]
    sizes = np.bincount(middle.ravel(), minlength=lit.max() + 1)
    sizes[0] = 0
    chosen = lit == sizes.argmax()
    if sizes.max() < 0.5 * middle.size or chosen.mean() < 0.08:
        return None
    rows = np.flatnonzero(chosen.any(1))
    first, last = chosen[rows].argmax(1), shape[1] - 1 - chosen[rows, ::-1].argmax(1)
    # corners of the outermost pixels of every row, in the full image's pixel coordinates (centres at integers)
    ends = [np.stack([x + dx, rows + dy], 1) for x, dx in ((first, -0.5), (last, 0.5)) for dy in (-0.5, 0.5)]
    corners = (np.concatenate(ends) + 0.5) * factor - 0.5
    try:
        hull = ConvexHull(corners)
    except QhullError:
        return None
    if chosen.sum() * factor**2 < 0.93 * hull.volume:
        return None
    normals, offsets = hull.equations[:, :2], -hull.equations[:, 2]
    # edges on the image's own border are not the collimator's: move them out of the picture
    h, w = shape[0] * factor, shape[1] * factor
    for k in range(2):
        far = (w, h)[k] - 0.5
        on = ((normals[:, k] > 0.999) & (offsets > far - 0.6 * factor)) | ((normals[:, k] < -0.999) & (offsets > -0.6 * factor))
        offsets = np.where(on, offsets + 1e6, offsets)
    return Polygon(normals, offsets)


@dataclass(frozen=True, eq=False)
class _Border:
    """Points (column, row) of a polygon's border in the picture, the side that each is on, and levels across: [points, n]."""

    points: np.ndarray
    side: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True, eq=False)
class _Drops:
    """For points along a border: the drop over it, the slope beside it, where they are, and on which side of the polygon."""

    drop: np.ndarray
    slope: np.ndarray
    points: np.ndarray
    side: np.ndarray


def _profiles(level: np.ndarray, polygon: Polygon, distances: np.ndarray) -> _Border | None:
    """Levels along the outward normals of the polygon's border; ``None`` where hardly any of it is in the picture."""
    h, w = level.shape
    centre = np.array([w / 2, h / 2])
    theta = np.linspace(0, 2 * np.pi, 361)[:-1]
    rays = np.stack([np.cos(theta), np.sin(theta)], 1)
    rate = rays @ polygon.normals.T
    reach = np.where(rate > 1e-9, (polygon.offsets - polygon.normals @ centre) / np.where(rate > 1e-9, rate, 1), 1e9)
    side = reach.argmin(1)
    points = centre + rays * reach.min(1)[:, None]
    at = points[:, None] + distances[:, None] * polygon.normals[side][:, None]
    inside = ((at >= 0) & (at <= [w - 1, h - 1])).all((1, 2))
    if inside.sum() < 12:
        return None
    at = np.rint(at[inside]).astype(int)
    return _Border(points[inside], side[inside], level[at[..., 1], at[..., 0]])


def _drops(level: np.ndarray, polygon: Polygon, factor: int) -> _Drops | None:
    """The drops over a polygon's border; ``None`` where hardly any of it is in the picture."""
    near, far = 1.5 * factor + 1.5, 4.5 * factor + 4.5
    found = _profiles(
        level, polygon, np.array([-far, factor - far, -near - factor, -near, near, near + factor, far, far + factor])
    )
    if found is None:
        return None
    p = found.levels
    inner_far, inner, outer, outer_far = ((p[:, k] + p[:, k + 1]) / 2 for k in (0, 2, 4, 6))
    slope = np.maximum(np.abs(inner_far - inner), np.abs(outer - outer_far))
    return _Drops(inner - outer, slope, found.points, found.side)


def _edge_score(level: np.ndarray, polygon: Polygon, factor: int, strict: bool) -> float | None:
    """How sharply the level drops over the polygon's border; ``None`` where that is no collimator's edge.

    ``strict`` asks for a deep shadow along most of the border; without it a shallow one will do, but along nearly all of it.
    """
    found = _drops(level, polygon, factor)
    if found is None:
        return None
    drop, slope = found.drop, found.slope
    # A collimator's edge is a step: level on both sides. The body's outline goes on falling.
    least, ratio, share = (_STEP, 2.5, 0.8) if strict else (0.6 * _STEP, 2.0, 0.9)
    middle = float(np.median(drop))
    if middle < least or middle < ratio * np.median(slope) or (drop > least / 4 * (2 if strict else 1)).mean() < share:
        return None
    return middle - float(np.median(slope))


def _blur_margin(level: np.ndarray, polygon: Polygon) -> float:
    """Pixels by which to shrink the polygon so that the blurred edge is out, and two more."""
    distances = np.arange(-_REACH, _REACH + 1.0)
    found = _profiles(level, polygon, distances)
    if found is None:
        return 4.0
    profile = np.median(found.levels, 0)
    # Scatter thins out towards the edge over many pixels; the edge's own blur is where the level falls faster than that.
    falling = -np.gradient(profile)
    blurred = falling > max(float(np.median(falling[:6])), 0.0) + _FALLING
    first = int(falling.argmax())
    while first > 0 and blurred[first - 1]:
        first -= 1
    return float(np.clip(-distances[first], 0, _REACH - 2)) + 2.0
