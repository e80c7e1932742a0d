"""From photons that arrive to numbers that are stored: quantum noise, spread of light, gain, read-out. Batched, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.simulation.physics.apparatus import Detector
from raylign.simulation.physics.fields import column

Generators = torch.Generator | Sequence[torch.Generator]
_BORDER = 24  # pixels by which an image is continued at least before light spreads over its edge
_FAR = 4.0  # reaches of glare by which it is continued: beyond lie two hundredths of it


def each(generators: Generators, like: Tensor, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
    """``draw(like, generator)``: for the whole batch of one generator, image by image of several, each its own.

    Drawn where the generator lives, so that a sample drawn on the CPU is the same on an accelerator.
    """
    if isinstance(generators, torch.Generator):
        return draw(like.to(generators.device), generators).to(like.device)
    return torch.stack([draw(image.to(g.device), g).to(like.device) for image, g in zip(like, generators, strict=True)])


def normal(generators: Generators, deviations: Sequence[float], like: Tensor) -> Tensor:
    """Normal numbers of a standard deviation for each image, of the shape of ``like``; nothing is drawn where it is zero."""

    def drawn(x: Tensor, g: torch.Generator) -> Tensor:
        return torch.randn(x.shape, generator=g, dtype=x.dtype, device=x.device)

    rows = [i for i, deviation in enumerate(deviations) if deviation]
    scale = column([deviations[i] for i in rows], like.device)
    chosen = generators if isinstance(generators, torch.Generator) else [generators[i] for i in rows]
    out = torch.zeros_like(like)
    out[rows] = each(chosen, like[rows], drawn) * scale
    return out


def poisson(generators: Generators, rate: Tensor) -> Tensor:
    """Poisson numbers of the given means."""
    return each(generators, rate, lambda x, g: torch.poisson(x, generator=g))


def quanta(
    signal: Float[Tensor, "B H W"], variance: Float[Tensor, "B H W"], photons: Float[Tensor, "B 1 1"], generators: Generators
) -> Float[Tensor, "B H W"]:
    """A signal with quantum noise: one Poisson number a pixel, scaled so that mean and variance are those of all energies.

    Parameters
    ----------
    signal, variance: ``sum w n`` and ``sum w^2 n`` over the energies, n the mean photons of each, for one photon a pixel in the
        open beam.
    photons: per pixel in the open beam.
    """
    worth = variance / signal.clamp_min(1e-20)  # signal of a mean photon here
    rate = photons * signal / worth.clamp_min(1e-20)
    return poisson(generators, rate) * worth / photons


def transfer(detectors: Sequence[Detector], pitch_mm: Float[Tensor, "B 2"], padded: tuple[int, int]) -> Float[Tensor, "B H F"]:
    """Modulation transfer over the frequencies of ``rfft2``: light spreads near by, and far.

    ``exp(-2 (pi s f)^2) ((1 - g) + g / sqrt(1 + (2 pi k f)^2))``: a Gaussian of standard deviation s for the scintillator and the
    focal spot, and veiling glare of strength g and reach k, whose spread is ``exp(-r / k) / (2 pi k r)`` (Seibert, Nalcioglu and
    Roeck 1984).
    """
    device = pitch_mm.device
    square = _frequencies(padded, pitch_mm)
    near = torch.exp(-2 * (torch.pi * column([d.blur_mm for d in detectors], device)) ** 2 * square)
    reach, glare = column([d.glare_mm for d in detectors], device), column([d.glare for d in detectors], device)
    return near * ((1 - glare) + glare * torch.rsqrt(1 + (2 * torch.pi * reach) ** 2 * square))


def spread(
    signal: Float[Tensor, "B H W"], detectors: Sequence[Detector], pitch_mm: Float[Tensor, "B 2"]
) -> Float[Tensor, "B H W"]:
    """The signal after its light has spread; the image is continued by its border. ``pitch_mm`` best lies on the CPU."""
    rows = [i for i, d in enumerate(detectors) if d.blur_mm or d.glare]
    if not rows:
        return signal
    out = signal.clone()
    chosen, pitch = [detectors[i] for i in rows], pitch_mm[rows].to(signal)
    reach = torch.tensor([max(4 * d.blur_mm, _FAR * d.glare_mm * (d.glare > 0)) for d in chosen])
    edges = borders(reach, pitch_mm[rows])
    out[rows] = filtered(signal[rows], lambda part, size: transfer(chosen[part], pitch[part], size), edges)
    return out


def borders(reach_mm: Float[Tensor, " B"], pitch_mm: Float[Tensor, "B 2"]) -> list[int]:
    """Pixels by which each image is to be continued where a filter reaches so far: at least ``_BORDER``.

    They decide sizes: numbers that lie on the CPU cost no waiting for a device.
    """
    return [max(_BORDER, n) for n in (reach_mm.cpu() / pitch_mm.amin(1).cpu()).ceil().to(torch.int64).tolist()]


def filtered(
    images: Float[Tensor, "B H W"],
    by: Callable[[slice, tuple[int, int]], Float[Tensor, "b H F"]],
    border: Sequence[int],
) -> Float[Tensor, "B H W"]:
    """Images convolved with what ``by`` gives for some of them as a real transfer over the frequencies of ``rfft2``.

    Each image is continued by its border over so many pixels, and further to a size that transforms quickly.
    """
    from scipy.fft import next_fast_len

    b, h, w = images.shape
    # libraries for the CPU transform a batch in another order than one image, which changes the last bit
    parts = [slice(i, i + 1) for i in range(b)] if images.device.type == "cpu" else [slice(0, b)]
    out = torch.empty_like(images)
    for part in parts:
        edge = min(max(border[part]), max(h, w))
        size = (next_fast_len(h + 2 * edge, real=True), next_fast_len(w + 2 * edge, real=True))
        beyond = (edge, size[1] - w - edge, edge, size[0] - h - edge)
        wide = torch.nn.functional.pad(images[part, None], beyond, mode="replicate")[:, 0]
        spread_out = torch.fft.irfft2(torch.fft.rfft2(wide) * by(part, size), s=size)
        out[part] = spread_out[:, edge : edge + h, edge : edge + w]
    return out


def gaussian(
    width_mm: Float[Tensor, " B"], pitch_mm: Float[Tensor, "B 2"]
) -> Callable[[slice, tuple[int, int]], Float[Tensor, "b H F"]]:
    """The transfer of Gaussians of a standard deviation each, for ``filtered``."""
    return lambda part, size: torch.exp(-2 * (torch.pi * width_mm[part, None, None]) ** 2 * _frequencies(size, pitch_mm[part]))


def _frequencies(padded: tuple[int, int], pitch_mm: Float[Tensor, "B 2"]) -> Float[Tensor, "B H F"]:
    """Squares of the frequencies of ``rfft2``, 1/mm^2."""
    row = torch.fft.fftfreq(padded[0], device=pitch_mm.device)[None, :, None] / pitch_mm[:, 0, None, None]
    col = torch.fft.rfftfreq(padded[1], device=pitch_mm.device)[None, None, :] / pitch_mm[:, 1, None, None]
    return row**2 + col**2


def read_out(
    signal: Float[Tensor, "B H W"], detectors: Sequence[Detector], photons: Float[Tensor, "B 1 1"], generators: Generators | None
) -> Float[Tensor, "B H W"]:
    """Counts: pixels and columns differ in gain, amplifiers add noise, converters round and saturate, quiet without generators.

    Parameters
    ----------
    signal: in units of the open beam.
    photons: per pixel in the open beam: the unit of the electronic noise.
    """
    device = signal.device
    if generators is not None and any(d.gain for d in detectors):
        signal = signal * (1 + normal(generators, [d.gain for d in detectors], signal))
    if generators is not None and any(d.lines for d in detectors):
        signal = signal * (1 + normal(generators, [d.lines for d in detectors], signal[:, :1]))
    if generators is not None and any(d.electronic for d in detectors):
        signal = signal + normal(generators, [d.electronic for d in detectors], signal) / photons
    top, unit = full_scale(detectors, device)
    return torch.minimum((signal * unit).round().clamp_min(0), top)


def full_scale(detectors: Sequence[Detector], device: torch.device) -> tuple[Float[Tensor, "B 1 1"], Float[Tensor, "B 1 1"]]:
    """Largest count of each detector, and the count of the open beam (which may be larger)."""
    top = [2.0**d.bits - 1 for d in detectors]
    return column(top, device), column([t / d.full_scale for t, d in zip(top, detectors, strict=True)], device)
