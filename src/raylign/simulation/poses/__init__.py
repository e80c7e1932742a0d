"""Named distributions of poses: where the patient lies when he is exposed, and where a registration starts.

Axes are those of an image: along its columns, along its rows, and along the detector's normal (depth, away from the source).
"""

from raylign.simulation.poses.bins import mtre_bins
from raylign.simulation.poses.carms import CArmModel, image_axes, region
from raylign.simulation.poses.laws import Normal, Uniform
from raylign.simulation.poses.motions import Motion
from raylign.simulation.poses.named import LI_AFFINE, STARTS, TARGETS, TOTH_FIELDS_MM, starts, targets
from raylign.simulation.poses.planar import AffineSampler
from raylign.simulation.poses.starts import Binned, Grid, Ring, Scattered, StartSampler
from raylign.simulation.poses.targets import Direction, TargetSampler

__all__ = [
    "LI_AFFINE", "STARTS", "TARGETS", "TOTH_FIELDS_MM", "AffineSampler", "Binned", "CArmModel", "Direction", "Grid", "Motion",
    "Normal", "Ring", "Scattered", "StartSampler", "TargetSampler", "Uniform", "image_axes", "mtre_bins", "region", "starts",
    "targets",
]  # fmt: skip
