"""Linear autoregression: each neuron's forecast from its own shown past, with weights of its own for every sample ahead.

The direct form: sample s is regressed on the last p shown samples, rather than one step being iterated, so that an error of the
first step is not carried on. For a linear process both agree (Marcellino, Stock and Watson 2006, J. Econometrics 135). p and the
ridge penalty are chosen per neuron, for all samples ahead together, by blocked cross-validation. Float64 on the host.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.evaluate.baselines.constant import mean_response
from omnimouse_jax.evaluate.baselines.problem import (
    N_FOLDS,
    Answers,
    Examples,
    Fits,
    Fitted,
    NotApplicable,
    Predictor,
    Problem,
    each,
)
from omnimouse_jax.evaluate.baselines.ridge import blocked_folds
from omnimouse_jax.evaluate.baselines.shown import Shown, View

ORDERS = (1, 2, 3, 5, 8, 12, 16, 25)
PENALTIES = (1e-4, 1e-2, 1e-1, 1.0)  # in units of a neuron's variance, per row


@dataclasses.dataclass(frozen=True)
class AutoRegression:
    about: str = "each neuron from its own shown past, linear, weights per sample ahead; forecasts only"

    def fit(self, problem: Problem) -> Fits:
        return each(problem, self._fit, "autoregression")

    def _fit(self, key: str, examples: Examples) -> Fitted | NotApplicable:
        view = examples.shown.view
        if not view.is_forecast or not len(past_samples(view)):
            return NotApplicable("no past of the asked neurons is shown")
        if len(examples.shown) < 2:
            return NotApplicable("fewer than two training windows, so no order can be chosen")
        fitted = self.of(examples)
        assert fitted is not None
        return fitted

    def of(self, examples: Examples) -> Predictor | None:
        """Fitted to these windows; None where the asked neurons show no past."""
        view = examples.shown.view
        lags = past_samples(view)
        if not len(lags):
            return None
        first, last = view.asked_samples
        mean = mean_response(examples)
        x, y = _filled(examples.shown.responses[:, lags], mean), _filled(examples.truth.responses[:, first:last], mean)
        folds = blocked_folds(np.arange(len(x)), min(N_FOLDS, len(x)))
        weights, order = fit_direct(x, y, folds)
        return _Fitted(mean, lags, weights, f"median order {int(np.median(order))} of {len(lags)}")


def past_samples(view: View) -> Int[np.ndarray, " p"]:
    """Samples before the first asked one at which all asked neurons are shown, nearest first."""
    shown = np.zeros((view.grid.n_samples, len(view.slots)), bool)
    for stretch in view.shown:
        shown[stretch.samples, stretch.neurons] = True
    all_of = shown[: view.asked_samples[0]][:, view.asked_neurons].all(1)
    return np.flatnonzero(all_of)[::-1] if len(view.asked_neurons) else np.zeros(0, np.int64)


def fit_direct(
    x: Float[np.ndarray, "W p N"], y: Float[np.ndarray, "W ahead N"], folds: Int[np.ndarray, " W"]
) -> tuple[Float[np.ndarray, "N p ahead"], Int[np.ndarray, " N"]]:
    """Weights of the past (nearest sample first; 0 beyond the order) and the order of every neuron. x, y: less their mean."""
    labels, n_lags = np.unique(folds), x.shape[1]
    orders = sorted({min(order, n_lags) for order in ORDERS})
    xx = np.stack([np.einsum("wpn,wqn->npq", x[folds == k], x[folds == k]) for k in labels])
    xy = np.stack([np.einsum("wpn,wsn->nps", x[folds == k], y[folds == k]) for k in labels])
    rows = np.array([(folds == k).sum() for k in labels], np.float64)
    variance = np.maximum(np.einsum("npp->n", xx.sum(0)) / (n_lags * rows.sum()), 1e-12)
    settings = [(order, penalty) for order in orders for penalty in PENALTIES]
    error = np.zeros((len(settings), x.shape[2]))
    for k in range(len(labels)):
        rest_xx, rest_xy = xx.sum(0) - xx[k], xy.sum(0) - xy[k]
        for s, (order, penalty) in enumerate(settings):
            w = _solved(rest_xx, rest_xy, order, penalty * variance * (rows.sum() - rows[k]))
            # |y - x w|^2 less |y|^2, from the held-out sums
            error[s] += np.einsum("nps,npq,nqs->n", w, xx[k], w) - 2 * np.einsum("nps,nps->n", w, xy[k])
    best = error.argmin(0)
    weights = np.zeros((x.shape[2], n_lags, y.shape[1]))
    for s, (order, penalty) in enumerate(settings):
        chosen = best == s
        if chosen.any():
            rows_penalty = penalty * variance[chosen] * rows.sum()
            weights[chosen] = _solved(xx.sum(0)[chosen], xy.sum(0)[chosen], order, rows_penalty)
    return weights, np.array([settings[s][0] for s in best])


def _solved(
    xx: Float[np.ndarray, "N p p"], xy: Float[np.ndarray, "N p ahead"], order: int, penalty: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N p ahead"]:
    gram = xx[:, :order, :order] + penalty[:, None, None] * np.eye(order)
    weights = np.zeros_like(xy)
    weights[:, :order] = np.linalg.solve(gram, xy[:, :order])
    return weights


def _filled(values: Float[np.ndarray, "W s N"], mean: Float[np.ndarray, " N"]) -> Float[np.ndarray, "W s N"]:
    """Less their mean; 0 where nothing was recorded."""
    return np.nan_to_num(values.astype(np.float64) - mean)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    mean: Float[np.ndarray, " N"]
    lags: Int[np.ndarray, " p"]
    weights: Float[np.ndarray, "N p ahead"]
    note: str
    predicts: tuple[str, ...] = ("response",)

    def predict(self, shown: Shown) -> Answers:
        first, last = shown.view.asked_samples
        out = np.broadcast_to(self.mean, (len(shown), shown.view.grid.n_samples, len(self.mean))).copy()
        x = _filled(shown.responses[:, self.lags], self.mean)
        out[:, first:last] += np.einsum("wpn,nps->wsn", x, self.weights)
        return Answers(out, None)
