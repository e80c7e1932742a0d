"""Surface meshes in files: STL, PLY, OBJ and legacy VTK, in millimetres.

None of the formats has a field for the frame. 3D Slicer writes ``SPACE=LPS`` or ``SPACE=RAS`` into the header or a comment and
takes a file without it as LPS since 2020 (Slicer 4.11); so does raylign, and ``raylign info`` says which it was.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from raylign.data import Mesh
from raylign.errors import InputError
from raylign.io import stl_obj, vtk_legacy
from raylign.io.atomic import atomic_write
from raylign.io.files import existing_file, reading, suffix

FORMATS = (".stl", ".ply", ".obj", ".vtk")


def read_mesh(path: str | Path) -> Mesh:
    """A triangle mesh in patient LPS mm; its name is the file's.

    Equal vertices of an STL file (which repeats them for every triangle) are merged. Polygons become triangles.

    Raises
    ------
    InputError: unreadable, no faces, coordinates that are not finite, an unknown frame.
    """
    file = existing_file(path)
    kind = suffix(file)
    if kind not in FORMATS:
        raise InputError(f"{kind or 'no suffix'!r} is no mesh format", file=file, remedy="give .stl, .ply, .obj or .vtk")
    space = stated_space(file)
    read = {".vtk": vtk_legacy.read_polydata, ".stl": stl_obj.read_stl, ".obj": stl_obj.read_obj, ".ply": _read_ply}[kind]
    with reading(file, f"a {kind[1:].upper()} mesh"):
        vertices, faces = read(file.read_bytes())
        if space == "RAS":
            vertices = vertices * [-1.0, -1.0, 1.0]
        mesh = Mesh(torch.from_numpy(np.array(vertices, np.float64)), torch.from_numpy(np.array(faces, np.int64)), file.stem)
    return mesh


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh by suffix (``.stl`` binary, ``.ply`` binary, ``.obj``, ``.vtk`` binary), in LPS mm and saying so.

    STL holds single precision; the others keep it double or in full decimals.

    Raises
    ------
    InputError: another suffix, a place that cannot be written.
    """
    kind = suffix(path)
    if kind not in FORMATS:
        raise InputError(f"{kind or 'no suffix'!r} is no mesh format", file=path, remedy="use .stl, .ply, .obj or .vtk")
    vertices, faces = mesh.vertices.detach().numpy(), mesh.faces.numpy()
    encode = {".stl": _stl, ".ply": _ply, ".obj": _obj, ".vtk": _vtk}[kind]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode(vertices, faces))


def stated_space(path: str | Path) -> str | None:
    """ "LPS" or "RAS" where the file's header or comments say ``SPACE=...`` as Slicer writes it; None where they do not.

    Raises
    ------
    InputError: another frame is stated.
    """
    file = existing_file(path)
    with reading(file, "a mesh"), file.open("rb") as stream:
        head = stream.read(4096)
    match = re.search(rb"SPACE\s*=\s*([A-Za-z]+)", head)
    if match is None and suffix(file) == ".vtk":
        match = re.search(rb"\nSPACE 1 1 string\s*\n[\x00-\xff]?(LPS|RAS)", head)
    if match is None:
        return None
    space = match[1].decode("ascii").upper()
    if space not in ("LPS", "RAS"):
        raise InputError(f"the frame {space!r} is unknown", file=file, field="SPACE", remedy="save the mesh in LPS or RAS")
    return space


def _read_ply(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    mesh = trimesh.load(BytesIO(data), file_type="ply", process=False)
    if not isinstance(mesh, trimesh.Trimesh):
        raise InputError("the mesh has no faces", field="faces", remedy="export a triangle surface, not points")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    record = np.zeros(len(faces), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]))
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    record["normal"] = normal / np.where(length > 0, length, 1)
    record["corners"] = corners
    header = b"raylign binary STL, mm, SPACE=LPS".ljust(80)
    return header + np.uint32(len(faces)).tobytes() + record.tobytes()


def _ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment raylign, mm, SPACE=LPS\n"
        f"element vertex {len(vertices)}\nproperty double x\nproperty double y\nproperty double z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    record = np.zeros(len(faces), np.dtype([("n", "u1"), ("v", "<i4", 3)]))
    record["n"], record["v"] = 3, faces
    return header.encode() + vertices.astype("<f8").tobytes() + record.tobytes()


def _obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["# raylign, mm, SPACE=LPS"]
    lines += [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _vtk(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    n = len(faces)
    cells = np.concatenate([np.full((n, 1), 3), faces], 1).astype(">i4")
    head = f"# vtk DataFile Version 3.0\nraylign, mm, SPACE=LPS\nBINARY\nDATASET POLYDATA\nPOINTS {len(vertices)} double\n"
    return head.encode() + vertices.astype(">f8").tobytes() + f"\nPOLYGONS {n} {4 * n}\n".encode() + cells.tobytes() + b"\n"
