"""One HTML file of any content: everything inline, no request leaves it (its own security policy forbids them)."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(title: str, body: Iterable[str], style: str = "", refresh: int = 0) -> str:
    """The whole file. `body`: pieces of HTML; `style`: rules beyond those that all pages share; `refresh`: seconds after which the
    browser reads the file again, 0 for never.

    The script walks through the `.mark` elements of every `svg.chart` by pointer and arrow keys and tells their `data-tip`; buttons
    of a `.legend` hide the groups of their `data-series`.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + (f'<meta http-equiv="refresh" content="{refresh}">' if refresh else "")
        + f"<title>{escape(title)}</title><style>{_asset('style.css')}{style}</style></head><body>\n"
        + "\n".join(body)
        + '\n<div id="tip" aria-hidden="true"></div><div id="voice" class="voice" aria-live="polite"></div>'
        + f"\n<script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("omnimouse_jax.pages").joinpath(name).read_text(encoding="utf-8")
