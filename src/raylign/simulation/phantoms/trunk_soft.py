"""What lies around and within the bones: skin, fat and muscle of trunk and thighs, the abdominal cavity and its organs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.femur_shape import UpperFemur
from raylign.simulation.phantoms.field import Array, Ellipsoid, Union, curve, smooth_min
from raylign.simulation.phantoms.lumbar_shape import Spine, smooth_max
from raylign.simulation.phantoms.pelvis_shape import BonyPelvis
from raylign.simulation.phantoms.trunk_names import NUMBER
from raylign.simulation.phantoms.trunk_shape import SIDES, TrunkShape
from raylign.simulation.phantoms.trunk_webs import Points
from raylign.simulation.seeds import numpy_generator


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The bones of a trunk."""

    shape: TrunkShape
    pelvis: BonyPelvis
    femora: tuple[UpperFemur, UpperFemur]  # left, right
    spine: Spine


@dataclass(frozen=True, eq=False)
class Envelope:
    """The trunk's layers as stacks of ovals: rows (z, half width, front, back), mm, z descending."""

    muscle: NDArray[np.float64]
    skin: NDArray[np.float64]
    cavity: NDArray[np.float64]
    thigh_radius: float
    fat: float


def envelope(bones: Skeleton) -> Envelope:
    """Layers that hold the person's bones, as thick as the person is."""
    shape, soft = bones.shape, bones.shape.soft
    k = 1.0 if shape.person.female else 1.05
    half = shape.pelvis.hip_distance / 2
    out = max(f.points["greater_trochanter"][0] * f.side for f in bones.femora) + 11
    spine = {v.level: v for v in bones.spine.vertebrae}
    t11, l1, l3, l5 = (spine[level].centre for level in ("T11", "L1", "L3", "L5"))
    wall, m = soft.belly, soft.muscle
    rows = [
        (t11[2] + 40, 139 * k, t11[1] - 142 - 0.5 * wall, t11[1] + 64 * m),
        (l1[2], 136 * k, l1[1] - 118 - 0.8 * wall, l1[1] + 66 * m),
        (l3[2], 128 * k + 0.25 * wall, l3[1] - 100 - wall, l3[1] + 69 * m),
        (l5[2], 136 * k + 0.2 * wall, min(l5[1] - 88, -72) - wall, max(l5[1] + 76 * m, 88)),
        (60.0, half + 62, -74 - 0.7 * wall, 104.0),
        (20.0, half + 68, -63 - 0.35 * wall, 108.0),
        (-25.0, out, -58 - 0.1 * wall, 107.0),
        (-60.0, out + 2, -50.0, 98.0),
        (-100.0, out - 2, -52.0, 86.0),
    ]
    muscle = np.array(rows)
    f = soft.fat
    side, front, behind = _layer(muscle[:, 0], f)
    skin = muscle + np.stack([0 * side, side, -front, behind], 1)
    inner = [
        (t11[2] + 40, rows[0][1] - 22, rows[0][2] + 14, t11[1] + 18),
        (l1[2], rows[1][1] - 18, rows[1][2] + 13, l1[1] + 26),
        (l3[2], rows[2][1] - 16, rows[2][2] + 13, l3[1] + 22),
        (l5[2], rows[3][1] - 24, rows[3][2] + 13, l5[1] + 10),
        (60.0, half - 2, rows[4][2] + 14, 66.0),
        (20.0, half - 28, rows[5][2] + 16, 82.0),
        (-15.0, half - 36, -36.0, 66.0),
        (-40.0, half - 52, -20.0, 50.0),
    ]
    return Envelope(muscle, skin, np.array(inner), 69.0 * m * k, f)


def _layer(z: NDArray[np.float64], fat: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Thickness of the fat beside, before and behind: most at the hips and buttocks, least over the spine (lying on it)."""
    hips = np.exp(-(((z - 0) / 75) ** 2))
    return fat * (0.75 + 0.45 * hips), fat * (0.85 - 0.25 * hips), fat * (0.45 + 0.25 * hips) + 3


def oval(rows: NDArray[np.float64], square: float, xyz: tuple[Array, Array, Array]) -> Array:
    """Distance to a stack of ovals, between an ellipse (square 0) and a superellipse of degree four (1)."""
    x, y, z = xyz
    a, front, back = (v.reshape(z.shape).astype(np.float32) for v in curve(rows.tolist(), z.ravel()).T)
    b, c = (back - front) / 2, (back + front) / 2
    px, py = (x / a) ** 2, ((y - c) / b) ** 2
    s = np.float32(square)
    q = np.sqrt(px + py) * (1 - s) + np.sqrt(np.sqrt(px * px + py * py)) * s
    slope = np.sqrt(px / (a * a) + py / (b * b)) / np.maximum(np.sqrt(px + py), np.float32(1e-3))
    out: Array = (q - 1) / np.maximum(slope, np.float32(1 / 400))
    return out


def outlines(bones: Skeleton, layers: Envelope, xyz: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Distances to the muscles' envelope and to the skin, trunk and thighs together."""
    z = xyz[2]
    both = []
    for rows, thick in ((layers.muscle, 0.0), (layers.skin, 0.85 * layers.fat)):
        d = oval(rows, 0.42, xyz)
        low = np.flatnonzero(z.ravel() < 40)
        if len(low):
            part = slice(0, int(low[-1]) + 1)
            low_xyz = xyz[0], xyz[1], z[part]
            trunk = smooth_max(d[part], np.broadcast_to(-np.float32(58) - low_xyz[2], d[part].shape), 40)
            both_thighs = [_thigh(f, layers.thigh_radius + thick, low_xyz) for f in bones.femora]
            thighs = smooth_min(both_thighs[0], both_thighs[1], 12)
            d[part] = smooth_min(trunk, thighs, 34)
        both.append(d)
    return both[0], both[1]


def _thigh(femur: UpperFemur, radius: float, xyz: tuple[Array, Array, Array]) -> Array:
    """A cone around the shaft, wider on the inner side and behind."""
    u, v, w = femur.local(*xyz)
    u = u - np.float32(femur.size.offset - 25)
    v = v - np.float32(13)
    r = np.float32(radius) * (1 - np.clip(-w - 80, 0, 300) * np.float32(0.0007) - (np.clip(w + 30, 0, 120) / 100) ** 2)
    return np.asarray(np.sqrt(u * u + (v * np.float32(1.02)) ** 2) - r, np.float32)


def iliopsoas(union: Union, bones: Skeleton) -> None:
    """From T12 along the spine and over the pubis to the lesser trochanter, joined by the muscle that lines the ilium."""
    m = bones.shape.soft.muscle
    by = {v.level: v for v in bones.spine.vertebrae}
    for femur, (side, s) in zip(bones.femora, SIDES, strict=True):
        label = NUMBER[f"iliopsoas_{side}"]
        half = bones.shape.pelvis.hip_distance / 2
        path = [by["T12"].at((s * 24, 2, -8))[0]]
        path += [
            by[level].at((s * out, 2, 0))[0]
            for level, out in (("L1", 29.0), ("L2", 33.0), ("L3", 37.0), ("L4", 42.0), ("L5", 48.0))
        ]
        path += [
            np.array([s * (half - 22), -8.0, 70.0]),
            np.array([s * (half - 10), -38.0, 22.0]),
            np.array([s * (half + 4), -40.0, -8.0]),
        ]
        path += [femur.points["lesser_trochanter"] + [0, -6, 4]]
        union.tube(np.stack(path), np.array([4, 9, 13, 17, 20, 20, 19, 17, 14, 6.0]) * m, label)
        wing = np.array([[s * (half + 12), 10, 105.0], [s * (half + 4), 0, 70], [s * (half - 2), -22, 34]])
        union.band(wing, np.array([[8, 34], [10, 28], [11, 16.0]]) * m, np.tile([s * -0.75, -0.6, 0.2], (3, 1)), label)


def organs(union: Union, bones: Skeleton) -> None:
    """Kidneys, liver, spleen, vessels, bladder and what lies behind it."""
    shape = bones.shape
    by = {v.level: v.centre for v in bones.spine.vertebrae}
    l1, t11 = by["L1"], by["T11"]
    for side, s, dz in (("left", 1.0, 6.0), ("right", -1.0, -8.0)):
        union.ellipsoid(
            Ellipsoid((s * 62, l1[1] + 14, l1[2] + dz - 18), (27, 22, 54), (s * -0.25, 0.15, 1.0)), NUMBER[f"kidney_{side}"]
        )
    union.ellipsoid(Ellipsoid((-72, l1[1] - 52, t11[2] + 16), (64, 66, 78), (0.25, 0, 1)), NUMBER["liver"])
    union.ellipsoid(Ellipsoid((92, t11[1] - 2, t11[2] + 12), (28, 40, 50), (0.1, 0.2, 1)), NUMBER["spleen"])
    radius = (bones.shape.soft.bladder_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    front = -34.0
    union.ellipsoid(
        Ellipsoid((2, front + 0.9 * radius, -6 + 0.7 * radius), (1.18 * radius, 0.95 * radius, 0.9 * radius)),
        NUMBER["urinary_bladder"],
    )
    if shape.person.female:
        union.ellipsoid(Ellipsoid((-3, 24, 22 + 0.3 * radius), (24, 19, 33), (0, -0.6, 1)), NUMBER["uterus"])
    else:
        union.ellipsoid(Ellipsoid((0, 2, -22), (23, 16, 19)), NUMBER["prostate"])
    half = shape.pelvis.hip_distance / 2
    low, high = by["L4"], by["T11"]
    fork = low + np.array([7, -32, -6])
    line = np.stack(
        [high + np.array([6, -28, 40]), high + np.array([7, -28, 0]), by["L1"] + [9, -30, 0], by["L3"] + [8, -31, 0], fork]
    )
    union.tube(line, np.array([10.5, 10, 9.5, 9, 8.5]), NUMBER["aorta"])
    vein = np.stack(
        [high + np.array([-22, -34, 40]), by["L1"] + [-17, -30, 0], by["L3"] + [-18, -29, 0], by["L5"] + [-14, -24, 8]]
    )
    union.tube(vein, np.array([12, 11, 10.5, 10.0]), NUMBER["inferior_vena_cava"])
    for side, s in SIDES:
        path = np.array(
            [
                fork,
                fork + np.array([s * 26, 18, -46]),
                [s * (half - 34), 8, 64],
                [s * (half - 22), -36, 18],
                [s * (half - 6), -50, -14],
                [s * (half + 4), -44, -70],
            ]
        )
        path = np.concatenate([path, [[s * (half + 8), -28, -150]]])
        union.tube(path, np.array([6.0, 5.6, 5.2, 5.0, 4.6, 4.2, 3.8]), NUMBER[f"iliac_artery_{side}"])


def plaques(union: Union, bones: Skeleton, label: int) -> None:
    """Calcium in the wall of the aorta and the iliac arteries, by age."""
    amount = bones.shape.soft.aortic_calcium
    rng = numpy_generator(bones.shape.seed, 7)
    by = {v.level: v.centre for v in bones.spine.vertebrae}
    top, fork = by["L1"] + [9, -30, 0], by["L4"] + [7, -32, -6]
    for _ in range(int(30 * amount)):
        t, angle = rng.uniform(0, 1), rng.uniform(0, 2 * np.pi)
        p = top + (fork - top) * t + 9.0 * np.array([np.cos(angle), np.sin(angle), 0])
        q = p + np.array([-np.sin(angle) * 3, np.cos(angle) * 3, rng.normal(0, 5)])
        union.tube(np.stack([p, q]), rng.uniform(0.5, 1.2), label)


def bowel(wall: Union, gas: Union, bones: Skeleton) -> None:
    """Colon, rectum and loops of small bowel, each with some of its gas in front (the patient lies on the back)."""
    rng, shape = numpy_generator(bones.shape.seed, 8), bones.shape
    by = {v.level: v.centre for v in bones.spine.vertebrae}
    belly = shape.soft.belly
    side = 98.0 + 0.12 * belly

    def jitter(p: Points, sigma: float) -> Points:
        return np.asarray(p, float) + rng.normal(0, sigma, (len(p), 3))

    top = float(by["L1"][2])
    rectum = jitter(np.array([[0, 44, -38], [0, 44, -12], [2, 53, 18], [4, 51, 46], [10, 36, 66]]), 3)
    sigmoid = jitter(np.array([rectum[-1], [30, 14, 70], [6, -12, 62], [36, -18, 74], [74, 0, 92], [side - 8, 6, 122]]), 8)
    sigmoid[0] = rectum[-1]
    descending = jitter(np.array([sigmoid[-1], [side, 16, 150], [side + 4, 24, 190], [side - 2, 26, top]]), 6)
    descending[0] = sigmoid[-1]
    ascending = jitter(
        np.array([[-74, -8, 62], [-side + 8, 4, 92], [-side, 14, 140], [-side, 20, 190], [-side + 8, 20, top - 6]]), 6
    )
    front = -58.0 - 0.75 * belly
    transverse = jitter(
        np.array([ascending[-1], [-58, front, top - 26], [0, front - 6, top - 40], [56, front, top - 14], descending[-1]]), 8
    )
    transverse[0], transverse[-1] = ascending[-1], descending[-1]
    for path, radius, name, share in (
        (rectum, 16.0, "rectum", 0.45), (sigmoid, 13.0, "colon", 0.35), (descending, 14.0, "colon", 0.25),
        (ascending, 22.0, "colon", 0.45), (transverse, 19.0, "colon", 0.5),
    ):  # fmt: skip
        dense, radii = _haustra(path, radius, rng)
        wall.tube(dense, radii, NUMBER[name])
        _bubbles(gas, dense, radii, share * shape.soft.gas, rng)
    for _ in range(52):
        start = np.array([rng.uniform(-62, 62), rng.uniform(-48 - 0.6 * belly, -4), rng.uniform(16, top - 60)])
        turn = rng.normal(0, 1, 3) * [1, 0.5, 0.6]
        path = start + np.cumsum(np.concatenate([[np.zeros(3)], rng.normal(0, 9, (3, 3)) + 20 * turn / np.linalg.norm(turn)]), 0)
        path[:, 1] = np.minimum(path[:, 1], 2.0)
        radii = np.full(4, rng.uniform(8.5, 13))
        wall.tube(path, radii, NUMBER["small_bowel"])
        if rng.random() < 0.18 * shape.soft.gas:
            dense, wide = _haustra(path, float(radii[0]), rng)
            _bubbles(gas, dense, wide, 0.5, rng)


def _haustra(path: Points, radius: float, rng: np.random.Generator) -> tuple[Points, NDArray[np.float64]]:
    """A smooth curve through the points whose calibre swells and narrows."""
    from scipy.interpolate import PchipInterpolator

    t = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    s = np.arange(0, t[-1], 5.0)
    line = np.asarray(PchipInterpolator(t, path)(s))
    for _ in range(6):
        line[1:-1] = 0.25 * line[:-2] + 0.5 * line[1:-1] + 0.25 * line[2:]
    wave = np.abs(np.sin(s * np.pi / 24 + rng.uniform(0, 6) + 0.4 * np.cumsum(rng.normal(0, 0.25, len(s)))))
    wide = np.convolve(rng.normal(0, 0.5, len(s) + 16), np.hanning(17) / 8, "valid")[: len(s)]
    return line, radius * np.clip(0.74 + 0.34 * wave + 0.5 * wide, 0.55, 1.5)


def _bubbles(gas: Union, path: Points, radii: NDArray[np.float64], share: float, rng: np.random.Generator) -> None:
    """Gas in stretches of a bowel, where it lies highest: in front; small bubbles in what lies between."""
    i, n = 0, len(path)
    while i < n - 1:
        run = int(rng.integers(3, 14))
        part = slice(i, min(i + run + 1, n))
        if rng.random() < share:
            m = part.stop - part.start
            size = rng.uniform(0.5, 0.9) * np.clip(np.hanning(m + 2)[1:-1] * 3, 0.35, 1) * rng.uniform(0.7, 1.05, m)
            up = (radii[part] * np.maximum(0.93 - size, 0))[:, None] * np.array([0.0, -1.0, 0.0])
            gas.tube(path[part] + up, radii[part] * size, NUMBER["bowel_gas"])
        else:
            for j in range(part.start, part.stop):
                for _ in range(int(rng.poisson(2.2))):
                    p = path[j] + rng.normal(0, 0.42, 3) * radii[j]
                    gas.tube(np.stack([p, p + rng.normal(0, 1.5, 3)]), float(rng.gamma(2.0, 0.8)), NUMBER["bowel_gas"])
        i += run
