"""How alike two images are: one function a metric, one number a batch entry, larger is better for all."""

from raylign.similarity.differences import gradient_difference, pattern_intensity
from raylign.similarity.edges import (
    gradient_correlation,
    gradient_correlation_plus,
    gradient_information,
    gradient_information_plus,
    gradient_ncc,
    gradient_orientation,
    gradient_orientation_plus,
)
from raylign.similarity.information import mutual_information, normalised_mutual_information
from raylign.similarity.intensity import ncc, ssd
from raylign.similarity.patches import multiscale_ncc, patch_gradient_ncc, patch_ncc
from raylign.similarity.registry import SIMILARITIES, Similarity, similarity
from raylign.similarity.structure import ssim

__all__ = [
    "SIMILARITIES",
    "Similarity",
    "gradient_correlation",
    "gradient_correlation_plus",
    "gradient_difference",
    "gradient_information",
    "gradient_information_plus",
    "gradient_ncc",
    "gradient_orientation",
    "gradient_orientation_plus",
    "multiscale_ncc",
    "mutual_information",
    "ncc",
    "normalised_mutual_information",
    "patch_gradient_ncc",
    "patch_ncc",
    "pattern_intensity",
    "similarity",
    "ssd",
    "ssim",
]
