"""STL and OBJ triangles, nothing more: no materials, normals or texture.

Sources: "StL Interface Specification" (3D Systems); Wavefront, "Object Files (.obj)".
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float, Int

from raylign.errors import InputError

_HEADER = 84  # 80 bytes of free text, then the number of triangles
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NUMBER = rb"([-+\w.]+)"


def read_stl(data: bytes) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "M 3"]]:
    """Vertices, the corners of each triangle in turn with equal ones merged, and triangles.

    Raises
    ------
    InputError: neither binary STL of the length it states nor ASCII STL.
    """
    count = int.from_bytes(data[80:_HEADER], "little") if len(data) >= _HEADER else -1
    # a binary header may begin with "solid", so the length decides; some writers leave a few bytes behind the last triangle
    if count >= 0 and 0 <= len(data) - _HEADER - count * _RECORD.itemsize < _RECORD.itemsize:
        corners = np.frombuffer(data, _RECORD, count, _HEADER)["corners"].reshape(-1, 3).astype(np.float64)
    elif data.lstrip()[:5].lower() == b"solid":
        found = re.findall(rb"^\s*vertex\s+" + rb"\s+".join([_NUMBER] * 3), data, re.MULTILINE | re.IGNORECASE)
        if len(found) % 3 or b"endsolid" not in data[-4096:].lower():
            raise InputError("the file ends before its triangles do", remedy="copy or export it again")
        corners = np.array(found, dtype="S32").astype(np.float64).reshape(-1, 3)
    else:
        stated = f"of {count} triangles" if count >= 0 else "header"
        raise InputError(f"{len(data)} bytes are no STL {stated}", remedy="copy or export it again")
    vertices, where = np.unique(corners, axis=0, return_inverse=True)
    return vertices.reshape(-1, 3), where.reshape(-1, 3)


def read_obj(data: bytes) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "M 3"]]:
    """Vertices and triangles of all groups; polygons are cut into fans, indices may count backwards.

    Raises
    ------
    InputError: a vertex or a face that is not understood.
    """
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    text = data.decode("latin-1").replace("\\\r\n", " ").replace("\\\n", " ")  # comments come in any encoding
    for n, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words or words[0] not in ("v", "f"):
            continue
        try:
            if words[0] == "v":
                vertices.append([float(words[1]), float(words[2]), float(words[3])])
            else:
                at = [int(word.split("/", 1)[0]) for word in words[1:]]
                at = [i - 1 if i > 0 else len(vertices) + i for i in at]
                faces += [(at[0], at[k], at[k + 1]) for k in range(1, len(at) - 1)]
        except (ValueError, IndexError):
            raise InputError(f"{line.strip()[:40]!r} is not understood", field=f"line {n}") from None
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
