"""Small pieces of HTML. Every string that came from outside goes through ``text``."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Markup(str):
    """A string that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """The value as HTML text, safe between tags and within a quoted attribute; characters that HTML forbids are dropped."""
    if isinstance(value, Markup):
        return value
    clean = "".join(c for c in str(value) if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F))
    return Markup(html.escape(clean.encode("utf-8", "replace").decode("utf-8"), quote=True))


def number(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """A decimal number with a true minus sign; "not determined" where it is not finite; small ones keep two figures."""
    if not math.isfinite(value):
        return "not determined"
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        digits = min(6, 1 - math.floor(math.log10(abs(value))))
    if round(value, digits) == 0:
        value = 0.0  # no sign on a zero
    shown = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return shown.replace("-", "−")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str, *, numeric: bool = True) -> Markup:
    """A table with column headings, the first cell of each row as its heading, and a caption that says what it shows."""
    header = "".join(f'<th scope="col">{text(h)}</th>' for h in head)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    kind = ' class="numbers"' if numeric else ""
    return Markup(
        f'<div class="scroll"><table{kind}><caption>{text(caption)}</caption>'
        f"<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(values: Mapping[str, Any], head: tuple[str, str], caption: str) -> Markup:
    """A mapping as a table of two columns; nested values as JSON."""
    rows = [(key, value if isinstance(value, str) else json.dumps(value, default=str)) for key, value in values.items()]
    return table(head, rows, caption, numeric=False)


def section(anchor: str, title: str, *parts: str) -> Markup:
    """A section with its heading."""
    return Markup(
        f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{text(title)}</h2>{"".join(parts)}</section>'
    )


def code(content: str, label: str) -> Markup:
    """Preformatted text with a button that copies it."""
    return Markup(
        f'<div class="code"><button type="button" class="copy" aria-label="Copy: {text(label)}">Copy</button>'
        f'<pre tabindex="0" aria-label="{text(label)}"><code>{text(content)}</code></pre></div>'
    )


def data(anchor: str, value: Any) -> Markup:
    """JSON for the page's script. ``<`` is written as an escape, so that no string can close the element; NaN becomes null."""
    content = json.dumps(_finite(value), separators=(",", ":"))
    return Markup(f'<script type="application/json" id="{anchor}">' + content.replace("<", "\\u003c") + "</script>")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
