"""From a session's sums to rows: those of the ledger, further metrics with their ceilings, and tables per neuron and channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.evaluate.ceilings.ceiling import LEAST_REPEATS, Ceiling, repeat_ceilings
from omnimouse_jax.evaluate.ceilings.inputs import inputs_of, known_law
from omnimouse_jax.evaluate.evaluation import Blocks, Table, stacked
from omnimouse_jax.evaluate.metrics.bootstrap import (
    LEAST_UNITS,
    bootstrap_interval,
    draw_blocks,
    mean_over_units,
    means_of_resamples,
    percentile_interval,
    spread_interval,
)
from omnimouse_jax.evaluate.metrics.pooled import ESTIMATOR
from omnimouse_jax.evaluate.metrics.repeats import (
    FEV_THRESHOLD,
    RepeatMoments,
    correlation_to_average,
    explained_variance,
    fev,
    feve,
    single_trial_correlation,
)
from omnimouse_jax.evaluate.scoring import SessionScores, seconds_ahead
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.training.setup import Parts

INTERVAL_OVER_NEURONS = "95% bootstrap over neurons"
INTERVAL_OVER_WINDOWS = "95% bootstrap over windows"
INTERVAL_OVER_TRIALS = "95% bootstrap over trials"
#: FEVE has no interval from fewer blocks: its denominator comes near 0 in resamples, and a few of them make the spread.
LEAST_BLOCKS_FEVE = 10
NO_CEILING: dict[str, Any] = {"ceiling": None, "ceiling_estimator": "", "normalized": None}
#: metric, estimator, per neuron from moments, ceiling that it is divided by
REPEATED: tuple[tuple[str, str, Callable[[RepeatMoments], np.ndarray], str], ...] = (
    (
        "repeated_correlation",
        f"{ESTIMATOR}, repeated stimuli",
        single_trial_correlation,
        "CC_max, single trial",
    ),
    ("average_correlation", "Pearson of averages over repeats", correlation_to_average, "CC_max"),
    ("explained_variance", "1 - E / V over repeated stimuli", explained_variance, "FEV"),
)


class SessionRows:
    """All that is told of one session under one regime, from its sums."""

    def __init__(self, parts: Parts, task: str, regime: Regime, key: str, scores: SessionScores, holdout: str):
        config, self.entry = parts.config, parts.vocabulary.entry(key)
        self.parts, self.task, self.key, self.scores = parts, task, key, scores
        self.n_resamples, self.seed = config.evaluation.bootstrap, config.seed
        self.recording = parts.store.recording(key)
        self.inputs = inputs_of(scores.layout)
        self.common = {
            "session": key,
            "animal": self.entry.animal,
            "task": task,
            "regime": regime.name,
            "tier": "+".join(config.evaluation.tiers),
            "holdout": holdout,
            "n_windows": scores.n_windows,
        }
        self.names = {"task": task, "session": key, "animal": self.entry.animal}

    @cached_property
    def scored(self) -> Bool[np.ndarray, " neurons"]:
        return self.scores.responses.count > 0

    @cached_property
    def r(self) -> Float[np.ndarray, " neurons"]:
        return self.scores.responses.correlation()

    @cached_property
    def law(self) -> Ceiling | None:
        tiers = self.parts.config.evaluation.tiers
        return known_law(self.recording, self.inputs, tiers, self.scored, self.n_resamples, self.seed)

    @cached_property
    def moments(self) -> RepeatMoments:
        return self.scores.repeats.moments(LEAST_REPEATS)

    @cached_property
    def ceilings(self) -> dict[str, Ceiling]:
        """From repeats, by estimator."""
        scores = self.scores
        return repeat_ceilings(
            scores.repeats, scores.stimulus_blocks, len(scores.stimuli.names), self.n_resamples, self.seed
        )

    def ledger(self) -> list[dict[str, Any]]:
        """Rows of evaluation.json: neurons, and behaviour by channel and as their mean."""
        rows = []
        if self.scored.any():
            low, high = bootstrap_interval(self.r, self.scored, self.n_resamples, self.seed)
            score = mean_over_units(self.r, self.scored)
            ceiling = self.law.value if self.law else None
            rows.append(
                {
                    **self.common,
                    "estimator": ESTIMATOR,
                    "metric": "response_correlation",
                    "channel": "",
                    "score": score,
                    "score_low": low,
                    "score_high": high,
                    "interval": INTERVAL_OVER_NEURONS,
                    "n_units": int(self.scored.sum()),
                    "share_above_0.1": float((np.nan_to_num(self.r[self.scored]) > 0.1).mean()),
                    "ceiling": ceiling,
                    "ceiling_estimator": self.law.estimator if self.law and ceiling is not None else "",
                    "normalized": None if ceiling is None else score / ceiling,
                }
            )
        return rows + self._behavior_rows("behavior_correlation", ESTIMATOR, self.scores.behavior.correlation())

    def _behavior_rows(self, metric: str, estimator: str, values: np.ndarray) -> list[dict[str, Any]]:
        sums, rows = self.scores.behavior, []
        seen = sums.count > 0
        if not seen.any():
            return []
        again = self._behavior_again(metric)
        channels = [
            (name, float(values[i]), again[:, i], 1)
            for i, name in enumerate(self.parts.model.behavior_channels)
            if seen[i]
        ]
        mean = ("mean", mean_over_units(values, seen), np.nan_to_num(again[:, seen]).mean(1), int(seen.sum()))
        for name, score, resampled, n_units in [*channels, mean]:
            low, high = percentile_interval(resampled)
            rows.append(
                {
                    **self.common,
                    "estimator": estimator,
                    "metric": metric,
                    "channel": name,
                    "score": score,
                    "score_low": low,
                    "score_high": high,
                    "interval": INTERVAL_OVER_TRIALS if len(resampled) else "",
                    "n_units": n_units,
                    **NO_CEILING,
                }
            )
        return rows

    def _behavior_again(self, metric: str) -> Float[np.ndarray, "n channels"]:
        """Resampled over trials; none where there are fewer than 3 of them."""
        sums = self.scores.behavior
        if len(sums.blocks) < LEAST_UNITS:
            return np.zeros((0, len(sums.count)))
        weights = draw_blocks(len(sums.blocks), self.n_resamples, self.seed)
        return sums.resampled(weights) if metric == "behavior_correlation" else sums.resampled_r2(weights)

    def metrics(self) -> list[dict[str, Any]]:
        """Further metrics: raw score, ceiling and normalised value beside each other, or why there is none.

        Beyond the ledger's fields: `ceiling_low`, `ceiling_high`, `ceiling_interval`, `ceiling_repeats`, `ceiling_remark` ("" if it
        bounds the regime from above), `not_applicable` ("" or why `score` is None).
        """
        rows = self._behavior_rows("behavior_r2", "1 - squared error / variance", self.scores.behavior.r2())
        for row in rows:
            row |= {"not_applicable": ""}
        if not self.scored.any():
            return rows
        for metric, estimator, per_unit, name in REPEATED:
            ceiling = self.ceilings[name]
            rows.append(self._repeated(metric, estimator, per_unit, np.isfinite(ceiling.per_unit), ceiling))
        share = self.ceilings["FEV"]
        kept = np.nan_to_num(share.per_unit) >= FEV_THRESHOLD
        row = self._repeated("feve", f"1 - (E - N) / (V - N), neurons with FEV >= {FEV_THRESHOLD:g}", feve, kept, share)
        if not row["not_applicable"]:  # it is a ratio to its ceiling as it is
            row |= {"ceiling": None, "normalized": row["score"] if self.inputs.only_screen else None}
        rows.append(row)
        poisson = self.scores.poisson
        for metric, estimator, values in (
            ("deviance_explained", "Poisson deviance explained over the mean", poisson.deviance_explained()),
            ("bits_per_spike", "Poisson log2 likelihood over the mean, per unit of response", poisson.bits_per_spike()),
        ):
            there = self.scored & np.isfinite(values)
            reason = poisson.not_applicable or ("" if there.any() else "no neuron ever responded")
            rows.append(self._row(metric, estimator, values, there, reason))
        return rows

    def _row(
        self, metric: str, estimator: str, values: np.ndarray, units: np.ndarray, reason: str = ""
    ) -> dict[str, Any]:
        """A metric without a ceiling; interval over neurons."""
        low, high = (None, None) if reason else bootstrap_interval(values, units, self.n_resamples, self.seed)
        return {
            **self.common,
            "estimator": estimator,
            "metric": metric,
            "channel": "",
            "score": None if reason else mean_over_units(values, units),
            "score_low": low,
            "score_high": high,
            "interval": "" if reason else INTERVAL_OVER_NEURONS,
            "n_units": 0 if reason else int(units.sum()),
            **NO_CEILING,
            "not_applicable": reason,
        }

    def _repeated(
        self,
        metric: str,
        estimator: str,
        per_unit: Callable[[RepeatMoments], np.ndarray],
        units: np.ndarray,
        ceiling: Ceiling,
    ) -> dict[str, Any]:
        """A metric of repeated stimuli; interval over stimuli (or stretches of them) and neurons."""
        reason = ceiling.reason or ("" if units.any() else f"no neuron has an FEV of {FEV_THRESHOLD:g} or more")
        row = self._row(
            metric, estimator, np.zeros(len(units)) if reason else per_unit(self.moments.total()), units, reason
        )
        if reason:
            return row
        means = means_of_resamples(
            lambda w: per_unit(self.moments.weighted(w)), len(self.moments.n), units, self.n_resamples, self.seed, True
        )
        if metric == "feve" and len(self.moments.n) < LEAST_BLOCKS_FEVE:
            row |= {"score_low": None, "score_high": None, "interval": ""}
        elif len(means):
            low, high = spread_interval(row["score"], means, len(self.moments.n))
            row |= {"score_low": low, "score_high": high, "interval": ceiling.interval}
        told = ceiling.row()
        row |= {f"ceiling_{name}": told[name] for name in ("low", "high", "interval", "repeats", "stimuli", "groups")}
        row |= {"ceiling": ceiling.value, "ceiling_estimator": ceiling.estimator, "ceiling_remark": self.inputs.remark}
        if self.inputs.only_screen and ceiling.value and metric != "feve":
            row["normalized"] = row["score"] / ceiling.value
        return row

    def ceiling_rows(self) -> list[dict[str, Any]]:
        """Every estimator: value, interval, what it bounds, repeats, `reason` where there is none, and whether it is an upper bound
        of this regime (`upper_bound`, `remark`).
        """
        if not self.scored.any():
            return []
        rows = [
            c.row() | {"upper_bound": self.inputs.only_screen, "remark": self.inputs.remark}
            for c in self.ceilings.values()
        ]
        if self.law:
            rows.append(self.law.row() | {"upper_bound": True, "remark": ""})
        return [{**self.names, **row} for row in rows]

    def neurons(self) -> Table | None:
        """One row per neuron that was scored."""
        if not self.scored.any():
            return None
        n, columns, total = len(self.scored), self.recording.neurons, self.moments.total()
        single, average = (self.ceilings[name].per_unit for name in ("CC_max, single trial", "CC_max"))
        repeated = single_trial_correlation(total)
        if self.law:
            ceiling, name, normalized = self.law.per_unit, self.law.estimator, _ratio(self.r, self.law.per_unit)
        else:  # what repeats tell bounds the score over repeated stimuli, not that over all
            ceiling, name, normalized = np.full(n, np.nan), "", np.full(n, np.nan)
        of_repeated = _ratio(repeated, single) if self.inputs.only_screen else np.full(n, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            repeats = np.where(total.groups > 0, total.n / total.groups, np.nan)
        table: dict[str, Any] = {
            **self.names,
            "unit_id": np.asarray(columns.get("unit_id", np.arange(n))).astype(str),
            **{field: _text(columns, field, n) for field in ("area", "layer")},
            **{field: _number(columns, field, n) for field in ("x", "y", "z")},
            "n": self.scores.responses.count,
            "raw": self.r,
            "ceiling": ceiling,
            "ceiling_estimator": name,
            "normalized": normalized,
            "repeats": repeats,
            "repeated_correlation": repeated,
            "repeated_ceiling": single,
            "repeated_normalized": of_repeated,
            "average_correlation": correlation_to_average(total),
            "average_ceiling": average,
            "explained_variance": explained_variance(total),
            "fev": fev(total),
            "feve": feve(total),
            "deviance_explained": self.scores.poisson.deviance_explained(),
            "bits_per_spike": self.scores.poisson.bits_per_spike(),
        }
        return {field: np.broadcast_to(np.asarray(v), (n,))[self.scored] for field, v in table.items()}

    def behavior(self) -> Table | None:
        """One row per channel that was recorded."""
        sums = self.scores.behavior
        seen = sums.count > 0
        if not seen.any():
            return None
        columns = {"channel": np.array(self.parts.model.behavior_channels, str), "raw": sums.correlation()}
        columns |= {"r2": sums.r2(), "n": sums.count}
        return {name: np.broadcast_to(np.asarray(v), seen.shape)[seen] for name, v in (self.names | columns).items()}

    def horizon(self) -> Table | None:
        """One row per sample that is forecast."""
        samples = self.scores.horizons
        if not len(samples) or not self.scored.any():
            return None
        r = self.scores.ahead.correlation().reshape(len(samples), -1)
        seen = self.scores.ahead.count.reshape(len(samples), -1) > 0
        ends = [bootstrap_interval(*pair, self.n_resamples, self.seed) for pair in zip(r, seen, strict=True)]
        columns: dict[str, Any] = {
            **self.names,
            "sample": samples,
            "seconds": seconds_ahead(self.scores.layout),
            "score": np.array([mean_over_units(*pair) for pair in zip(r, seen, strict=True)]),
            "low": np.array([low for low, _ in ends]),
            "high": np.array([high for _, high in ends]),
            "n_units": seen.sum(1),
        }
        return stacked([columns])

    def time(self) -> Table | None:
        """One row per block of trials that has samples: the mean over neurons (or channels) of the correlation within it."""
        sums = self.scores.responses if self.scored.any() else self.scores.behavior
        counts, r = sums.blocks[:, 0], sums.of_blocks()
        used = counts.sum(1) > 0
        if not used.any():
            return None
        where, score = self.scores.blocks, [mean_over_units(*pair) for pair in zip(r, counts > 0, strict=True)]
        columns = {"trial": where.first_trial, "n_trials": where.n_trials, "start": where.start, "end": where.end}
        columns |= {"score": np.array(score), "n": counts.sum(1)}
        return {name: np.broadcast_to(np.asarray(v), used.shape)[used] for name, v in (self.names | columns).items()}

    def intervals(self) -> list[dict[str, Any]]:
        """The same score with other things drawn again: neurons, trials, both; behaviour: trials."""
        rows = []
        n, seed = self.n_resamples, self.seed
        if self.scored.any():
            score, sums = mean_over_units(self.r, self.scored), self.scores.responses
            base = {**self.names, "metric": "response_correlation", "channel": "", "score": score}
            ends = {"neurons": bootstrap_interval(self.r, self.scored, n, seed)}
            for over, units_too in (("trials", False), ("neurons and trials", True)):
                means = means_of_resamples(sums.resampled, len(sums.blocks), self.scored, n, seed, units_too)
                ends[over] = percentile_interval(means)
            units = int(self.scored.sum())
            for over, (low, high) in ends.items():
                drawn = units if over == "neurons" else len(sums.blocks)
                rows.append({**base, "over": over, "low": low, "high": high, "n_units": drawn, "resamples": n})
        for row in self._behavior_rows("behavior_correlation", ESTIMATOR, self.scores.behavior.correlation()):
            told = {name: row[name] for name in ("metric", "channel", "score")}
            told |= {"over": "trials", "low": row["score_low"], "high": row["score_high"]}
            rows.append({**self.names, **told, "n_units": len(self.scores.behavior.blocks), "resamples": n})
        return rows

    def blocks(self) -> Blocks:
        """What bootstraps over trials need."""
        return Blocks(self.scores.blocks.start, self.scores.responses.blocks, self.scores.behavior.blocks)


def _ratio(score: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """No number where the ceiling is not above 0: there is nothing to take a share of."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(ceiling > 0, score / ceiling, np.nan)


def _text(columns: Any, field: str, n: int) -> np.ndarray:
    return np.asarray(columns[field]).astype(str) if field in columns else np.full(n, "")


def _number(columns: Any, field: str, n: int) -> np.ndarray:
    return np.asarray(columns[field], np.float64) if field in columns else np.full(n, np.nan)
