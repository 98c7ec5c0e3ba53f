"""The charts of the sensitivity page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from omnimouse_jax.pages.marks import MARKERS, marker, number
from omnimouse_jax.pages.plot import Axis, Plot

#: (in light, in dark), and how a line is drawn: told apart without colour by shape and dashes too.
COLOURS = (
    ("#8a3d0c", "#f0b06a"),
    ("#1f5a8a", "#8ec1ee"),
    ("#23633f", "#8fd0aa"),
    ("#6b3a86", "#cda5e6"),
    ("#5b6470", "#a3abb5"),
    ("#7a6a00", "#e0d060"),
)
DASHES = ("", "dashed", "dotted")


def curves(result: Mapping[str, Any], norm: str) -> str:
    """S of each model with its band, and of random directions beside it."""
    models = result["models"]
    found = [model["norms"][norm] for model in models]
    budgets = found[0]["budgets"]
    values = [
        v for one in found for key in ("S", "S_random") for part in ("mean", "low", "high") for v in one[key][part]
    ]
    x = Axis.logarithmic(budgets, "budget, grey levels of 255 (log scale)")
    y = _log_axis(values, "shift D, model SD (log scale)")
    plot = Plot(f"Shift of predicted responses by budget, {norm}", x, y, margins=(76, 14, 12, 46))
    if y.low < 1 < y.high:
        plot.rule(1.0, "1 SD")
    for place, (model, one) in enumerate(zip(models, found, strict=True)):
        plot.begin(model["name"], _style(place))
        _draw(plot, x, y, budgets, one["S"], _dash(place), MARKERS[place % len(MARKERS)], model["name"], "attacked")
        _draw(
            plot,
            x,
            y,
            budgets,
            one["S_random"],
            "random",
            MARKERS[place % len(MARKERS)],
            model["name"],
            "random",
            small=True,
        )
        plot.end()
    caption = (
        "Upper lines: the strongest perturbation found. Lower, thin lines: random directions of equal norm. Bars: "
        "95 % by bootstrap "
        "over stimuli and neurons (perturbations as they are)."
    )
    return _figure("Attacked and random", plot.svg(), caption, [model["name"] for model in models])


def controls(result: Mapping[str, Any], norm: str) -> str:
    """What is left of S when the perturbations lose their fine detail."""
    models = result["models"]
    found = [model["norms"][norm] for model in models]
    budgets = found[0]["budgets"]
    ratios = [
        [low / whole if whole else float("nan") for low, whole in zip(one[key]["mean"], one["S"]["mean"], strict=True)]
        for one in found
        for key in ("S_low_pass", "S_random_low_pass")
    ]
    x = Axis.logarithmic(budgets, "budget, grey levels of 255 (log scale)")
    y = Axis.over([0.0, 1.0, *(v for ratio in ratios for v in ratio)], "share of S", zero=True)
    plot = Plot(f"Share of the shift that low-pass perturbations of equal norm reach, {norm}", x, y)
    for place, model in enumerate(models):
        plot.begin(model["name"], _style(place))
        for ratio, kind, words in (
            (ratios[2 * place], _dash(place), "own perturbation, low-pass"),
            (ratios[2 * place + 1], "random", "random, low-pass"),
        ):
            plot.line(budgets, ratio, kind)
            for budget, value in zip(budgets, ratio, strict=True):
                tip = f"{model['name']}, {words}: {number(value, 2)} of S at {budget:g} grey levels"
                plot.mark(budget, value, MARKERS[place % len(MARKERS)], tip, r=4.2 if kind != "random" else 2.8)
        plot.end()
    kept = ", ".join(
        f"{m['name']} {100 * one['low_pass_power_kept'][len(budgets) // 2]:.0f} %"
        for m, one in zip(models, found, strict=True)
    )
    caption = (
        "1: the blurred perturbation, at equal norm, moves the model as far. Thin: random noise, blurred. Power of "
        "the perturbations "
        f"that the blur leaves, in the middle of the grid: {kept}."
    )
    return _figure("Without fine detail", plot.svg(), caption, [model["name"] for model in models])


def causality(result: Mapping[str, Any]) -> str:
    """Gain by the time between a frame and the response."""
    models = result["models"]
    lags = [lag for model in models for lag in model["causality"]["lag"]]
    gains = [gain for model in models for gain in model["causality"]["gain"]]
    x = Axis.over(lags, "time of the response − time of the frame, s")
    y = _log_axis([gain for gain in gains if gain > 1e-4 * max(gains)], "gain, SD per RMS of one frame (log)")
    plot = Plot("Gain by the time between a frame and the response", x, y, width=720, height=320)
    for place, model in enumerate(models):
        found = model["causality"]
        plot.begin(model["name"], _style(place))
        drawn = [gain if gain >= y.low else float("nan") for gain in found["gain"]]
        plot.line(found["lag"], drawn, _dash(place))
        every = max(1, len(found["lag"]) // 24)
        for lag, gain in list(zip(found["lag"], drawn, strict=True))[::every]:
            if gain != gain:
                continue
            when = "before" if lag >= 0 else "after"
            tip = f"{model['name']}: a frame {abs(lag):.2f} s {when} the response has gain {number(gain, 2)}"
            plot.mark(lag, gain, MARKERS[place % len(MARKERS)], tip, r=3.2)
        plot.end()
    caption = (
        "Right of 0: frames that came up before the response; left: after it. RMS over neurons, stimuli and pairs "
        "of equal lag; what "
        "is below a ten-thousandth of the largest, or exactly 0, is not drawn."
    )
    return _figure("Gain by lag", plot.svg(), caption, [model["name"] for model in models])


def _draw(
    plot: Plot,
    x: Axis,
    y: Axis,
    budgets: Sequence[float],
    line: Mapping[str, Any],
    kind: str,
    shape: str,
    name: str,
    words: str,
    small: bool = False,
) -> None:
    inside = [max(v, y.low) if v is not None else float("nan") for v in line["mean"]]
    plot.line(budgets, inside, kind)
    for e, budget in enumerate(budgets):
        value, low, high = line["mean"][e], line["low"][e], line["high"][e]
        plot.whisker(budget, max(low, y.low), max(high, y.low))
        tip = f"{name}, {words}, {budget:g} grey levels: {number(value, 3)} SD [{number(low, 3)}, {number(high, 3)}]"
        plot.mark(budget, max(value, y.low), shape, tip, r=2.8 if small else 4.2)


def _log_axis(values: Sequence[float], name: str) -> Axis:
    """Over positive values, with ticks at 1, 3 of each power of ten."""
    positive = [v for v in values if v and v > 0] or [0.1, 1.0]
    low, high = max(min(positive), max(positive) * 1e-5) / 1.25, max(positive) * 1.25
    levels = [m * 10.0**power for power in range(-8, 6) for m in (1, 3)]
    ticks = tuple((level, f"{level:g}") for level in levels if low <= level <= high)
    if len(ticks) < 2:
        low, high = low / 3, high * 3
        ticks = tuple((level, f"{level:g}") for level in levels if low <= level <= high)
    return Axis(low, high, name, ticks, log=True)


def _style(place: int) -> str:
    light, dark = COLOURS[place % len(COLOURS)]
    return f"--l:{light};--d:{dark}"


def _dash(place: int) -> str:
    return DASHES[place % len(DASHES)]


def _figure(heading: str, plot: str, caption: str, names: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="true" '
        f'data-series="{escape(name, quote=True)}">{_swatch(place)}{escape(name)}</button>'
        for place, name in enumerate(names)
    )
    legend = f'<div class="legend" role="group" aria-label="Show or hide">{buttons}</div>'
    return f"<figure><h3>{escape(heading)}</h3>{legend}{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def _swatch(place: int) -> str:
    return (
        f'<svg class="swatch series" style="{_style(place)}" viewBox="0 0 26 14" aria-hidden="true">'
        f'<path class="line {_dash(place)}" d="M0 7H26"/><path class="mark mean" '
        f'd="{marker(MARKERS[place % len(MARKERS)], 13, 7, 4)}"/></svg>'
    )
