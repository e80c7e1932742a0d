"""How alike two images are: one function a metric, one number a batch entry, larger is better for all."""

from raylign.similarity.intensity import gradient_ncc, ncc, ssd
from raylign.similarity.registry import SIMILARITIES, Similarity, similarity

__all__ = ["SIMILARITIES", "Similarity", "gradient_ncc", "ncc", "similarity", "ssd"]
