"""An exposure's figures: the layers are embedded once and shown several times, as the page's SVG refers to them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.evaluation import overlay, pictures
from raylign.evaluation.content import Exposure
from raylign.evaluation.markup import Markup, number, table, text
from raylign.geometry import carm


def longest_side(count: int) -> int:
    """Pixels of a panel's longer side, fewer where many exposures share one file."""
    return 900 if count <= 2 else 640 if count <= 4 else 440


def figures(exposure: Exposure, index: int, longest: int) -> Markup:
    """Everything shown of one exposure: the stage with its slider, then before, after, checkerboard, differences, model."""
    shape = overlay.display_shape(exposure.view.shape, exposure.view.pixel_spacing, longest)
    layers = _layers(exposure, shape)
    size = f"0 0 {shape[1]} {shape[0]}"
    key = f"x{index}"
    hidden = "".join(
        f'<image id="{key}-{name}" width="{shape[1]}" height="{shape[0]}" href="{pictures.data_uri(content)}"/>'
        for name, content in layers.items()
    )
    extent = f'width="{shape[1] / 2:g}" height="{shape[0]}"'
    clip = (
        f'<clipPath id="{key}-cl"><rect {extent}/></clipPath>'
        f'<clipPath id="{key}-cr"><rect x="{shape[1] / 2:g}" {extent}/></clipPath>'
    )
    name = exposure.name
    small = "".join(
        _figure(key, size, shown, title, f"{title} of {name}: {says}")
        for shown, title, says in (
            (("fixed", "start"), "Before", "the exposure with the contours of the model at the starting pose"),
            (("fixed", "end"), "After", "the exposure with the contours of the model at the final pose"),
            (("board",), "Checkerboard", "exposure and model in turn; edges run on across the tiles where they agree"),
            (
                ("difference-start",),
                "Difference before",
                "black where they agree, orange where the exposure shows more, blue less",
            ),
            (("difference-end",), "Difference after", "to the same scale as before"),
            (("model",), "Model at the final pose", "what the model alone would show"),
        )
    )
    return Markup(
        f'<svg class="store" aria-hidden="true" width="0" height="0"><defs>{hidden}{clip}</defs></svg>'
        f"{_stage(key, index, size, shape, name)}"
        f'<div class="figures">{small}</div>{_geometry(exposure)}'
    )


def _layers(exposure: Exposure, shape: tuple[int, int]) -> dict[str, bytes]:
    """The pictures of one exposure, encoded."""
    mask = None if exposure.mask is None else overlay.resized_mask(exposure.mask, shape)
    fixed, start, end = (overlay.resized(i, shape) for i in (exposure.fixed, exposure.moving_at_start, exposure.moving_at_end))
    at_start, at_end = (overlay.valid_mask(mask, c, shape) for c in (exposure.covered_at_start, exposure.covered_at_end))
    sigmas = [overlay.line_sigma(i.shape, shape) for i in (exposure.moving_at_start, exposure.moving_at_end)]
    lines = {
        "start": pictures.line_png(overlay.contours(start, at_start, sigma=sigmas[0]), overlay.START),
        "end": pictures.line_png(overlay.contours(end, at_end, sigma=sigmas[1]), overlay.END),
    }
    # differences are smooth, and shown small
    half = (max(1, shape[0] // 2), max(1, shape[1] // 2))
    f, s, e = (overlay.resized(i, half) for i in (fixed, start, end))
    ms, me = (None if m is None else overlay.resized_mask(m, half) for m in (at_start, at_end))
    limit = overlay.difference_limit(f, me)
    return {
        "fixed": pictures.jpeg(overlay.radiograph(fixed, mask)),
        "model": pictures.jpeg(overlay.radiograph(end, at_end)),
        **lines,
        "board": pictures.jpeg(overlay.checkerboard(fixed, end, at_end)),
        "difference-start": pictures.jpeg(overlay.difference(f, s, ms, limit)),
        "difference-end": pictures.jpeg(overlay.difference(f, e, me, limit)),
    }


def _figure(key: str, size: str, layers: tuple[str, ...], title: str, label: str) -> str:
    uses = "".join(f'<use href="#{key}-{name}"/>' for name in layers)
    says = label.split(": ", 1)[-1]
    return (
        f'<figure><svg viewBox="{size}" role="img" aria-label="{text(label)}">{uses}</svg>'
        f"<figcaption><b>{text(title)}</b> {text(says)}</figcaption></figure>"
    )


def _stage(key: str, index: int, size: str, shape: tuple[int, int], name: str) -> str:
    """The large figure: contours before and after under one slider, the X-ray against the model, and the replay."""
    half = shape[1] / 2
    modes = (("contours", "Contours: before | after"), ("wipe", "X-ray | model"), ("replay", "Replay"))
    buttons = "".join(
        f'<label><input type="radio" name="{key}-mode" value="{value}"'
        f"{' checked' if value == 'contours' else ''}> {title}</label>"
        for value, title in modes
    )
    return (
        f'<div class="stage" data-exposure="{index}">'
        f'<div class="modes" role="radiogroup" aria-label="What the large figure shows">{buttons}</div>'
        f'<svg viewBox="{size}" role="img" aria-label="{text(name)} with the contours of the model: '
        f'left of the slider at the starting pose, right of it at the final pose"><use href="#{key}-fixed"/>'
        f'<g class="m-contours"><g clip-path="url(#{key}-cl)"><use href="#{key}-start"/></g>'
        f'<g clip-path="url(#{key}-cr)"><use href="#{key}-end"/></g></g>'
        f'<g class="m-wipe" clip-path="url(#{key}-cr)" hidden><use href="#{key}-model"/></g>'
        f'<g class="m-replay" hidden></g>'
        f'<line class="wipe" x1="{half:g}" x2="{half:g}" y1="0" y2="{shape[0]}"/>'
        f'<g class="tags"><text class="tag-left" x="12" y="{shape[0] - 14}">before</text>'
        f'<text class="tag-right" x="{shape[1] - 12}" y="{shape[0] - 14}" text-anchor="end">after</text></g></svg>'
        f'<input class="slider" type="range" min="0" max="1000" value="500" aria-label="Position of the divider, {text(name)}">'
        f'<output class="says" aria-live="polite"></output></div>'
    )


def display_camera(exposure: Exposure, longest: int) -> Float[Tensor, "3 4"]:
    """World mm to the pixels of the exposure's figures, homogeneous: pixel edges of both grids coincide."""
    h, w = exposure.view.shape
    rows, columns = overlay.display_shape((h, w), exposure.view.pixel_spacing, longest)
    # a figure's coordinates begin at the edge of its first pixel, a view's at the centre of its own
    to_display = torch.tensor(
        [[columns / w, 0, 0.5 * columns / w], [0, rows / h, 0.5 * rows / h], [0, 0, 1]], dtype=torch.float64
    )
    return to_display @ exposure.view.camera.detach()


def _geometry(exposure: Exposure) -> Markup:
    """The exposure's geometry in the words of its kind."""
    view = exposure.view
    row, column = view.pixel_spacing
    rows: list[tuple[str, str]] = [
        ("Image", f"{view.shape[0]} rows × {view.shape[1]} columns, pixels of {row:.4g} × {column:.4g} mm (row × column)")
    ]
    rows.append(("Source to detector", f"{float(view.sid):.1f} mm"))
    try:
        arm = carm.to_carm(view)
        side = "LAO" if arm.primary >= 0 else "RAO"
        tilt = "CRA" if arm.secondary >= 0 else "CAU"
        angles = f"{number(abs(arm.primary), 1)}° {side}, {number(abs(arm.secondary), 1)}° {tilt}"
        rows.append(("C-arm", f"{angles}; source to isocentre {arm.sod:.1f} mm"))
    except InputError:
        source = ", ".join(number(x, 1) for x in view.source.tolist())
        rows.append(("Source", f"at ({source}) mm in the world; not a centred C-arm"))
    if exposure.mask is not None:
        share = float(torch.as_tensor(exposure.mask).double().mean())
        rows.append(("Valid pixels", f"{100 * share:.0f} % of the image"))
    return table(("Geometry", "Value"), rows, f"Geometry of {exposure.name}", numeric=False)
