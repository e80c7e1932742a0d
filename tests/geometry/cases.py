"""Views and points that the tests of geometry share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from raylign import View
from raylign.geometry import se3

D = torch.float64


@st.composite
def views(draw: st.DrawFn) -> View:
    """C-arm views at any angle, moved anywhere, cropped (so that the principal point is off centre), flipped or not."""
    angle = st.floats(-180, 180)
    view = View.from_carm(
        primary=draw(angle),
        secondary=draw(st.floats(-90, 90)),
        sid=draw(st.floats(900, 1300)),
        sod=draw(st.floats(500, 800)),
        pixel_spacing=(draw(st.floats(0.1, 2)), draw(st.floats(0.1, 2))),
        shape=(draw(st.integers(8, 40)), draw(st.integers(8, 40))),
    )
    twist = [draw(st.floats(-1, 1)) for _ in range(3)] + [draw(st.floats(-100, 100)) for _ in range(3)]
    view = view.transformed(se3.exp(torch.tensor(twist, dtype=D)))
    return view.crop(slice(draw(st.integers(0, 4)), None), slice(draw(st.integers(0, 4)), None)).flip(columns=draw(st.booleans()))


@st.composite
def parallel_views(draw: st.DrawFn) -> View:
    """Parallel beams at any angle onto detectors that need not be perpendicular to them, moved, cropped, flipped or not."""
    view = View.from_parallel(
        primary=draw(st.floats(-180, 180)),
        secondary=draw(st.floats(-90, 90)),
        pixel_spacing=(draw(st.floats(0.1, 2)), draw(st.floats(0.1, 2))),
        shape=(draw(st.integers(8, 40)), draw(st.integers(8, 40))),
        reach=draw(st.floats(300, 900)),
    )
    shear = torch.eye(4, dtype=D)
    shear[0, 1] = draw(st.floats(-0.3, 0.3))
    twist = [draw(st.floats(-1, 1)) for _ in range(3)] + [draw(st.floats(-100, 100)) for _ in range(3)]
    view = view.transformed(se3.exp(torch.tensor(twist, dtype=D)) @ shear)
    return view.crop(slice(draw(st.integers(0, 4)), None), slice(draw(st.integers(0, 4)), None)).flip(columns=draw(st.booleans()))


def any_views() -> st.SearchStrategy[View]:
    """Of cones and of parallel beams."""
    return st.one_of(views(), parallel_views())


def points(n: int = 20) -> Tensor:
    return (torch.rand(n, 3, dtype=D, generator=torch.Generator().manual_seed(5)) - 0.5) * 200
