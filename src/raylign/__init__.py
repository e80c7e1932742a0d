"""raylign: registers preoperative 3D models to intraoperative X-ray images.

Names are loaded when first used, so that ``import raylign`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raylign._version import __version__
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign import geometry
    from raylign.data import LabelMap, Landmarks, Mesh, Volume, XRay
    from raylign.geometry import Rigid, View
    from raylign.io import read_labels, read_landmarks, read_mesh, read_pose, read_volume, read_xray
    from raylign.projection import Solid, composite, depth, project, project_labels, project_mesh, silhouette
    from raylign.registration import Problem, Result, register

_WHERE = {
    "geometry": "raylign.geometry",
    "View": "raylign.geometry",
    "Rigid": "raylign.geometry",
    "Volume": "raylign.data",
    "LabelMap": "raylign.data",
    "Mesh": "raylign.data",
    "Landmarks": "raylign.data",
    "XRay": "raylign.data",
    "read_volume": "raylign.io",
    "read_xray": "raylign.io",
    "read_labels": "raylign.io",
    "read_mesh": "raylign.io",
    "read_landmarks": "raylign.io",
    "read_pose": "raylign.io",
    "project": "raylign.projection",
    "project_labels": "raylign.projection",
    "project_mesh": "raylign.projection",
    "silhouette": "raylign.projection",
    "depth": "raylign.projection",
    "composite": "raylign.projection",
    "Solid": "raylign.projection",
    "register": "raylign.registration",
    "Problem": "raylign.registration",
    "Result": "raylign.registration",
}

__all__ = ["InputError", "__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'raylign' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    value = module if name == "geometry" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
