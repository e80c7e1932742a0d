"""RTK: its projection matrices, its geometry files and its Joseph projector, through our converter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign import Rigid, View, Volume, project
from raylign.bench.cases import Plan
from raylign.bench.measure import compare
from raylign.geometry import convert, se3
from tests.peers.rendering import framed, real_ct, real_views, relative_rms

itk = pytest.importorskip("itk")
if not hasattr(itk, "RTK"):
    pytest.skip("this ITK is built without RTK (install itk-rtk)", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:builtin type [sS]wig")

D = torch.float64


def random_view(r: random.Random) -> View:
    view = View.from_carm(
        primary=r.uniform(-180, 180),
        secondary=r.choice([r.uniform(-90, 90), r.uniform(-90, 90), 90.0, -90.0, 0.0]),
        sid=r.uniform(900, 1300),
        sod=r.uniform(500, 800),
        pixel_spacing=(r.uniform(0.2, 2), r.uniform(0.2, 2)),
        shape=(100, 121),
    )
    if r.random() < 0.5:  # off the isocentre, turned about the central ray
        twist = [r.gauss(0, 0.3) for _ in range(3)] + [r.gauss(0, 20) for _ in range(3)]
        view = view.transformed(se3.exp(torch.tensor(twist, dtype=D)))
    if r.random() < 0.5:  # principal point off centre
        view = view.crop(slice(r.randint(0, 30), None), slice(r.randint(0, 30), None))
    return view.flip(columns=r.random() < 0.3, rows=r.random() < 0.3).rotate(r.randint(0, 3))


def geometry(*projections: convert.RTKProjection) -> Any:
    g = itk.RTK.ThreeDCircularProjectionGeometry.New()
    for p in projections:
        g.AddProjection(
            p.source_to_isocenter_distance,
            p.source_to_detector_distance,
            p.gantry_angle,
            p.projection_offset_x,
            p.projection_offset_y,
            p.out_of_plane_angle,
            p.in_plane_angle,
            p.source_offset_x,
            p.source_offset_y,
        )
    return g


@pytest.mark.parametrize("seed", range(100))
def test_points_fall_where_rtks_matrices_put_them(seed: int) -> None:
    r = random.Random(seed)
    view = random_view(r)
    projection, image = convert.to_rtk(view)
    m = itk.array_from_matrix(geometry(projection).GetMatrix(0))
    assert np.abs(m - convert.rtk_matrix(projection).numpy()).max() < 1e-9 * np.abs(m).max()
    points = (torch.rand(50, 3, dtype=D, generator=torch.Generator().manual_seed(seed)) - 0.5) * 200
    iec = se3.transform(convert.iec_from_lps(), points).numpy()
    uvw = iec @ m[:, :3].T + m[:, 3]
    pixels = (uvw[:, :2] / uvw[:, 2:] - image.origin) / image.spacing / image.direction
    assert np.abs(pixels - view.project(points).numpy()).max() < 1e-6


def test_the_source_is_where_rtk_says() -> None:
    view = random_view(random.Random(7))
    g = geometry(convert.to_rtk(view)[0])
    found = [g.GetSourcePosition(0)[i] for i in range(3)]
    assert np.allclose(found, se3.transform(convert.iec_from_lps(), view.source[None])[0].numpy(), atol=1e-9)


def test_rtk_reads_our_file_and_we_read_its(tmp_path: Path) -> None:
    r = random.Random(3)
    projections = [convert.to_rtk(random_view(r))[0] for _ in range(5)]
    ours, theirs = tmp_path / "ours.xml", tmp_path / "theirs.xml"
    ours.write_text(convert.rtk_xml(projections))
    reader = itk.RTK.ThreeDCircularProjectionGeometryXMLFileReader.New()
    reader.SetFilename(str(ours))
    reader.GenerateOutputInformation()
    for i, p in enumerate(projections):
        m = itk.array_from_matrix(reader.GetOutputObject().GetMatrix(i))
        assert np.abs(m - convert.rtk_matrix(p).numpy()).max() < 1e-9 * np.abs(m).max()
    held = geometry(*projections)  # the writer keeps no reference of its own
    writer = itk.RTK.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetObject(held)
    writer.SetFilename(str(theirs))
    writer.WriteFile()
    for found, p in zip(convert.parse_rtk_xml(theirs.read_text()), projections, strict=True):
        assert list(vars(found).values()) == pytest.approx(list(vars(p).values()), abs=1e-9)


def smooth_phantom() -> Volume:
    """Blobs of different widths and no symmetry that vanish before the faces, on an oblique grid with three pitches."""
    spacing, shape = torch.tensor([2.2, 2.6, 3.1], dtype=D), (52, 58, 64)
    k, j, i = torch.meshgrid(*(torch.arange(n, dtype=D) for n in shape), indexing="ij")
    mm = torch.stack([i, j, k], -1) * spacing
    data = torch.zeros(shape, dtype=D)
    for centre, width, value in (((70, 75, 80), 16, 0.02), ((50, 95, 65), 9, 0.04), ((95, 60, 100), 11, 0.03)):
        data += value * torch.exp(-((mm - torch.tensor(centre, dtype=D)) ** 2).sum(-1) / (2 * width**2))
    rotation = se3.exp(torch.tensor([0.2, -0.3, 0.1, 0, 0, 0], dtype=D))[:3, :3]
    middle = rotation @ (spacing * torch.tensor([63, 57, 51], dtype=D) / 2)
    return Volume(data.to(torch.float32), se3.from_parts(rotation @ torch.diag(spacing), -middle))


def joseph(volume: Volume, view: View, pose: Rigid) -> np.ndarray:
    """RTK's Joseph projection of the posed volume, as an image of the view."""
    projection, image = convert.to_rtk(view)
    affine = (convert.iec_from_lps() @ pose.matrix @ volume.affine).numpy()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    source = itk.image_from_array(volume.data.numpy())
    source.SetOrigin(affine[:3, 3].tolist())
    source.SetSpacing(spacing.tolist())
    source.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing))
    w, h = image.size
    stack = itk.image_from_array(np.zeros((1, h, w), np.float32))
    stack.SetOrigin([*image.origin, 0.0])
    stack.SetSpacing([*image.spacing, 1.0])
    stack.SetDirection(itk.matrix_from_array(np.diag([*image.direction, 1]).astype(float)))
    kind = itk.Image[itk.F, 3]
    projector = itk.RTK.JosephForwardProjectionImageFilter[kind, kind].New()
    projector.SetInput(0, stack)
    projector.SetInput(1, source)
    held = geometry(projection)
    projector.SetGeometry(held)
    projector.Update()
    return np.array(itk.array_from_image(projector.GetOutput())[0])


VIEWS = {
    "frontal": View.from_carm(sid=1000, sod=650, pixel_spacing=3.0, shape=(90, 100)),
    "oblique, pixels not square": View.from_carm(
        primary=35, secondary=-20, sid=1100, sod=700, pixel_spacing=(2.5, 4.0), shape=(110, 70)
    ),
    "lateral, off centre": View.from_carm(
        primary=-90, secondary=5, sid=1100, sod=700, pixel_spacing=(3, 2.5), shape=(140, 150)
    ).crop(slice(10, 120), slice(40, 150)),
    "along the patient": View.from_carm(primary=10, secondary=90, sid=1000, sod=600, pixel_spacing=(3, 3.5), shape=(90, 80)),
    "flipped": View.from_carm(primary=20, sid=1000, sod=650, pixel_spacing=(3.5, 3), shape=(80, 90)).flip(columns=True),
    "turned": View.from_carm(primary=150, secondary=30, sid=1000, sod=650, pixel_spacing=(3.5, 3), shape=(80, 90)).rotate(1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_projector_agrees_with_josephs(name: str) -> None:
    volume = smooth_phantom()
    pose = Rigid(se3.exp(torch.tensor([0.2, 0.4, -0.3, 12.0, -9.0, 15.0], dtype=D)))
    ours = project(volume, VIEWS[name], pose)[0, 0].numpy()
    theirs = joseph(volume, VIEWS[name], pose)
    assert theirs.max() > 0.5
    assert np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean()) < 0.01


def test_our_joseph_model_is_rtks() -> None:
    """The same sum: what is left is single precision, and the blobs' tails, which the two end differently at the faces."""
    volume = smooth_phantom()
    pose = Rigid(se3.exp(torch.tensor([0.2, 0.4, -0.3, 12.0, -9.0, 15.0], dtype=D)))
    for view in VIEWS.values():
        ours = project(volume, view, pose, model="joseph")[0, 0]
        assert relative_rms(ours, torch.from_numpy(joseph(volume, view, pose))) < 1e-4


@pytest.mark.parametrize("number", range(3))
def test_a_real_ct(number: int, shared: Path) -> None:
    volume = real_ct(shared)
    view, pose = real_views(volume)[number]
    # as it is, cut at its faces: RTK's volume ends there, ours falls to zero within a voxel beyond
    theirs = torch.from_numpy(joseph(volume, view, pose))
    assert relative_rms(project(volume, view, pose, model="joseph")[0, 0], theirs) < 0.01
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 0.01
    volume = framed(volume)
    theirs = torch.from_numpy(joseph(volume, view, pose))
    assert relative_rms(project(volume, view, pose, model="joseph")[0, 0], theirs) < 1e-5  # single precision
    assert relative_rms(project(volume, view, pose)[0, 0], theirs) < 0.002  # samples at other places


def test_the_comparison_times_both_at_one_error() -> None:
    plan = Plan(sizes=(24,), batches=(3,), whats=("forward",), peers=("rtk",), voxels=24, model="joseph")
    outcome = compare(plan, lambda stage, share: None)
    ours, theirs = sorted(outcome.rows, key=lambda row: row["who"])
    assert (ours["who"], theirs["who"]) == ("raylign", "rtk") and not outcome.missing
    # one model; on so coarse a grid the body fills the outermost voxels, beyond which the two differ
    assert ours["reached"] and ours["error"] == pytest.approx(theirs["error"], rel=0.02)
    # the third image is that of the third pose, for both: an image of another pose would be far from the exact one
    assert "warning" not in ours and "warning" not in theirs
