"""Small things that the parts of the page share: numbers as text, tables, strokes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from omnimouse_jax.pages.marks import number

#: Light and dark strokes; shapes tell series apart without colour.
STROKES = (("#1b4f8a", "#8fc0f5"), ("#8a3d0c", "#f0b06a"), ("#23633f", "#8fd0aa"), ("#5b3a82", "#c9aef0"))


def told(value: Any, digits: int = 3) -> str:
    """A number, or that there is none."""
    return number(float(value), digits) if there(value) else "none"


def there(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def bracket(pair: Sequence[Any] | None) -> str:
    if pair is None or not all(there(v) for v in pair):
        return ""
    return f"[{number(float(pair[0]), 2)}, {number(float(pair[1]), 2)}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", names: int = 1) -> str:
    """`names`: how many of the first columns are words that may wrap."""
    of = lambda k: ' class="name"' if k < names else ""  # noqa: E731
    top = "".join(f"<th{of(k)}>{escape(h)}</th>" for k, h in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{of(k)}>{escape(c)}</td>" for k, c in enumerate(row)) + "</tr>" for row in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
