"""Real CTs with exposures of another simulator, and real X-rays; skipped where they are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import raylign
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import mrpd, mtre, pose_error
from raylign.geometry import Rigid, se3
from raylign.io import ExposureOptions
from raylign.registration import WIDE


@pytest.mark.parametrize(
    ("ct", "cases", "numbers", "limits"),
    [
        ("lidc0001_chest", "lidc0001/plain", ("001", "004"), (2.0, 1.0)),
        ("lidc0001_chest", "lidc0001/real", ("001", "006"), (2.0, 1.0)),
        ("vhf_pelvis_ct.nii.gz", "vhf_pelvis/real", ("000", "004"), (3.0, 2.0)),
        ("vhf_pelvis_ct.nii.gz", "vhf_pelvis/biplane", ("000",), (1.0, 1.0)),
    ],
)
def test_exposures_of_real_cts(shared: Path, ct: str, cases: str, numbers: tuple[str, ...], limits: tuple[float, float]) -> None:
    """From the centre start; limits of mTRE and mRPD in mm."""
    volume = raylign.read_volume(shared / "ct" / ct)
    truth = json.loads((shared / "cases" / cases / "truth.json").read_text())
    targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
    for number in numbers:
        case = truth["cases"][number]
        xrays = [raylign.read_xray(shared / "cases" / cases / f) for f in case["files"]]
        result = raylign.register(volume, xrays)
        gold = Rigid(torch.tensor(case["pose_world_from_ct"], dtype=torch.float64))
        assert float(mtre(result.transform, gold, targets)) < limits[0]
        assert float(mrpd(result.transform, gold, targets, [x.view for x in xrays])) < limits[1]


@pytest.mark.parametrize(
    ("ct", "case"), [("lidc0001_chest", "lidc0001/real/003"), ("vhf_pelvis_ct.nii.gz", "vhf_pelvis/real/006")]
)
def test_real_cts_from_nowhere(shared: Path, ct: str, case: str) -> None:
    """About a start 45 degrees and a third of a metre from the truth; the same limits."""
    folder, number = (shared / "cases" / case).parent, Path(case).name
    truth = json.loads((folder / "truth.json").read_text())
    gold = Rigid(torch.tensor(truth["cases"][number]["pose_world_from_ct"], dtype=torch.float64))
    targets = torch.tensor(truth["targets_ct"], dtype=torch.float64)
    off = torch.tensor([0.5, -0.45, 0.4, 150.0, -200.0, 160.0], dtype=torch.float64)
    start = Rigid(se3.exp(off) @ gold.matrix)
    assert float(mtre(start, gold, targets)) > 250
    xray = raylign.read_xray(folder / truth["cases"][number]["files"][0])
    result = raylign.register(raylign.read_volume(shared / "ct" / ct), xray, init=start, search=WIDE)
    assert float(mtre(result.transform, gold, targets)) < 2 and result.confidence.trusted


def test_a_real_wrist_by_two_cameras_and_by_each(shared: Path) -> None:
    """The radius: one camera alone ends within 0.5 mm, in its image plane, of where both together put it."""
    folder = shared / "xray" / "wrist_biplane"
    radius = raylign.read_volume(folder / "models" / "radius.nrrd")
    start = raylign.read_pose(folder / "start_radius_0099.json")
    xrays = [
        raylign.read_xray(
            folder / f"cam0{n}" / f"xr_rad_uln_cam0{n}_UND.0099.tif",
            ExposureOptions(view=folder / f"xr_calib_wrist_cam0{n}.txt"),
        )
        for n in (1, 2)
    ]
    both = raylign.register(radius, xrays, init=start)
    degrees, mm = both.moved
    assert 10 < degrees < 18 and 5 < mm < 12  # "about 14 degrees and 9 mm away"
    points = surface_points(radius)
    for xray in xrays:
        alone = raylign.register(radius, xray, init=start)
        assert pose_error(alone.transform, both.transform, points, xray.view).in_plane < 0.5
