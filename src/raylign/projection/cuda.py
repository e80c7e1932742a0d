"""The projector on CUDA (Triton). What every number means is in ``reference.py``; the tests hold this file to it.

Five functions on tensors of one device, with float32 results: ``integrals``, ``jacobian``, ``adjoint``, ``curvature`` and
``label_integrals``. They never wait for the device and copy nothing to it, so that CUDA graphs can record them. Each pixel is
summed in one order whatever its neighbours, so that images are the same to the last bit in every run.

With ``TRITON_INTERPRET=1`` set before Triton is first imported, the same kernels run on CPU tensors, slowly: for tests.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from raylign.errors import InputError
from raylign.projection.cuda_fixed_point import fixed_point_scale
from raylign.projection.cuda_tuning import Tuning, tuned, tuning
from raylign.projection.reference import checked_model

__all__ = [
    "Tuning",
    "adjoint",
    "contraction",
    "curvature",
    "integrals",
    "jacobian",
    "label_integrals",
    "occupancy",
    "tuned",
    "tuning",
]

INTEGRALS, JACOBIAN, LABELS, CURVATURE = range(4)  # what a march sums
LABELS_AT_ONCE = 8
STORAGE = (torch.float32, torch.float16, torch.bfloat16, torch.int16)


_BLOCK, _PROGRAMS = 128, 1024
_ones: dict[torch.device, Tensor] = {}


def kernels(model: str) -> ModuleType:
    """The module with a model's Triton kernels.

    Raises
    ------
    InputError: Triton is not installed; no such model.
    """
    return _module(checked_model(model))


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"raylign.projection.cuda_{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise InputError(
            "projecting on a GPU needs Triton, which is not installed",
            remedy="install PyTorch's CUDA build, which brings it along, or pip install triton",
        ) from error


def integrals(
    volume: Float[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
    *,
    occupied: UInt8[Tensor, "D2 H2 W2"] | None = None,
) -> Float[Tensor, "B H W"]:
    """``int V(o + t d) dt`` over [0, 1] for every pixel of every view, float32.

    Parameters
    ----------
    volume: float32, float16, bfloat16 or int16 (taken as the number it is); sums are float32.
    rays: [B, 4, 3] or [B, 6, 3] float64, voxels, as ``reference`` describes them.
    samples: [B] int64 on the same device: N of each view; only the trilinear model looks at it.
    shape: (rows, columns) of every image.
    occupied: the volume's ``occupancy``; runs of samples in empty bricks are then skipped. The result stays the same to the
        last bit.

    Raises
    ------
    InputError: a dtype, device or size that the kernels do not take; no such model; Triton missing.
    """
    out = rays.new_empty((rays.shape[0], *shape), dtype=torch.float32)
    _march(INTEGRALS, model, _Job(volume, None, rays, samples, shape, occupied), out, out)
    return out


def jacobian(
    volume: Float[Tensor, "D H W"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
    *,
    occupied: UInt8[Tensor, "D2 H2 W2"] | None = None,
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W 6"]]:
    """The integrals and the slopes (S0, S1 by voxel axes x, y, z) of every ray, in one pass; see ``integrals``."""
    out = rays.new_empty((rays.shape[0], *shape), dtype=torch.float32)
    slopes = rays.new_empty((*out.shape, 6), dtype=torch.float32)
    _march(JACOBIAN, model, _Job(volume, None, rays, samples, shape, occupied), out, slopes)
    return out, slopes


def label_integrals(
    volume: Float[Tensor, "D H W"] | None,
    labels: UInt8[Tensor, "D H W"],
    channels: int,
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    model: str = "trilinear",
    *,
    occupied: UInt8[Tensor, "D2 H2 W2"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """One integral for each label 0 .. channels - 1: of the volume where the map says that label, zero elsewhere.

    Without a volume, of the label's indicator. Eight labels take one pass over the voxels. ``occupied`` is the
    volume's; see ``integrals``.
    """
    if channels < 1:
        raise InputError(f"{channels} channels are too few", field="channels", remedy="ask for one at least")
    if labels.dtype != torch.uint8 or (volume is not None and labels.shape != volume.shape):
        raise InputError("the label map is no uint8 tensor of the volume's shape", field="labels")
    out = rays.new_empty((rays.shape[0], channels, *shape), dtype=torch.float32)
    _march(LABELS, model, _Job(volume, labels, rays, samples, shape, occupied), out, out)
    return out


def curvature(
    volume: Float[Tensor, "D H W"],
    vectors: Float[Tensor, "B H W 6"],
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    shape: tuple[int, int],
    *,
    occupied: UInt8[Tensor, "D2 H2 W2"] | None = None,
) -> Float[Tensor, "B H W 6"]:
    """How the slopes of the trilinear model change along ``vectors``: ``(1/N) sum_k H_k u_k`` and ``(1/N) sum_k t_k H_k u_k``.

    ``u_k = vectors[:3] + t_k vectors[3:]``; H_k is the interpolant's matrix of second derivatives at sample k, of which only the
    mixed ones are not zero. This is the product of the integral's Hessian by (o, d) with the vectors. See ``integrals``.
    """
    job = _Job(volume, None, rays, samples, shape, occupied)
    vectors = _float32(vectors, (rays.shape[0], *shape, 6), "vectors")
    out = torch.empty_like(vectors)
    _march(CURVATURE, "trilinear", job, out, out, vectors)
    return out


def adjoint(
    weights: Float[Tensor, "B H W"],
    slope_weights: Float[Tensor, "B H W 6"] | None,
    rays: Float[Tensor, "B n 3"],
    samples: Int64[Tensor, " B"],
    size: tuple[int, int, int],
    model: str = "trilinear",
    deterministic: bool = False,
) -> Float[Tensor, "D H W"]:
    """The transpose of V -> (I, S0, S1), float32: what every voxel gets from one weight for each of the seven numbers a ray.

    Sums are float32 atomics, whose order changes from run to run. ``deterministic`` sums integers instead, which do not care: in
    units of 2^-61 of a bound on all that is given away, taken up to a power of two. Weights that add up to that bound must reach
    one voxel to fill an int64; a voxel's error is a unit for each addition, far below float32. It needs 8 bytes a voxel more.

    Raises
    ------
    InputError: as ``integrals``.
    """
    shape = (weights.shape[1], weights.shape[2])
    job = _Job(None, None, rays, samples, shape, None)
    weights = _float32(weights, (rays.shape[0], *shape), "weights")
    if slope_weights is not None:
        slope_weights = _float32(slope_weights, (*weights.shape, 6), "slope_weights")
    at = tuning()
    scale = fixed_point_scale(weights, slope_weights, job.rays, size, model) if deterministic else None
    out = torch.zeros(size, dtype=torch.float32 if scale is None else torch.int64, device=rays.device)
    pointers = [weights, weights if slope_weights is None else slope_weights, job.six]
    if model == "trilinear":
        pointers.append(samples)
    numbers = (*shape, size[2], size[1], size[0])
    options = _options(job, at, size)
    if model == "siddon":
        options["LENGTH"] = at.brick - 4
    with _device(rays.device):
        kernels(model).scatter[(_programs(job, at),)](
            *pointers,
            weights if scale is None else scale,
            out,
            *numbers,
            SLOPES=slope_weights is not None,
            FIXED=scale is not None,
            **options,
        )
    if scale is None:
        return out
    return (out.to(torch.float64) / (scale * 2.0**61)).to(torch.float32)


def contraction(
    weights: Float[Tensor, "B H W"], slopes: Float[Tensor, "B H W 6"], vectors: int = 6
) -> Float[Tensor, "B {vectors} 3"]:
    """``sum over pixels of weight * slope`` by o00, d00, du, dv (and ou, ov), float64: what ``operator.contraction`` says, fused.

    Sums of blocks are added up in one order: the same to the last bit in every run.
    """
    weights = _float32(weights, tuple(slopes.shape[:3]), "weights")
    slopes = _float32(slopes, (*weights.shape, 6), "slopes")
    b, h, w = weights.shape
    if weights.numel() == 0:
        return torch.zeros(b, vectors, 3, dtype=torch.float64, device=weights.device)
    blocks = -(-h * w // _BLOCK)
    # as many programs as fill a device, but no more sums to add up than that
    steps = max(1, blocks * b // _PROGRAMS)
    chunks = -(-blocks // steps)
    parts = torch.empty(b, chunks, 3, 6, dtype=torch.float64, device=weights.device)
    with _device(weights.device):
        _module("contraction").contract[(chunks, b)](weights, slopes, parts, h, w, steps, BLOCK=_BLOCK, num_warps=4)
    by_origin, by_direction = parts.sum(1).split(3, -1)
    out = torch.cat([by_origin[:, :1], by_direction], 1)
    return torch.cat([out, by_origin[:, 1:]], 1) if vectors == 6 else out


def occupancy(volume: Float[Tensor, "D H W"], brick: int | None = None) -> UInt8[Tensor, "D2 H2 W2"]:
    """Which bricks of a volume hold anything but zeros, in the form that the kernels look up: made once a volume, on its device.

    Entry (k + 1, j + 1, i + 1) is 1 where one of the 2x2x2 bricks from (k, j, i) on is not empty; -1 stands before the first. A
    window of ``brick`` + 1 voxels an axis touches no others. ``brick`` must be that of ``tuning()``, its default.
    """
    brick = tuning().brick if brick is None else brick
    filled = volume != 0
    for axis, n in enumerate(volume.shape):
        # the maximum over the axis' bricks, as bytes: no copy of the volume in another type
        whole = torch.nn.functional.pad(filled, [0, 0] * (2 - axis) + [0, -n % brick])
        filled = whole.unflatten(axis, (-1, brick)).any(axis + 1)
        edge = filled.new_zeros([1 if a == axis else m for a, m in enumerate(filled.shape)])
        padded = torch.cat([edge, filled, edge], axis)
        filled = padded.narrow(axis, 0, padded.shape[axis] - 1) | padded.narrow(axis, 1, padded.shape[axis] - 1)
    return filled.to(torch.uint8)


@dataclass(frozen=True)
class _Job:
    """What every launch is given, checked."""

    volume: Tensor | None
    labels: Tensor | None
    rays: Tensor
    samples: Tensor
    shape: tuple[int, int]
    occupied: Tensor | None

    def __post_init__(self) -> None:
        if self.volume is not None and self.volume.dtype not in STORAGE:
            raise InputError(f"volumes of {self.volume.dtype} are not projected on a GPU", remedy="convert to float32 first")
        if self.rays.ndim != 3 or self.rays.shape[1] not in (4, 6) or self.rays.shape[2] != 3:
            raise InputError(f"rays of shape {tuple(self.rays.shape)} are not [B, 4, 3] or [B, 6, 3]", field="rays")
        if self.rays.dtype != torch.float64:
            raise InputError(f"rays of {self.rays.dtype} are too coarse", field="rays", remedy="compute them in float64")
        if self.samples.dtype != torch.int64 or self.samples.shape != self.rays.shape[:1]:
            raise InputError("the numbers of samples are not one int64 a view", field="samples")
        given = (self.volume, self.labels, self.rays, self.samples, self.occupied)
        devices = {t.device for t in given if t is not None}
        if len(devices) > 1:
            raise InputError(f"tensors lie on {', '.join(sorted(map(str, devices)))}", remedy="bring them to one device")

    @property
    def six(self) -> Tensor:
        """The rays as the kernels read them."""
        return self.rays.contiguous()


def _float32(values: Tensor, shape: tuple[int, ...], field: str) -> Tensor:
    if tuple(values.shape) != shape:
        raise InputError(f"{field} of shape {tuple(values.shape)} are not {shape}", field=field)
    return values.to(torch.float32).contiguous()


def _programs(job: _Job, at: Tuning) -> int:
    h, w = job.shape
    return job.rays.shape[0] * -(-h // at.rows) * -(-w // at.columns)


def _options(job: _Job, at: Tuning, size: tuple[int, ...]) -> dict[str, Any]:
    return {
        "VECTORS": job.rays.shape[1],
        "WIDE": size[0] * size[1] * size[2] >= 2**31,
        "ROWS": at.rows,
        "COLUMNS": at.columns,
        "LANES": at.lanes,
        "num_warps": at.warps,
        "enable_fp_fusion": True,
    }


def _march(what: int, model: str, job: _Job, out: Tensor, slopes: Tensor, vectors: Tensor | None = None) -> None:
    at = tuning()
    shown = job.labels if job.volume is None else job.volume
    assert shown is not None
    if shown.numel() == 0 or out.numel() == 0:
        out.zero_()
        slopes.zero_()
        return
    volume = shown.contiguous()
    labels = volume if job.labels is None else job.labels.contiguous()
    table = _anything(volume.device) if job.occupied is None else job.occupied
    expected = tuple(-(-n // at.brick) + 1 for n in volume.shape)
    if job.occupied is not None and tuple(table.shape) != expected:
        raise InputError(
            f"a table of bricks of shape {tuple(table.shape)} is not {expected}",
            field="occupied",
            remedy="make it with occupancy()",
        )
    strides = (0, 0, 0) if job.occupied is None else (1, expected[2], expected[1] * expected[2])
    channels = out.shape[1] if job.labels is not None else 1
    pointers = [volume, labels]
    if model == "trilinear":
        pointers += [out if vectors is None else vectors, job.six, job.samples]
    else:
        pointers += [job.six]
    d, h, w = volume.shape
    options = _options(job, at, volume.shape)
    if model == "siddon":
        options["LENGTH"] = at.brick - 4
    else:
        options["run"] = at.run
    with _device(volume.device):
        kernels(model).march[(_programs(job, at), -(-channels // LABELS_AT_ONCE))](
            *pointers,
            table.contiguous(),
            out,
            slopes,
            *job.shape,
            w,
            h,
            d,
            *strides,
            channels,
            WHAT=what,
            HAS_VOLUME=job.volume is not None,
            BITS=at.bits,
            **options,
        )


def _anything(device: torch.device) -> Tensor:
    """A table of bricks that says of every place that it may hold something."""
    known = _ones.get(device)
    if known is None:
        known = torch.ones(1, dtype=torch.uint8, device=device)
        # memory that a CUDA graph hands out while it records is the graph's
        if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            _ones[device] = known
    return known


def _device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, not on the tensors'."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
