"""Looking at regimes: a table of what they cost, and a picture in text of what one shows and asks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.expression import Regime, expression
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle
from omnimouse_jax.tokens.resolve import resolve

SHOWN, ASKED, HIDDEN, LATENTS = "#", "?", ".", "="
LEGEND = f"{SHOWN} shown   {ASKED} asked   {HIDDEN} hidden   {LATENTS} window with latents of its own"
WIDEST = 60  # columns of a picture
Columns = Int[np.ndarray, " columns"]
Mask = Bool[np.ndarray, " columns"]


def describe(
    regimes: Iterable[Regime],
    grid: Grid,
    n_neurons: int,
    *,
    n_channels: int = 5,
    latents_per_window: int = 640,
    n_global: int = 256,
    features_per_step: int = 128,
) -> list[dict[str, Any]]:
    """One row per regime: name, expression, the tokens it makes and the queries it asks, by default at released sizes.

    `encoder_tokens` are what latents read, `tower_tokens` latents and video features, `queries` response stretches and
    behaviour channels that are asked for. A regime that does not fit `n_neurons` has its counts None and says why in
    `problem`.
    """
    rows = []
    for regime in regimes:
        row: dict[str, Any] = {"name": regime.name, "expression": expression(regime, grid), "weight": regime.weight}
        counts = dict.fromkeys(("encoder_tokens", "latents", "video_features", "tower_tokens", "queries"))
        try:
            layout = resolve(regime, grid, n_neurons)
        except UserError as error:
            rows.append(row | counts | {"problem": str(error)})
            continue
        latents = latents_per_window * len(layout.latent_windows) + n_global
        video = features_per_step * (layout.video_steps[1] - layout.video_steps[0])
        rows.append(
            row
            | {
                "encoder_tokens": len(layout.response_tokens()) + n_channels * (layout.behavior == "input"),
                "latents": latents,
                "video_features": video,
                "tower_tokens": latents + video,
                "queries": len(layout.queries()) + n_channels * (layout.behavior == "target"),
                "problem": "",
            }
        )
    return rows


def picture(regime: Regime, grid: Grid, n_neurons: int = 4096) -> str:
    """What a regime shows and asks over the time of a window: neurons in bands, then frames, behaviour and latents.

    Several lines of at most about 80 characters; a column is one response sample (or several, in windows of more than
    60).
    """
    layout = resolve(regime, grid, n_neurons)
    n = min(grid.n_samples, WIDEST)
    sample = np.arange(n) * grid.n_samples // n
    rows = [("seconds", _ruler(n, grid.seconds))]
    rows += [
        (f"neurons {first}-{last - 1}" if last - first > 1 else f"neuron {first}", _band(layout, first, sample))
        for first, last in _bands(layout)
    ]
    frame = np.arange(n) * grid.n_frames // n
    rows.append(("video", _paint(n, (_within(frame, *_frames(regime, grid)), SHOWN))))
    behavior = {"input": SHOWN, "target": ASKED, "hidden": HIDDEN}[layout.behavior]
    rows.append(("behavior", behavior * n))
    starts = np.array(layout.latent_windows, np.int64) * grid.latent_stride
    covered = np.any((sample[:, None] >= starts) & (sample[:, None] < starts + grid.latent_width), axis=1)
    rows.append(("latents", _paint(n, (covered, LATENTS))))
    width = max(len(label) for label, _ in rows)
    return "\n".join([expression(regime, grid), *(f"{label:<{width}}  {row}".rstrip() for label, row in rows), LEGEND])


def _bands(layout: Layout) -> list[tuple[int, int]]:
    """Runs of neurons that share their fate."""
    edges = {0, layout.n_neurons}
    for rectangle in layout.context + layout.targets:
        edges |= {rectangle.first_neuron, rectangle.last_neuron}
    cuts = sorted(edges)
    return list(itertools.pairwise(cuts))


def _band(layout: Layout, neuron: int, sample: Columns) -> str:
    def covers(rectangles: tuple[Rectangle, ...]) -> Mask:
        inside = np.zeros(len(sample), bool)
        for r in rectangles:
            if r.first_neuron <= neuron < r.last_neuron:
                inside |= _within(sample, r.first_sample, r.last_sample)
        return inside

    return _paint(len(sample), (covers(layout.context), SHOWN), (covers(layout.targets), ASKED))


def _frames(regime: Regime, grid: Grid) -> tuple[int, int]:
    first = regime.n_visible_frames_start_idx or 0
    return first, grid.n_frames if regime.n_visible_frames is None else first + regime.n_visible_frames


def _within(values: Columns, first: int, last: int) -> Mask:
    return (values >= first) & (values < last)


def _paint(n: int, *layers: tuple[Mask, str]) -> str:
    columns = np.full(n, HIDDEN)
    for where, mark in layers:
        columns[where] = mark
    return "".join(columns)


def _ruler(n: int, seconds: float) -> str:
    """Times at every quarter of the window, above the column where they start."""
    row = ""
    for quarter in range(4):
        row = row.ljust(quarter * n // 4) + f"|{quarter * seconds / 4:g}"
    return row
