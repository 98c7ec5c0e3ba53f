"""One model under one norm: attacks and their controls. Long; kept in a file, so that a probe that was stopped goes on."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.files import write_atomically
from omnimouse_jax.probe.sensitivity.attacks import Elements, attack, neurons_up_and_down
from omnimouse_jax.probe.sensitivity.balls import Ball
from omnimouse_jax.probe.sensitivity.controls import equal_norm_random, low_pass
from omnimouse_jax.probe.sensitivity.gains import neuron_gains, population_gain
from omnimouse_jax.probe.sensitivity.options import LEVELS, Options
from omnimouse_jax.probe.sensitivity.subject import Subject
from omnimouse_jax.probe.settings import digest


class Measured(NamedTuple):
    """All arrays of one model and norm. Squares are of z, averaged over samples."""

    d: Float[np.ndarray, "E W F H W_"]  # the population attack's perturbations
    squares: Float[np.ndarray, "E W N"]
    spread: Float[np.ndarray, "E W"]
    solvers: Float[np.ndarray, "E W 2"]
    random: Float[np.ndarray, "E W K N"]
    smooth_random: Float[np.ndarray, "E W K2 N"]
    low_pass: Float[np.ndarray, "E W N"]
    kept: Float[np.ndarray, "E W"]
    gain: Float[np.ndarray, " W"]
    sigma_max: Float[np.ndarray, " W"]
    frobenius: Float[np.ndarray, " W"]
    neuron_l2: Float[np.ndarray, "W M"]
    neuron_l1: Float[np.ndarray, "W M"]
    neuron_gain: Float[np.ndarray, "W M"]
    neuron_d: Float[np.ndarray, "E2 B F H W_"]
    neuron_value: Float[np.ndarray, "E2 B"]
    neuron_spread: Float[np.ndarray, "E2 B"]
    toward: Float[np.ndarray, "E W"]  # the directional attack's value


def measure(
    subject: Subject,
    ball: Ball,
    neurons: Int[np.ndarray, " M"],
    direction: Float[np.ndarray, " N"],
    options: Options,
    told: Callable[[str, float], None],
) -> Measured:
    """Everything the sheet asks of one model under one norm. `direction`: t of the directional attack, in units of z."""
    budgets = [level / LEVELS for level in options.budgets]
    everything = np.arange(subject.n_stimuli)
    shares = {"gains": 0.08, "population": 0.5, "neurons": 0.22, "direction": 0.12, "controls": 0.08}
    begun = 0.0

    def part(name: str, total: int) -> Callable[[int], None]:
        return lambda done: told(name, begun + shares[name] * done / max(total, 1))

    told("gains", 0.0)
    local = population_gain(subject, ball, options.seed, options.power_steps)
    of_neurons = neuron_gains(subject, ball, neurons)
    begun += shares["gains"]
    population = attack(
        subject,
        ball,
        Elements(everything),
        budgets,
        options.effort,
        options.seed,
        local.direction,
        part("population", len(everything) * len(budgets)),
    )
    begun += shares["population"]
    few = neurons_up_and_down(everything[: options.neuron_stimuli], neurons, subject.n_neurons)
    few_budgets = [level / LEVELS for level in options.neuron_budgets]
    single = attack(
        subject,
        ball,
        few,
        few_budgets,
        options.neuron_effort,
        options.seed,
        told=part("neurons", len(few.at) * len(few_budgets)),
    )
    begun += shares["neurons"]
    goals = Elements(everything, np.repeat(direction[None], len(everything), 0).astype(np.float32))
    toward = attack(
        subject,
        ball,
        goals,
        budgets,
        options.neuron_effort,
        options.seed,
        told=part("direction", len(everything) * len(budgets)),
    )
    begun += shares["direction"]
    random = equal_norm_random(
        subject, ball, population.d, options.directions, options.seed, told=part("controls", options.directions)
    )
    smooth = equal_norm_random(subject, ball, population.d, options.smooth_directions, options.seed + 1, smooth=True)
    coarse = low_pass(subject, ball, population.d)
    squares = np.stack([np.square(subject.shift(d)).mean(1) for d in population.d])
    return Measured(
        population.d,
        squares,
        population.spread(),
        population.solvers(),
        random.squares,
        smooth.squares,
        coarse.squares,
        coarse.kept,
        local.gain,
        local.sigma,
        local.frobenius,
        of_neurons.l2,
        of_neurons.l1,
        of_neurons.per_budget,
        single.d,
        single.value,
        single.spread(),
        toward.value,
    )


def kept_or_measured(
    folder: Path, identity: dict[str, Any], options: Options, run: Callable[[], Measured]
) -> tuple[Measured, bool]:
    """What was measured before under the same checkpoint, windows, neurons and settings, or anew; and whether it was there."""
    settings = dataclasses.asdict(options)
    for name in ("norms", "bootstrap", "rows", "subspace", "untrained", "causality_stimuli"):  # change nothing in it
        settings.pop(name)
    path = folder / f"{digest([identity, settings])}.npz"
    if path.exists():
        try:
            with np.load(path) as arrays:
                return Measured(**{name: arrays[name] for name in Measured._fields}), True
        except (ValueError, OSError, KeyError):  # cut off, or of an older version
            path.unlink()
    found = run()
    held = io.BytesIO()
    np.savez(held, **found._asdict())
    write_atomically(path, held.getvalue())
    return found, False
