"""Legacy VTK polydata (.vtk, versions 1 to 5.1, ASCII and big-endian binary): points and polygons, nothing more.

Source: "VTK File Formats" (Kitware), section "Simple Legacy Formats", and the version 5.1 note on OFFSETS and CONNECTIVITY.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from raylign.errors import InputError

_TYPES = {
    "float": ">f4",
    "double": ">f8",
    "int": ">i4",
    "unsigned_int": ">u4",
    "long": ">i8",
    "unsigned_long": ">u8",
    "short": ">i2",
    "unsigned_short": ">u2",
    "char": ">i1",
    "unsigned_char": ">u1",
    "vtktypeint64": ">i8",
    "vtktypeint32": ">i4",
    "vtkidtype": ">i8",
}


class _Cursor:
    """Where the reading stands in the bytes of the file; arrays follow their keyword line as text or as raw numbers."""

    def __init__(self, data: bytes, at: int, binary: bool) -> None:
        self.data, self.at, self.binary = data, at, binary

    def line(self) -> str | None:
        """The next line that is not blank, or None at the end."""
        while self.at < len(self.data):
            end = self.data.find(b"\n", self.at)
            end = len(self.data) if end < 0 else end
            text = self.data[self.at : end].decode("latin-1").strip()
            self.at = end + 1
            if text:
                return text
        return None

    def array(self, count: int, kind: str) -> np.ndarray:
        """``count`` numbers of a VTK type."""
        if kind.lower() not in _TYPES:
            raise InputError(f"numbers of type {kind!r}", field="dataType", remedy="save the mesh as float")
        dtype = np.dtype(_TYPES[kind.lower()])
        if self.binary:
            end = self.at + count * dtype.itemsize
            if count < 0 or end > len(self.data):
                raise InputError("the file ends before its numbers do", remedy="copy or export it again")
            values = np.frombuffer(self.data, dtype, count, self.at)
            self.at = end
            return values
        return self._text_array(count, dtype)

    def _text_array(self, count: int, dtype: np.dtype) -> np.ndarray:
        # tokens are taken in slices that are sure to hold them: no number needs more than 32 characters as a rule
        found: list[bytes] = []
        while len(found) < count:
            end = min(self.at + 32 * (count - len(found)) + 64, len(self.data))
            while end < len(self.data) and not self.data[end : end + 1].isspace():
                end += 1
            if end == self.at:
                raise InputError("the file ends before its numbers do", remedy="copy or export it again")
            tokens = self.data[self.at : end].split()
            need = count - len(found)
            if len(tokens) > need:  # step back to just behind the last number needed
                end = self._after(need)
            found += tokens[:need]
            self.at = end
        return np.array(found).astype(np.float64 if dtype.kind == "f" else np.int64)

    def _after(self, tokens: int) -> int:
        at = self.at
        for _ in range(tokens):
            while self.data[at : at + 1].isspace():
                at += 1
            while at < len(self.data) and not self.data[at : at + 1].isspace():
                at += 1
        return at


def read_polydata(data: bytes) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "M 3"]]:
    """Vertices and triangles of a legacy VTK file; polygons are cut into fans, strips into triangles.

    Raises
    ------
    InputError: not legacy VTK, not polydata, no points, broken off.
    """
    lines = data[:2048].split(b"\n", 4)
    if not lines[0].startswith(b"# vtk DataFile Version") or len(lines) < 4:
        raise InputError("the first line is not '# vtk DataFile Version'", remedy="give a legacy VTK file, STL, PLY or OBJ")
    encoding = lines[2].strip().upper()
    if encoding not in (b"ASCII", b"BINARY"):
        raise InputError(f"the third line is {encoding[:20]!r}, not ASCII or BINARY", field="line 3")
    cursor = _Cursor(data, sum(len(line) + 1 for line in lines[:3]), encoding == b"BINARY")
    dataset = cursor.line() or ""
    if dataset.upper().split() != ["DATASET", "POLYDATA"]:
        raise InputError(f"it says {dataset!r}", field="DATASET", remedy="save the surface as polydata")
    points: np.ndarray | None = None
    faces: list[np.ndarray] = []
    while (text := cursor.line()) is not None:
        words = text.split()
        key = words[0].upper()
        if key in ("POINT_DATA", "CELL_DATA"):
            break
        if key == "POINTS":
            points = cursor.array(3 * int(words[1]), words[2]).astype(np.float64).reshape(-1, 3)
        elif key in ("POLYGONS", "TRIANGLE_STRIPS", "LINES", "VERTICES"):
            offsets, connectivity = _cells(cursor, int(words[1]), int(words[2]))
            if key == "POLYGONS":
                faces.append(_fans(offsets, connectivity))
            elif key == "TRIANGLE_STRIPS":
                faces.append(_strips(offsets, connectivity))
        elif key == "FIELD":
            _skip_field(cursor, int(words[2]))
        elif key == "METADATA":
            _skip_metadata(cursor)
        else:
            raise InputError(f"{text[:40]!r} is not understood", field="polydata", remedy="save points and polygons only")
    if points is None:
        raise InputError("it has no POINTS", field="polydata")
    return points, np.concatenate(faces) if faces else np.zeros((0, 3), np.int64)


def _cells(cursor: _Cursor, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [cells + 1] and point indices, from either of the two layouts."""
    here = cursor.at
    head = (cursor.line() or "").split()
    if head and head[0].upper() == "OFFSETS":  # version 5.1
        offsets = cursor.array(first, head[1]).astype(np.int64)
        head = (cursor.line() or "").split()
        if not head or head[0].upper() != "CONNECTIVITY":
            raise InputError("OFFSETS without CONNECTIVITY", field="polydata")
        return offsets, cursor.array(second, head[1]).astype(np.int64)
    cursor.at = here
    flat = cursor.array(second, "int").astype(np.int64)
    if first and second == 4 * first and bool((flat[::4] == 3).all()):
        return np.arange(first + 1) * 3, flat.reshape(-1, 4)[:, 1:].reshape(-1)
    sizes, at = [], 0
    for _ in range(first):
        if at >= second or flat[at] < 0:
            raise InputError("the polygons' sizes do not add up", field="polydata")
        sizes.append(int(flat[at]))
        at += sizes[-1] + 1
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    keep = np.ones(second, bool)
    keep[offsets[:-1] + np.arange(first)] = False
    return offsets, flat[keep]


def _fans(offsets: np.ndarray, connectivity: np.ndarray) -> np.ndarray:
    sizes = np.diff(offsets)
    if bool((sizes == 3).all()):
        return connectivity[: offsets[-1] if len(offsets) else 0].reshape(-1, 3)
    out = [
        (connectivity[a], connectivity[a + k], connectivity[a + k + 1])
        for a, n in zip(offsets[:-1], sizes, strict=True)
        for k in range(1, n - 1)
    ]
    return np.array(out, np.int64).reshape(-1, 3)


def _strips(offsets: np.ndarray, connectivity: np.ndarray) -> np.ndarray:
    out = []
    for a, b in pairwise(offsets):
        for k in range(a, b - 2):
            i, j = (k, k + 1) if (k - a) % 2 == 0 else (k + 1, k)  # every other triangle of a strip is wound backwards
            out.append((connectivity[i], connectivity[j], connectivity[k + 2]))
    return np.array(out, np.int64).reshape(-1, 3)


def _skip_field(cursor: _Cursor, arrays: int) -> None:
    for _ in range(arrays):
        words = (cursor.line() or "").split()
        if words and words[0].upper() == "METADATA":
            _skip_metadata(cursor)
            words = (cursor.line() or "").split()
        if len(words) < 4:
            raise InputError("a field without name, size and type", field="FIELD")
        count = int(words[1]) * int(words[2])
        if words[3] == "string" and not cursor.binary:
            for _ in range(count):
                cursor.line()
        elif words[3] == "string":
            for _ in range(count):
                _skip_binary_string(cursor)
        else:
            cursor.array(count, words[3])


def _skip_binary_string(cursor: _Cursor) -> None:
    # the two top bits of the first byte say how many bytes hold the length: 1, 2, 4 or 8 for 3, 2, 1, 0
    width = 1 << (3 - (cursor.data[cursor.at] >> 6))
    length = int.from_bytes(cursor.data[cursor.at : cursor.at + width], "big") & ((1 << (8 * width - 2)) - 1)
    cursor.at += width + length


def _skip_metadata(cursor: _Cursor) -> None:
    # a block of text that a blank line ends
    end = cursor.data.find(b"\n\n", cursor.at)
    cursor.at = len(cursor.data) if end < 0 else end + 2
