"""Line integrals of volumes, and what rays see of meshes; fast and differentiable."""

from raylign.projection.accuracy import step_within
from raylign.projection.channels import project_labels
from raylign.projection.mesh import Depth, depth, project_mesh
from raylign.projection.mesh_composite import Solid, composite
from raylign.projection.mesh_silhouette import silhouette
from raylign.projection.project import project

__all__ = [
    "Depth",
    "Solid",
    "composite",
    "depth",
    "project",
    "project_labels",
    "project_mesh",
    "silhouette",
    "step_within",
]
