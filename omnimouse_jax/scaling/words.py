"""The sentences of the page and of the terminal summary. Every number comes with its interval or says it has none."""

from __future__ import annotations

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import DATA_AXES, METRICS, Study, Task
from omnimouse_jax.scaling.grid import MIN_DECADES, MIN_LEVELS, Gain
from omnimouse_jax.scaling.uncertainty import Interval
from omnimouse_jax.scaling.verdict import DATA, FLAT, NONE, PARAMETERS, UNDECIDED

TITLES = {
    DATA: "Data-limited",
    PARAMETERS: "Parameter-limited",
    UNDECIDED: "Data and parameters: balanced or not determined",
    FLAT: "No measurable return",
}


def bracket(interval: Interval | None, digits: int = 3) -> str:
    """[low, high], an infinite end as "open"."""
    if interval is None:
        return ""
    ends = [number(e, digits) if abs(e) < 1e30 else "open" for e in (interval.low, interval.high)]
    return f"[{ends[0]}, {ends[1]}]"


def best_interval(gain: Gain) -> Interval | None:
    """The interval that a headline quotes: for these sessions where there is one, else for new ones."""
    return gain.seeds or gain.sessions


def digits_for(interval: Interval | None) -> int:
    """Decimals that keep the ends of a narrow interval apart, and from zero if it excludes zero."""
    if interval is None or interval.is_open:
        return 3
    touches = interval.excludes_zero and min(abs(interval.low), abs(interval.high)) < 0.0005
    return 4 if touches or interval.high - interval.low < 0.003 else 3


def told(gain: Gain, signed: bool = True) -> str:
    """Estimate and interval."""
    interval = best_interval(gain)
    digits = digits_for(interval)
    value = number(gain.estimate, digits, signed=signed)
    return (
        f"{value} {bracket(interval, digits)}" if interval else f"{value} (no interval: one run per cell, one session)"
    )


def moved(gain: Gain, what: str) -> str:
    """Raised WHAT by 0.147 [0.140, 0.155], or that it made no measurable difference."""
    interval = best_interval(gain)
    if interval is not None and interval.low > 0:
        return f"raised {what} by {told(gain, signed=False)}"
    if interval is not None and interval.high < 0:
        return f"lowered {what}: {told(gain)}"
    suffix = ", no measurable difference" if interval is not None else ""
    return f"changed {what} by {told(gain)}{suffix}"


def effect(gain: Gain | None) -> str:
    """helped, hurt, made no measurable difference, or unknown."""
    if gain is None:
        return "were not varied"
    interval = best_interval(gain)
    if interval is None:
        return "helped, by a difference without an interval" if gain.estimate > 0 else "did not help"
    if interval.low > 0:
        return "helped"
    return "hurt" if interval.high < 0 else "made no measurable difference"


def title(task: Task) -> str:
    """The headline of a task: its verdict, or what the cells show where there is none."""
    name = task.joint.verdict.name
    if name != NONE:
        return TITLES[name]
    data, size = effect(task.data_gain or task.data_step), effect(task.parameter_gain or task.parameter_step)
    if data == size:
        return f"More data and bigger models {data}"
    return f"More data {data}; bigger models {size}"


def sentences(task: Task, study: Study) -> list[str]:
    """The few sentences under the headline."""
    out = []
    amounts, sizes = task.amount_names, task.size_names
    if task.data_step is not None:
        out.append(
            f"With the largest model ({sizes[-1]}), going from {amounts[0]} to {plural(amounts[-1], study.unit)} "
            f"{moved(task.data_step, f'the {METRICS[task.metric]}')}."
        )
    if task.parameter_step is not None:
        out.append(
            f"With {plural(amounts[-1], study.unit)}, going from {sizes[0]} to {sizes[-1]} "
            f"{moved(task.parameter_step, 'it')}."
        )
    if task.data_gain is not None and task.parameter_gain is not None:
        out.append(
            f"Averaged over the grid, a doubling of data gained {told(task.data_gain)} and a doubling of parameters "
            f"{told(task.parameter_gain)}."
        )
    out.append(task.joint.verdict.words)
    if task.selection is not None:
        words = task.selection.words
        out.append(words[0].upper() + words[1:] + ".")
    return out


def interval_note(task: Task) -> str:
    """What the headline's brackets are over."""
    gain = task.data_step or task.parameter_step
    interval = best_interval(gain) if gain else None
    if interval is None:
        return "No intervals: there is one run per cell and one evaluation session."
    return f"Brackets: 95 % for {interval.over} ({interval.method})."


def summary_lines(study: Study) -> list[str]:
    """At most ten lines for a terminal."""
    first = study.tasks[0]
    lines = [
        f"{study.name}: {plural(len(study.runs), 'run')}, {plural(len(first.size_names), 'size')} "
        f"({', '.join(first.size_names)}) x {plural(len(first.amount_names), 'amount')} of data "
        f"({', '.join(first.amount_names)} {study.unit}s), {plural(len(first.sessions), 'evaluation session')}"
    ]
    room = 10 - 1 - 1 - (1 if study.missing else 0)
    detail = 2 * len(study.tasks) <= room
    shown = study.tasks if detail or len(study.tasks) <= room else study.tasks[: room - 1]
    for task in shown:
        top = number(float(task.grid.mean[-1, -1])) if task.grid.count[-1, -1] else "no run"
        lines.append(f"{task.name}: {title(task)} (largest model and amount: {top})")
        if detail and (task.data_gain or task.parameter_gain):
            parts = [
                f"{what} {told(gain)}"
                for what, gain in (("data", task.data_gain), ("parameters", task.parameter_gain))
                if gain is not None
            ]
            lines.append(f"  gain per doubling: {', '.join(parts)}")
    if len(shown) < len(study.tasks):
        lines.append(f"... and {len(study.tasks) - len(shown)} more tasks, on the page")
    lines.append(interval_note(first))
    if study.missing:
        lines.append(f"{plural(len(study.missing), 'cell')} failed or unfinished, listed on the page")
    return lines


def definitions(study: Study) -> list[tuple[str, str]]:
    """What the page's words mean."""
    unit, noun = DATA_AXES[study.data_axis]
    return [
        (
            "Score",
            "Correlation of prediction and recording, computed per evaluation session as the ledger's estimator column "
            "says, never clipped; the score of a run is the plain mean over evaluation sessions.",
        ),
        (
            "Data",
            f"Column {study.data_axis} of the ledger: {noun}. The evaluation sessions are the same for every run, so "
            "this axis measures what other recordings add for them.",
        ),
        (
            "Parameters",
            "Column n_params_core: parameters shared by all mice. Tables with rows per neuron, session or animal grow "
            "with the data and are not counted.",
        ),
        ("Gain per doubling", f"Slope of score against log2({unit}s) or log2(parameters) through the cell means."),
        ("These sessions", "What would change if the same cells were trained again with other seeds: run noise only."),
        (
            "New sessions",
            "What would change for other recorded sessions: a t interval over per-session gains (over animals where "
            "animals repeat), with the noise of runs added.",
        ),
        (
            "Data-limited",
            "At the largest model and amount, doubling the data gains more than doubling the parameters: the 95 % "
            "interval of the ratio lies above 1, and the four corner cells agree without any curve. Parameter-limited: "
            "below 1.",
        ),
        (
            "No verdict",
            f"Exponents need at least {MIN_LEVELS} levels on both axes, over {MIN_DECADES['data']} decades of data and "
            f"{MIN_DECADES['parameters']} of parameters. With less, cells and gains are shown and no curve is fitted.",
        ),
        (
            "Saturation",
            "Called established only if a curve with a plateau predicts the held-out largest level better than a "
            "straight line in log x does, and the interval of the plateau is closed.",
        ),
    ]
