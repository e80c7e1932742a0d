"""What differs from one pelvis, thigh and lumbar spine to the next: drawn once for a seed, the same in all three phantoms.

Sizes follow the person (``population``): sex, height, age and weight move the means; what is left over is drawn around them,
part of it shared by all bones (the latent ``frame``: people of one height have heavy or slender skeletons).
The table of distributions and sources is in ``docs/phantoms_bones.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.simulation.phantoms.population import Person, patient
from raylign.simulation.seeds import numpy_generator

Levels = NDArray[np.float64]
SIDES = (("left", 1.0), ("right", -1.0))
SLOPE = 32.5  # of the mean sacrum's upper face at no tilt, degrees
LUMBAR = ("L5", "L4", "L3", "L2", "L1", "T12", "T11")  # from the sacrum upwards


@dataclass(frozen=True)
class PelvisSize:
    """Bony pelvis, mm and degrees."""

    hip_height: float  # of the hip bone, from the tuberosity to the crest
    hip_distance: float  # between the centres of the hips
    width: float  # factor on what lies between and beside them
    depth: float  # factor from front to back
    subpubic: float  # angle between the pubic rami
    flare: float  # of the iliac wings, degrees outward from the mean
    tilt: float  # of the anterior pelvic plane, forward, lying on the back
    sacral_turn: float  # of the sacrum between the hip bones, forward from the mean
    sacral_bend: float  # more (positive) or less curved than the mean


@dataclass(frozen=True)
class FemurSize:
    """Both femora of a person, mm and degrees; the two sides differ by ``side``, drawn for each."""

    head_radius: float
    neck_shaft: float
    anteversion: float
    offset: float  # of the head's centre from the axis of the shaft
    shaft_radius: float  # outer, 100 mm below the head's centre
    cortex: float  # of the shaft, there
    trochanter: float  # factor on the size of the trochanters
    joint_space: float  # between the bones in the hip


@dataclass(frozen=True)
class LegPose:
    """How a thigh lies, degrees: turned outward, bent forward, spread."""

    outward: float
    flexion: float
    abduction: float


@dataclass(frozen=True)
class SpineSize:
    """Lumbar spine from L5 up to T11: mm and degrees, one value a level."""

    scale: float  # of bodies and processes, in the plane of the endplates
    width: NDArray[np.float64]  # of the bodies
    depth: NDArray[np.float64]
    height: NDArray[np.float64]
    disc: NDArray[np.float64]  # height of the disc below each body
    disc_wedge: NDArray[np.float64]  # taller in front, degrees
    body_wedge: NDArray[np.float64]
    sideways: NDArray[np.float64]  # tilt of each body to the left
    twist: NDArray[np.float64]  # turn of each body about its axis
    process: float  # factor on the length of the processes


@dataclass(frozen=True)
class SoftSize:
    """Soft tissue, mm."""

    fat: float  # under the skin, at the side of the hips
    belly: float  # how far the abdomen stands out
    muscle: float  # factor
    bladder_ml: float
    gas: float  # factor on the gas in the bowel
    aortic_calcium: float  # 0 none, 1 much


@dataclass(frozen=True)
class TrunkShape:
    """One person's trunk."""

    person: Person
    pelvis: PelvisSize
    femur: FemurSize
    legs: tuple[LegPose, LegPose]  # left, right
    spine: SpineSize
    soft: SoftSize
    trabecular: float  # HU of vertebral spongy bone
    cortical: float  # factor on the attenuation of compact bone
    seed: int


def draw_trunk(seed: int) -> TrunkShape:
    """The trunk of the person ``patient(seed)``.

    Raises
    ------
    InputError: a negative seed.
    """
    person = patient(seed)
    rng = numpy_generator(seed, 3)
    mean_height = 1625.0 if person.female else 1760.0
    tall = (person.height_mm + max(person.age_years - 50, 0) * 1.4 - mean_height) / 70.0  # in standard deviations
    frame = float(rng.normal())
    pelvis = _pelvis(rng, person, tall, frame)
    femur = _femur(rng, person, tall, frame)
    legs = tuple(LegPose(_normal(rng, 14, 9, -15, 35), _normal(rng, 3, 4, -5, 15), _normal(rng, 4, 4, -5, 15)) for _ in SIDES)
    spine = _spine(rng, person, pelvis, tall, frame)
    trabecular = max(person.trabecular_hu + float(rng.normal()) * 35.0, 45.0)
    return TrunkShape(
        person, pelvis, femur, (legs[0], legs[1]), spine, _soft(rng, person), trabecular, 0.8 + trabecular / 900.0, seed
    )


def _normal(rng: np.random.Generator, mean: float, sigma: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, sigma), low, high))


def _part(rng: np.random.Generator, sigma: float, *known: tuple[float, float]) -> float:
    """A normal number of spread ``sigma``, correlated with standard normal numbers: (value, correlation) each."""
    explained = sum(r * r for _, r in known)
    value = sum(v * r for v, r in known) + float(rng.normal()) * np.sqrt(max(1 - explained, 0.0))
    return sigma * float(np.clip(value, -2.6, 2.6))


def _pelvis(rng: np.random.Generator, person: Person, tall: float, frame: float) -> PelvisSize:
    female = person.female
    return PelvisSize(
        hip_height=(199.0 if female else 218.0) + _part(rng, 9.5, (tall, 0.65), (frame, 0.3)),
        hip_distance=(174.0 if female else 173.0) + _part(rng, 9.0, (tall, 0.35), (frame, 0.4)),
        width=1.0 + _part(rng, 0.025),
        depth=(1.0 if female else 1.03) + _part(rng, 0.035, (tall, 0.3), (frame, 0.3)),
        subpubic=(128.0 if female else 102.0) + _part(rng, 10.0),
        flare=_part(rng, 4.0),
        tilt=2.0 + _part(rng, 6.0),
        sacral_turn=2.0 + _part(rng, 5.0),
        sacral_bend=_part(rng, 1.0),
    )


def _femur(rng: np.random.Generator, person: Person, tall: float, frame: float) -> FemurSize:
    female = person.female
    head = (21.4 if female else 24.2) + _part(rng, 1.2, (tall, 0.5), (frame, 0.5))
    shape = (head - (21.4 if female else 24.2)) / 1.2
    aged = max(person.age_years - 50, 0.0) / 30.0
    return FemurSize(
        head_radius=head,
        neck_shaft=_normal(rng, 123.5 if female else 122.0, 5.7, 111, 138),
        anteversion=(16.4 if female else 12.1) + _part(rng, 9.0),
        offset=(40.0 if female else 44.5) + _part(rng, 5.2, (shape, 0.5)),
        shaft_radius=(13.4 if female else 15.0) + 0.5 * aged + _part(rng, 0.9, (shape, 0.6)),
        cortex=max((6.6 if female else 7.4) - (1.9 if female else 1.0) * aged + _part(rng, 0.9, (frame, 0.3)), 2.8),
        trochanter=1.0 + _part(rng, 0.06),
        joint_space=4.2 - 0.4 * aged + _part(rng, 0.5),
    )


# Panjabi et al. 1992, from L5 up to L1; T12 and T11 after Panjabi et al. 1991: means of the upper and lower endplates, mm
_WIDTH = np.array([48.4, 48.1, 46.1, 44.1, 42.3, 40.6, 37.3])
_DEPTH = np.array([33.9, 34.7, 35.0, 34.8, 34.7, 33.1, 31.9])
_HEIGHT = np.array([25.5, 26.5, 26.5, 26.0, 25.5, 24.5, 22.8])
_DISC = np.array([10.7, 11.3, 11.0, 10.0, 8.8, 6.8, 5.8])
_DISC_WEDGE = np.array([14.0, 11.0, 8.5, 6.0, 4.0, 1.0, 0.0])
_BODY_WEDGE = np.array([9.0, 2.5, 0.5, -1.0, -2.5, -4.0, -4.0])


def _spine(rng: np.random.Generator, person: Person, pelvis: PelvisSize, tall: float, frame: float) -> SpineSize:
    levels = len(LUMBAR)
    scale = (0.955 if person.female else 1.045) * (1 + _part(rng, 0.055, (tall, 0.5), (frame, 0.5)))
    high = (0.975 if person.female else 1.025) * (1 + _part(rng, 0.045, (tall, 0.7), (frame, 0.2)))
    worn = np.clip(rng.normal(max(person.age_years - 45, 0.0) / 45.0, 0.35, levels), 0, 1) * [1, 1, 0.7, 0.6, 0.5, 0.4, 0.4]
    height = _HEIGHT * high * (1 + rng.normal(0, 0.015, levels))
    disc = np.maximum(_DISC * high * (1 + rng.normal(0, 0.07, levels)) * (1 - 0.45 * worn), 3.0)
    noise = rng.normal(0, 1.2, levels), rng.normal(0, 1.0, levels)
    back = _normal(rng, 14.0, 7.0, -4, 32)
    disc_wedge, body_wedge = _lying(SLOPE + pelvis.tilt + pelvis.sacral_turn, disc, height, back, noise)
    curve, phase = _normal(rng, 0, 3.0, -9, 9), rng.uniform(0, np.pi)
    sideways = curve * np.sin(np.linspace(0, 1.5 * np.pi, levels) + phase) + rng.normal(0, 0.5, levels)
    sideways -= float(sideways @ (height + disc)) / float((height + disc).sum())  # the column stands over the sacrum
    return SpineSize(
        scale=scale,
        width=_WIDTH * scale * (1 + rng.normal(0, 0.012, levels)),
        depth=_DEPTH * scale * (1 + rng.normal(0, 0.014, levels)),
        height=height,
        disc=disc,
        disc_wedge=disc_wedge,
        body_wedge=body_wedge,
        sideways=sideways,
        twist=-0.5 * sideways + rng.normal(0, 1.0, levels),
        process=1 + _part(rng, 0.07, (frame, 0.4)),
    )


def _lying(slope: float, disc: Levels, height: Levels, back: float, noise: tuple[Levels, Levels]) -> tuple[Levels, Levels]:
    """Wedges of discs and bodies of a person on the back: buttocks and thorax lie on one table.

    The lordosis is the one that puts the top of the column ``back`` mm behind the middle of the sacral endplate.
    """
    low, high = 0.1, 2.6
    for _ in range(40):
        bend = (low + high) / 2
        wedges = _DISC_WEDGE * bend + noise[0], _BODY_WEDGE + np.where(np.arange(len(disc)) < 5, (bend - 1) * 2.0, 0) + noise[1]
        after = slope - np.cumsum(wedges[0] + wedges[1])
        before_body = after + wedges[1] / 2
        before_disc = after + wedges[1] + wedges[0] / 2
        reached = -float((disc * np.sin(np.radians(before_disc)) + height * np.sin(np.radians(before_body))).sum())
        low, high = (bend, high) if reached < back else (low, bend)
    return wedges


def _soft(rng: np.random.Generator, person: Person) -> SoftSize:
    lean = max(person.bmi - 18.0, 0.0)
    return SoftSize(
        fat=float(np.clip((9.0 if person.female else 6.0) + 1.9 * lean * rng.lognormal(0, 0.18), 5, 75)),
        belly=float(np.clip(3.2 * (person.bmi - 21.0) + rng.normal(0, 8), -12, 85)),
        muscle=float(np.clip((0.93 if person.female else 1.04) + rng.normal(0, 0.05), 0.8, 1.2)),
        bladder_ml=float(np.clip(rng.lognormal(np.log(110), 0.7), 20, 500)),
        gas=float(np.clip(rng.lognormal(0, 0.35), 0.4, 2.2)),
        aortic_calcium=float(np.clip((person.age_years - 55) / 30 + rng.normal(0, 0.3), 0, 1)),
    )
