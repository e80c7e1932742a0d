"""Models that are surfaces, on the command line: read, closed, made solid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Mesh, Volume

SUFFIXES = (".stl", ".ply", ".obj", ".vtk")
"""``raylign.io.meshes.FORMATS``, known without loading it."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface, what it was filled with, and in words what was mended about it."""

    mesh: Mesh
    volume: Volume
    material: str
    words: str

    def about(self, path: Path) -> str:
        """For the report."""
        sides = (self.mesh.vertices.amax(0) - self.mesh.vertices.amin(0)).tolist()
        size = " x ".join(f"{side:.0f}" for side in sides)
        return f"{path}: {len(self.mesh.vertices)} vertices, {len(self.mesh.faces)} triangles, {size} mm, {self.material}"


def is_surface(path: Path) -> bool:
    """Whether a file's name is that of a surface."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_surface(path: Path, material: str) -> Surface:
    """A surface as a solid.

    Raises
    ------
    InputError: unreadable, open, or not in millimetres.
    """
    from raylign.io import read_mesh
    from raylign.registration.register import solid_model

    mesh = read_mesh(path)
    try:
        closed, volume, words = solid_model(mesh, material)
    except InputError as error:
        raise error.at(path) from None
    return Surface(closed, volume, material, words)
