"""Line integrals of volumes, fast and differentiable."""

from raylign.projection.accuracy import step_within
from raylign.projection.channels import project_labels
from raylign.projection.project import project

__all__ = ["project", "project_labels", "step_within"]
