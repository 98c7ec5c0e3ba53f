"""How to spend a compute budget: the size and the amount of data at which a fitted law of both axes is best."""

from __future__ import annotations

import dataclasses

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import Fit
from omnimouse_jax.scaling.forms import Array


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The best size and amount for every budget; (m,) each. `exponent`: n grows as budget^exponent."""

    budget: Array
    n: Array
    d: Array
    exponent: float


def compute_optimal(fit: Fit, flops_per: float, budgets: Array) -> Frontier:
    """The compute-optimal line of an additive law of two axes, where a run costs `flops_per` x n x d.

    n* = G (C/k)^(beta / (alpha + beta)), d* = (C/k)^(alpha / (alpha + beta)) / G with
    G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022). `flops_per` k: measured by `fit_cost`, not
    assumed; epochs over the same data are a part of it. UserError: another form, or one without both terms.
    """
    names = ("A", "alpha", "B", "beta")
    if fit.form.axes != 2 or not set(names) <= set(fit.parameters) or "C" in fit.parameters:
        raise UserError(
            f"compute-optimal line: form {fit.form.name} is not a sum of one term per axis",
            way_out="fit chinchilla (losses) or score_joint (scores)",
        )
    if any(flag.code == "no_term" for flag in fit.flags):
        raise UserError(
            "compute-optimal line: the fit has no term for one of the axes, so no split of a budget is best",
            way_out="read the gains per doubling instead",
        )
    centred, (c_n, c_d) = fit.centred, fit.form.centre(np.exp(fit.logu) * fit.centre)  # the middle of the axes
    alpha, beta = centred["alpha"], centred["beta"]
    total = alpha + beta
    share = np.asarray(budgets, dtype=np.float64) / (flops_per * c_n * c_d)  # of a run at the centre of both axes
    g = (alpha * centred["A"] / (beta * centred["B"])) ** (1 / total)
    n, d = g * share ** (beta / total), share ** (alpha / total) / g
    return Frontier(np.asarray(budgets, dtype=np.float64), n * c_n, d * c_d, beta / total)


def fit_cost(n: Array, d: Array, flops: Array) -> float:
    """k of cost = k n d from counted FLOPs of runs, (runs,) each: their geometric mean. UserError without a count."""
    n, d, flops = (np.asarray(v, dtype=np.float64) for v in (n, d, flops))
    known = np.isfinite(flops) & (flops > 0) & (n > 0) & (d > 0)
    if not known.any():
        raise UserError("cost of a run: no run has a counted number of FLOPs", way_out="fill the column `flops`")
    return float(np.exp(np.mean(np.log(flops[known] / (n[known] * d[known])))))
