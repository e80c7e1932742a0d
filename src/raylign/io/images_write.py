"""Write volumes, and X-ray images with the view that belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.io.atomic import atomic_write
from raylign.io.files import suffix
from raylign.io.views import write_view

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
IMAGES = (".png", ".nrrd", ".npy")


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume with its geometry: HU rounded to int16, anything else as float32.

    Parameters
    ----------
    volume: [D, H, W] and its affine to patient LPS mm.
    path: ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``; written whole or not at all.

    Raises
    ------
    InputError: another suffix, a sheared affine (these formats hold a rotation and spacings), an unwritable path.
    """
    import SimpleITK as sitk

    _known(path, VOLUMES)
    data = volume.decoded().data.detach().cpu()
    array = data.round().clamp(-32768, 32767).to(torch.int16) if volume.unit == "HU" else data.to(torch.float32)
    image = sitk.GetImageFromArray(array.numpy())
    spacing = torch.tensor(volume.spacing, dtype=torch.float64)
    direction = volume.affine[:3, :3] / spacing
    if float((direction.T @ direction - torch.eye(3, dtype=torch.float64)).abs().max()) > 1e-5:
        raise InputError("sheared voxels", file=path, field="affine", remedy="resample the volume to a square grid first")
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.flatten().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    with atomic_write(path) as temporary:
        _itk_write(lambda: sitk.WriteImage(image, str(temporary), useCompression=suffix(path) in (".nrrd", ".mha")), path)


def write_line_integrals(integrals: Float[Tensor, "H W"], view: View, path: str | Path) -> Path:
    """Write an X-ray image and, as ``NAME.view.json`` beside it, its geometry and what its values are.

    ``.npy`` and ``.nrrd`` hold the line integrals as float32 ("LOG"); ``.png`` holds 16 bits for display ("DISP"), dark where
    much is attenuated, as on a fluoroscope. ``read_xray`` reads any of them back.

    Returns
    -------
    Path of the ``view.json``.

    Raises
    ------
    InputError: another suffix, an unwritable path.
    """
    kind = _known(path, IMAGES)
    target = Path(path)
    beside = target.with_name(f"{target.stem}.view.json")
    values = integrals.detach().cpu().to(torch.float32).numpy()
    # both or none: the picture takes its place last, after the view has been written
    with atomic_write(target) as temporary:
        if kind == ".png":
            _png(values, temporary)
        elif kind == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, values)
        else:
            import SimpleITK as sitk

            image = sitk.GetImageFromArray(values)
            image.SetSpacing([float(s) for s in reversed(view.pixel_spacing)])
            _itk_write(lambda: sitk.WriteImage(image, str(temporary), useCompression=True), path)
        write_view(view, beside, "DISP" if kind == ".png" else "LOG")
    return beside


def _png(values: np.ndarray, path: Path) -> None:
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    # neither black nor white: a reader takes those for the collimator's shadow and for pixels beyond what can be stored
    grey = 4000 + 56000 * (high - values.astype(np.float64)) / max(high - low, 1e-12)
    Image.fromarray(np.rint(grey).astype(np.uint16)).save(path, format="PNG")


def _known(path: str | Path, kinds: tuple[str, ...]) -> str:
    kind = suffix(path)
    if kind not in kinds:
        raise InputError(f"{kind or 'no suffix'!r} cannot be written", file=path, remedy=f"use {', '.join(kinds)}")
    return kind


def _itk_write(write: Callable[[], Any], path: str | Path) -> None:
    try:
        write()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot be written ({reason})", file=path, remedy="choose another folder") from error
