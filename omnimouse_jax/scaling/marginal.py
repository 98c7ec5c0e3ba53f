"""What the next investment is worth: a few more units of data against a model of twice the size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import predict
from omnimouse_jax.scaling.forms import Array, Form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.uncertainty import Interval, across_sessions, with_run_noise
from omnimouse_jax.scaling.verdict import Joint


@dataclasses.dataclass(frozen=True)
class Worth:
    """Expected change at the largest cell, better is positive. `these`, `new`: over these and over new sessions."""

    estimate: float
    these: Interval | None
    new: Interval | None
    what: str


@dataclasses.dataclass(frozen=True)
class Marginal:
    data: Worth
    parameters: Worth


def marginal_values(grid: Grid, joint: Joint, *, extra: float | int) -> Marginal:
    """The worth of `extra` more units on the data axis and of a doubling of parameters, at the largest size and amount.

    From the joint fit, bootstrap and fits per session where there is one; else from the gains per doubling, straight
    lines in log2 through the cell means (`what` says which). UserError if extra <= 0 or an axis was not varied.
    """
    if not extra > 0:
        raise UserError(f"marginal value: {extra} more units of data", way_out="ask for a positive number")
    n, d = float(grid.sizes[-1]), float(grid.amounts[-1])
    after = {"data": (n, d + extra), "parameters": (2 * n, d)}
    if joint.fit is None or joint.boot is None:
        return Marginal(_straight(grid, "data", np.log2(1 + extra / d)), _straight(grid, "parameters", 1.0))
    return Marginal(*(_curved(grid, joint, (n, d), after[axis]) for axis in ("data", "parameters")))


def _curved(grid: Grid, joint: Joint, before: tuple[float, float], after: tuple[float, float]) -> Worth:
    sign = 1.0 if grid.higher_is_better else -1.0
    ends = np.array([before, after])

    def change(form: Form, theta: Array, centre: Array) -> Array:
        value = predict(form, theta, centre, ends)
        return np.asarray(sign * (value[..., 1] - value[..., 0]))

    if joint.fit is None or joint.boot is None:
        raise ValueError("needs a joint fit")
    estimate = float(change(joint.fit.form, joint.fit.theta, joint.fit.centre))
    these = joint.boot.interval(change(joint.fit.form, joint.boot.theta, joint.fit.centre))
    new = _over_sessions(grid, joint, change, these)
    return Worth(estimate, these, new, f"of the fitted {joint.fit.form.name.replace('_', ' ')} law")


def _over_sessions(
    grid: Grid, joint: Joint, change: Callable[[Form, Array, Array], Array], runs: Interval
) -> Interval | None:
    if len(joint.session_fits) < 2:
        return None
    values = np.array([float(change(one.form, one.theta, one.centre)) for one in joint.session_fits])
    return with_run_noise(across_sessions(values, grid.animals), runs)


def _straight(grid: Grid, axis: str, doublings: float) -> Worth:
    weights = grid.slope(axis)
    if weights is None:
        raise UserError(f"marginal value: the {axis} axis was not varied", way_out="train a second level of it")
    gain = grid.contrast(weights * doublings)
    return Worth(gain.estimate, gain.seeds, gain.sessions, "of straight lines in log2 through the cell means")
