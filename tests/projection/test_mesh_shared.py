"""Real bones: their thickness against the volume projector's view of the filled mesh, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.data import Mesh, Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.io import read_mesh
from raylign.projection import project
from raylign.projection.mesh import depth, project_mesh, seen
from tests.projection.mesh_shapes import D


def filled(mesh: Mesh, pitch: float) -> Volume:
    """1 in the voxels whose centres lie inside, 0 elsewhere: by counting the triangles below each, column by column."""
    corners = mesh.vertices[mesh.faces].numpy()
    low = corners.min((0, 1)) - 2.3 * pitch
    size = np.ceil((corners.max((0, 1)) - low) / pitch).astype(int) + 3
    crossed = np.zeros(size, np.int64)
    for a, b, c in (corners - low) / pitch:
        first = np.ceil(np.minimum(np.minimum(a, b), c)[:2]).astype(int)
        last = np.floor(np.maximum(np.maximum(a, b), c)[:2]).astype(int) + 1
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if (first >= last).any() or area == 0:
            continue
        x, y = np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]), indexing="ij")
        second = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
        third = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
        within = (second >= 0) & (third >= 0) & (second + third <= 1)
        z = (a[2] + second * (b[2] - a[2]) + third * (c[2] - a[2]))[within]
        crossed[x[within], y[within], np.ceil(z).astype(int)] += 1
    inside = (crossed.cumsum(2) % 2).astype(np.float32)
    affine = torch.diag(torch.tensor([pitch, pitch, pitch, 1.0], dtype=D))
    affine[:3, 3] = torch.from_numpy(low)
    return Volume(torch.from_numpy(np.ascontiguousarray(inside.transpose(2, 1, 0))), affine)


def centred(mesh: Mesh) -> torch.Tensor:
    pose = torch.eye(4, dtype=D)
    pose[:3, 3] = -(mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    return pose


def test_a_real_bone_is_as_thick_as_its_filled_voxels(shared: Path) -> None:
    mesh = read_mesh(shared / "meshes" / "bones" / "VHF_Left_Bone_Patella_smooth.stl")
    view = View.from_carm(primary=30, secondary=15, sid=1000, sod=650, pixel_spacing=1.0, shape=(90, 90))
    ours = project_mesh(mesh, view, centred(mesh))[0, 0]
    volume = filled(mesh, 0.5)
    theirs = project(volume, view, centred(mesh))[0, 0]
    rms = float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
    # voxels are in or out: each surface is up to 0.25 mm off, of some 20 mm
    assert rms < 0.02
    assert float(ours.sum()) == pytest.approx(float(theirs.sum()), rel=2e-3)


@pytest.mark.parametrize("name", ["femur/m7_lfemur_mm.stl", "pelvis/coxae.stl"])
def test_no_ray_leaks_through_a_real_bone(shared: Path, name: str) -> None:
    mesh = read_mesh(shared / "meshes" / name)
    view = View.from_carm(primary=20, secondary=10, sid=1000, sod=650, pixel_spacing=0.5, shape=(500, 500))
    thickness = project_mesh(mesh, view, centred(mesh))[0, 0]
    extent = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    # a surface that cuts itself slightly may take a little away; a lost hit would be some 600 mm
    assert float(thickness.max()) < 0.6 * extent and float(thickness.min()) > -1.0
    met = depth(mesh, view, centred(mesh))
    it = seen(mesh, view, centred(mesh))
    begin = float(it.lengths().min()) * 0.65 - extent / 2
    assert begin < float(met.distance.min()) < begin + extent
    assert torch.equal(met.face[0, 0] >= 0, thickness != 0)


def test_an_open_surface_says_how_to_mend_it(shared: Path) -> None:
    mesh = read_mesh(shared / "meshes" / "pelvis" / "DeciPelvis.vtk")
    with pytest.raises(InputError, match=r"not closed: 1\d\d\d of its edges"):
        project_mesh(mesh, View.from_carm(sid=1000, sod=650, pixel_spacing=4.0, shape=(9, 9)))
