"""Exposures of made patients for comparing methods side by side; what evaluations have too is taken from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from raylign.evaluation.folders import folder
from raylign.evaluation.starts import Start, box
from raylign.evaluation.subject_kinds import USUAL
from raylign.evaluation.subjects import BODIES, HELD_OUT, about_heart
from raylign.evaluation.truth import Truth
from raylign.geometry import Rigid, View
from raylign.registration import centred
from raylign.simulation import Collimator, ExposureConfig, expose, generator

__all__ = ["BODIES", "HELD_OUT", "USUAL", "Start", "Truth", "exposure_of", "folder", "phantoms"]

_BONE_HU = 300.0
_TARGETS = 200


def phantoms(count: int, seed: int = 0, bodies: Sequence[str] = USUAL) -> Iterator[Truth]:
    """``count`` exposures of as many made patients, of each kind of body in turn.

    The patient goes on beyond the model's first and last slice. Beams are polyenergetic, scattered, noisy (600 to 3000 photons a
    pixel behind the patient) and collimated to a circle or a rectangle; the renderer is the simulation's own. Angles within 25
    and 10 degrees, poses within 12 degrees and 25 mm per axis of the centre start; 384 x 384 pixels of 0.78 mm.
    """
    for i in range(count):
        kind = bodies[i % len(bodies)]
        person = HELD_OUT + 1000 * seed + i
        yield exposure_of(f"{kind} {person}", kind, person)


def exposure_of(name: str, kind: str, seed: int) -> Truth:
    """One of them; see ``phantoms``."""
    scanned, body = BODIES[kind](seed, False), BODIES[kind](seed, True).volume
    model = about_heart(scanned) if kind == "heart" else scanned.volume
    stream = generator(seed, 1)
    u = torch.rand(12, generator=stream, dtype=torch.float64).mul(2).sub(1).tolist()
    primary, secondary = 25 * u[0], 10 * u[1]
    sid = 1050 + 100 * u[2]
    view = View.from_carm(
        primary=primary, secondary=secondary, sid=sid, sod=0.68 * sid, pixel_spacing=300 / 384, shape=(384, 384)
    )
    about = box("truth", 25.0, 12.0)
    start = centred(model)
    pose = Rigid(about.draw(start.matrix[None], [view], model.centre, model.centre[None], [generator(seed, 2)])[0])
    opening = Collimator.round(0.95) if u[3] > 0 else Collimator(width=0.92 + 0.06 * u[4], height=0.9 + 0.08 * u[5])
    config = ExposureConfig(collimator=opening)
    config = replace(config, dose=replace(config.dose, photons=1800 + 1200 * u[6]), tube=replace(config.tube, kv=90 + 20 * u[7]))
    xray = expose(body, view, pose, config, stream).xray
    inside = (model.data > _BONE_HU).nonzero()
    chosen = inside[torch.randint(len(inside), (_TARGETS,), generator=stream)].flip(1).to(torch.float64)  # x, y, z
    targets = chosen @ model.affine[:3, :3].T + model.affine[:3, 3]
    return Truth(name, kind, model, (xray,), pose, targets)
