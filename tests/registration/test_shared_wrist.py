"""A real forearm in two cameras: the ulna from nowhere beside the radius, both together, each camera alone; or skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import raylign
from raylign.evaluation.gather import surface_points
from raylign.evaluation.metrics import pose_error
from raylign.io import ExposureOptions
from raylign.registration import Anywhere, AnywhereConfig, Problem, centred
from raylign.registration.anywhere_scan import Axis, Region
from raylign.registration.objects import Body, Objects, ObjectsProblem


def test_a_real_forearm(shared: Path) -> None:
    """In its image plane each camera alone puts both bones within 0.3 mm of where both cameras do."""
    folder = shared / "xray" / "wrist_biplane"
    models = {bone: raylign.read_volume(folder / "models" / f"{bone}.nrrd") for bone in ("radius", "ulna")}
    xrays = tuple(
        raylign.read_xray(
            folder / f"cam0{n}" / f"xr_rad_uln_cam0{n}_UND.0099.tif",
            ExposureOptions(view=folder / f"xr_calib_wrist_cam0{n}.txt"),
        )
        for n in (1, 2)
    )
    radius = raylign.register(models["radius"], xrays, init=raylign.read_pose(folder / "start_radius_0099.json")).transform
    along, at = radius.matrix[:3, 2].numpy(), radius.apply(models["radius"].centre[None])[0].numpy()
    config = AnywhereConfig(
        turns=6000,
        lattice=4.0,
        tried=500,
        refined=100,
        region=Region(at, 40.0),
        axis=Axis(np.array([0.0, 0.0, 1.0]), along, 25.0),
        known=((models["radius"], radius),),
    )
    ulna = Anywhere(config).register(Problem(models["ulna"], xrays, centred(models["ulna"])))
    assert ulna.confidence.trusted
    poses = {"radius": radius, "ulna": ulna.transform}
    both = Objects().together(ObjectsProblem(tuple(Body(n, models[n], p) for n, p in poses.items()), xrays))
    assert both.trusted
    for xray in xrays:
        bodies = tuple(Body(n, models[n], r.transform) for n, r in both.results.items())
        alone = Objects().together(ObjectsProblem(bodies, (xray,)))
        for name, result in both.results.items():
            points = surface_points(models[name])
            assert pose_error(alone.results[name].transform, result.transform, points, xray.view).in_plane < 0.3
