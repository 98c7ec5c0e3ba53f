"""The summary of one model under one norm: curves with bands, eps*, A, G, Q, controls and the attacks' own uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.probe.sensitivity.balls import Ball
from omnimouse_jax.probe.sensitivity.curves import (
    Curve,
    Interval,
    Resamples,
    area_of,
    mean_of,
    median_of,
    ratio_of,
    threshold_of,
)
from omnimouse_jax.probe.sensitivity.measure import Measured
from omnimouse_jax.probe.sensitivity.models import Lineup
from omnimouse_jax.probe.sensitivity.options import LEVELS, Options
from omnimouse_jax.probe.sensitivity.subject import Subject


def of_norm(
    subject: Subject, found: Measured, lineup: Lineup, options: Options, resamples: Resamples
) -> dict[str, Any]:
    """Budgets in grey levels of 255; shifts in model SD, and in recorded signal SD where that is known."""
    included = subject.included
    attacked = Curve.of(options.budgets, found.squares, included, resamples)
    random = Curve.of(options.budgets, found.random, included, resamples)
    smooth_random = Curve.of(options.budgets, found.smooth_random, included, resamples)
    coarse = Curve.of(options.budgets, found.low_pass, included, resamples)
    ratios = ratio_of(attacked, random)
    rank = found.frobenius / np.where(found.sigma_max > 0, found.sigma_max, np.nan) ** 2
    # Gains are per unit of a budget in [0, 1]; told per grey level.
    gain = mean_of(found.gain / LEVELS, resamples)
    summary: dict[str, Any] = {
        "budgets": options.budgets,
        "dim": subject.dim,
        "S": _line(attacked),
        "S_random": _line(random),
        "S_low_pass": _line(coarse),
        "S_random_low_pass": _line(smooth_random),
        "low_pass_power_kept": found.kept.mean(1),
        "D": attacked.of_stimulus,
        "eps_star": _censored(threshold_of(attacked), options),
        "A": area_of(attacked)._asdict(),
        "G_population": gain._asdict(),
        "G_neuron": median_of(found.neuron_gain / LEVELS, options.seed, options.bootstrap)._asdict(),
        "gradient_l2": median_of(found.neuron_l2, options.seed, options.bootstrap)._asdict(),
        "gradient_l1": median_of(found.neuron_l1, options.seed, options.bootstrap)._asdict(),
        "sigma_max": mean_of(found.sigma_max, resamples)._asdict(),
        "stable_rank": mean_of(rank, resamples)._asdict(),
        "Q": {"value": [q.value for q in ratios], "low": [q.low for q in ratios], "high": [q.high for q in ratios]},
        "dim_over_Q_squared": [subject.dim / q.value**2 for q in ratios],
        "attack_uncertainty": {
            "spread_over_starts": found.spread.mean(1),
            "worst_spread": found.spread.max(1),
            "share_won_by_full_steps": (found.solvers[..., 1] > found.solvers[..., 0]).mean(1),
            "gradient_over_best": _ratio(found.solvers[..., 0], found.solvers.max(-1)),
            "full_steps_over_best": _ratio(found.solvers[..., 1], found.solvers.max(-1)),
        },
        "single_neurons": _single(found, lineup, options),
        "toward_recorded_pc": {"value": found.toward.mean(1)},
    }
    if lineup.signal.known:
        summary["recorded_unit"] = recorded_unit(subject, found.squares, lineup, options, resamples)
    return summary


def recorded_unit(
    subject: Subject,
    squares: Float[np.ndarray, "E W N"],
    lineup: Lineup,
    options: Options,
    resamples: Resamples,
) -> dict[str, Any]:
    """The same perturbations in units of the recorded signal SD, over reliable neurons. They were not made for this unit: a lower
    bound of a lower bound. Not with values before the output, which have no recorded unit."""
    reliable: Bool[np.ndarray, " N"] = np.isfinite(lineup.signal.sd) & subject.included
    if lineup.reliable is not None:
        reliable = reliable & lineup.reliable
    if options.before_output or not reliable.any():
        return {"neurons": 0}
    scale = np.where(reliable, subject.sigma / np.where(reliable, lineup.signal.sd, 1.0), 0.0)
    by = Resamples.draw(options.bootstrap, squares.shape[1], reliable, options.seed)
    curve = Curve.of(
        options.budgets, squares * scale.astype(np.float32) ** 2, reliable, by._replace(stimuli=resamples.stimuli)
    )
    star = _censored(threshold_of(curve), options)
    return {"neurons": int(reliable.sum()), "S": _line(curve), "eps_star": star, "A": area_of(curve)._asdict()}


def ball_of(options: Options, norm: str) -> Ball:
    return Ball(norm, options.framewise)


def _line(curve: Curve) -> dict[str, Any]:
    ends = curve.intervals()
    return {"mean": curve.mean, "low": [end.low for end in ends], "high": [end.high for end in ends]}


def _censored(star: Interval, options: Options) -> dict[str, Any]:
    """eps* in grey levels. `beyond`: larger than the grid's end; `below`: reached at its first budget already."""
    first, last = options.budgets[0], options.budgets[-1]

    def end(value: float) -> dict[str, Any]:
        return {
            "value": value if np.isfinite(value) else last,
            "beyond": bool(value == np.inf),
            "below": bool(value <= first),
        }

    return {"estimate": end(star.value), "low": end(star.low), "high": end(star.high)}


def _single(found: Measured, lineup: Lineup, options: Options) -> dict[str, Any]:
    """Single neurons up and down: stimulus slowest, sign fastest."""
    shape = (len(options.neuron_budgets), -1, len(lineup.neurons), 2)
    of_sign = found.neuron_value.reshape(shape)
    medians = {}
    for sign, name in enumerate(("up", "down")):
        ends = [
            median_of(of_sign[e, :, :, sign], options.seed, options.bootstrap)
            for e in range(len(options.neuron_budgets))
        ]
        medians[name] = {
            "median": [end.value for end in ends],
            "low": [end.low for end in ends],
            "high": [end.high for end in ends],
            "of_neuron": of_sign[..., sign].mean(1),
        }
    return {
        "budgets": options.neuron_budgets,
        "stimuli": of_sign.shape[1],
        "unmoved_share": (found.neuron_value <= 1e-6).mean(1),
        "spread_over_starts": np.median(found.neuron_spread, 1),
        **medians,
    }


def _ratio(value: Float[np.ndarray, "E W"], best: Float[np.ndarray, "E W"]) -> Float[np.ndarray, " E"]:
    return (value / np.maximum(best, 1e-12)).mean(1)
