"""What the world hands us: tensors that know their millimetres."""

from raylign.data.labels import LabelMap
from raylign.data.landmarks import Landmarks
from raylign.data.mesh import Mesh
from raylign.data.restrict import restricted
from raylign.data.volume import Volume
from raylign.data.xray import XRay

__all__ = ["LabelMap", "Landmarks", "Mesh", "Volume", "XRay", "restricted"]
