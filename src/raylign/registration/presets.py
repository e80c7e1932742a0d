"""Classical registrations by name: xReg's recipe, the gradient baselines of Toth et al. (2018), and plain ones beside them."""

from __future__ import annotations

from raylign.errors import InputError
from raylign.registration.classical import LEAST, ClassicalConfig, Level, Six
from raylign.registration.comparison import Measure, Sampling
from raylign.registration.optimisers import CMAES, Adam, TrustRegion
from raylign.registration.priors import PerAxis
from raylign.registration.settings import SearchConfig

XREG_PITCH = 0.194
"""mm of a detector pixel at xReg's full scale: the 1536 x 1536 panel of its data. Its scales 1/8 and 1/4 are taken as pitches of
1.552 and 0.776 mm at the detector, its patch radius ``round(scale * 41)`` pixels as 7.95 mm there."""

_TOTH = {
    "go": "gradient orientation",
    "go+": "gradient orientation, gradients of one sign",
    "gc": "gradient correlation",
    "gc+": "gradient correlation, gradients of one sign",
    "gi": "gradient information",
    "gi+": "gradient information, gradients of one sign",
}
_PLAIN = {
    "ncc": "normalised cross-correlation",
    "mi": "mutual information",
    "gradient-ncc": "correlation of the image gradients",
    "patch-gradient-ncc": "correlation of the image gradients, patch by patch",
}
_GRADIENT = ("ncc", "gradient-ncc", "mi")

PRESETS: dict[str, str] = {
    "xreg": "xReg's recipe, with its own box: patch-gradient NCC, CMA-ES and a prior at 1/8 scale, a bounded trust region at 1/4",
    "xreg-wide": "the same without a prior, 300 poses a generation over 45 degrees and 200 mm, as Gao et al. (2024) ran it",
    **{name: f"{words}; CMA-ES twice, then a trust region" for name, words in {**_TOTH, **_PLAIN}.items()},
    **{f"{name}-adam": f"{_PLAIN[name]}; Adam at three resolutions from the start alone" for name in _GRADIENT},
}


def preset(name: str, search: SearchConfig | None = None, seed: int = 0) -> ClassicalConfig:
    """The configuration of a name from ``PRESETS``.

    Parameters
    ----------
    search: what the start leaves open (half widths, of which less than 0.1 degrees or mm counts as that); xReg's presets have
        a box of their own and do not look at it.

    Raises
    ------
    InputError: no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}", field="method", remedy=f"use one of {', '.join(PRESETS)}")
    if name in ("xreg", "xreg-wide"):
        return _xreg(name, seed)
    open_ = SearchConfig() if search is None else search
    turn, across, along = (max(LEAST, h) for h in (open_.degrees, open_.mm, open_.along))
    half: Six = (turn, turn, turn, across, across, along)
    if name.endswith("-adam"):
        return ClassicalConfig(_by_adam(name.removesuffix("-adam"), half), name=name, seed=seed)
    return ClassicalConfig(_without_derivatives(name, half), name=name, seed=seed)


def _xreg(name: str, seed: int) -> ClassicalConfig:
    """The single-view recipe of xReg (Grupp et al. 2020; its program for the pelvis), and Gao's wide variant of its first level.

    Differences: COBYQA stands for BOBYQA; the best pose of CMA-ES is taken, not the mean of its last distribution; a pose is a
    rotation vector and a shift of the centre, not the exponential of a twist of both.
    """
    wide = name == "xreg-wide"
    measure = Measure("patch-gradient-ncc", patch_mm=41 * XREG_PITCH)
    first = Level(
        measure,
        Sampling(pitch=8 * XREG_PITCH, crop=False, answered=False, step=1.5),
        CMAES(population=300 if wide else 100, generations=200, cost_tolerance=0.01, x_tolerance=2e-4),
        unit=(45.0, 45.0, 45.0, 200.0, 200.0, 200.0) if wide else (15.0, 15.0, 30.0, 50.0, 50.0, 100.0),
        weight=0.0 if wide else 0.1,
    )
    second = Level(
        measure,
        Sampling(pitch=4 * XREG_PITCH, crop=False, answered=False),
        TrustRegion(tolerance=2e-3),
        unit=(2.5, 2.5, 2.5, 5.0, 5.0, 10.0),
        bound=1.0,
        budget=400,
    )
    return ClassicalConfig((first, second), () if wide else (PerAxis(),), name=name, seed=seed)


def _without_derivatives(name: str, half: Six) -> tuple[Level, ...]:
    """One and the same optimiser for any similarity, so that only the similarities differ."""

    def unit(share: float) -> Six:
        a, b, c, d, e, f = (max(LEAST, share * h) for h in half)
        return a, b, c, d, e, f

    measure = Measure(name)
    return (
        Level(
            measure,
            Sampling(pixels=48, step=1.5),
            CMAES(population=64, generations=50, cost_tolerance=1e-4, x_tolerance=0.02),
            unit(0.5),
            3.0,
        ),
        Level(
            measure,
            Sampling(pixels=96),
            CMAES(population=24, generations=30, cost_tolerance=1e-5, x_tolerance=0.02),
            unit(0.1),
            5.0,
        ),
        Level(measure, Sampling(pixels=192), TrustRegion(tolerance=0.01), unit(0.1), 1.0, budget=150),
    )


def _by_adam(name: str, half: Six) -> tuple[Level, ...]:
    """Along the gradient, from the given start and no other."""
    measure = Measure(name)
    steps = ((48, 0.06, 120), (96, 0.02, 80), (192, 0.006, 60))
    return tuple(
        Level(measure, Sampling(pixels=p), Adam(rate=rate, iterations=n, halving=n // 4, tolerance=rate / 20), half, 1.5)
        for p, rate, n in steps
    )
