"""The course of every artery from a person's measures, and how it wanders: what ``aorta_course`` draws trees with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.aorta_frame import TrunkShape
from raylign.simulation.phantoms.aorta_root import Root, root_at
from raylign.simulation.phantoms.aorta_sizes import AortaSizes
from raylign.simulation.phantoms.aorta_tubes import Tube, arc_length, course

Points = NDArray[np.float64]
SIDES = (("left", 1.0), ("right", -1.0))


@dataclass(frozen=True, eq=False)
class Tree:
    """All arteries of a person.

    Parameters
    ----------
    root: the aortic root.
    tubes: parents before children.
    bovine: whether the left common carotid leaves the brachiocephalic trunk.
    wander: the part of the drawn tortuosity that was kept, 0 to 1.
    """

    root: Root
    tubes: tuple[Tube, ...]
    bovine: bool
    wander: float

    def __getitem__(self, name: str) -> Tube:
        return next(t for t in self.tubes if t.name == name)


def vector(x: float, y: float, z: float) -> Points:
    """One step in mm."""
    return np.array([x, y, z], float)


def steps(base: Points, *offsets: tuple[float, float, float]) -> list[Points]:
    """Places given by their offsets from one point."""
    return [base + vector(*offset) for offset in offsets]


def _rounded(points: Points, last: int, stiffness: float) -> Points:
    """The first ``last`` points of a curve bent like a stiff rod held at both ends (a discrete smoothing spline)."""
    from scipy.linalg import solveh_banded

    n = last + 1
    hold = np.ones(n)
    hold[:2] = hold[-3:] = 1e4
    # second differences squared: rows (1, -2, 1), as the upper bands of a symmetric matrix
    bands = np.zeros((3, n))
    bands[0, 2:] = 1
    bands[1, 1:-1] -= 2
    bands[1, 2:] -= 2
    bands[2, :-2] += 1
    bands[2, 1:-1] += 4
    bands[2, 2:] += 1
    bands *= stiffness
    bands[2] += hold
    out = points.copy()
    out[:n] = solveh_banded(bands, hold[:, None] * points[:n])
    return out


class Builder:
    """Random numbers drawn once, so that a smaller wander is the same person, straighter."""

    def __init__(self, trunk: TrunkShape, sizes: AortaSizes, rng: np.random.Generator) -> None:
        self.trunk, self.sizes = trunk, sizes
        self.jitter = np.clip(rng.normal(size=(64, 3)), -2, 2)
        self.phases = rng.uniform(-np.pi, np.pi, size=(32, 2, 3))
        self.strengths = np.clip(rng.normal(size=(32, 2, 3)), -1.8, 1.8)
        self.turn = float(np.clip(rng.normal(0, 9), -18, 18))
        pattern = float(rng.random())
        self.bovine = pattern < 0.136
        self.vertebral = 0.136 <= pattern < 0.164

    def tree(self, kept: float) -> Tree:
        """All tubes with a part of the wander."""
        self.kept, self.streams = kept, 0
        root, aorta = self._aorta()
        tubes = [aorta, *self._coronaries(root), *self._arch(aorta), *self._abdomen(aorta)]
        for side, s in SIDES:
            tubes += self._leg(aorta, side, s)
        return Tree(root, tuple(tubes), self.bovine, kept)

    def _around_spine(self, z: float, angle: float, gap: float) -> Points:
        """A point beside a vertebral body: ``angle`` from its front (degrees, to the left), ``gap`` off its surface."""
        x, y = self.trunk.spine(z)
        a, b = self.trunk.vertebra(z)
        turn = np.radians(angle)
        return np.array([float(x) + (a + gap) * np.sin(turn), float(y) - (b + gap) * np.cos(turn), z])

    def _wander(self, points: Points, reach: float, waves: float) -> Points:
        """A slow sideways wander that vanishes at both ends, ``reach`` mm at a tortuosity of 1."""
        stream = self.streams
        self.streams += 1
        s = arc_length(points)
        t = s / s[-1]
        along = np.gradient(points, s, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        first = np.cross(along, [0.0, 0.0, 1.0]) + 1e-6
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        pair = (first, np.cross(along, first))
        window = np.sin(np.pi * t) ** 0.7
        out = points.copy()
        for side in range(2):
            wave = sum(
                self.strengths[stream, side, n]
                / (n + 1) ** 1.3
                * np.sin(np.pi * waves * (n + 1) * t + self.phases[stream, side, n])
                for n in range(3)
            )
            out += pair[side] * (window * wave * reach * self.kept * self.sizes.tortuosity)[:, None]
        return out

    def _off_spine(self, points: Points, radii: Points) -> Points:
        """Points pushed sideways out of the vertebral bodies; what lies away from the spine stays."""
        out = points.copy()
        x, y = self.trunk.spine(points[:, 2])
        a, b = self.trunk.vertebra(points[:, 2])
        off = radii + self.sizes.wall + 1.0
        q = np.sqrt(((points[:, 0] - x) / (a + off)) ** 2 + ((points[:, 1] - y) / (b + off)) ** 2)
        push = np.where((q < 1) & (points[:, 2] > -60), 1 / np.maximum(q, 0.3), 1.0)
        out[:, 0], out[:, 1] = x + (points[:, 0] - x) * push, y + (points[:, 1] - y) * push
        out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
        return out

    def _aorta(self) -> tuple[Root, Tube]:
        """Annulus to bifurcation in one curve."""
        t, r, j = self.trunk, self.sizes.radius, self.jitter
        k, wide = t.stature, (1 + self.sizes.unfolding) * t.chest
        apex = t.height("T4") + 6 + 60 * self.sizes.unfolding + 5 * j[0, 0]
        _, back = t.spine(apex - 60)
        y = float(back)
        lean, swing = np.radians(self.sizes.root_angle), np.radians(28 + 7 * j[1, 0])
        up = np.array([-np.sin(lean) * np.cos(swing), -np.sin(lean) * np.sin(swing), np.cos(lean)])
        base = np.array([2 + 4 * j[2, 0], y - 60 * wide + 3 * j[2, 1], apex - 86 * k - 4 * j[2, 2] - 90 * self.sizes.unfolding])
        root = root_at(base, up, self.sizes, self.turn)
        low = 0.58 * self.sizes.root_height
        arch = np.array([
            root.centre + low * up, root.junction,
            root.junction + np.array([-8 + 2 * j[3, 0], -3 + 2 * j[3, 1], 30 * k]),
            [-13 * wide + 2 * j[4, 0], y - 54 * wide, apex - 9],
            [1 + 2 * j[5, 0], y - 31 * wide, apex],
            [15 + 2 * j[6, 0], y - 12 * wide, apex - 12],
        ])  # fmt: skip
        gap = r["descending"] + self.sizes.wall + 2.0
        rows = [
            (t.height("T6") + 14, 78.0, gap),
            (t.height("T8"), 60.0 + 6 * j[7, 0], gap),
            (t.height("T10"), 36.0 + 6 * j[7, 1], gap),
        ]
        rows += [(t.height("T12"), 15.0, gap - 1), (t.height("L1") - 8, 12.0 + 4 * j[7, 2], r["infrarenal"] + 4.5)]
        rows += [
            (t.height("L3"), 12.0 + 5 * j[8, 0], r["infrarenal"] + 4.5),
            (self.sizes.bifurcation, 4.0 + 4 * j[8, 1], r["lower"] + 4),
        ]
        knots = np.concatenate([arch, np.stack([self._around_spine(*row) for row in rows])])
        asc, desc = r["ascending"], r["descending"]
        radii = [0.52 * r["junction"], r["junction"], asc, 0.93 * asc, 0.5 * (0.95 * asc + desc), 1.04 * desc]
        radii += [
            desc,
            desc,
            0.96 * desc,
            0.5 * (desc + r["infrarenal"]) + 0.6,
            r["infrarenal"] + 0.5,
            r["infrarenal"],
            r["lower"],
        ]
        points, widths = course(knots, radii)
        points = _rounded(points, int(np.argmin(np.linalg.norm(points - knots[7], axis=1))), 150.0)
        below = np.flatnonzero(points[:, 2] < t.height("T6"))
        below = below[below > len(points) // 3]
        points[below] = self._wander(points[below], 2.6, 2.5)
        points[below] = self._off_spine(points[below], widths[below])
        if self.sizes.aneurysm:
            middle = 0.5 * (t.height("L2") + self.sizes.bifurcation) - 4
            bulge = (
                self.sizes.aneurysm * np.exp(-(((points[:, 2] - middle) / 24) ** 2)) * (np.arange(len(points)) > len(points) // 2)
            )
            points[:, 1] -= 0.6 * bulge  # it grows away from the spine
            widths = widths + bulge
        return root, Tube("aorta", points, widths)

    def _branch(
        self, name: str, parent: Tube, knots: list[Points], radii: list[float], wander: tuple[float, float] = (0.0, 1.0)
    ) -> Tube:
        points, widths = course(np.array(knots), radii, 1.5)
        if wander[0]:
            points = self._wander(points, *wander)
        return Tube(name, points, widths, parent.name, float(np.clip(0.7 * widths[0], 1.2, 3.0)))

    def _coronaries(self, root: Root) -> list[Tube]:
        """Their first centimetres."""
        j = self.jitter
        out = []
        for cusp, name in ((0, "coronary_artery_right"), (1, "coronary_artery_left")):
            mouth = root.ostium(cusp)
            away = mouth - root.place(0, 0, self.sizes.ostia[cusp])
            away /= np.linalg.norm(away)
            start = mouth - 3.0 * away
            if cusp == 0:
                reaches = [(8, (0, 0, 0)), (14, (-9, 0, -3)), (15, (-19, 2, -13)), (12, (-24, 6, -28)), (4, (-24, 14, -44))]
                widths = [2.1, 1.9, 1.8, 1.7, 1.6, 1.5]
            else:
                reaches = [(7, (0, 0, 0)), (13, (3, -4, 0)), (17, (10, -14, -4)), (17, (18, -24, -14)), (14, (25, -31, -28))]
                widths = [2.4, 2.2, 2.0, 1.8, 1.6, 1.5]
            knots = [start, *(mouth + d * away + np.array(shift, float) * (1 + 0.06 * j[9 + cusp, 0]) for d, shift in reaches)]
            aorta = Tube("aorta", np.zeros((2, 3)), np.ones(2))
            out.append(self._branch(name, aorta, knots, widths))
            if cusp == 1:
                fork = knots[2]
                turn = [fork, *steps(fork, (10, 1, -5), (20, 5, -14), (25, 9, -27))]
                out.append(self._branch("circumflex_artery", out[-1], turn, [1.7, 1.7, 1.6, 1.5]))
        return out

    def _arch(self, aorta: Tube) -> list[Tube]:
        """Brachiocephalic trunk, carotids, subclavian arteries."""
        j, r = self.jitter, self.sizes.radius
        half = len(aorta.points) // 2
        top = int(np.argmax(aorta.points[:half, 2]))
        s = arc_length(aorta.points)

        def mouth(ahead: float) -> Points:
            point: Points = aorta.points[int(np.searchsorted(s, s[top] + ahead))]
            return point

        bc, ca, su = r["brachiocephalic"], r["carotid"], r["subclavian"]
        a, b, c = mouth(-21 + 2 * j[12, 0]), mouth(-4 + 2 * j[12, 1]), mouth(13 + 2 * j[12, 2])
        f = self.trunk.stature
        trunk = [a, *steps(a, (-3, 3, 22 * f), (-9, 7, 38 * f), (-14 + 2 * j[13, 0], 10, (54 + 4 * j[13, 1]) * f))]
        out = [self._branch("brachiocephalic_trunk", aorta, trunk, [bc, bc, bc, 0.95 * bc], (0.7, 2))]
        end = out[0].points[-1]
        up = [*steps(end, (3, -2, -8), (2, -2, 8), (2, -3, 34 * f), (-2, 0, 62 * f), (-4, 3, 85 * f))]
        out.append(self._branch("common_carotid_artery_right", out[0], up, [ca] * 5, (1.2, 2)))
        over = [
            *steps(end, (3, -1, -8), (-10, 1, 8), (-30, 4, 16), (-54, 2, 11), (-74, 2, 2), (-90, 4, -8)),
        ]
        out.append(self._branch("subclavian_artery_right", out[0], over, [su, su, su, 0.95 * su, 0.9 * su, 0.85 * su]))
        first = out[0].at(0.42) if self.bovine else b
        rise = 18 if self.bovine else 26
        up = [first, *steps(b, (6, -2, rise * f), (13, -4, 60 * f), (18, -2, 100 * f), (21, 2, 135 * f))]
        out.append(self._branch("common_carotid_artery_left", out[0] if self.bovine else aorta, up, [ca] * 5, (1.2, 2)))
        over = [
            c,
            *steps(c, (5, 4, 24 * f), (12, 4, 46 * f), (34, 2, 60 * f), (60, 0, 56 * f), (80, 0, 46 * f), (97, 3, 33 * f)),
        ]
        out.append(self._branch("subclavian_artery_left", aorta, over, [su, su, su, su, 0.95 * su, 0.9 * su, 0.85 * su]))
        if self.vertebral:
            d = 0.5 * (b + c)
            up = [d, *steps(d, (-1, 3, 26 * f), (-2, 10, 60 * f), (-1, 14, 105 * f))]
            out.append(self._branch("vertebral_artery_left", aorta, up, [2.2, 2.0, 1.9, 1.9]))
        return out

    def _abdomen(self, aorta: Tube) -> list[Tube]:
        """Coeliac trunk, mesenteric and renal arteries."""
        t, r, j = self.trunk, self.sizes.radius, self.jitter
        half = len(aorta.points) // 2

        def centre(z: float) -> Points:
            point: Points = aorta.points[half + int(np.argmin(np.abs(aorta.points[half:, 2] - z)))]
            return point

        level = t.height("L1") + 0.5 * t.pitch("L1") + 3.5 * j[16, 0]
        c, m = centre(level), centre(level - self.sizes.mesenteric_gap)
        ro, rm, rr = r["coeliac"], r["mesenteric"], r["renal"]
        out = [self._branch("celiac_trunk", aorta, [c, *steps(c, (1, -16, -3), (0, -27, -2), (-2, -33, 0))], [ro] * 4)]
        e = out[0].points[-1]
        left = [*steps(e, (-2, 4, 0), (12, -1, 4), (34, 6, 0), (54, 22, 8), (78, 40, 16), (94, 46, 24))]
        out.append(self._branch("splenic_artery", out[0], left, [2.7, 2.7, 2.6, 2.4, 2.2, 2.0], (1.6, 5)))
        right = [*steps(e, (2, 4, 0), (-12, -1, -3), (-30, 2, -7), (-44, 4, 4), (-60, 5, 22))]
        out.append(self._branch("common_hepatic_artery", out[0], right, [2.6, 2.5, 2.4, 2.1, 1.8], (1.0, 3)))
        away = 10 + 0.7 * (self.sizes.aneurysm)
        down = [
            m,
            *steps(
                m,
                (0, -15, -6),
                (-1, -24 - 0.4 * away, -26),
                (-3, -28 - away, -58),
                (-7, -31 - away, -92),
                (-18, -32 - away, -125),
            ),
        ]
        out.append(
            self._branch("superior_mesenteric_artery", aorta, down, list(rm * np.array([1, 1, 0.95, 0.85, 0.7, 0.55])), (1.2, 2))
        )
        for n, (side, s) in enumerate(SIDES):
            low = min(t.height("L1") - 0.3 * t.pitch("L1") + 3 * j[17 + n, 0], m[2] - 6)
            k = centre(low)
            back = 9 if side == "right" else 6
            way = [
                k,
                *steps(
                    k,
                    (s * 16, -4, -3),
                    (s * 31, back - 2, -8 + 2 * j[17 + n, 1]),
                    (s * 46, back + 13, -12),
                    (s * 59, back + 22, -11),
                ),
            ]
            out.append(self._branch(f"renal_artery_{side}", aorta, way, list(rr * np.array([1.05, 1, 1, 0.9, 0.75])), (0.9, 2)))
        i = centre(max(t.height("L3") - 0.25 * t.pitch("L3"), self.sizes.bifurcation + 22))
        out_by = float(np.interp(i[2], aorta.points[half:, 2][::-1], aorta.radii[half:][::-1]))
        fall = [
            i,
            *steps(
                i,
                (0.55 * out_by + 2, -0.85 * out_by - 3, -4),
                (15, -out_by - 5, -25),
                (26, -out_by - 4, -55),
                (33, -out_by + 2, -85),
            ),
        ]
        out.append(self._branch("inferior_mesenteric_artery", aorta, fall, [2.0, 1.9, 1.8, 1.7, 1.6], (0.8, 2)))
        return out

    def _leg(self, aorta: Tube, side: str, s: float) -> list[Tube]:
        """Common, internal and external iliac, common femoral with its two branches."""
        r, j, k, w = self.sizes.radius, self.jitter[30 if s > 0 else 40 :], self.trunk.stature, self.trunk.pelvis
        end = aorta.points[-1]
        ci, ei, ii, fe = (r[name] for name in ("common_iliac", "external_iliac", "internal_iliac", "femoral"))
        fork = np.array([s * (34 + 2.5 * j[0, 0]) * w, 3 + 3 * j[0, 1], (-45 + 5 * j[0, 2]) * k + 0.25 * end[2]])
        _, front = self.trunk.spine(0.5 * (end[2] + fork[2]))
        middle = 0.5 * (end + fork) + np.array([s * 1.5, -2.0, 2.0])
        middle[1] = min(middle[1], float(front) - 17 - ci - 5 + 0.35 * abs(middle[0]))
        start = end + np.array([-s * 0.5, 0.0, 3.0])
        common, widths = course(
            np.stack([start, end + vector(s * 0.52 * r["lower"] + s * 1.0, -0.5, -7.0), middle, fork]),
            [0.94 * ci, ci, ci, 0.97 * ci],
        )
        common = self._wander(common, 1.8, 2)
        out = [Tube(f"common_iliac_artery_{side}", common, widths, aorta.name, 2.5)]
        before = common[-4]
        hip = self.trunk.hip(s)
        groin = hip + vector(-s * (16 + 2 * j[1, 0]), -48 + 2 * j[1, 1], 15)
        split = hip + vector(-s * (11 + 2 * j[2, 0]), -48 + 2 * j[2, 1], -30 + 6 * j[2, 2])
        drop = fork + vector(s * (9 + j[3, 0]) * w, -3 + 2 * j[3, 1], -21 * k)
        brim = 0.5 * (drop + groin) + np.array([-s * 6, 1.0, 4.0])
        near = groin + np.array([-s * 10, 10.0, 15.0])
        outer, widths = course(np.stack([before, fork, drop, brim, near, groin]), [0.97 * ci, 1.08 * ei, ei, ei, ei, 0.98 * ei])
        outer = self._wander(outer, 2.4, 3)
        out.append(Tube(f"external_iliac_artery_{side}", outer, widths, out[0].name, 1.6))
        femoral, widths = course(
            np.stack([outer[-4], groin, 0.5 * (groin + split) + [0, -2, 0], split]), [ei, fe, 1.02 * fe, 1.04 * fe]
        )
        out.append(Tube(f"common_femoral_artery_{side}", femoral, widths, out[1].name, 1.6))
        inner = [before, *steps(fork, (-s * 1, 11, -9), (s * 2, 23 + 2 * j[4, 0], -26), (s * 5, 33, -42 + 3 * j[4, 1]))]
        out.append(self._branch(f"internal_iliac_artery_{side}", out[0], inner, [0.8 * ci, ii, 0.95 * ii, 0.85 * ii], (0.7, 2)))
        tip = out[-1].points[-1]
        rear = [
            out[-1].points[-4],
            *steps(tip, (s * 1, 8, -6), (s * 6, 22, -14), (s * 20, 34, -22), (s * 36, 38, -22)),
        ]
        out.append(self._branch(f"superior_gluteal_artery_{side}", out[3], rear, [0.75 * ii, 0.72 * ii, 0.65 * ii, 2.0, 1.7]))
        fore = [out[3].points[-4], *steps(tip, (-s * 1, 1, -10), (-s * 1, 1, -32), (s * 4, 8, -54), (s * 8, 18, -72))]
        out.append(
            self._branch(f"internal_pudendal_artery_{side}", out[3], fore, [0.75 * ii, 0.7 * ii, 0.6 * ii, 1.8, 1.6], (0.8, 2))
        )
        low = [
            femoral[-4],
            *steps(split, (-s * 1, -1, -8), (-s * 5, -2, -40), (-s * 9, 1, -70), (-s * 13, 4, -95)),
        ]
        out.append(
            self._branch(f"superficial_femoral_artery_{side}", out[2], low, [fe, 0.8 * fe, 0.76 * fe, 0.72 * fe, 0.7 * fe])
        )
        deep = [
            femoral[-4],
            *steps(split, (s * 5, 4, -9), (s * 12, 14, -30), (s * 13, 21, -58), (s * 14, 24, -80)),
        ]
        out.append(
            self._branch(f"deep_femoral_artery_{side}", out[2], deep, [0.8 * fe, 0.68 * fe, 0.6 * fe, 0.52 * fe, 0.42 * fe])
        )
        return out
