"""The geometry that a file states, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylign.geometry import View

_STATED = (".json", ".yml", ".yaml", ".txt", ".xml", ".csv", ".cal")


def view_of(path: Path) -> View:
    """The view in a view.json, a calibration, or the header of an X-ray.

    Raises
    ------
    InputError: the file is none of these, or what it says cannot be used.
    """
    from raylign.io import read_xray
    from raylign.io.views import read_view

    return read_view(path) if path.suffix.lower() in _STATED else read_xray(path).view
