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
from raylign.similarity.intensity import gradient_ncc, ncc, ssd

Metric = Callable[..., Tensor]


@dataclass(frozen=True)
class Similarity:
    """A metric of the registry.

    Parameters
    ----------
    function: ``f(moving, fixed, mask=None, *, options) -> one number a batch entry``; larger is better.
    words: what it compares, in one line.
    differentiable: whether its gradient by the moving image exists almost everywhere and says where to go.
    """

    function: Metric
    words: str
    differentiable: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its own options."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


SIMILARITIES: Mapping[str, Similarity] = MappingProxyType(
    {
        "ssd": Similarity(ssd, "negative mean squared difference"),
        "ncc": Similarity(ncc, "correlation of the intensities"),
        "gradient-ncc": Similarity(gradient_ncc, "mean correlation of the two Sobel derivatives"),
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
