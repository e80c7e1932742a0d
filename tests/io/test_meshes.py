from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
import trimesh

from raylign import InputError
from raylign.data import Mesh
from raylign.io.meshes import read_mesh, stated_space, write_mesh

TETRA = Mesh(
    torch.tensor([[0.0, 0.0, 0.0], [10.25, 0.0, 0.0], [0.0, 20.5, 0.0], [0.0, 0.0, 30.75]]),
    torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
)


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("name", ["m.stl", "m.ply", "m.obj", "m.vtk"])
def test_a_mesh_comes_back_and_others_read_it(tmp_path: Path, name: str) -> None:
    write_mesh(TETRA, tmp_path / name)
    back = read_mesh(tmp_path / name)
    assert stated_space(tmp_path / name) == "LPS"
    assert back.vertices.shape == (4, 3)
    assert volume(back) == pytest.approx(10.25 * 20.5 * 30.75 / 6)
    assert torch.equal(back.vertices[back.faces].sum((0, 1)), TETRA.vertices[TETRA.faces].sum((0, 1)))
    if name != "m.vtk":
        assert trimesh.load(tmp_path / name, force="mesh").volume == pytest.approx(volume(TETRA))


def test_itk_reads_our_vtk_and_we_read_its_own(tmp_path: Path) -> None:
    itk = pytest.importorskip("itk")
    write_mesh(TETRA, tmp_path / "ours.vtk")
    mesh = itk.meshread(str(tmp_path / "ours.vtk"))
    assert (mesh.GetNumberOfPoints(), mesh.GetNumberOfCells()) == (4, 4)
    itk.meshwrite(mesh, str(tmp_path / "theirs.vtk"))
    back = read_mesh(tmp_path / "theirs.vtk")
    assert volume(back) == pytest.approx(volume(TETRA), rel=1e-5)


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".vtk"])
def test_slicers_ras_comment_turns_the_mesh(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"m{suffix}"
    write_mesh(TETRA, file)
    file.write_bytes(file.read_bytes().replace(b"SPACE=LPS", b"SPACE=RAS"))
    back = read_mesh(file)
    assert back.vertices.min(0).values.tolist() == [-10.25, -20.5, 0.0]
    assert volume(back) > 0


ASCII = """# vtk DataFile Version {version}
vtk output
ASCII
DATASET POLYDATA
FIELD FieldData 1
SPACE 1 1 string
RAS
POINTS 5 float
0 0 0 1 0 0 1 1 0
0 1 0 0.5 0.5 1
METADATA
INFORMATION 0

{cells}
POINT_DATA 5
NORMALS n float
0 0 1 0 0 1 0 0 1 0 0 1 0 0 1
"""
OLD = "POLYGONS 2 9\n4 0 1 2 3\n3 0 1 4\n"
NEW = "POLYGONS 3 7\nOFFSETS vtktypeint64\n0 4 7\nCONNECTIVITY vtktypeint64\n0 1 2 3 0 1\n4\n"
STRIP = "TRIANGLE_STRIPS 1 5\n4 0 1 3 2\n"


@pytest.mark.parametrize(("version", "cells", "area"), [("3.0", OLD, 1.55902), ("5.1", NEW, 1.55902), ("2.0", STRIP, 1.0)])
def test_polygons_and_strips_become_triangles(tmp_path: Path, version: str, cells: str, area: float) -> None:
    (tmp_path / "m.vtk").write_text(ASCII.format(version=version, cells=cells))
    mesh = read_mesh(tmp_path / "m.vtk")
    assert mesh.vertices[2].tolist() == [-1.0, -1.0, 0.0]
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    assert float(normals.norm(dim=1).sum() / 2) == pytest.approx(area, abs=1e-4)
    assert bool((normals[:2, 2] > 0).all())


def test_the_vtk_files_of_others(shared: Path) -> None:
    femur = read_mesh(shared / "meshes" / "femur" / "VSD001_femur.vtk")
    assert (len(femur.vertices), len(femur.faces)) == (18934, 37864)
    pelvis = read_mesh(shared / "meshes" / "pelvis" / "DeciPelvis.vtk")
    assert (len(pelvis.vertices), len(pelvis.faces)) == (47831, 93003)
    assert pelvis.vertices[5].tolist() == pytest.approx([171.378, 0, 0])
    assert 300 < float((femur.vertices.max(0).values - femur.vertices.min(0).values).max()) < 550


def test_stl_vertices_are_merged(shared: Path) -> None:
    file = shared / "meshes" / "femur" / "m8_lfemur_mm.stl"
    mesh = read_mesh(file)
    assert stated_space(file) == "LPS"
    assert len(mesh.vertices) < len(mesh.faces)
    assert volume(mesh) == pytest.approx(trimesh.load(file).volume, rel=1e-6)


def test_ascii_stl_as_trimesh_writes_it(tmp_path: Path) -> None:
    other = trimesh.Trimesh(TETRA.vertices.numpy(), TETRA.faces.numpy(), process=False)
    other.export(tmp_path / "a.stl", file_type="stl_ascii")
    mesh = read_mesh(tmp_path / "a.stl")
    assert mesh.vertices.shape == (4, 3)
    assert volume(mesh) == pytest.approx(volume(TETRA))


def test_obj_with_quads_normals_groups_and_a_comment_in_another_encoding(tmp_path: Path) -> None:
    text = "# H\xfcfte\nv 0 0 0\nv 2 0 0\nv 2 3 0\nvn 0 0 1\ng a\nv 0 3 0 # last\nf 1//1 2//1 3//1 4//1\n"
    text += "g b\nf -4/1/1 -3/1/1 -2/1/1\n"
    (tmp_path / "m.obj").write_bytes(text.encode("latin-1"))
    mesh = read_mesh(tmp_path / "m.obj")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


EMPTY_STL = b"x".ljust(80) + struct.pack("<I", 0)
CLOUD = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n"
NAN = b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
HEAD = b"# vtk DataFile Version 3.0\nt\nBINARY\nDATASET "


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.stl", EMPTY_STL),
        ("m.stl", b"solid x\nendsolid x\n"),
        ("m.stl", b"\x00" * 200),
        ("m.stl", b"solid\nfacet\nvertex 1 2 3\nvertex 1 2 x\n"),
        ("m.obj", b"v 0 0\nf 1 2 3\n"),
        ("m.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n"),
        ("m.ply", CLOUD),
        ("m.ply", b"ply\nformat ascii"),
        ("m.obj", b"v 0 0 0\n"),
        ("m.obj", NAN),
        ("m.obj", b"v 0 0 0\nf 1 2 9\n"),
        ("m.vtk", b"nonsense"),
        ("m.vtk", HEAD + b"UNSTRUCTURED_GRID\n"),
        ("m.vtk", HEAD + b"POLYDATA\nPOINTS 100 float\n1234"),
        ("m.vtk", HEAD + b"POLYDATA\nPOINTS 1 float\n" + bytes(12) + b"\n"),
        ("m.vtk", HEAD + b"POLYDATA\nPOINTS -1 float\n"),
        ("m.vtk", HEAD.replace(b"BINARY", b"ASCII") + b"POLYDATA\nPOINTS 4 float\n1 2 3\n"),
        ("m.obj", b"# SPACE=MNI\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("m.foo", b"x"),
        ("m.stl", b""),
    ],
)
def test_what_is_no_surface_is_refused_by_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_mesh(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
