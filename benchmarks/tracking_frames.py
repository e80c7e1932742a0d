"""Fluoroscopy of a breathing patient, simulated: the frames that ``benchmarks/tracking.py`` follows.

Rendered by the simulator (polyenergetic, scattered, noisy), never by the renderer that is optimised, and kept in a folder,
since a frame of a CT takes seconds. The script of every sequence, 15 frames a second:

    0 - 59    one breath: 5 mm to the head and back, 2 mm to the front, a nod of 1 degree
    60 - 69   ten frames on which nothing is seen: a closed shutter, or a hand that covers most of the field
    70 - 99   the breath goes on
    100 -     the table has been moved by 30 mm between two frames
    130 - 159 a fifth of the dose
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raylign.data import Volume, XRay
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.geometry import Rigid, View, se3
from raylign.registration import centred
from raylign.simulation import Dose, ExposureConfig, ThoraxConfig, expose, thorax
from raylign.simulation.physics.apparatus import Collimator

RATE = 15.0
FRAMES, BREATH = 160, 60
OCCLUDED = range(60, 70)
JUMP, DIM = 100, 130
PHOTONS, DIMMED = 250.0, 50.0  # a pixel of 0.6 mm: some 30 and 6 nanogray a frame at the detector
_TABLE = 30.0
_OFF = (0.06, -0.05, 0.08, 8.0, -6.0, 10.0)  # how the patient lies, off the centre: rad, mm


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient to expose, the model that is to be followed, the view, and 200 target points of the model (LPS mm)."""

    name: str
    patient: Volume
    model: Volume
    view: View
    targets: torch.Tensor
    config: ExposureConfig

    @property
    def folder(self) -> str:
        """Where its frames are kept: another place for every camera."""
        geometry = json.dumps(self.view.to_dict(), sort_keys=True).encode()
        return f"{self.name}-{self.view.shape[0]}-{hashlib.sha256(geometry).hexdigest()[:8]}"


def camera(primary: float = 10.0) -> View:
    """A C-arm of 512 x 512 pixels of 0.6 mm."""
    return View.from_carm(primary=primary, secondary=4, sid=1050, sod=720, pixel_spacing=0.6, shape=(512, 512))


def phantom_scene(primary: float = 10.0) -> Scene:
    """A phantom thorax, 2 mm voxels, who goes on beyond the model's ends."""
    model = thorax(ThoraxConfig(voxel_mm=2.0), seed=11).volume
    patient = thorax(ThoraxConfig(voxel_mm=1.5, z_range=(-200, 190)), seed=11).volume
    return Scene("phantom", patient, model, camera(primary), bone(model), ExposureConfig(collimator=Collimator.round(0.95)))


def chest_scene(volume: Volume, primary: float = 10.0) -> Scene:
    """A scan that is its own patient: he ends where it ends."""
    return Scene("chest", volume, volume, camera(primary), bone(volume), ExposureConfig())


def bone(volume: Volume) -> torch.Tensor:
    """[200, 3] points on bone, LPS mm."""
    from raylign.evaluation.gather import surface_points

    return surface_points(volume, 200)


def pose_at(scene: Scene, frame: int) -> Rigid:
    """Where the patient is on a frame."""
    share = (1 - math.cos(2 * math.pi * frame / BREATH)) / 2
    lies = se3.exp(torch.tensor(_OFF, dtype=torch.float64)) @ centred(scene.model).matrix
    breath = torch.tensor([math.radians(share), 0, 0, 0, -2.0 * share, 5.0 * share], dtype=torch.float64)
    table = torch.eye(4, dtype=torch.float64)
    table[2, 3] = -_TABLE * (frame >= JUMP)
    return Rigid(table @ se3.exp(breath) @ lies)


def _key(frame: int) -> str:
    return f"{frame % BREATH:02d}{'-moved' if frame >= JUMP else ''}{'-dim' if frame >= DIM else ''}"


def counts_of(scene: Scene, folder: Path, most: int = FRAMES) -> list[np.ndarray]:
    """Stored counts [H, W] uint16 of every frame before anything covers it, made where ``folder`` does not hold them yet."""
    place = folder / scene.folder
    place.mkdir(parents=True, exist_ok=True)
    out = []
    for frame in range(most):
        file = place / f"{_key(frame)}.npy"
        if not file.exists():
            config = ExposureConfig(
                dose=Dose(DIMMED if frame >= DIM else PHOTONS), collimator=scene.config.collimator, detector=scene.config.detector
            )
            made = expose(scene.patient, scene.view, pose_at(scene, frame), config, torch.Generator().manual_seed(frame))
            np.save(place / "valid.npy", made.xray.mask.numpy())
            partial = file.with_suffix(".partial.npy")
            np.save(partial, made.counts.numpy())
            partial.rename(file)
        out.append(np.load(file))
    return out


def covered(counts: np.ndarray, frame: int, cover: str) -> np.ndarray:
    """What the detector stores while a shutter is closed, or a hand lies over most of the field."""
    noise = np.random.default_rng(frame)
    if cover == "shutter":
        return noise.poisson(20, counts.shape).astype(np.uint16)
    h, w = counts.shape
    y, x = np.mgrid[:h, :w] / h - 0.5
    inside = np.zeros(counts.shape)
    for k in range(5):  # fingers
        inside = np.maximum(inside, (np.abs(x + 0.36 - 0.18 * k + 0.1 * y) < 0.075) & (y < 0.2))
    inside = np.maximum(inside, (x**2 / 0.2 + (y - 0.25) ** 2 / 0.09) < 1)
    shift = 4 * (frame - OCCLUDED.start)
    left = np.exp(-4.0 * np.roll(inside, shift, 1))
    return noise.poisson(counts * left).astype(np.uint16)


def as_xray(counts: np.ndarray, view: View, valid: np.ndarray, name: str) -> XRay:
    """Counts as attenuation."""
    stored = torch.from_numpy(counts.astype(np.float32))
    mask = torch.from_numpy(valid)
    image, scale = to_line_integrals(stored, Encoding("LIN", 1, 65535.0), mask)
    return XRay(image, view, mask, scale, name=name)


if __name__ == "__main__":
    import sys

    from raylign.io import read_volume

    given, where = sys.argv[1], Path(sys.argv[2])
    made = phantom_scene() if given == "phantom" else chest_scene(read_volume(given))
    counts_of(made, where)
