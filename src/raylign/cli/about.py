"""What ``raylign register`` and ``raylign demo`` say of their inputs and of a result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.cli.outputs import OVERLAY, POSE, REPORT, RESULT, About

if TYPE_CHECKING:
    from raylign.data import Volume, XRay
    from raylign.registration import Result


def command_line() -> str:
    """What was typed."""
    return shlex.join(["raylign", *sys.argv[1:]])


def about_inputs(path: Path, volume: Volume, files: Sequence[Path], xrays: Sequence[XRay], command: str) -> About:
    """The inputs in numbers, for ``result.json``, and in words, for the report."""
    columns, rows, slices = volume.data.shape[::-1]
    spacing = [round(s, 6) for s in volume.spacing]
    pitch = " x ".join(f"{s:.4g}" for s in spacing)
    inputs: dict[str, Any] = {
        "volume": {"path": str(path.absolute()), "size": [columns, rows, slices], "spacing": spacing, "unit": volume.unit},
        "xrays": [],
    }
    words = {"Volume": f"{path}: {columns} x {rows} x {slices} voxels of {pitch} mm, {volume.unit}"}
    for i, (file, xray) in enumerate(zip(files, xrays, strict=True)):
        h, w = xray.view.shape
        pixels = [round(s, 6) for s in xray.view.pixel_spacing]
        valid = float(xray.mask.float().mean())
        inputs["xrays"].append(
            {
                "path": str(file.absolute()),
                "size": [w, h],
                "pixel_spacing": pixels,
                "scale": xray.scale,
                "valid_fraction": round(valid, 4),
                "view": xray.view.to_dict(),
            }
        )
        name = "X-ray" if len(xrays) == 1 else f"X-ray {i + 1}"
        words[name] = f"{file}: {w} x {h} pixels of {pixels[1]:.4g} x {pixels[0]:.4g} mm, {100 * valid:.0f} % valid"
    return About(command, inputs, words)


def summary(result: Result, out: Path, more: Sequence[str] = ()) -> list[str]:
    """What the terminal shows of a result; ``more`` is told before the files."""
    degrees, mm = result.moved
    rotation, translation = (", ".join(f"{x:.2g}" for x in sd.tolist()) for sd in result.standard_deviations)
    return [
        f"registered ({result.method}) in {result.seconds:.2f} s, {degrees:.1f} degrees and {mm:.1f} mm from the start",
        f"probability {result.confidence.probability:.2f}; one standard deviation: {rotation} degrees, {translation} mm"
        " about and along L, P, S",
        *(() if result.ambiguity is None else result.ambiguity.words),
        *more,
        *(str(out / name) for name in (REPORT, OVERLAY, POSE, RESULT)),
    ]


def distrust(result: Result) -> str:
    """One sentence on a result that is not to be trusted."""
    why = "; ".join(result.confidence.reasons)
    told = f"the result is not to be trusted (probability {result.confidence.probability:.2f})"
    return f"{told}: {why}" if why else f"{told}: look at {OVERLAY} before you use it"
