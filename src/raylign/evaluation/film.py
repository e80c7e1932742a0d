"""A track as a film: every frame as a radiograph with the contours of the model where it was found.

Pictures are of one palette: 128 greys and two colours over eight of them, bluish green where the frame supports the pose,
vermillion where it does not. So a GIF has no colours of its own to choose for every frame, and grey does not flicker.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.evaluation import overlay
from raylign.geometry import Rigid, View
from raylign.io.atomic import atomic_write
from raylign.projection import project
from raylign.registration.coverage import covered
from raylign.registration.pyramid import content, cut_faces, model_pyramid

Indexed = UInt8[np.ndarray, "H W"]

_GREYS, _LEVELS = 128, 8
_RENDERED = 192  # pixels along the longer side at which the model is rendered
_LEAST = 0.02  # seconds: viewers slow down films that are faster
_SLOWEST = 1.0  # second that one frame is shown, at most


@dataclass(frozen=True, eq=False)
class Caption:
    """What is written on a frame, and whether the frame supports the pose that is drawn."""

    text: str
    supported: bool


def palette() -> list[int]:
    """Red, green and blue of 256 colours: greys, then the two colours, by coverage and by the grey below."""
    out = [round(255 * g / (_GREYS - 1)) for g in range(_GREYS) for _ in range(3)]
    for colour in (overlay.END, overlay.START):
        for cover in range(_LEVELS):
            share = (cover + 1) / _LEVELS
            for below in range(_LEVELS):
                grey = 255 * below / (_LEVELS - 1)
                out += [round(grey * (1 - share) + c * share) for c in colour]
    return out


@dataclass(eq=False)
class Film:
    """Draws the frames of a track and keeps them, as indices into ``palette``.

    Parameters
    ----------
    model: what was tracked; rendered at 3 mm or as coarse as it is.
    longest: pixels of a frame's longer side.
    pictures, times: what was drawn so far, and when it was taken, seconds.
    """

    model: Volume
    longest: int = 384
    pictures: list[Indexed] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _shown: Volume | None = None
    _windows: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, xrays: Sequence[XRay | None], views: Sequence[View], pose: Rigid, time: float, caption: Caption) -> None:
        """Draw a frame: cameras side by side, black where one has no picture (``None``)."""
        panels = [self._panel(k, x, view, pose, caption) for k, (x, view) in enumerate(zip(xrays, views, strict=True))]
        height = max(p.shape[0] for p in panels)
        sheet = np.concatenate([np.pad(p, ((0, height - p.shape[0]), (0, 0))) for p in panels], axis=1)
        self.pictures.append(_written(sheet, caption.text))
        self.times.append(time)

    def _panel(self, camera: int, xray: XRay | None, view: View, pose: Rigid, caption: Caption) -> Indexed:
        shape = overlay.display_shape(view.shape, view.pixel_spacing, self.longest)
        mask = None if xray is None else overlay.resized_mask(xray.mask, shape)
        grey = np.zeros(shape, np.float32) if xray is None else self._grey(camera, overlay.resized(xray.image, shape), mask)
        lines = self._lines(view, pose, shape, mask)
        return indexed(grey, lines, supported=caption.supported)

    def _grey(self, camera: int, image: overlay.Image, mask: overlay.Mask | None) -> overlay.Image:
        """[H, W] from 0 to 1: one window for all frames of a camera, whatever the dose."""
        flat = overlay.flattened(image, mask)
        flat = flat - float(np.median(flat if mask is None or not mask.any() else flat[mask]))
        low, high = self._windows.setdefault(camera, overlay.window(flat, mask))
        grey = np.clip((flat - low) / (high - low), 0, 1)
        return grey if mask is None else np.where(mask, grey, 0.12 * grey)

    def _lines(self, view: View, pose: Rigid, shape: tuple[int, int], mask: overlay.Mask | None) -> overlay.Image:
        if self._shown is None:
            self._shown = display_model(self.model)
        scale = min(1.0, _RENDERED / max(view.shape))
        small = view.resample((max(1, round(view.shape[0] * scale)), max(1, round(view.shape[1] * scale))))
        try:
            with torch.no_grad():
                image = project(self._shown, small, pose.matrix[None], step=min(self._shown.spacing))[0, 0]
            seen = overlay.valid_mask(mask, covered(self._shown, small, pose.matrix), shape)
        except InputError:  # nowhere in front of the detector
            return np.zeros(shape, np.float32)
        return overlay.contours(overlay.resized(image, shape), seen, width=1.6, sigma=overlay.line_sigma(small.shape, shape))


def display_model(model: Volume, mm: float = 3.0) -> Volume:
    """A model as attenuation, no finer than films show; where it was cut off is told on the grid that it came on."""
    level = model_pyramid(model, content(model), [mm])[0]
    ends: Any = tuple(tuple(bool(side) for side in axis) for axis in cut_faces(model))
    return Volume(
        torch.from_numpy(level.data.copy()), torch.from_numpy(level.affine), "raw" if model.unit == "raw" else "1/mm", ends
    )


def indexed(grey: overlay.Image, lines: overlay.Image, *, supported: bool) -> Indexed:
    """[H, W] indices into ``palette`` of a grey picture (0 to 1) with lines (coverage, 0 to 1) over it."""
    out = np.rint(grey * (_GREYS - 1)).astype(np.uint8)
    first = _GREYS + (0 if supported else _LEVELS * _LEVELS)
    cover = np.ceil(np.clip(lines, 0, 1) * _LEVELS - 0.25).astype(int)
    on = cover > 0
    below = np.rint(grey * (_LEVELS - 1)).astype(int)
    out[on] = (first + (cover[on] - 1) * _LEVELS + below[on]).astype(np.uint8)
    return out


def coloured(picture: Indexed) -> overlay.Picture:
    """The picture in red, green and blue."""
    return np.array(palette(), np.uint8).reshape(256, 3)[picture]


def _written(picture: Indexed, words: str) -> Indexed:
    """The picture with words in its lower left corner, in the brightest grey on black."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(11, picture.shape[0] // 28)
    canvas = Image.fromarray(picture)
    font = ImageFont.load_default(size)
    place = (size // 2, picture.shape[0] - round(1.6 * size))
    ImageDraw.Draw(canvas).text(place, words, fill=_GREYS - 1, font=font, stroke_width=2, stroke_fill=0)
    return np.asarray(canvas)


def durations(times: Sequence[float]) -> list[int]:
    """Milliseconds that each frame is shown, whole hundredths of a second, whose sum follows the times."""
    if len(times) < 2:
        return [1000] * len(times)
    steps = np.clip(np.diff(times), _LEAST, _SLOWEST)
    ends = np.rint(100 * np.cumsum([*steps, float(np.median(steps))])).astype(int)
    return [10 * max(2, int(d)) for d in np.diff([0, *ends])]


def write_gif(path: str | Path, film: Film) -> None:
    """The film as an animated GIF that repeats.

    Raises
    ------
    InputError: no frames, or the file cannot be written.
    """
    from PIL import Image

    colours = palette()

    def image(picture: Indexed) -> Any:
        made = Image.fromarray(picture).copy()
        made.putpalette(colours)
        return made

    first, *rest = _pictures(film)
    with atomic_write(path) as temporary:
        image(first).save(
            temporary, "GIF", save_all=True, append_images=(image(p) for p in rest), duration=durations(film.times), loop=0,
            optimize=False, disposal=1,
        )  # fmt: skip


def encoder() -> str:
    """Where ffmpeg is.

    Raises
    ------
    InputError: nowhere.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        raise InputError(
            "MP4 is written by ffmpeg, which is not here", field="--film", remedy="install ffmpeg, or say --film gif"
        )
    return found


def write_mp4(path: str | Path, film: Film) -> None:
    """The film as H.264 in MP4, by ffmpeg, at the average rate.

    Raises
    ------
    InputError: no frames, no ffmpeg, what ffmpeg complains of, or the file cannot be written.
    """
    pictures = _pictures(film)
    height, width = (n - n % 2 for n in pictures[0].shape)  # of every second row and column are the colours
    seconds = sum(durations(film.times)) / 1000
    with atomic_write(path) as temporary:
        command = [
            encoder(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-r", f"{len(pictures) / seconds:.4f}", "-i", "-", "-pix_fmt", "yuv420p", "-crf", "18", "-f", "mp4", str(temporary),
        ]  # fmt: skip
        run = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert run.stdin is not None
        with suppress(BrokenPipeError):  # it says why on its stderr
            for picture in pictures:
                run.stdin.write(coloured(picture[:height, :width]).tobytes())
        _, said = run.communicate()
        if run.returncode:
            words = " ".join(said.decode("utf-8", "replace").split())[-160:]
            raise InputError(f"ffmpeg could not write the film ({words})", file=path, field="--film", remedy="say --film gif")


def _pictures(film: Film) -> list[Indexed]:
    if not film.pictures:
        raise InputError("a film without frames", field="film")
    return film.pictures


def thinned(count: int, most: int) -> int:
    """Of so many frames a film shows one, so that it has at most ``most``."""
    return max(1, -(-count // most))
