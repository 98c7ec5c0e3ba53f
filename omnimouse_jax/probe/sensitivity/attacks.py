"""Attacks: the largest shift of the predicted responses within a budget. What is found is a lower bound.

Two solvers, because neither is the better one everywhere: projected gradient ascent with normalised steps, and full steps to the
edge
of the ball along the gradient (a linear maximisation oracle; on a linear model, power steps). Both begin at antipodal pairs of
random
points and at the scaled solution of the budget before. (Sheet on brain-side evaluation, 2.2 and 2.3.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from omnimouse_jax.probe.sensitivity.balls import Ball
from omnimouse_jax.probe.sensitivity.subject import Batch, Function, Subject, population

#: The fraction of the first step that the last one is.
LAST_STEP = 0.1


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard an attack tries. `reach`: the first step of K, in units of eps / K."""

    steps: int = 40
    full_steps: int = 20
    pairs: int = 2
    reach: float | int = 5.0


class Elements(NamedTuple):
    """What is attacked: stimulus `at` each, and for directional goals the direction t of responses (a row of `goals`).

    `goals` None: the population shift D. A single neuron up or down is t = +1 or -1 at its place. Values of directional attacks are
    <t, mean over samples of z> / ||t||.
    """

    at: Int[np.ndarray, " B"]
    goals: Float[np.ndarray, "B N"] | None = None


class Found(NamedTuple):
    """The best perturbation of each element at each budget, what it reaches, and what each solver reached from each start.

    `by_start` (E, B, 2, P): solvers (gradient, full steps) by starts; the last start is the warm one.
    """

    d: Float[np.ndarray, "E B F H W_"]
    value: Float[np.ndarray, "E B"]
    by_start: Float[np.ndarray, "E B 2 P"]

    def spread(self) -> Float[np.ndarray, "E B"]:
        """(best - worst of the random starts, each with its better solver) / best: how much one start would have missed."""
        of_start = self.by_start.max(2)[..., :-1]
        return (self.value - of_start.min(-1)) / np.maximum(self.value, 1e-12)

    def solvers(self) -> Float[np.ndarray, "E B 2"]:
        """What each solver reached from its best start."""
        return self.by_start.max(-1)


def attack(
    subject: Subject,
    ball: Ball,
    elements: Elements,
    budgets: Sequence[float],
    effort: Effort = Effort(),
    seed: int = 0,
    first: Float[np.ndarray, "B F H W_"] | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> Found:
    """Attacks at each budget, smallest first. `first`: directions of the warm start at the smallest budget (default: no change).

    An element's random starts depend on `seed`, its number and the budget's, not on the batches. `told` is called with the
    number of
    elements x budgets done.
    """
    program = solver(subject.function, ball, effort.steps, effort.full_steps, float(effort.reach))
    n, shape, n_starts = len(elements.at), subject.shape, 2 * effort.pairs + 1
    best = np.zeros((len(budgets), n, *shape), np.float32)
    value = np.zeros((len(budgets), n), np.float32)
    by_start = np.zeros((len(budgets), n, 2, n_starts), np.float32)
    directional = elements.goals is not None
    goals = np.zeros((n, subject.n_neurons), np.float32) if elements.goals is None else elements.goals
    norms = np.linalg.norm(goals, axis=1, keepdims=True)
    goals = (goals / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    done = 0
    for number, eps in enumerate(budgets):
        if number:
            warm = best[number - 1] * np.float32(eps / budgets[number - 1])
        else:
            warm = np.zeros((n, *shape), np.float32) if first is None else first.astype(np.float32) * np.float32(eps)
        for group in _groups(n, max(1, subject.rows // n_starts)):
            drawn = np.stack([_pairs(ball, seed, number, int(element), effort.pairs, shape) for element in group])
            starts = np.concatenate([np.float32(eps) * drawn, warm[group][:, None]], 1).reshape(-1, *shape)
            d, reached, of_solver = _solved(
                program,
                subject,
                np.repeat(elements.at[group], n_starts),
                starts,
                (np.repeat(goals[group], n_starts, 0), np.bool_(directional), np.float32(eps)),
            )
            if not directional:  # the squared shift is climbed because the shift itself has no gradient at 0
                reached, of_solver = np.sqrt(np.maximum(reached, 0)), np.sqrt(np.maximum(of_solver, 0))
            reached = reached.reshape(len(group), n_starts)
            winner = reached.argmax(1)
            d = d.reshape(len(group), n_starts, *shape)[np.arange(len(group)), winner]
            reached = reached.max(1)
            if number:  # what a smaller budget allowed is allowed
                kept = value[number - 1, group] > reached
                d = np.where(kept[:, None, None, None], best[number - 1, group], d)
                reached = np.where(kept, value[number - 1, group], reached)
            best[number, group], value[number, group] = d, reached
            by_start[number, group] = np.moveaxis(of_solver.reshape(len(group), n_starts, 2), 1, 2)
            done += len(group)
            told(done)
    return Found(best, value, by_start)


def _groups(n: int, size: int) -> list[Int[np.ndarray, " G"]]:
    return [np.arange(at, min(at + size, n)) for at in range(0, n, size)]


def _solved(program: Any, subject: Subject, at: Any, starts: Any, asked: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    goals, directional, eps = asked
    out = []
    for some, real in subject.chunks(len(at)):
        found = program(subject.batch(at[some]), goals[some], starts[some], directional, eps)
        out.append([np.asarray(part)[:real] for part in found])
    d, reached, of_solver = (np.concatenate(parts) for parts in zip(*out, strict=True))
    return d, reached, of_solver


@lru_cache(maxsize=32)
def solver(f: Function, ball: Ball, steps: int, full_steps: int, reach: float) -> Callable[..., Any]:
    """The compiled attack: (batch, goals, starts, directional, eps) -> best d, its value, the best of each solver; row by row.

    Values are D squared, or <goal, mean over samples of z>. One scan holds both solvers, so that the model is compiled once.
    """
    sizes, full, restart = _schedule(steps, full_steps, reach)

    def solve(batch: Batch, goals: Any, starts: Any, directional: Any, eps: Any) -> tuple[Array, Array, Array]:
        x = f.visible(batch.video)
        starts = ball.project(starts, eps, x)

        def reached(d: Any) -> tuple[Array, Array]:
            z = f.z(batch, d)
            of = jnp.where(directional, (z.mean(1) * goals).sum(-1), population(z, batch.inverse))
            return of.sum(), of

        def step(carry: Any, now: Any) -> tuple[Any, Array]:
            d, best, best_d = carry
            size, is_full, again = now
            (_, value), slope = jax.value_and_grad(reached, has_aux=True)(d)
            better = value > best
            best = jnp.where(better, value, best)
            best_d = jnp.where(better[:, None, None, None], d, best_d)
            along = ball.unit(slope)
            moved = jnp.where(is_full, eps * along, d + size * eps * along)
            return (jnp.where(again, starts, ball.project(moved, eps, x)), best, best_d), value

        nothing = jnp.full(len(starts), -jnp.inf, jnp.float32)
        (_, best, best_d), values = jax.lax.scan(
            step, (starts, nothing, jnp.zeros_like(starts)), (sizes, full, restart)
        )
        return best_d, best, jnp.stack([values[: steps + 1].max(0), values[steps + 1 :].max(0)], -1)

    return jax.jit(solve)


def _schedule(steps: int, full_steps: int, reach: float) -> tuple[Any, Any, Any]:
    """(step in units of eps, whether full, whether the next one begins anew) of every evaluation: K + 1 and L + 1 of them."""
    decay = 1.0 - (1.0 - LAST_STEP) * np.arange(steps + 1) / max(steps - 1, 1)
    sizes = np.concatenate([reach / steps * decay, np.zeros(full_steps + 1)]).astype(np.float32)
    number = np.arange(steps + full_steps + 2)
    return sizes, number > steps, number == steps


def _pairs(
    ball: Ball, seed: int, number: int, element: int, pairs: int, shape: tuple[int, ...]
) -> Float[np.ndarray, "P F H W_"]:
    """Random points in the ball of budget 1, each beside its antipode; of a seed, the number of a budget and that of an element."""
    rng = np.random.default_rng((seed, number, element))
    return np.stack([sign * drawn for drawn in (ball.draw(rng, shape) for _ in range(pairs)) for sign in (1, -1)])


def neurons_up_and_down(stimuli: Int[np.ndarray, " K"], neurons: Int[np.ndarray, " M"], n_neurons: int) -> Elements:
    """Each neuron in front of each stimulus, up and down: stimulus slowest, sign fastest."""
    at = np.repeat(stimuli, 2 * len(neurons))
    which = np.tile(np.repeat(neurons, 2), len(stimuli))
    sign = np.tile([1.0, -1.0], len(stimuli) * len(neurons))
    goals = np.zeros((len(at), n_neurons), np.float32)
    goals[np.arange(len(at)), which] = sign
    return Elements(at, goals)
