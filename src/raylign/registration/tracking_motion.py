"""How a tracked pose is expected to go on: nearly constant velocity, damped, with its covariance.

State: the pose ``T_world_from_volume`` and a velocity, both as twists about the model's centre in world axes (radians and mm, a
second). The acceleration is white noise (Bar-Shalom, Li and Kirubarajan, "Estimation with Applications to Tracking and
Navigation", 2001, section 6.2.2: nearly constant velocity), and the velocity decays with a time constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from raylign.errors import InputError
from raylign.registration.pyramid import Array64
from raylign.registration.rotations import vector_of
from raylign.registration.search import moved


@dataclass(frozen=True)
class MotionConfig:
    """How a patient may move.

    Parameters
    ----------
    degrees, mm: by how much a velocity (degrees a second, mm a second) changes in a second, one standard deviation. Breathing
        asks for 10 mm / s, a heart beat or a cough for 50.
    damping: seconds after which a velocity that nothing confirms has fallen to a third.
    most_degrees, most_mm: one standard deviation at which what is open stops growing while nothing is seen.
    """

    degrees: float = 25.0
    mm: float = 50.0
    damping: float = 0.5
    most_degrees: float = 5.0
    most_mm: float = 15.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise InputError(f"{value} is not positive", field=name, remedy="give a positive number")


@dataclass(frozen=True, eq=False)
class Motion:
    """A pose, its velocity, and how well both are known.

    Parameters
    ----------
    matrix: [4, 4] ``T_world_from_volume``.
    middle: [3] the model's centre, LPS mm.
    velocity: [6] twist a second about that centre, world axes: rad/s, mm/s.
    covariance: [12, 12] of the twist of the pose, then of the velocity.
    """

    matrix: Array64
    middle: Array64
    velocity: Array64
    covariance: Array64

    @property
    def centre(self) -> Array64:
        """The model's centre, world mm."""
        return np.asarray(self.matrix[:3, :3] @ self.middle + self.matrix[:3, 3])

    @property
    def pose_covariance(self) -> Array64:
        """[6, 6] of the pose alone."""
        return self.covariance[:6, :6]

    def predicted(self, seconds: float, config: MotionConfig) -> Motion:
        """What is expected ``seconds`` later."""
        keep = math.exp(-seconds / config.damping)
        reach = config.damping * (1 - keep)
        one = np.eye(6)
        step = np.block([[one, reach * one], [np.zeros((6, 6)), keep * one]])
        density = np.array([math.radians(config.degrees)] * 3 + [config.mm] * 3) ** 2
        noise = np.kron([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]], np.diag(density))
        covariance = step @ self.covariance @ step.T + noise
        most = np.array([math.radians(config.most_degrees)] * 3 + [config.most_mm] * 3)
        # correlations are kept, so that what shrinks stays a covariance
        shrink = np.minimum(1, most / np.sqrt(np.maximum(np.diag(covariance)[:6], 1e-30)))
        scale = np.concatenate([shrink, shrink])
        covariance = covariance * scale * scale[:, None]
        return replace(
            self,
            matrix=moved(self.matrix, reach * self.velocity, self.centre),
            velocity=keep * self.velocity,
            covariance=covariance,
        )

    def corrected(self, matrix: Array64, covariance: Array64) -> Motion:
        """After a look: ``self`` is the prediction, ``matrix`` and ``covariance`` [6, 6] the pose with all that is known.

        What the look taught of the pose tells of the velocity by as much as the two were correlated.
        """
        gain = np.linalg.solve(self.covariance[:6, :6], self.covariance[:6, 6:]).T
        velocity = self.velocity + gain @ self.offset(matrix)
        cross = gain @ covariance
        own = self.covariance[6:, 6:] - gain @ (self.covariance[:6, :6] - covariance) @ gain.T
        whole = np.block([[covariance, cross.T], [cross, own]])
        return replace(self, matrix=matrix, velocity=velocity, covariance=(whole + whole.T) / 2)

    def offset(self, matrix: Array64) -> Array64:
        """[6] the twist about the model's centre, world axes, that leads from here to another pose."""
        turn = vector_of(matrix[:3, :3] @ self.matrix[:3, :3].T)
        return np.concatenate([turn, matrix[:3, :3] @ self.middle + matrix[:3, 3] - self.centre])


def resting(matrix: Array64, middle: Array64, covariance: Array64, config: MotionConfig) -> Motion:
    """A pose of which is known where it is ([6, 6]) and not how it moves."""
    spread = np.array([math.radians(config.degrees)] * 3 + [config.mm] * 3) ** 2 * config.damping
    whole = np.zeros((12, 12))
    whole[:6, :6], whole[6:, 6:] = covariance, np.diag(spread)
    return Motion(matrix, middle, np.zeros(6), whole)
