"""Statistical shapes: the mean of meshes in correspondence, the directions in which they vary, and new ones like them.

A shape is the vector x of all vertices; after the poses are taken out (generalised Procrustes alignment without scale: size is
part of the shape; Gower 1975), x = mean + sum_k b_k modes_k with independent b_k of variance variances_k (Cootes et al. 1995,
Comput Vis Image Underst 61:38). How good a model is: generalisation (how well it says a shape that it has not seen) and
specificity (how near what it makes is to what it has seen) after Davies 2002.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from raylign.data import Mesh
from raylign.errors import InputError

_FORMAT = "raylign-shape-1"


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """A linear shape model.

    Parameters
    ----------
    mean: [N, 3] mm, centred.
    modes: [K, N, 3], orthonormal over all their numbers.
    variances: [K] mm2 summed over all vertices, largest first.
    faces: [M, 3].
    name: the structure.

    Raises
    ------
    InputError: shapes that do not fit together, variances that are not positive or not in order.
    """

    mean: Float[Tensor, "N 3"]
    modes: Float[Tensor, "K N 3"]
    variances: Float[Tensor, " K"]
    faces: Integer[Tensor, "M 3"]
    name: str = ""

    def __post_init__(self) -> None:
        k = len(self.variances)
        if self.mean.ndim != 2 or self.mean.shape[1] != 3 or self.modes.shape != (k, *self.mean.shape):
            raise InputError(
                f"mean {tuple(self.mean.shape)}, modes {tuple(self.modes.shape)} and {k} variances do not fit", field="ShapeModel"
            )
        if k and (float(self.variances.min()) <= 0 or bool((self.variances.diff() > 0).any())):
            raise InputError("variances must be positive and fall", field="variances")

    @staticmethod
    def fit(meshes: Sequence[Mesh], keep: float = 0.99, name: str = "") -> ShapeModel:
        """The model of meshes in correspondence.

        Parameters
        ----------
        meshes: at least two with the same faces.
        keep: fraction of the variance that the modes hold, 0 to 1.

        Raises
        ------
        InputError: fewer than two meshes, or meshes that are not in correspondence.
        """
        if len(meshes) < 2:
            raise InputError(f"{len(meshes)} meshes make no distribution", field="meshes", remedy="give at least two")
        if not 0 < keep <= 1:
            raise InputError(f"keep {keep}", field="keep", remedy="give a fraction above 0, up to 1")
        faces = meshes[0].faces
        if any(m.vertices.shape != meshes[0].vertices.shape or not torch.equal(m.faces, faces) for m in meshes):
            raise InputError(
                "the meshes are not in correspondence", field="meshes", remedy="bring them there with corresponding()"
            )
        shapes = procrustes(torch.stack([m.vertices for m in meshes]))
        mean = shapes.mean(0)
        _, s, vt = torch.linalg.svd((shapes - mean).flatten(1), full_matrices=False)
        variances = s.square() / (len(meshes) - 1)
        share = variances.cumsum(0) / variances.sum()
        count = min(int((share < keep).sum()) + 1, len(meshes) - 1)
        return ShapeModel(mean, vt[:count].unflatten(1, mean.shape), variances[:count], faces, name or meshes[0].name)

    def mesh(self, weights: Float[Tensor, " K"] | None = None) -> Mesh:
        """The shape with given weights in standard deviations; the mean without any. Fewer weights than modes: the first ones."""
        vertices = self.mean
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=self.mean.dtype)
            k = len(weights)
            if weights.ndim != 1 or k > len(self.variances):
                raise InputError(f"weights of shape {tuple(weights.shape)} for {len(self.variances)} modes", field="weights")
            vertices = vertices + torch.einsum("k,kni->ni", weights * self.variances[:k].sqrt(), self.modes[:k])
        return Mesh(vertices, self.faces, self.name)

    def sample(self, generator: torch.Generator, limit: float = 2.5) -> Mesh:
        """A new shape: independent normal weights, drawn again where one lies beyond ``limit`` standard deviations."""
        weights = torch.randn(len(self.variances), generator=generator, dtype=torch.float64)
        while bool((weights.abs() > limit).any()):
            again = torch.randn(len(weights), generator=generator, dtype=torch.float64)
            weights = torch.where(weights.abs() > limit, again, weights)
        return self.mesh(weights)

    def project(self, mesh: Mesh) -> Float[Tensor, " K"]:
        """Weights in standard deviations of the model's shape nearest to a mesh in correspondence, in any pose."""
        aligned = self._posed(mesh)
        return torch.einsum("kni,ni->k", self.modes, aligned - self.mean) / self.variances.sqrt()

    def error(self, mesh: Mesh) -> float:
        """Mean distance in mm of a mesh's vertices from those of the nearest shape of the model."""
        return float((self._posed(mesh) - self.mesh(self.project(mesh)).vertices).norm(dim=1).mean())

    def _posed(self, mesh: Mesh) -> Tensor:
        if mesh.vertices.shape != self.mean.shape:
            raise InputError(f"{len(mesh.vertices)} vertices for a model of {len(self.mean)}", field="mesh")
        return onto(mesh.vertices, self.mean)

    def save(self, path: str | Path) -> None:
        """Write the model as a NumPy archive (``.npz``); nothing in it is code."""
        from raylign.io.atomic import atomic_write

        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream, format=np.array(_FORMAT), mean=self.mean.numpy(), modes=self.modes.numpy().astype(np.float32),
                variances=self.variances.numpy(), faces=self.faces.numpy().astype(np.int32), name=np.array(self.name),
            )  # fmt: skip

    @staticmethod
    def load(path: str | Path) -> ShapeModel:
        """Read a model that ``save`` wrote.

        Raises
        ------
        InputError: the file is not there, or is no such model.
        """
        from raylign.io.files import existing_file, reading

        file = existing_file(path)
        with reading(file, "a shape model"), np.load(file, allow_pickle=False) as stored:
            if "format" not in stored or str(stored["format"]) != _FORMAT:
                raise InputError("this is no shape model", file=file, remedy="give a file that ShapeModel.save wrote")
            mean, modes, variances = (torch.from_numpy(stored[n].astype(np.float64)) for n in ("mean", "modes", "variances"))
            return ShapeModel(mean, modes, variances, torch.from_numpy(stored["faces"].astype(np.int64)), str(stored["name"]))


def onto(moving: Float[Tensor, "N 3"], still: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Points turned and shifted onto others, least squares, without scale (Kabsch 1976)."""
    a, b = moving - moving.mean(0), still.mean(0)
    u, _, vt = torch.linalg.svd(a.T @ (still - b))
    sign = torch.ones(3, dtype=a.dtype)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    return a @ (u * sign @ vt) + b


def procrustes(shapes: Float[Tensor, "S N 3"], rounds: int = 20) -> Float[Tensor, "S N 3"]:
    """Shapes turned and shifted onto their mean, which is found with them; centred; size is kept."""
    mean = shapes[0] - shapes[0].mean(0)
    for _ in range(rounds):
        posed = torch.stack([onto(s, mean) for s in shapes])
        new = onto(posed.mean(0), mean)  # keeps the mean from turning as it is refined
        if float((new - mean).norm(dim=1).max()) < 1e-6:
            break
        mean = new - new.mean(0)
    return torch.stack([onto(s, mean) for s in shapes])


def generalisation(meshes: Sequence[Mesh], groups: Sequence[Hashable] | None = None, keep: float = 0.99) -> list[float]:
    """How well a model says a shape that it has not seen: one error in mm for each mesh (``ShapeModel.error``).

    Parameters
    ----------
    meshes: in correspondence.
    groups: whose each is; a model is fitted without all meshes of the same group (two sides of one person are no two people).

    Raises
    ------
    InputError: fewer than three groups.
    """
    owners = list(range(len(meshes))) if groups is None else list(groups)
    if len(owners) != len(meshes) or len(set(owners)) < 3:
        raise InputError("leaving one out needs three people or more", field="groups")
    out = []
    for mesh, owner in zip(meshes, owners, strict=True):
        rest = [m for m, o in zip(meshes, owners, strict=True) if o != owner]
        out.append(ShapeModel.fit(rest, keep).error(mesh))
    return out


def specificity(model: ShapeModel, meshes: Sequence[Mesh], count: int, generator: torch.Generator) -> list[float]:
    """How near made shapes are to real ones: of each of ``count`` samples the mean vertex distance in mm to the nearest mesh."""
    out = []
    for _ in range(count):
        made = model.sample(generator).vertices
        out.append(min(float((onto(m.vertices, made) - made).norm(dim=1).mean()) for m in meshes))
    return out
