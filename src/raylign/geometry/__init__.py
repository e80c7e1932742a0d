"""Frames, poses and exposures. Imports nothing else of raylign but its error type."""

from raylign.geometry import carm, convert, se3
from raylign.geometry.transform import Rigid
from raylign.geometry.view import View

__all__ = ["Rigid", "View", "carm", "convert", "se3"]
