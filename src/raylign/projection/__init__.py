"""Line integrals of volumes, fast and differentiable."""

from raylign.projection.project import project

__all__ = ["project"]
