"""The projector on the CPU, as tensors: the functions that every backend has (see ``cuda`` for the other)."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from raylign.projection import cpu, cpu_adjoint, cpu_contraction, cpu_curvature, cpu_labels, cpu_siddon, reference
from raylign.projection.cpu_grid import PADDING, Grid, grid, inner, whole_box
from raylign.projection.threads import pool, run_chunks, threads

# Padding copies the volume; a registration or a training loop projects one volume many times. Keyed by identity (tensors
# compare by value) and by version (a tensor may be written to); an entry goes when its tensor does.
_grids: dict[int, tuple[int, Grid]] = {}


# Memory that the system hands out anew is slow to touch for the first time. The padded volume that an adjoint is summed up in is
# kept for the next one, cleared; an adjoint that is interrupted, or runs beside another, takes new memory.
_spare: list[NDArray[np.float32]] = []


def _cleared(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Zeros of a shape: the spare ones if they fit."""
    try:
        kept = _spare.pop()
    except IndexError:
        kept = None
    return kept if kept is not None and kept.shape == shape else np.zeros(shape, np.float32)


def grid_of(volume: Shaped[Tensor, "D H W"]) -> Grid:
    """A volume for the kernels, made once and kept while the tensor lives unchanged."""
    key = id(volume)
    known = _grids.get(key)
    if known is not None and known[0] == volume._version:
        return known[1]
    made = grid(volume)
    if known is None:
        weakref.finalize(volume, _grids.pop, key, None)
    _grids[key] = (volume._version, made)
    return made


def integrals(
    volume: Shaped[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
) -> Float[Tensor, "B H W"]:
    """``int V dt`` of every ray, float32; see ``reference.integrals``."""
    image, _ = cpu.forward(grid_of(volume), rays.numpy(), shape, samples.numpy(), model=model)
    return torch.from_numpy(image)


def jacobian(
    volume: Shaped[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W 6"]]:
    """Integrals and slopes of every ray in one pass; see ``reference.jacobian``."""
    image, slopes = cpu.forward(grid_of(volume), rays.numpy(), shape, samples.numpy(), model=model, gradients=True)
    return torch.from_numpy(image), torch.from_numpy(slopes)


def adjoint(
    weights: Float[Tensor, "B H W"],
    slope_weights: Float[Tensor, "B H W 6"] | None,
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    size: tuple[int, int, int],
    model: str = "trilinear",
    deterministic: bool = True,
) -> Float[Tensor, "D H W"]:
    """The transpose of ``jacobian``; see ``reference.adjoint``. Always the same bits."""
    shape = (weights.shape[1], weights.shape[2])
    padded = (size[0] + 2 * PADDING, size[1] + 2 * PADDING, size[2] + 2 * PADDING)
    target = _cleared(padded)
    flat = target.reshape(-1)
    box = whole_box(padded)
    by_pixel = weights.detach().to(torch.float32).contiguous().numpy().reshape(-1)
    has_slopes = slope_weights is not None
    by_slope = np.zeros((1, 6), np.float32)
    if slope_weights is not None:
        by_slope = slope_weights.detach().to(torch.float32).contiguous().numpy().reshape(-1, 6)
    six = cpu.six(rays.numpy())
    slices = np.empty((len(by_pixel), 2), np.int32)
    run_chunks(
        lambda first, last: cpu_adjoint.extents(padded, box, six, shape, by_pixel, by_slope, has_slopes, slices, first, last),
        len(by_pixel),
        smallest=4096,
    )
    made = {"trilinear": cpu_adjoint.trilinear, "joseph": cpu_adjoint.joseph, "siddon": cpu_siddon.adjoint}
    kernel = made[model](has_slopes)
    setting = (flat, padded, box, six, shape, np.ascontiguousarray(samples.numpy()), slices, by_pixel, by_slope)
    slabs = [(z, min(z + cpu_adjoint.SLAB, padded[0])) for z in range(0, padded[0], cpu_adjoint.SLAB)]
    # neighbours share a slice: see cpu_adjoint
    for side_by_side in (slabs[::2], slabs[1::2]):
        # those in the middle have the longest rays: with them last, threads would wait for one another
        side_by_side.sort(key=lambda slab: abs(slab[0] + slab[1] - padded[0]))
        for job in [pool(threads()).submit(partial(kernel, *setting), z0, z1) for z0, z1 in side_by_side]:
            job.result()
    out = np.empty(size, np.float32)
    run_chunks(partial(cpu_adjoint.take, target, out, PADDING), size[0], smallest=4)
    target[:PADDING] = target[-PADDING:] = 0
    _spare[:] = [target]
    return torch.from_numpy(out)


def curvature(
    volume: Shaped[Tensor, "D H W"],
    vectors: Float[Tensor, "B H W 6"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
) -> Float[Tensor, "B H W 6"]:
    """Second derivatives of trilinear integrals by their rays, times a vector for each ray; see ``cpu_curvature``."""
    whole = grid_of(volume)
    given = vectors.detach().to(torch.float32).contiguous().numpy().reshape(-1, 6)
    out = np.empty_like(given)
    kernel = cpu_curvature.trilinear(whole.storage)
    setting = (
        whole.address,
        whole.data.shape,
        whole.box,
        cpu.six(rays.numpy()),
        shape,
        np.ascontiguousarray(samples.numpy()),
        given,
        out,
    )
    run_chunks(lambda first, last: kernel(*setting, first, last), len(given))
    return torch.from_numpy(out.reshape(vectors.shape))


def contraction(weights: Float[Tensor, "B H W"], slopes: Float[Tensor, "B H W 6"]) -> Float[Tensor, "B 6 3"]:
    """``sum of w S`` over pixels, plain and weighted with c and r: the gradient by o00, d00, du, dv, ou, ov, in float64."""
    b, h, w = weights.shape
    by_pixel = weights.detach().to(torch.float32).contiguous().numpy().reshape(b * h, w)
    by_slope = slopes.detach().to(torch.float32).contiguous().numpy().reshape(b * h, w, 6)
    rows = np.empty((b * h, 2, 6))
    run_chunks(partial(cpu_contraction.by_row, by_pixel, by_slope, rows), b * h, smallest=max(1, 16384 // w))
    sums = rows.reshape(b, h, 2, 6)
    plain, columns, row = sums[:, :, 0].sum(1), sums[:, :, 1].sum(1), np.arange(h) @ sums[:, :, 0]
    stacked = [plain[:, :3], plain[:, 3:], columns[:, 3:], row[:, 3:], columns[:, :3], row[:, :3]]
    return torch.from_numpy(np.stack(stacked, 1))


def label_integrals(
    volume: Shaped[Tensor, "D H W"] | None,
    labels: UInt8[Tensor, "D H W"],
    channels: int,
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
) -> Float[Tensor, "B C H W"]:
    """The integral of the volume (of ones without one) where the label map says 0, 1, .. channels - 1: one pass for trilinear.

    The other models take one pass a label.
    """
    if model != "trilinear":
        reference.checked_model(model)
        ones = torch.ones((), dtype=torch.float32) if volume is None else volume
        return torch.stack([integrals((labels == c) * ones, rays, samples, shape, model) for c in range(channels)], 1)
    size = tuple(n + 2 * PADDING for n in labels.shape)
    # around the map is a label that no channel has
    padded = np.full(size, 256, np.uint16)
    inner(padded)[:] = labels.numpy()
    values = np.ones(1, np.float32)
    if volume is not None:
        values = np.zeros(size, np.float32)
        inner(values)[:] = volume.detach().to(torch.float32).numpy()
    b, (h, w) = rays.shape[0], shape
    out = np.empty(b * channels * h * w, np.float32)
    box = whole_box(size)
    setting = (values.reshape(-1), padded.reshape(-1), size, box, channels, cpu.six(rays.numpy()), shape, samples.numpy(), out)
    run_chunks(lambda first, last: cpu_labels.trilinear(*setting, first, last), b * h * w)
    return torch.from_numpy(out.reshape(b, channels, h, w))
