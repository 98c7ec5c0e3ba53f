"""How well a new neuron is predicted by each row that a model has learnt already, as if the row were its own.

A model that is shown no responses predicts every neuron by itself, from its row. So a batch of the new recording can be asked for
the responses that all trained neurons would have had in it. Correlations with what the new neurons did need no training, one pass
over some minutes, and only the training tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.regimes import Regime, resolve
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.parallel import put_batch
from omnimouse_jax.training.setup import Parts, regimes_of
from omnimouse_jax.training.step import predict_program


class Sums(NamedTuple):
    """Running sums over the samples at which a neuron was recorded; P: predictions for candidates, Y: recorded responses."""

    py: Float[np.ndarray, "candidates neurons"]
    p: Float[np.ndarray, "candidates neurons"]
    pp: Float[np.ndarray, "candidates neurons"]
    y: Float[np.ndarray, " neurons"]
    yy: Float[np.ndarray, " neurons"]
    n: Float[np.ndarray, " neurons"]

    def correlation(self) -> Float[np.ndarray, "candidates neurons"]:
        """0 where a prediction or a response never varied."""
        n = np.maximum(self.n, 1)
        covariance = self.py / n - self.p / n * (self.y / n)
        variances = (self.pp / n - (self.p / n) ** 2) * (self.yy / n - (self.y / n) ** 2)
        return np.where(variances > 1e-12, covariance / np.sqrt(np.maximum(variances, 1e-12)), 0.0)


def blind_regime(parts: Parts) -> Regime | None:
    """A regime of the run, trained or scored, that asks for all neurons and shows no responses; with the screen if there is one."""
    config = parts.config
    found = []
    for regime in regimes_of((*config.evaluation.tasks.values(), *config.regimes), parts.model.grid):
        layout = resolve(regime, parts.model.grid, 64)
        if not layout.context and _asks_for_all(layout):
            found.append((layout.video_steps[0] < layout.video_steps[1], layout.behavior == "input", regime))
    return max(found, key=lambda one: one[:2])[2] if found else None


def predicted(
    parts: Parts, params: Any, key: str, windows: Sequence[Window], regime: Regime, rows: Int[np.ndarray, " candidates"]
) -> Sums:
    """Sums over some windows of session `key`, of which every neuron is compared with every row of `rows`."""
    batches = EvaluationBatches(parts.cutter([key]), windows, regime, parts.config.evaluation.batch_size)
    program = predict_program(parts.model, parts.capacity, batches.layout, parts.mesh, parts.trained)
    (asked,) = batches.layout.targets
    samples = slice(asked.first_sample, asked.last_sample)
    n_slots, n_neurons = batches.cutter.n_slots, parts.vocabulary.entry(key).n_neurons
    n_rows = len(rows)
    full = np.resize(rows, -(-n_rows // n_slots) * n_slots).reshape(-1, n_slots).astype(np.int32)
    total: list[Any] | None = None
    for number in range(len(batches)):
        batch = batches[number]
        real = batch.row_mask
        known = batch.response_mask[real][:, samples, -n_neurons:].reshape(-1, n_neurons).astype(np.float32)
        y = batch.responses[real][:, samples, -n_neurons:].reshape(-1, n_neurons) * known
        columns = []
        for chunk in full:
            asking = batch._replace(
                neuron_rows=np.tile(chunk, (len(real), 1)), neuron_mask=np.ones((len(real), n_slots), bool)
            )
            out, _ = program(params, put_batch(asking, parts.mesh))
            columns.append(np.asarray(out.responses[0])[real].reshape(-1, n_slots))
        p = np.concatenate(columns, axis=1)[:, :n_rows]
        sums = [p.T @ y, p.T @ known, (p * p).T @ known, y.sum(0), (y * y).sum(0), known.sum(0)]
        total = (
            [x.astype(np.float64) for x in sums] if total is None else [a + b for a, b in zip(total, sums, strict=True)]
        )
    assert total is not None
    return Sums(*total)


def _asks_for_all(layout: Layout) -> bool:
    return len(layout.targets) == 1 and layout.targets[0].n_neurons == layout.n_neurons
