"""Several bodies in the same exposures: one overlay with a colour for each, and a page that says where they are and how sure."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from raylign._version import __version__
from raylign.data import XRay
from raylign.evaluation import overlay, pictures
from raylign.evaluation.markup import Markup, code, number, section, table, text
from raylign.geometry import Rigid
from raylign.io.atomic import write_text
from raylign.projection import project
from raylign.registration.objects import Body, ObjectsResult

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_RENDERED, _SHOWN = 400, 640  # pixels of an exposure's longer side

COLOURS = (
    (64, 236, 190),
    (255, 176, 46),
    (104, 184, 255),
    (255, 120, 190),
    (240, 228, 66),
    (190, 150, 255),
    (255, 122, 61),
    (150, 240, 120),
)
"""One for each body in turn, lightened from those that Okabe and Ito (2008) tell apart in every common colour blindness."""


def colour(number: int) -> tuple[int, int, int]:
    """Of a body by its number; after the last the first again."""
    return COLOURS[number % len(COLOURS)]


def drawn(xray: XRay, bodies: Sequence[Body], poses: Sequence[Rigid]) -> overlay.Picture:
    """An exposure with the contours of each body at its pose in its own colour, and their names."""
    shape = overlay.display_shape(xray.view.shape, xray.view.pixel_spacing, _SHOWN)
    mask = overlay.resized_mask(xray.mask, shape)
    picture = overlay.radiograph(overlay.resized(xray.image, shape), mask)
    scale = min(1.0, _RENDERED / max(xray.view.shape))
    small = (max(1, round(xray.view.shape[0] * scale)), max(1, round(xray.view.shape[1] * scale)))
    view = xray.view.resample(small)
    for n, (body, pose) in enumerate(zip(bodies, poses, strict=True)):
        with torch.no_grad():
            image = project(body.model, view, pose.matrix[None], step=min(body.model.spacing))[0, 0]
        lines = overlay.contours(overlay.resized(image, shape), mask, sigma=overlay.line_sigma(small, shape))
        picture = overlay.painted(picture, lines, colour(n))
    return _legend(picture, [(b.name, colour(n)) for n, b in enumerate(bodies)])


def _legend(picture: overlay.Picture, names: Sequence[tuple[str, tuple[int, int, int]]]) -> overlay.Picture:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    size = max(12, picture.shape[1] // 32)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for row, (name, of) in enumerate(names):
        place = (size // 2, size // 3 + round(1.25 * size) * row)
        draw.text(place, name, fill=of, font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def sheet(result: ObjectsResult) -> overlay.Picture:
    """The content of ``overlay.png``: all exposures side by side, all bodies where they were found."""
    bodies = result.problem.bodies
    poses = [result.results[b.name].transform for b in bodies]
    panels = [drawn(x, bodies, poses) for x in result.problem.xrays]
    height = max(p.shape[0] for p in panels)
    return np.concatenate([np.pad(p, ((0, height - p.shape[0]), (3, 3), (0, 0))) for p in panels], axis=1)


def objects_html(result: ObjectsResult, picture: overlay.Picture, command: str = "") -> str:
    """The page: style and picture are part of it, nothing is fetched, nothing runs."""
    style = resources.files("raylign.evaluation").joinpath("assets", "report.css").read_text(encoding="utf-8")
    title = "registered" if result.trusted else "not to be trusted"
    names = ", ".join(result.results)
    image = Markup(
        f'<p><img alt="Contours of {text(names)} over the X-rays" src="{pictures.data_uri(pictures.jpeg(picture))}"></p>'
    )
    parts = [
        section("poses", "Bodies", image, *_bodies(result)),
        section("motions", "Against each other", *_motions(result)),
        section("again", "Again", code(command, "command") if command else ""),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>raylign: {title}: {text(names)}</title><style>{style} img {{ max-width: 100%; }}</style></head><body>"
        f"<header><div><h1>{text(names)}</h1><p>{text(title)}</p></div></header><main>{''.join(parts)}</main>"
        f"<footer>raylign {text(__version__)}. Not a medical device; for research and development.</footer></body></html>\n"
    )


def _bodies(result: ObjectsResult) -> list[Markup]:
    rows = []
    for name, own in result.results.items():
        turn, shift = own.standard_deviations
        evidence = own.confidence.evidence
        rows.append(
            (
                name,
                number(own.confidence.probability),
                "yes" if own.confidence.trusted else "no",
                ", ".join(number(v) for v in turn.tolist()),
                ", ".join(number(v) for v in shift.tolist()),
                f"{number(evidence['depth_images'], 1)} / {number(evidence['depth'], 1)}",
                number(100 * evidence["gain"], 0),
            )
        )
    head = ("body", "probability", "trusted", "turn, degrees", "shift, mm", "along the beam, mm", "explains, %")
    caption = (
        "One standard deviation of each pose about and along L, P, S of the world; along the beam by the images alone and with"
        " the joints; the share of what the others leave in its shadow that it explains"
    )
    reasons = [f"<li>{text(f'{n}: {why}')}</li>" for n, r in result.results.items() for why in r.confidence.reasons]
    return [table(head, rows, caption), Markup(f"<ul>{''.join(reasons)}</ul>" if reasons else "")]


def _motions(result: ObjectsResult) -> list[Markup]:
    rows = [
        (
            f"{b} against {a}",
            ", ".join(number(v, 1, signed=True) for v in m.turn.tolist()),
            ", ".join(number(v, 1) for v in m.turn_sd.tolist()),
            ", ".join(number(v, 1, signed=True) for v in m.shift.tolist()),
            ", ".join(number(v, 1) for v in m.shift_sd.tolist()),
        )
        for (a, b), m in result.motions.items()
    ]
    head = ("bodies", "turn, degrees", "sd", "shift of the middle, mm", "sd")
    parts = [table(head, rows, "Since both lay in one frame (bones of one CT): about and along L, P, S of it")] if rows else []
    deep = [(f"{a}, {b}", number(mm, 1)) for (a, b), mm in result.collisions.items()]
    if deep:
        parts.append(table(("bodies", "mm"), deep, "How deep they go into each other, good to a voxel of 2 mm or so"))
    return parts


def write_objects_report(path: str | Path, result: ObjectsResult, picture: overlay.Picture, command: str = "") -> None:
    """Writes the page: whole, or not at all.

    Raises
    ------
    InputError: the file cannot be written.
    """
    write_text(path, objects_html(result, picture, command))
