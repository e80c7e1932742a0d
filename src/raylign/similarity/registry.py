"""Metrics by name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from raylign.errors import InputError
from raylign.similarity.differences import gradient_difference, pattern_intensity
from raylign.similarity.edges import (
    gradient_correlation,
    gradient_correlation_plus,
    gradient_information,
    gradient_information_plus,
    gradient_ncc,
    gradient_orientation,
    gradient_orientation_plus,
)
from raylign.similarity.information import mutual_information, normalised_mutual_information
from raylign.similarity.intensity import ncc, ssd
from raylign.similarity.patches import multiscale_ncc, patch_gradient_ncc, patch_ncc
from raylign.similarity.structure import ssim

Metric = Callable[..., Tensor]


@dataclass(frozen=True)
class Similarity:
    """A metric of the registry.

    Parameters
    ----------
    function: ``f(moving, fixed, mask=None, *, options) -> one number a batch entry``; larger is better.
    words: what it compares, in one line.
    differentiable: whether it is continuous in the moving image, so that its gradient says where to go. All give a gradient.
    """

    function: Metric
    words: str
    differentiable: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its own options."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    @property
    def defaults(self) -> dict[str, Any]:
        """Their values where nothing is said."""
        parameters = inspect.signature(self.function).parameters
        return {name: parameters[name].default for name in self.options}


SIMILARITIES: Mapping[str, Similarity] = MappingProxyType(
    {
        "ssd": Similarity(ssd, "negative mean squared difference"),
        "ncc": Similarity(ncc, "correlation of the intensities"),
        "multiscale-ncc": Similarity(multiscale_ncc, "correlation over the whole image and over windows"),
        "patch-ncc": Similarity(patch_ncc, "correlation of the intensities, window by window"),
        "gradient-ncc": Similarity(gradient_ncc, "correlation of the smoothed derivatives (xReg's Grad-NCC)"),
        "patch-gradient-ncc": Similarity(
            patch_gradient_ncc, "correlation of the smoothed derivatives, window by window (xReg's Patch-Grad-NCC)"
        ),
        "mi": Similarity(mutual_information, "mutual information of the intensities"),
        "nmi": Similarity(normalised_mutual_information, "normalised mutual information of the intensities"),
        "gc": Similarity(gradient_correlation, "correlation of the derivatives"),
        "gc+": Similarity(gradient_correlation_plus, "correlation of the derivatives, agreeing ones only"),
        "gi": Similarity(gradient_information, "the smaller gradient, weighted by the angle between both"),
        "gi+": Similarity(gradient_information_plus, "the smaller gradient, weighted by the angle, agreeing ones only"),
        "go": Similarity(gradient_orientation, "the angle between strong gradients", differentiable=False),
        "go+": Similarity(
            gradient_orientation_plus, "the angle between strong gradients, agreeing ones only", differentiable=False
        ),
        "gradient-difference": Similarity(gradient_difference, "differences of the derivatives, outliers forgiven"),
        "pattern-intensity": Similarity(pattern_intensity, "patterns left in the difference image, outliers forgiven"),
        "ssim": Similarity(ssim, "structural similarity"),
    }
)


def similarity(name: str, **options: Any) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The metric of a name, its options set: ``f(moving [*B H W], fixed [*B H W], mask [*B H W] or None) -> [*B]``.

    Larger is better, for all of them. Raises InputError for an unknown name or option.
    """
    if name not in SIMILARITIES:
        near = difflib.get_close_matches(name, SIMILARITIES, n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SIMILARITIES)}"
        raise InputError(f"no similarity is called {name!r}", field="similarity", remedy=guess)
    entry = SIMILARITIES[name]
    for option in options:
        if option not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise InputError(f"{name} has no option {option!r}", field="similarity", remedy=f"its options are: {known}")
    return functools.partial(entry.function, **options)
