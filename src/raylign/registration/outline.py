"""What the outline of a bone that was cut out of a CT leaves open: its size, hence its depth.

Where a cut-out ends is a threshold's choice, half a voxel one way or the other, and the same all round. A bone that is too large
by a part of a voxel fits an exposure as well farther away. With one camera its depth is off by about

    source to bone  x  part of a voxel  /  half width of the bone,

10 mm at 1 m for a bone 20 mm wide and a tenth of a millimetre. Residuals show nothing of it. Cameras that look from other sides
take it away again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from raylign.data import Volume
from raylign.registration.confidence import Evidence
from raylign.registration.levels import Scale
from raylign.registration.matching import answered
from raylign.registration.pyramid import Array64, ImageLevel, ModelLevel
from raylign.registration.refinement import Candidate

_OFF = 0.25  # of a voxel: one standard deviation of where a cut-out ends, as structures' edges were found to be off
_STEP = 0.25  # of its densest voxel: a cut-out ends with less than this nowhere but at its thinnest
_GRAZES = 0.3  # cosine between ray and normal under which a point of the surface is on the outline
_FEWEST = 30  # points of an outline: on fewer there is nothing to go by
_POINTS = 20000


def is_cut_out(model: Volume, level: ModelLevel) -> bool:
    """Whether a model is one structure in raw numbers with nothing about it: it ends at a step, where a patient ends in skin.

    HU and 1/mm are not looked at: there a whole scan, a phantom and a solid made of a mesh would have to be told apart from it.
    """
    if model.unit != "raw":
        return False
    data = level.data
    held = data > 0
    ends = held & binary_dilation(~held)
    return bool(ends.any() and np.median(data[ends]) > _STEP * data.max())


def outline_covariance(scale: Scale, matrix: Array64, pitch: float) -> Float[NDArray[np.float64], "6 6"]:
    """[6, 6] of a twist (rad, mm; world axes) about the model's middle: what an outline that is off all round does to the pose.

    An outline that lies farther out by e moves each point of it by e along its normal, as the exposures see it. The shift that
    comes nearest to that, in the sense of least squares over the outlines in all exposures, is what the pose is off by: the
    result has rank one. Turns are left out: about a shaft's own axis hardly anything would hold them.

    Parameters
    ----------
    scale: the model and its exposures. matrix: its pose, ``T_world_from_volume``. pitch: mm between voxels of the cut-out.
    """
    points, normals = _surface(scale.model)
    points = points @ matrix[:3, :3].T + matrix[:3, 3]
    normals = normals @ matrix[:3, :3].T
    rows = []
    for image, counts in zip(scale.images, answered(scale.model, scale.images, matrix), strict=True):
        rays = points - image.source
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        along = (rays * normals).sum(1)
        kept = np.flatnonzero(np.abs(along) < _GRAZES)
        kept = kept[_one_a_pixel(points[kept], image, counts)]
        across = normals[kept] - along[kept, None] * rays[kept]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        rows.append(across)
    moves = np.concatenate(rows)
    covariance = np.zeros((6, 6))
    if len(moves) >= _FEWEST:
        shift = _OFF * pitch * np.linalg.lstsq(moves, np.ones(len(moves)), rcond=1e-9)[0]
        covariance[3:, 3:] = np.outer(shift, shift)
    return covariance


def widened(
    model: Volume, scale: Scale, best: Candidate, axes: Array64, gathered: tuple[Evidence, Array64]
) -> tuple[Evidence, Array64]:
    """Evidence and covariance as gathered, of a cut-out with what its outline leaves open; ``axes`` [3, 3] of the first view."""
    if not is_cut_out(model, scale.model):
        return gathered
    evidence, covariance = gathered
    covariance = covariance + outline_covariance(scale, best.matrix, in_plane(model))
    depth = float(np.sqrt(max(float(axes[:, 2] @ covariance[3:, 3:] @ axes[:, 2]), 0.0)))
    return replace(evidence, depth=depth), covariance


def in_plane(model: Volume) -> float:
    """mm between voxels within the slices that a cut-out was outlined in: its smallest pitch."""
    return float(min(model.spacing))


def _one_a_pixel(points: Array64, image: ImageLevel, counts: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Those of some points [n, 3], world mm, that show where pixels are compared, one a pixel: an outline's length counts.

    A face that is seen from its edge would otherwise weigh as much as its area.
    """
    pixels = np.round(image.view.project(torch.from_numpy(points)).numpy()[:, ::-1]).astype(int)
    inside = np.flatnonzero(((pixels >= 0) & (pixels < np.array(image.shape))).all(1))
    inside = inside[(counts & image.valid)[tuple(pixels[inside].T)]]
    _, first = np.unique(pixels[inside, 0] * image.shape[1] + pixels[inside, 1], return_index=True)
    return np.asarray(inside[first])


def _surface(level: ModelLevel) -> tuple[Array64, Array64]:
    """Points [n, 3] on the surface of what a level holds, mm, and unit normals that point out of it, in the model's frame."""
    held = np.pad(level.data > 0, 1)
    slopes = np.stack(np.gradient(gaussian_filter(held.astype(np.float32), 1.0)))[::-1]  # x, y, z of the grid
    index = np.argwhere(held & binary_dilation(~held))
    index = index[:: max(1, len(index) // _POINTS)]
    normals = -slopes[:, index[:, 0], index[:, 1], index[:, 2]].T @ np.linalg.inv(level.affine[:3, :3])
    size = np.linalg.norm(normals, axis=1)
    index, normals = index[size > 0], normals[size > 0] / size[size > 0, None]
    return (index[:, ::-1] - 1) @ level.affine[:3, :3].T + level.affine[:3, 3], normals
