"""Two models on the same units: how much better one is, and how sure that is."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import Evaluation, Table, where
from omnimouse_jax.evaluate.metrics.bootstrap import LEAST_UNITS, draw_blocks, percentile_interval
from omnimouse_jax.evaluate.metrics.pooled import pearson

OVER = ("neurons", "trials", "sessions", "animals")
PAIRED_STREAM = 21


@dataclasses.dataclass(frozen=True)
class Paired:
    """Score of `b` less score of `a`: mean over sessions (equal weights) of the mean over neurons."""

    a: str
    b: str
    task: str
    metric: str
    over: str
    difference: float
    low: float  # 95 % percentile interval; NaN for fewer than 3 of what is drawn again
    high: float
    share_above_0: float  # of resamples
    n_units: int  # of what is drawn again: the fewest in a session, for neurons and trials
    n_sessions: int
    resamples: int

    def __str__(self) -> str:
        return (
            f"{self.b} - {self.a}, task {self.task}: {self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}] "
            f"(95% bootstrap over {self.over}), above 0 in {100 * self.share_above_0:.1f}% of resamples"
        )


def paired(
    a: Evaluation,
    b: Evaluation,
    task: str,
    over: str = "neurons",
    metric: str = "raw",
    n: int = 2000,
    seed: int = 0,
) -> Paired:
    """Difference of two evaluations of the same task on the same neurons (or behaviour channels, if it has no neurons).

    `over` says what is drawn again, for both alike: "neurons" (within each session), "trials" (blocks of whole trials within each
    session), "sessions", or "animals" (animals, then sessions of each, then neurons of each: hierarchical). `metric` is a column of
    the `neurons` (or `behavior`) table; trials are drawn again for "raw" only, of which sums per trial are kept. A unit without a
    value counts as 0 in "raw", and is left out of both in other metrics. UserError where tiers, units or trials differ.
    """
    if over not in OVER:
        raise UserError(f"paired: over {over!r}", way_out=f"use one of {', '.join(OVER)}")
    if a.tiers != b.tiers:
        raise UserError(f"paired: tiers {a.tiers} and {b.tiers}", way_out="evaluate both on the same tiers")
    if a.regimes.get(task) != b.regimes.get(task):
        told = " and ".join(repr(x.regimes.get(task, "none")) for x in (a, b))
        raise UserError(f"paired: task {task} is of regimes {told}", way_out="evaluate both under the same regime")
    kind = "neurons" if len(where(a.neurons, task=task).get("task", ())) else "behavior"
    tables = [where(getattr(x, kind), task=task) for x in (a, b)]
    _require_same(tables, task, kind, metric)
    for key in dict.fromkeys(tables[0]["session"].tolist()):
        mine = [x.blocks.get((task, key)) for x in (a, b)]
        if None not in mine and not np.array_equal(mine[0].start, mine[1].start):  # type: ignore[union-attr]
            raise UserError(f"paired: session {key}: other trials", way_out="evaluate both on the same tiers")
    if over == "trials":
        if metric != "raw":
            raise UserError(f"paired: {metric} over trials", way_out="sums per trial are kept for raw scores only")
        differences, value, units, sessions = _over_trials(a, b, tables[0], task, kind, n, seed)
    else:
        differences, value, units, sessions = _over_units(tables, over, metric, n, seed)
    enough = units >= LEAST_UNITS
    low, high = percentile_interval(differences) if enough else (float("nan"), float("nan"))
    above = float((differences > 0).mean()) if enough else float("nan")
    return Paired(a.source, b.source, task, metric, over, value, low, high, above, units, sessions, n)


def _require_same(tables: list[Table], task: str, kind: str, metric: str) -> None:
    first, second = tables
    if not first or not len(first["session"]):
        raise UserError(f"paired: task {task} was not evaluated", way_out="name a task that both evaluations have")
    name = "unit_id" if kind == "neurons" else "channel"
    same = all(np.array_equal(first[column], second.get(column)) for column in ("session", name, "n"))  # type: ignore[arg-type]
    if not same:
        raise UserError(
            f"paired: task {task}: the two evaluations scored different {kind} or samples",
            way_out="evaluate both on the same sessions, tiers and stride",
        )
    numbers = [column for column, values in first.items() if np.issubdtype(values.dtype, np.floating)]
    if metric not in numbers:
        raise UserError(f"paired: no number {metric!r} in {kind}", way_out=f"use one of {', '.join(numbers)}")


def _over_units(
    tables: list[Table], over: str, metric: str, n: int, seed: int
) -> tuple[Float[np.ndarray, " n"], float, int, int]:
    first, second = tables
    both = [table[metric].astype(np.float64) for table in (first, second)]
    if metric == "raw":
        both = [np.nan_to_num(values) for values in both]
    difference = both[1] - both[0]
    kept = np.isfinite(difference)
    of = {key: difference[kept & (first["session"] == key)] for key in dict.fromkeys(first["session"].tolist())}
    of = {key: values for key, values in of.items() if len(values)}
    if not of:
        raise UserError(f"paired: {metric} has no value for any unit of both", way_out="choose another metric")
    means = np.array([values.mean() for values in of.values()])
    rng = np.random.default_rng([seed, OVER.index(over), PAIRED_STREAM])

    def again(values: np.ndarray) -> np.ndarray:
        step = max(1, 2_000_000 // len(values))
        sizes = [min(step, n - lo) for lo in range(0, n, step)]
        return np.concatenate([values[rng.integers(0, len(values), (m, len(values)))].mean(1) for m in sizes])

    if over == "neurons":
        drawn = np.mean([again(values) for values in of.values()], axis=0)
        return drawn, float(means.mean()), min(map(len, of.values())), len(of)
    if over == "sessions":
        return again(means), float(means.mean()), len(means), len(of)
    animals = dict(zip(first["session"].tolist(), first["animal"].tolist(), strict=True))
    groups: dict[str, list[np.ndarray]] = {}
    for key, values in of.items():
        groups.setdefault(animals[key], []).append(values)
    return hierarchical(list(groups.values()), n, rng), float(means.mean()), len(groups), len(of)


def hierarchical(groups: list[list[np.ndarray]], n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Means over sessions when animals, sessions of each and neurons of each are drawn again."""
    out = np.zeros(n)
    for k in range(n):
        sessions = []
        for animal in rng.integers(0, len(groups), len(groups)):
            mine = groups[animal]
            for number in rng.integers(0, len(mine), len(mine)):
                values = mine[number]
                sessions.append(values[rng.integers(0, len(values), len(values))].mean())
        out[k] = np.mean(sessions)
    return out


def _over_trials(
    a: Evaluation, b: Evaluation, table: Table, task: str, kind: str, n: int, seed: int
) -> tuple[Float[np.ndarray, " n"], float, int, int]:
    drawn, values, fewest = [], [], []
    field = "responses" if kind == "neurons" else "behavior"
    for key in dict.fromkeys(table["session"].tolist()):
        blocks = [x.blocks[task, key] for x in (a, b)]
        weights = draw_blocks(len(blocks[0].start), n, seed)
        of = [_means(getattr(x, field), weights) for x in blocks]
        once = [_means(getattr(x, field), np.ones((1, len(x.start)))) for x in blocks]
        drawn.append(of[1] - of[0])
        values.append(float(once[1][0] - once[0][0]))
        fewest.append(len(blocks[0].start))
    return np.mean(drawn, axis=0), float(np.mean(values)), min(fewest), len(values)


def _means(blocks: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " n"]:
    """Mean correlation over units that were ever scored, for each row of weights."""
    scored = blocks[:, 0].sum(0) > 0
    step = max(1, 2_000_000 // (6 * blocks.shape[2]))
    means = []
    for first in range(0, len(weights), step):
        total = np.tensordot(weights[first : first + step], blocks, axes=1)
        r = pearson(total[:, 0], np.moveaxis(total[:, 1:], 1, 0))
        means.append(np.nan_to_num(r[:, scored]).mean(1))
    return np.concatenate(means)
