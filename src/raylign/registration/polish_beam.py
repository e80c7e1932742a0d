"""What a beam makes of the two materials on its rays, with scatter: the forward model of the last step (``polish``).

    F = -log(c P(W, B; kV) + S)        P = sum_e s_e exp(-mu_W,e W - mu_B,e B)

``W`` and ``B`` are mm of water and of cortical bone that attenuate as the tissues on the ray do (Alvarez and Macovski 1976),
``s_e`` the signal of the open beam by energy, ``c`` what the open beam counts, ``S`` scatter: smooth cosines over the image,
and, where asked for, what the exposure's own light spreads to (``polish_scatter``). Voltage, ``c`` and ``S`` are fitted to each
exposure. Filter and detector are not known, and taken as 3 mm of aluminium and 0.6 mm of caesium iodide: what another filter
changes, another voltage makes up for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylign.registration.polish_kernels import develop
from raylign.registration.polish_scatter import Sources
from raylign.registration.pyramid import Array32, Array64
from raylign.simulation.physics import materials, spectrum

_ORDER = 6  # cosines of the scatter field along each axis, their orders adding up to less than that
_KV = (45.0, 145.0)
_FIRST_KV = 80.0
_PIXELS = 5000  # that the beam is fitted to, about
_FEWEST = 500
_TAIL = 2.5  # standard deviations beyond which a pixel loses its say
_LEAST = 0.05  # of what was measured is what a model says at least


@dataclass(frozen=True, eq=False)
class Beam:
    """An exposure's beam and scatter.

    Parameters
    ----------
    kv: the voltage whose beam behind the filter that is assumed hardens as this one does.
    open_beam: ``c``, in units of the exposure.
    scatter: [H, W], in the same unit.
    """

    kv: float
    open_beam: float
    scatter: Array32


def hinges() -> Array32:
    """[5, 2]: the mm of bone in a mm of tissue, ``b(v) = sum_i c_i max(v - k_i, 0)``, from its attenuation v at 70 keV, 1/mm.

    Between the tissues of ``simulation.physics.materials`` linear in v, beyond cortical bone in proportion to it; what is not
    bone is water, so that both together attenuate as v says: ``v = mu_W w + mu_B b`` at 70 keV. Fat has less than none.
    """
    at, _ = materials.knots()
    v = materials.at_ct("water") * (1 + np.array(at[1:]) / 1000)
    b = np.array([materials.as_water_and_bone(name)[1] for name in materials.TISSUES])
    b[0] = 0.0  # lung: next to none
    slopes = np.append(np.diff(b) / np.diff(v), 1 / v[-1])
    return np.stack([v, np.diff(slopes, prepend=0.0)], 1).astype(np.float32)


def water_and_bone(integrals: Array32) -> tuple[Array32, Array32]:
    """mm of water and of bone, or their derivatives, from ``[2, ...]`` integrals of v (no unit) and b (mm)."""
    bone = integrals[1]
    return (integrals[0] - np.float32(materials.at_ct("bone")) * bone) * np.float32(1 / materials.at_ct("water")), bone


def fit_beam(integrals: Array32, fixed: Array32, valid: NDArray[np.bool_], around: Sources | None = None) -> Beam | None:
    """The beam and the scatter under which the materials explain an exposure best; None where nothing can be fitted.

    Least squares on the intensity ``exp(-F)``, linear in ``c`` and ``S`` for each voltage, weighted as residuals of ``F``; pixels
    that do not fit (metal, what moved) lose their weight (Cauchy).

    Parameters
    ----------
    integrals: [2, H, W] of v and b.
    fixed: [H, W] -log of the exposure.
    valid: pixels to fit.
    around: what scatters, and spreads as glare; smooth cosines alone where None.
    """
    stride = max(1, round((valid.sum() / _PIXELS) ** 0.5))
    some = np.zeros_like(valid)
    some[stride // 2 :: stride, stride // 2 :: stride] = True
    some &= valid
    if some.sum() < _FEWEST:
        return None
    rows, columns = np.nonzero(some)
    water, bone = (part[some].astype(np.float64) for part in water_and_bone(integrals))
    modes = _modes(valid.shape)
    measured = fixed[some].astype(np.float64)
    zero = float(np.median(measured))
    signal = np.exp(zero - measured)
    across, down = _cosines(valid.shape[1])[:, columns], _cosines(valid.shape[0])[:, rows]
    field = np.stack([down[i] * across[j] for i, j in modes])
    if around is not None:
        field = np.concatenate([field, around.at(rows, columns)])

    def solved(kv: float, weight: Array64) -> tuple[float, Array64, Array64]:
        design = np.concatenate([_primary(kv, water, bone)[None], field])
        weighted = design * weight
        normal = weighted @ design.T
        scale = np.sqrt(np.diag(normal))
        right = weighted @ signal / scale
        found = np.linalg.solve(normal / np.outer(scale, scale) + 1e-9 * np.eye(len(scale)), right) / scale
        model = found @ design
        return float(weight @ (signal - model) ** 2), found, np.maximum(model, _LEAST * signal)

    weight = 1 / (signal**2 + (0.1 * np.median(signal)) ** 2)
    kv = _FIRST_KV
    for search in (False, True, True):
        if search:
            kv = _voltage(lambda x: solved(x, weight)[0])  # noqa: B023
        _, found, model = solved(kv, weight)
        left = np.log(model / signal)
        spread = 1.4826 * float(np.median(np.abs(left))) + 1e-6
        weight = 1 / model**2 / (1 + (left / (_TAIL * spread)) ** 2)
    _, found, _ = solved(kv, weight)
    if not np.isfinite(found).all() or found[0] <= 0:
        return None
    order = np.zeros((_ORDER, _ORDER))
    for (i, j), value in zip(modes, found[1 : 1 + len(modes)], strict=True):
        order[i, j] = value
    scatter = _cosines(valid.shape[0]).T @ order @ _cosines(valid.shape[1])
    if around is not None:
        scatter = scatter + around.image(found[1 + len(modes) :])
    unit = np.exp(-zero)
    return Beam(kv, float(found[0] * unit), (scatter * unit).astype(np.float32))


def developed(integrals: Array32, fixed: Array32, beam: Beam) -> Array32:
    """[C, H, W]: the exposure that the model predicts, and its derivatives, from ``[2, C, H, W]`` of v and b.

    Where the fitted scatter would leave less than a twentieth of the intensity that was measured, the image is held at that,
    without a derivative.
    """
    quality = spectrum.few(beam.kv)
    share, water, bone = (np.asarray(x, np.float32) for x in (quality.share, *_attenuation(quality)))
    out = np.empty(integrals.shape[1:], np.float32)
    least = np.float32(_LEAST) * np.exp(-fixed)
    per_v, per_b = 1 / materials.at_ct("water"), materials.at_ct("bone") / materials.at_ct("water")
    # by v and b instead of W and B
    by_b = (bone - np.float32(per_b) * water).astype(np.float32)
    develop(
        integrals,
        np.float32(beam.open_beam) * share,
        np.float32(per_v) * water,
        by_b,
        beam.scatter,
        least.astype(np.float32),
        out,
    )
    return out


def _attenuation(quality: spectrum.Spectrum) -> tuple[Array64, Array64]:
    return quality.attenuation("water"), quality.attenuation("bone")


def _primary(kv: float, water: Array64, bone: Array64) -> Array64:
    quality = spectrum.few(kv)
    by_water, by_bone = _attenuation(quality)
    return np.asarray(quality.share @ np.exp(-np.outer(by_water, water) - np.outer(by_bone, bone)))


def _voltage(badness) -> float:  # type: ignore[no-untyped-def]
    from scipy.optimize import minimize_scalar

    return float(minimize_scalar(badness, bounds=_KV, method="bounded", options={"xatol": 0.5}).x)


def _modes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(_ORDER) for j in range(_ORDER - i)]


def _cosines(count: int) -> Array64:
    """[order, count]"""
    return np.cos(np.pi * np.arange(_ORDER)[:, None] * (np.arange(count) + 0.5) / count)
