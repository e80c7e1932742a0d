"""What the bones of the trunk are made of: the thickness of their compact shell and the density of the spongy bone within."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raylign.simulation.phantoms.femur_shape import UpperFemur, shell_mm
from raylign.simulation.phantoms.field import Array
from raylign.simulation.phantoms.lumbar_shape import Vertebra
from raylign.simulation.phantoms.trunk_shape import SIDES
from raylign.simulation.phantoms.trunk_soft import Skeleton
from raylign.simulation.phantoms.trunk_webs import Web

Inside = Callable[[tuple[Array, Array, Array], Array], tuple[Array | float, Array | float]]


@dataclass(frozen=True, eq=False)
class Compact:
    """A bone: its solid, HU of its compact shell, and ``inside(xyz, distance)``: shell in mm and HU of the spongy bone."""

    name: str
    web: Web
    cortex: float
    inside: Inside


def compact_bones(bones: Skeleton) -> list[Compact]:
    """Every bone of a trunk but the ribs, from the sacrum outwards."""
    shape = bones.shape
    spongy, hard = shape.trabecular, shape.cortical
    out = [Compact("sacrum", bones.pelvis.webs["sacrum"], 900 * hard, _plain(1.0, 0.85 * spongy + 25))]
    for v in bones.spine.vertebrae:
        out.append(Compact(f"vertebrae_{v.level}", v.web, 950 * hard, _vertebra(v, spongy)))
    for (side, _), femur in zip(SIDES, bones.femora, strict=True):
        out.append(
            Compact(f"hip_{side}", bones.pelvis.webs[f"hip_{side}"], 1120 * hard, _hip(femur, bones.pelvis.cup_radius, spongy))
        )
        out.append(Compact(f"femur_{side}", femur.web, 1320 * hard, _femur(femur, spongy)))
    return out


def _plain(shell: float, marrow: float) -> Inside:
    return lambda _xyz, _distance: (shell, marrow)


def _vertebra(it: Vertebra, spongy: float) -> Inside:
    """A thin shell about the body with denser endplates, a thick one about the arch."""

    def inside(xyz: tuple[Array, Array, Array], distance: Array) -> tuple[Array, Array]:
        r = [a - np.float32(c) for a, c in zip(xyz, it.centre, strict=True)]
        v, w = (r[0] * np.float32(e[0]) + r[1] * np.float32(e[1]) + r[2] * np.float32(e[2]) for e in it.axes[1:])
        behind = np.clip((v - np.float32(it.size[1] / 2 - 3)) / np.float32(5), 0, 1)
        plate = np.clip((np.abs(w) - np.float32(it.size[2] / 2 - 4)) / np.float32(3), 0, 1) * (1 - behind)
        shell = np.float32(0.8) + np.float32(0.5) * plate + np.float32(0.5) * behind
        return shell, np.float32(spongy + 35) + np.float32(70) * plate + np.float32(60) * behind

    return inside


def _hip(femur: UpperFemur, cup: float, spongy: float) -> Inside:
    """Dense over the acetabulum, where the weight goes; thin-walled wing."""

    def inside(xyz: tuple[Array, Array, Array], distance: Array) -> tuple[Array, Array]:
        rx, ry, rz = (a - np.float32(c) for a, c in zip(xyz, femur.centre, strict=True))
        r = np.sqrt(rx * rx + ry * ry + rz * rz) - np.float32(cup)
        roof = np.exp(-np.maximum(r, 0) / np.float32(9)) * np.clip(rz / np.float32(cup) + np.float32(0.5), 0, 1)
        near = np.exp(-((r / np.float32(3)) ** 2))
        up = np.clip(rz / np.float32(cup), -1, 1)
        shell = np.float32(1.45) - np.float32(0.45) * np.minimum(up, 0) + np.float32(0.9) * near * np.maximum(up, 0)
        return shell, np.float32(0.9 * spongy + 25) + np.float32(330) * roof

    return inside


def _femur(femur: UpperFemur, spongy: float) -> Inside:
    """Groups of trabeculae: from the head to the calcar (pressure), from the head over the neck to the far side (tension)."""
    size = femur.size
    head = size.head_radius
    calcar = np.array([0.66 * size.offset, -1.9 * head])

    def inside(xyz: tuple[Array, Array, Array], distance: Array) -> tuple[Array, Array]:
        u, v, w = femur.local(*xyz)
        shell = shell_mm(femur, u, w)
        r2 = u * u + v * v + w * w
        in_head = np.clip((np.float32(head * 1.1) - np.sqrt(r2)) / 6, 0, 1)
        n = np.array([calcar[0] - 0.1 * head, calcar[1] - 0.8 * head])
        n = n / np.linalg.norm(n)
        across = (u - np.float32(0.1 * head)) * np.float32(-n[1]) + (w - np.float32(0.8 * head)) * np.float32(n[0])
        pressure = np.exp(-((across / np.float32(0.38 * head)) ** 2)) * np.clip((w + np.float32(2.0 * head)) / 12, 0, 1)
        arc = np.sqrt((u - np.float32(0.35 * size.offset)) ** 2 + (w + np.float32(1.9 * head)) ** 2)
        tension = np.exp(-(((arc - np.float32(1.55 * head)) / np.float32(0.25 * head)) ** 2)) * (w > -2.2 * head)
        canal = np.clip((-w - np.float32(1.6 * head)) / np.float32(22), 0, 1)
        sponge = np.float32(0.55 * spongy + 10) + np.float32(0.75 * spongy + 60) * np.maximum(
            in_head * np.float32(0.75), pressure
        )
        sponge = sponge + np.float32(0.45 * spongy + 30) * tension
        return shell, (sponge * (1 - canal) + np.float32(-20) * canal).astype(np.float32)

    return inside
