"""The charts of an evaluation's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.evaluate.evaluation import Table, where
from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.pages.plot import Axis, Plot

#: Lines and marks: light and dark colour, as CSS variables.
MODEL = "--l:#0b4a86;--d:#9bd0f7"
CEILING = "--l:#23633f;--d:#8fd0aa"
RECORDED = "--l:#1b1f24;--d:#e8e9e6"
#: Up to so many neurons have a point each that says which one it is; up to so many sessions have a map.
NAMED_POINTS, MAPS = 250, 12
#: Points of a distribution.
POINTS = 200
#: Lower ends of the classes of a map, each darker than the one before.
LEVELS = (-math.inf, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


def sessions(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    """Each session's score with its interval, and its ceiling where there is one; best first."""
    rows = sorted(rows, key=lambda row: row["score"])
    ends = [v for row in rows for v in (row["score"], row["score_low"], row["score_high"], row["ceiling"]) if _there(v)]
    plot = Plot(
        heading,
        Axis.over(ends, "correlation", zero=True),
        Axis(-0.6, len(rows) - 0.4, "", ()),
        width=620,
        height=70 + 24 * len(rows),
        margins=(190, 16, 8, 46),
    )
    for at, row in enumerate(rows):
        plot.row(at, str(row["session"]))
        if _there(row["ceiling"]):
            plot.begin("ceiling", CEILING)
            plot.mark(row["ceiling"], at, "diamond", f"{row['session']}: ceiling {number(row['ceiling'])}", kind="run")
            plot.end()
        plot.begin("model", MODEL)
        interval = ""
        if _there(row["score_low"]) and _there(row["score_high"]):
            plot.bar(at, row["score_low"], row["score_high"])
            interval = f" [{number(row['score_low'])}, {number(row['score_high'])}]"
        plot.mark(row["score"], at, "circle", f"{row['session']}: {number(row['score'])}{interval}")
        plot.end()
    over = next((str(row["interval"]) for row in rows if row["interval"]), "")
    law = next((str(row["ceiling_estimator"]) for row in rows if row["ceiling_estimator"]), "")
    caption = f"Bars: {over}." if over else ""
    return _figure(heading, plot.svg(), caption + (f" Diamonds: ceiling ({law})." if law else ""))


def distribution(neurons: Table, heading: str) -> str:
    """Share of neurons that reach a score: all of them, and each session as a thin line."""
    raw = np.nan_to_num(neurons["raw"])
    ceiling = neurons["ceiling"][np.isfinite(neurons["ceiling"])]
    x = Axis.over(np.concatenate([raw, ceiling]), "correlation")
    y = Axis(0.0, 1.0, "share of neurons that reach it", tuple((k / 4, f"{25 * k} %") for k in range(5)))
    plot = Plot(heading, x, y, 380, 340, (62, 14, 12, 46))
    keys = list(dict.fromkeys(neurons["session"].tolist()))
    plot.begin("model", MODEL)
    for key in keys if 1 < len(keys) <= 60 else ():
        plot.line(*_reaching(raw[neurons["session"] == key]), "faint-line")
    plot.line(*_reaching(raw), "fit")
    plot.end()
    words = f"Median {number(float(np.median(raw)))}, 95 % of neurons above {number(float(np.quantile(raw, 0.05)))}."
    if len(ceiling):
        plot.begin("ceiling", CEILING)
        plot.line(*_reaching(ceiling), "ceiling")
        plot.end()
        estimator = ", ".join(sorted({str(e) for e in neurons["ceiling_estimator"].tolist() if e}))
        words += f" Dashed: ceiling, median {number(float(np.median(ceiling)))} ({estimator})."
    words += " Thin: each session." if 1 < len(keys) <= 60 else ""
    return _figure(heading, plot.svg(), words)


def against_ceiling(neurons: Table, column: str, ceiling: str, heading: str) -> str:
    """Each neuron's score against its own ceiling; nothing is clipped, so that noise is seen on both sides."""
    kept = np.isfinite(neurons[ceiling])
    if not kept.any():
        return ""
    x, y = neurons[ceiling][kept], np.nan_to_num(neurons[column][kept])
    both = np.concatenate([x, y])
    plot = Plot(heading, Axis.over(both, "ceiling"), Axis.over(both, "score"), 380, 340, (62, 14, 12, 46))
    plot.diagonal()
    plot.begin("model", MODEL)
    if kept.sum() > NAMED_POINTS:
        plot.cloud(x, y)
    else:
        names = zip(neurons["session"][kept], neurons["unit_id"][kept], x, y, strict=True)
        for session, unit, at_x, at_y in names:
            tip = f"{session}, neuron {unit}: {number(float(at_y))} of {number(float(at_x))}"
            plot.mark(float(at_x), float(at_y), "circle", tip, r=2.6, kind="run")
    plot.end()
    above = int((y > x).sum())
    caption = (
        f"{above} of {int(kept.sum())} neurons lie above their estimated ceiling (the diagonal): estimates are noisy."
    )
    return _figure(heading, plot.svg(), caption)


def maps(neurons: Table) -> str:
    """Where the neurons of a session lie in cortex, darker for a better score; "" where coordinates are not known."""
    out = []
    keys = [k for k in dict.fromkeys(neurons["session"].tolist()) if _placed(where(neurons, session=k))]
    for key in keys[:MAPS]:
        mine = where(neurons, session=key)
        kept = np.isfinite(mine["x"]) & np.isfinite(mine["y"])
        x, y, raw, unit = (mine[name][kept] for name in ("x", "y", "raw", "unit_id"))
        raw = np.nan_to_num(raw)
        span = max(np.ptp(x), np.ptp(y), 1.0) * 1.06
        middles = [(float(v.min()) + float(v.max())) / 2 for v in (x, y)]
        axes = [Axis(middle - span / 2, middle + span / 2, "", ()) for middle in middles]
        plot = Plot(f"{key}: score over cortex", axes[0], axes[1], 230, 230, (6, 6, 6, 6), small=True)
        size = max(1.6, min(4.0, 40 / math.sqrt(len(x))))
        for place, low in enumerate(LEVELS):
            high = LEVELS[place + 1] if place + 1 < len(LEVELS) else math.inf
            inside = (raw >= low) & (raw < high)
            plot.begin("model", f"{MODEL};opacity:{0.12 + 0.88 * place / (len(LEVELS) - 1):.2f}")
            if len(x) > NAMED_POINTS:
                plot.cloud(x[inside], y[inside])
                plot.end()
                continue
            for at_x, at_y, value, name in zip(x[inside], y[inside], raw[inside], unit[inside], strict=True):
                plot.mark(float(at_x), float(at_y), "circle", f"neuron {name}: {number(float(value))}", r=size)
            plot.end()
        out.append(
            f"<figure>{plot.svg()}<figcaption>{escape(key)}, {span / 1.06:.0f} units across</figcaption></figure>"
        )
    if not out:
        return ""
    steps = ", ".join(number(level, 2) for level in LEVELS[1:])
    more = f" The first {MAPS} of {len(keys)} sessions." if len(keys) > MAPS else ""
    return (
        f'<h3>Over cortex</h3><p class="note">Each neuron where it was recorded (coordinates as the recording gives them), darker '
        f'from {steps} on.{more}</p><div class="small-multiples">{"".join(out)}</div>'
    )


def horizon(table: Table, heading: str) -> str:
    """Score against seconds after the last sample that was shown: each session thin, their mean with the mean interval."""
    seconds = np.unique(table["seconds"])
    plot = Plot(
        heading,
        Axis.over(seconds, "seconds after the last sample shown", zero=True),
        Axis.over(table["score"], "correlation", zero=True),
        520,
        300,
    )
    plot.begin("model", MODEL)
    keys = list(dict.fromkeys(table["session"].tolist()))
    for key in keys if 1 < len(keys) <= 60 else ():
        mine = where(table, session=key)
        plot.line(mine["seconds"], mine["score"], "faint-line")
    means = np.array([np.nanmean(table["score"][table["seconds"] == s]) for s in seconds])
    plot.line(seconds, means, "fit")
    for at, value in zip(seconds, means, strict=True):
        plot.mark(float(at), float(value), "circle", f"{number(float(at), 2)} s ahead: {number(float(value))}", r=2.4)
    plot.end()
    return _figure(heading, plot.svg(), f"Mean over {plural(len(keys), 'session')}; thin: each session.")


def over_time(table: Table, heading: str) -> str:
    """Score of blocks of trials along each session: does it drift?"""
    minutes = (table["start"] - _first(table)) / 60
    plot = Plot(
        heading,
        Axis.over(minutes, "minutes since the first scored trial", zero=True),
        Axis.over(table["score"], "correlation within block", zero=True),
        520,
        260,
    )
    keys = list(dict.fromkeys(table["session"].tolist()))
    plot.begin("model", MODEL)
    for key in keys:
        mine = table["session"] == key
        order = np.argsort(minutes[mine], kind="stable")
        plot.line(minutes[mine][order], table["score"][mine][order], "faint-line" if len(keys) > 1 else "fit")
        for at, value in zip(minutes[mine], table["score"][mine], strict=True) if len(table["score"]) <= 400 else ():
            plot.mark(
                float(at), float(value), "circle", f"{key}, minute {number(float(at), 1)}: {number(float(value))}", r=2
            )
    plot.end()
    return _figure(
        heading, plot.svg(), "Each line a session, each point a block of trials; within a block there is less to vary."
    )


def trace(row: Mapping[str, Any]) -> str:
    """A few seconds of one neuron or channel."""
    seconds, recorded, predicted = (_numbers(row[name]) for name in ("seconds", "recorded", "predicted"))
    name = f"{row['session']}, {row['name']}"
    plot = Plot(
        f"{name}: as recorded and as predicted",
        Axis.over([0.0, float(seconds[-1])], "seconds", zero=True),
        Axis.over(np.concatenate([recorded, predicted]), "", count=3),
        width=420,
        height=170,
        margins=(52, 8, 8, 40),
    )
    for series, style, line, values in (
        ("recorded", RECORDED, "recorded", recorded),
        ("model", MODEL, "fit", predicted),
    ):
        plot.begin(series, style)
        plot.line(seconds, values, line)
        plot.end()
    r = f" Over all trials r = {number(row['score'])}" if _there(row["score"]) else ""
    return f"<figure>{plot.svg()}<figcaption>{escape(name)}.{r}</figcaption></figure>"


def _figure(heading: str, plots: str, caption: str) -> str:
    return f"<figure><h3>{escape(heading)}</h3>{plots}<figcaption>{escape(caption)}</figcaption></figure>"


def _reaching(values: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and the share of values that are at least as large."""
    ordered = np.sort(values)
    some = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), POINTS)).round().astype(int))
    return ordered[some], 1 - some / len(ordered)


def _placed(mine: Table) -> bool:
    known = np.isfinite(mine["x"]) & np.isfinite(mine["y"])
    return bool(known.sum() > 2 and (np.ptp(mine["x"][known]) > 0 or np.ptp(mine["y"][known]) > 0))


def _first(table: Table) -> np.ndarray:
    """When the first scored block of each row's session began."""
    first = {key: table["start"][table["session"] == key].min() for key in dict.fromkeys(table["session"].tolist())}
    return np.array([first[key] for key in table["session"].tolist()])


def _there(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([math.nan if v is None else float(v) for v in values], np.float64)
