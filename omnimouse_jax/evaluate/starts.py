"""Where the rows of new neurons begin: better than at random, from what a few minutes of them and a trained model tell.

`STARTS` names them. All but `random` give a new session (and an unknown animal) the mean of the trained rows, and set every
neuron's bias so that its mean prediction is its mean response. They differ in the neurons' embeddings:

- `random`: drawn, as in a new model; biases are 0, and so it is the yardstick;
- `mean`: the mean of the trained rows (of the animal's, if it is known);
- `match`: the mean of the trained rows that predict the neuron best, each tried as if it were the neuron's own (`matching`);
- `neighbours`: the mean of the rows of the trained neurons with the most similar statistics (`response_statistics`);
- `regression`: a ridge regression from statistics to rows.

The last two read the training tiers of the sessions that the model was trained on. Of the new session only that is used what the
run may train on: its training tiers, and of those the first `data.minutes`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.ridge import blocked_folds, ridge_fit
from omnimouse_jax.evaluate.matching import blind_regime, predicted
from omnimouse_jax.evaluate.response_statistics import statistics
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.pipeline import Cutter, EvaluationBatches
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import Window, WindowIndex
from omnimouse_jax.training.parallel import place
from omnimouse_jax.training.rows import fresh_tables
from omnimouse_jax.training.setup import Parts, predictions

STARTS = ("random", "mean", "match", "neighbours", "regression")
#: Windows of a session that a start looks at, at most; fewer where they have more samples than this together, but not fewer than.
WINDOWS, SAMPLES, FEWEST = 240, 30_000_000, 10
#: Trained sessions whose statistics are compared, at most; those of the same animal first.
SESSIONS = 32
#: Trained rows that are tried for every neuron, at most.
CANDIDATES = 4096
#: Rows that are averaged, and how their similarity weighs.
BEST, POWER = 16, 2.0


def start_tables(
    name: str,
    parts: Parts,
    params: Any,
    keys: Sequence[str],
    known: Vocabulary,
    trained_on: Store | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Tables of `parts.vocabulary` in which the sessions `keys` begin by `name`.

    params: of the whole run, the rows of `known` carried over; the rows of `keys` are overwritten. `trained_on`: the store with the
    sessions of `known`, for the starts that look at them. UserError for a name that does not exist or lacks what it needs.
    """
    if name not in STARTS:
        raise UserError(f"no start {name!r}", way_out=f"use one of {', '.join(STARTS)}")
    vocabulary = parts.vocabulary
    tables = {table: np.array(values) for table, values in params["tables"].items()}
    drawn = fresh_tables(parts.model, vocabulary, seed)
    for key in keys:
        _write_random(tables, drawn, vocabulary, key, known)
    if name == "random":
        return tables
    for key in keys:
        _write_mean(tables, vocabulary, key, known)
    begun = place({**params, "tables": tables}, parts.mesh)
    for key in keys:
        rows = vocabulary.neuron_rows(key)
        if name == "match":
            tables["neuron_embedding"][rows] = _matched(parts, begun, key, known)
        elif name in ("neighbours", "regression"):
            if trained_on is None:
                raise UserError(
                    f"start {name}: needs the recordings that the model was trained on",
                    way_out="use --start match, which does not",
                )
            looked = _Looked(parts, trained_on, known, _among(known, key, parts))
            estimate: Callable[..., np.ndarray] = looked.neighbours if name == "neighbours" else looked.regression
            tables["neuron_embedding"][rows] = estimate(key, np.asarray(params["tables"]["neuron_embedding"]))
    return _with_fitted_biases(parts, {**params, "tables": tables}, keys)


def training_windows(parts: Parts, key: str, at_most: int | None = None) -> list[Window]:
    """Windows side by side that the run may train on, spread over all of them; by default as many as a start looks at."""
    if at_most is None:
        samples = parts.model.grid.n_samples * parts.vocabulary.entry(key).n_neurons
        at_most = max(FEWEST, min(WINDOWS, SAMPLES // samples))
    config = copy.deepcopy(parts.config)
    with config.unlocked():
        config.data.sessions, config.data.stride_s = (key,), parts.model.grid.seconds
    return _spread(dataclasses.replace(parts, config=config).training_windows(), at_most)


def _spread(index: WindowIndex, at_most: int) -> list[Window]:
    numbers = np.unique(np.linspace(0, len(index) - 1, min(len(index), at_most)).astype(int))
    return [index[int(number)] for number in numbers]


def _write_random(
    tables: dict[str, np.ndarray], drawn: Mapping[str, np.ndarray], vocabulary: Vocabulary, key: str, known: Vocabulary
) -> None:
    rows = vocabulary.neuron_rows(key)
    for table in ("neuron_embedding", "neuron_bias"):
        tables[table][rows] = drawn[table][rows]
    session = vocabulary.session_row(key)
    tables["session_embedding"][session] = drawn["session_embedding"][session]
    if vocabulary.entry(key).animal not in known.animals:
        animal = vocabulary.animal_row(key)
        tables["animal_embedding"][animal] = drawn["animal_embedding"][animal]


def _write_mean(tables: dict[str, np.ndarray], vocabulary: Vocabulary, key: str, known: Vocabulary) -> None:
    """Rows of `known` stand in front: a vocabulary is extended at its end."""
    animal = vocabulary.entry(key).animal
    same = [entry for entry in known.sessions if entry.animal == animal] or list(known.sessions)
    neurons = np.concatenate([known.neuron_rows(entry.key) for entry in same])
    sessions = [known.session_row(entry.key) for entry in same]
    rows = vocabulary.neuron_rows(key)
    for table in ("neuron_embedding", "neuron_bias"):
        tables[table][rows] = tables[table][neurons].mean(0)
    tables["session_embedding"][vocabulary.session_row(key)] = tables["session_embedding"][sessions].mean(0)
    if animal not in known.animals:
        average = tables["animal_embedding"][: len(known.animals)].mean(0)
        tables["animal_embedding"][vocabulary.animal_row(key)] = average


def _matched(parts: Parts, params: Any, key: str, known: Vocabulary) -> Float[np.ndarray, "neurons E"]:
    """Each neuron's mean of the `BEST` trained rows that predict it best, weighed by how well they do."""
    regime = _blind(parts)
    n = known.n_neurons
    rows = np.unique(np.linspace(0, n - 1, min(n, CANDIDATES)).astype(np.int32))
    r = predicted(parts, params, key, training_windows(parts, key), regime, rows).correlation()
    best = np.argsort(-r, axis=0)[:BEST]
    weights = np.maximum(np.take_along_axis(r, best, axis=0), 0.0) ** POWER + 1e-9
    table = np.asarray(params["tables"]["neuron_embedding"])[rows]
    return np.einsum("kn,kne->ne", weights / weights.sum(0), table[best])


def _blind(parts: Parts) -> Regime:
    regime = blind_regime(parts)
    if regime is None:
        raise UserError(
            "start match: the model has no regime that predicts all neurons without being shown any",
            way_out="use --start mean, or train with such a regime, for example stimulus",
        )
    return regime


def _among(known: Vocabulary, key: str, parts: Parts) -> list[str]:
    """Some of the trained sessions, those of the same animal first."""
    animal = parts.vocabulary.entry(key).animal
    return sorted((entry.key for entry in known.sessions), key=lambda k: known.entry(k).animal != animal)[:SESSIONS]


class _Looked:
    """Statistics of the trained sessions, and what they say of a new one."""

    def __init__(self, parts: Parts, trained_on: Store, known: Vocabulary, keys: Sequence[str]):
        model, data = parts.model, parts.config.data
        self.parts, self.rows, found, session = parts, [], [], []
        for number, key in enumerate(keys):
            index = WindowIndex.of(trained_on, [key], data.tiers, model.grid, model.grid.seconds, data.blanks)
            cutter = Cutter(trained_on, known, model.grid, model.behavior_channels, model.screen, 1)
            found.append(statistics(cutter, _spread(index, WINDOWS), model.behavior_channels)[0])
            self.rows.append(known.neuron_rows(key))
            session.append(np.full(len(self.rows[-1]), number))
        both = np.concatenate(found)
        self.mean, self.scale = both.mean(0), np.where(both.std(0) > 0, both.std(0), 1.0)
        self.x, self.session = (both - self.mean) / self.scale, np.concatenate(session)
        self.table_rows = np.concatenate(self.rows)

    def of(self, key: str) -> Float[np.ndarray, "neurons statistics"]:
        parts = self.parts
        found = statistics(parts.cutter([key]), training_windows(parts, key), parts.model.behavior_channels)[0]
        return (found - self.mean) / self.scale

    def neighbours(self, key: str, table: Float[np.ndarray, "rows E"]) -> Float[np.ndarray, "neurons E"]:
        x = self.of(key)
        distance = (self.x**2).sum(1)[None] - 2 * x @ self.x.T  # squared, but for a constant of each neuron
        nearest = np.argsort(distance, axis=1)[:, :BEST]
        return table[self.table_rows[nearest]].mean(1)

    def regression(self, key: str, table: Float[np.ndarray, "rows E"]) -> Float[np.ndarray, "neurons E"]:
        n_folds = min(8, int(self.session.max()) + 1)
        if n_folds < 2:
            raise UserError("start regression: needs two trained sessions or more", way_out="use --start match")
        fit = ridge_fit([self.x], table[self.table_rows].astype(np.float64), blocked_folds(self.session, n_folds))
        return fit.predict(self.of(key)).astype(np.float32)


def _with_fitted_biases(parts: Parts, params: Any, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Tables in which each neuron's mean prediction is its mean response: the biases that fit best if nothing else may change."""
    tables = {name: np.array(values) for name, values in params["tables"].items()}
    regime = blind_regime(parts)
    if regime is None:
        return tables
    placed = place({**params, "tables": tables}, parts.mesh)
    for key in keys:
        batches = EvaluationBatches(
            parts.cutter([key]), training_windows(parts, key), regime, parts.config.evaluation.batch_size
        )
        (asked,) = batches.layout.targets
        samples, n = slice(asked.first_sample, asked.last_sample), parts.vocabulary.entry(key).n_neurons
        values, recorded, known = [], [], []
        for _, batch, out, _ in predictions(parts, placed, batches):
            real = batch.row_mask
            values.append(np.asarray(out.responses[0])[real][..., -n:].reshape(-1, n))
            recorded.append(batch.responses[real][:, samples, -n:].reshape(-1, n))
            known.append(batch.response_mask[real][:, samples, -n:].reshape(-1, n))
        p, y, mask = (np.concatenate(parts_).astype(np.float64) for parts_ in (values, recorded, known))
        shift = bias_shift(p, y, mask, parts.model.softplus_beta if parts.model.response_loss == "poisson" else None)
        tables["neuron_bias"][parts.vocabulary.neuron_rows(key)] += shift.astype(np.float32)
    return tables


def bias_shift(
    p: Float[np.ndarray, "samples neurons"],
    y: Float[np.ndarray, "samples neurons"],
    mask: Float[np.ndarray, "samples neurons"],
    beta: float | None,
) -> Float[np.ndarray, " neurons"]:
    """What to add to each neuron's bias for its mean prediction to be its mean response; 0 where nothing was recorded.

    `beta`: of the softplus behind the bias; None where there is none.
    """
    n = mask.sum(0)
    wanted = (y * mask).sum(0) / np.maximum(n, 1)
    if beta is None:
        return np.where(n > 0, wanted - (p * mask).sum(0) / np.maximum(n, 1), 0.0)
    wanted = np.maximum(wanted, 1e-3)  # no bias makes a rate of zero
    before = np.log(np.expm1(np.minimum(beta * np.maximum(p, 1e-6), 30.0))) / beta
    before = np.where(beta * p > 30.0, p, before)
    reach = 20.0 / beta + wanted + np.abs(before).max(0, initial=0.0)
    low, high = -reach, reach
    for _ in range(50):
        middle = (low + high) / 2
        mean = (np.logaddexp(0.0, beta * (before + middle)) / beta * mask).sum(0) / np.maximum(n, 1)
        low, high = np.where(mean < wanted, middle, low), np.where(mean < wanted, high, middle)
    return np.where(n > 0, (low + high) / 2, 0.0)


def host(params: Any) -> Any:
    """Parameters as numpy arrays."""
    return jax.tree.map(np.asarray, jax.device_get(params))
