"""The charts of a new mouse's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from omnimouse_jax.evaluate.new_mouse_view import (
    METHODS,
    TaskView,
    bracket,
    finite,
    minutes_told,
    told,
)
from omnimouse_jax.pages.marks import Look, marker, number
from omnimouse_jax.pages.plot import Axis, Plot

#: Up to so many neurons have a point each that says which one it is.
NAMED_POINTS = 250
#: Points of a distribution.
POINTS = 200
RECORDED = Look("recorded", "circle", "recorded", "#1b1f24", "#e8e9e6")
CEILING = Look("ceiling", "hexagon", "ceiling", "#23633f", "#8fd0aa")
LINES = {"recorded": RECORDED, "ceiling": CEILING, **METHODS}


def figure(heading: str, plots: str, caption: str, names: Sequence[str] = ()) -> str:
    """A framed figure; buttons of its legend hide the series called `names`."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{name}">{_swatch(LINES[name])}{LINES[name].words}</button>'
        for name in names
    )
    legend = f'<div class="legend" role="group" aria-label="Show or hide">{buttons}</div>' if buttons else ""
    return f"<figure><h3>{escape(heading)}</h3>{legend}{plots}<figcaption>{escape(caption)}</figcaption></figure>"


def learning_curve(view: TaskView) -> str:
    """Score by minutes of the recording, one line per method."""
    points = [point for curve in view.curves.values() for point in curve]
    if not points:
        return ""
    seen = [v for p in points for v in (p.score, p.low, p.high)] + [view.ceiling or math.nan]
    before = view.score("before")
    x = Axis.logarithmic([point.minutes for point in points], "minutes of the recording trained on (log scale)")
    y = Axis.over([*seen, math.nan if before is None else before], "correlation", zero=True)
    plot = Plot(f"{view.task}, {view.session}: score by minutes of data", x, y)
    if view.ceiling is not None:
        plot.rule(view.ceiling, f"ceiling {number(view.ceiling)}")
    names = []
    if before is not None:
        plot.begin("before", METHODS["before"].style)
        plot.line([x.low, x.high], [before, before], METHODS["before"].line)
        tip = f"before adapting, no minute trained on: {told(view.rows['before'])}"
        plot.mark(x.low, before, METHODS["before"].shape, tip)
        plot.end()
        names.append("before")
    for place, (name, curve) in enumerate(reversed(list(view.curves.items()))):
        method, aside = (
            METHODS[name],
            1.02 ** (place - (len(view.curves) - 1) / 2),
        )  # so that bars do not hide each other
        plot.begin(name, method.style)
        plot.line([p.minutes * aside for p in curve], [p.score for p in curve], method.line)
        for p in curve:
            interval = f" {bracket(p.low, p.high)}" if math.isfinite(p.low) else ""
            if interval:
                plot.whisker(p.minutes * aside, p.low, p.high)
            seeds = f", mean of {p.n_seeds} seeds" if p.n_seeds > 1 else ""
            tip = f"{method.words}, {minutes_told(p.minutes)}: {number(p.score)}{interval}{seeds}"
            plot.mark(p.minutes * aside, p.score, method.shape, tip)
        plot.end()
        names.append(name)
    over = next((row.get("interval") for row in view.rows.values() if row.get("interval")), "")
    bars = f"Bars: {over}, of one run. " if any(math.isfinite(p.low) for p in points) else "Means over seeds. "
    caption = f"{bars}Minutes: the earliest of the training tier. Each point is a model of its own, scored on the same trials."
    return figure("Score by minutes of data", plot.svg(), caption, list(reversed(names)))


def neuron_scatter(view: TaskView) -> str:
    """Each neuron's score: adapted against from scratch, or against before."""
    other = "scratch" if "scratch" in view.neurons else "before"
    if not {"adapted", other} <= view.neurons.keys():
        return ""
    x, y = np.nan_to_num(view.neurons[other]), np.nan_to_num(view.neurons["adapted"])
    there = np.isfinite(view.neurons[other]) | np.isfinite(view.neurons["adapted"])
    both = np.concatenate([x[there], y[there]])
    if not len(both):
        return ""
    words = METHODS[other].words
    plot = Plot(
        f"{view.task}, {view.session}: each neuron's score, adapted against {words}",
        Axis.over(both, words),
        Axis.over(both, "adapted"),
        width=380,
        height=360,
    )
    plot.diagonal()
    plot.begin("neurons", METHODS["adapted"].style)
    if there.sum() > NAMED_POINTS:
        plot.cloud(x[there], y[there])
    else:
        for neuron in np.flatnonzero(there):
            tip = f"neuron {neuron}: adapted {number(y[neuron])}, {words} {number(x[neuron])}"
            plot.mark(x[neuron], y[neuron], "circle", tip, r=2.6, kind="run")
    plot.end()
    better = int((y > x)[there].sum())
    caption = f"Adapted is better in {better} of {int(there.sum())} neurons (above the line). Neurons are numbered as in the store."
    return figure(f"Each neuron: adapted against {words}", plot.svg(), caption)


def neuron_distribution(view: TaskView) -> str:
    """Share of neurons that reach a score, for each method and the ceiling."""
    values = {
        name: np.sort(found[np.isfinite(found)])
        for name in ("ceiling", "before", "scratch", "adapted")
        if (found := view.neurons.get(name)) is not None and np.isfinite(found).any()
    }
    if "adapted" not in values:
        return ""
    x = Axis.over(np.concatenate(list(values.values())), "correlation")
    y = Axis(0.0, 1.0, "share of neurons that reach it", tuple((k / 4, f"{25 * k} %") for k in range(5)))
    plot = Plot(f"{view.task}, {view.session}: share of neurons that reach a score", x, y, 380, 360, (62, 14, 12, 46))
    for name, found in values.items():
        some = np.unique(np.linspace(0, len(found) - 1, min(len(found), POINTS)).round().astype(int))
        plot.begin(name, LINES[name].style)
        plot.line(found[some], 1 - some / len(found), LINES[name].line)
        plot.end()
    medians = ", ".join(f"{LINES[name].words} {number(float(np.median(v)))}" for name, v in reversed(values.items()))
    return figure("How many neurons reach a score", plot.svg(), f"Medians: {medians}.", list(reversed(values)))


def trace(row: Mapping[str, Any]) -> str:
    """A few seconds as recorded and as predicted."""
    lines = {name: _numbers(row[name]) for name in ("recorded", "scratch", "adapted") if row.get(name)}
    seconds = _numbers(row["seconds"])
    every = np.concatenate(list(lines.values()))
    name = f"{row['task']}: {row['name']}"
    plot = Plot(
        f"{name}, as recorded and as predicted",
        Axis.over([0.0, float(seconds[-1])], "seconds", zero=True),
        Axis.over(every, "", count=3),
        width=420,
        height=170,
        margins=(52, 8, 8, 40),
    )
    for kind, values in lines.items():
        plot.begin(kind, LINES[kind].style)
        plot.line(seconds, values, LINES[kind].line)
        plot.end()
    r = {kind: _pearson(values, lines["recorded"]) for kind, values in lines.items() if kind != "recorded"}
    here = "; ".join(f"{LINES[kind].words} r = {number(v)}" for kind, v in reversed(r.items()) if math.isfinite(v))
    return f"<figure>{plot.svg()}<figcaption>{escape(name)}{'. In these seconds: ' if here else ''}{here}</figcaption></figure>"


def decoding(of_channels: Mapping[str, Mapping[str, Mapping[str, Any]]], view: TaskView) -> str:
    """Score of every channel of behaviour, one mark per method."""
    names = sorted(of_channels, key=lambda channel: channel == "mean")
    methods = [name for name in METHODS if any(name in of_channels[channel] for channel in names)]
    rows = [row for channel in names for row in of_channels[channel].values()]
    ends = [
        v for row in rows for v in (row["score"], finite(row["score_low"]), finite(row["score_high"])) if v is not None
    ]
    height = 34 + 44 * len(names)
    plot = Plot(
        f"{view.task}, {view.session}: behaviour decoded, by channel",
        Axis.over(ends, "correlation", zero=True),
        Axis(-0.5, len(names) - 0.5, "", ()),
        width=640,
        height=height + 46,
        margins=(170, 16, 8, 46),
    )
    for number_of, channel in enumerate(reversed(names)):
        plot.row(number_of, channel)
        for place, name in enumerate(methods):
            if name not in of_channels[channel]:
                continue
            row, y = of_channels[channel][name], number_of + 0.3 - 0.6 * (place + 0.5) / len(methods)
            plot.begin(name, METHODS[name].style)
            low, high = finite(row["score_low"]), finite(row["score_high"])
            if low is not None and high is not None:
                plot.bar(y, low, high)
            plot.mark(row["score"], y, METHODS[name].shape, f"{channel}, {METHODS[name].words}: {told(row)}")
            plot.end()
    return figure(
        "Behaviour, channel by channel", plot.svg(), f"Bars: {rows[0].get('interval') or 'not computed'}.", methods
    )


def validation(stages: Sequence[Mapping[str, Any]]) -> str:
    """Validation loss by step of every stage."""
    out = []
    for stage in stages:
        curve = [(step, loss) for step, loss in stage.get("validation") or [] if finite(loss) is not None]
        if len(curve) < 2:
            continue
        steps, losses = (np.array(column, np.float64) for column in zip(*curve, strict=True))
        plot = Plot(
            f"stage {stage['name']}: validation loss by step",
            Axis.over(steps, "step", zero=True),
            Axis.over(losses, "validation loss", count=4),
            width=380,
            height=230,
            margins=(66, 14, 12, 46),
        )
        plot.begin("adapted", METHODS["adapted"].style)
        plot.line(steps, losses, "fit")
        for step, loss in curve:
            best = ", the best: this checkpoint counts" if step == stage.get("best_step") else ""
            plot.mark(
                step,
                loss,
                "circle",
                f"step {step}: {number(loss, 4)}{best}",
                r=5.0 if best else 2.6,
                kind="mean" if best else "run",
            )
        plot.end()
        caption = f"Stage {stage['name']}. Filled: the checkpoint that counts, step {stage.get('best_step')}."
        out.append(f"<figure>{plot.svg()}<figcaption>{escape(caption)}</figcaption></figure>")
    return "".join(out)


def _swatch(method: Look) -> str:
    shape = f'<path class="mark mean" d="{marker(method.shape, 13, 7, 4.2)}"/>' if method in METHODS.values() else ""
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><g class="series" style="{method.style}">'
        f'<path class="line {method.line}" d="M1 7H25"/>{shape}</g></svg>'
    )


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([math.nan if (v := finite(value)) is None else v for value in values], np.float64)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    there = np.isfinite(a) & np.isfinite(b)
    if there.sum() < 3 or np.ptp(a[there]) == 0 or np.ptp(b[there]) == 0:
        return math.nan
    return float(np.corrcoef(a[there], b[there])[0, 1])
