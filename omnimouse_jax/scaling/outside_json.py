"""The outcome of a fit as JSON: every number that the terminal shows, at full precision, in the table's own units."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from omnimouse_jax import __version__
from omnimouse_jax.scaling.outside_fit import Outcome, formula
from omnimouse_jax.scaling.uncertainty import Interval


def record(outcome: Outcome) -> dict[str, object]:
    """JSON-ready: intervals are [low, high] of 95 %, an open end or a number beyond double precision is null."""
    request, rows, found, verdict = outcome.request, outcome.rows, outcome.fit, outcome.verdict
    return {
        "form": request.form,
        "formula": formula(request.form),
        "table": str(request.table),
        "x": list(request.x),
        "y": list(request.y),
        "where": request.where,
        "response": request.response if request.response == "one_minus" else found.form.response,
        "rows": rows.total,
        "n": found.n,
        "dropped": [{"reason": reason, "rows": count} for reason, count in rows.dropped],
        "parameters": _numbers(found.parameters),
        "intervals": _intervals(outcome.intervals),
        "standard_errors": _numbers(outcome.errors),
        "interval_over": f"these sessions, bootstrap over {rows.unit}",
        "resamples": request.resamples,
        "seed": request.seed,
        "profile_intervals": _intervals(outcome.profiles),
        "new_sessions_intervals": _intervals(outcome.new_sessions),
        "centred": _numbers(found.centred),
        "centre": [_number(v) for v in found.form.centre(rows.x[:, : found.form.axes])],
        "fixed": _numbers(found.fixed),
        "derived": {
            name: {"estimate": _number(value), "interval": _interval(interval)}
            for name, (value, interval) in outcome.derived.items()
        },
        "objective": _number(found.objective),
        "delta": _number(found.delta) if math.isfinite(found.delta) else "inf",
        "r2": _number(found.r2_natural),
        "r2_response": _number(found.r2),
        "rmse": _number(found.rmse),
        "gradient": _number(found.gradient),
        "condition": _number(found.condition),
        "starts": found.starts,
        "optima": found.optima,
        "optima_spread": _number(found.spread),
        "optima_parameters": [
            _numbers({k: float(v) for k, v in found.form.named(theta, found.centre).items()}) for theta in found.rivals
        ],
        "held_out": [
            {
                "axis": held.axis,
                "rule": held.rule,
                "rows": held.rows,
                "rmse": _number(held.rmse),
                "mean_error": _number(held.mean_error),
                "straight_line_rmse": _number(held.rival_rmse),
            }
            for held in outcome.held_out
        ],
        "leave_one_cell_out": _number(outcome.cell_error),
        "straight_line": {
            "parameters": _numbers(outcome.rival.parameters),
            "objective": _number(outcome.rival.objective),
            "r2": _number(outcome.rival.r2_natural),
            "rmse": _number(outcome.rival.rmse),
        },
        "saturation": outcome.selection.words if outcome.selection else None,
        "aicc": {c.name: _number(c.aicc) for c in outcome.selection.candidates} if outcome.selection else None,
        "flags": [flag.words for flag in outcome.flags],
        "flag_codes": [flag.code for flag in outcome.flags],
        "verdict": {
            "name": verdict.name,
            "ratio": _number(verdict.ratio),
            "interval": _interval(verdict.interval),
            "new_sessions": _interval(verdict.new_sessions),
            "words": verdict.words,
            "local_ratio": _number(verdict.local_ratio),
            "free_ratio": _number(verdict.free_ratio),
            "free_interval": _interval(verdict.free.interval) if verdict.free else None,
            "gain_parameters": _number(verdict.gain_parameters),
            "gain_parameters_interval": _interval(verdict.gain_parameters_interval),
            "gain_data": _number(verdict.gain_data),
            "gain_data_interval": _interval(verdict.gain_data_interval),
            "share_parameters": _number(verdict.share_parameters),
            "share_data": _number(verdict.share_data),
        },
        "notes": list(outcome.notes),
        "version": __version__,
    }


def write(outcome: Outcome, path: Path) -> None:
    """Writes `record` to a file whose folder exists."""
    path.write_text(json.dumps(record(outcome), indent=1, allow_nan=False) + "\n")


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _interval(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [_number(interval.low), _number(interval.high)]


def _intervals(intervals: dict[str, Interval]) -> dict[str, list[float | None] | None]:
    return {name: _interval(interval) for name, interval in intervals.items()}
