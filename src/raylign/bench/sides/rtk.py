"""RTK (Apache 2.0), by its multi-threaded Joseph projector. Nothing of raylign may be imported here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

_NINE = (
    "source_to_isocenter_distance",
    "source_to_detector_distance",
    "gantry_angle",
    "projection_offset_x",
    "projection_offset_y",
    "out_of_plane_angle",
    "in_plane_angle",
    "source_offset_x",
    "source_offset_y",
)


class Side:
    """``rtk::JosephForwardProjectionImageFilter``; a batch is a stack of projections."""

    whats = ("forward",)
    differentiable = False

    def __init__(self, scene: dict[str, Any]) -> None:
        import itk

        self.data = np.load(scene["volume"])
        self.affine = np.array(scene["affine"])
        self.volume = itk.image_from_array(self.data)

    @staticmethod
    def load() -> None:
        import itk

        if not hasattr(itk, "RTK"):
            raise ModuleNotFoundError("no module named itk.RTK", name="itk.RTK")
        kind = itk.Image[itk.F, 3]
        itk.RTK.JosephForwardProjectionImageFilter[kind, kind].New()  # ITK loads the rest of itself when it is first used

    @staticmethod
    def version() -> str:
        return version("itk-rtk")

    @staticmethod
    def ladders() -> list[list[dict[str, Any]]]:
        return [[{"model": "joseph"}]]

    def prepare(self, what: str, case: dict[str, Any], setting: dict[str, Any]) -> None:
        import itk

        affine = np.array(case["volume_to_iec"]) @ self.affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        self.volume.SetOrigin(affine[:3, 3].tolist())
        self.volume.SetSpacing(spacing.tolist())
        self.volume.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing))
        height, width = case["shape"]
        self.stack = itk.image_from_array(np.zeros((case["batch"], height, width), np.float32))
        self.stack.SetOrigin([*case["origin"], 0.0])
        self.stack.SetSpacing([*case["spacing"], 1.0])
        self.stack.SetDirection(itk.matrix_from_array(np.diag([*case["direction"], 1]).astype(float)))
        self.geometry = itk.RTK.ThreeDCircularProjectionGeometry.New()
        for projection in case["projections"]:
            self.geometry.AddProjection(*(projection[name] for name in _NINE))
        kind = itk.Image[itk.F, 3]
        self.projector = itk.RTK.JosephForwardProjectionImageFilter[kind, kind].New()
        self.projector.InPlaceOff()  # the stack of zeros stays as it is for the next call
        self.projector.SetInput(0, self.stack)
        self.projector.SetInput(1, self.volume)
        self.projector.SetGeometry(self.geometry)

    def call(self) -> dict[str, Any]:
        import itk

        self.projector.Modified()
        self.projector.UpdateLargestPossibleRegion()
        return {"image": lambda index: itk.array_view_from_image(self.projector.GetOutput())[index]}
