"""A small body with three bones, scanned, and an exposure of it from a known pose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from raylign.cli.main import app
from raylign.data import Volume
from raylign.geometry import Rigid, View, se3
from raylign.io.images_write import write_volume
from raylign.io.xray_dicom_write import counts_from_integrals, write_xray_dicom
from raylign.projection import project
from raylign.registration.problem import centred
from tests.io.dicom_files import ct_slice

VIEW = View.from_carm(primary=20, secondary=5, sid=1000, sod=700, pixel_spacing=2.4, shape=(128, 128))


def body() -> Volume:
    """48 x 48 x 48 voxels of 4 mm: soft tissue, two balls and a bar of bone."""
    z, y, x = np.mgrid[:48, :48, :48]
    hu = np.full((48, 48, 48), -1000.0, np.float32)
    hu[(x - 24) ** 2 + (y - 24) ** 2 + 0.6 * (z - 24) ** 2 < 17**2] = 30
    hu[(x - 18) ** 2 + (y - 20) ** 2 + (z - 17) ** 2 < 30] = 900
    hu[(x - 30) ** 2 + (y - 27) ** 2 + (z - 30) ** 2 < 40] = 700
    hu[(abs(x - 23) < 3) & (abs(y - 31) < 4) & (abs(z - 24) < 12)] = 800
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-90.0, -80.0, 100.0])
    return Volume(torch.from_numpy(hu), affine, "HU")


@dataclass(frozen=True)
class Scene:
    """Files of a registration that works, and the pose that is right."""

    folder: Path
    volume: Path
    xray: Path
    truth: Path
    pose: Rigid


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    volume = body()
    motion = se3.exp(torch.tensor([math.radians(4), math.radians(-3), math.radians(5), 0, 0, 0], dtype=torch.float64))
    motion[:3, 3] = torch.tensor([6.0, -5.0, 4.0])
    pose = Rigid(motion @ centred(volume).matrix)
    write_volume(volume, folder / "ct.nii.gz")
    image = project(volume, VIEW, pose)[0, 0]
    write_xray_dicom(counts_from_integrals(image), VIEW, folder / "xray.dcm")
    (folder / "truth.json").write_text(json.dumps({"T_world_from_volume": pose.matrix.tolist()}))
    return Scene(folder, folder / "ct.nii.gz", folder / "xray.dcm", folder / "truth.json", pose)


@pytest.fixture
def raylign() -> Callable[..., Any]:
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def ct_dicom(tmp_path: Path) -> Path:
    """The body as a folder of twelve slices."""
    folder = tmp_path / "ct"
    folder.mkdir()
    stored = (body().data[::4].numpy() + 1024).astype(np.int16)
    for k, pixels in enumerate(stored):
        ct_slice(
            folder / f"{k:02d}.dcm", k, pixels, PixelSpacing=[4.0, 4.0], ImagePositionPatient=[-90.0, -80.0, 100.0 + 16.0 * k]
        )
    return folder
