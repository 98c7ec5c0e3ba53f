"""An evaluation by session, animal, area, neuron or time, as plain tables: what `evaluate --by` prints and writes.

Rows are `task`, `metric` and `channel`, what they are about, then `score`, `low`, `high`, what the `interval` is over, `ceiling`,
`ceiling_estimator` and `normalized`. A mean counts every session once, as in the mean over sessions; a neuron without variance
counts as 0. What has no value is NaN or "".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import Evaluation, Table, where
from omnimouse_jax.evaluate.metrics.bootstrap import LEAST_UNITS, percentile_interval
from omnimouse_jax.files import write_atomically

#: Keeps these draws apart from others of the same seed.
STREAM = 31
FORMATS = ("csv", "parquet")


def by_session(found: Evaluation, n: int, seed: int) -> Table:
    """Every score of every session: those of the ledger, then further metrics."""
    rows = []
    for row in [*found.rows, *found.metrics]:
        remark = str(row.get("not_applicable") or row.get("ceiling_remark") or "")
        rows.append(
            {
                **{name: row[name] for name in ("task", "metric", "channel", "session", "animal")},
                "score": _number(row["score"]),
                "low": _number(row["score_low"]),
                "high": _number(row["score_high"]),
                "interval": row["interval"],
                "n_units": row["n_units"],
                "ceiling": _number(row["ceiling"]),
                "ceiling_estimator": row["ceiling_estimator"],
                "normalized": _number(row["normalized"]),
                "estimator": row["estimator"],
                "remark": remark,
            }
        )
    return _columns(rows)


def by_animal(found: Evaluation, n: int, seed: int) -> Table:
    """Mean over the sessions of each animal. Interval: sessions and neurons of each are drawn again; of fewer than 3 sessions
    neurons alone; of behaviour sessions alone, none for fewer than 3.
    """
    return _columns([*_grouped(found, "animal", n, seed), *_behavior_of_animals(found, n, seed)])


def by_area(found: Evaluation, n: int, seed: int) -> Table:
    """Neurons of each cortical area, over sessions. Neurons whose area the recording does not tell are `not told`."""
    return _columns(list(_grouped(found, "area", n, seed)))


def by_neuron(found: Evaluation, n: int, seed: int) -> Table:
    """Every neuron, with all that is known of it; see `Evaluation.neurons`."""
    return found.neurons


def by_time(found: Evaluation, n: int, seed: int) -> Table:
    """Blocks of trials along each session; see `Evaluation.time`."""
    return found.time


BY: dict[str, Callable[[Evaluation, int, int], Table]] = {
    "session": by_session,
    "animal": by_animal,
    "area": by_area,
    "neuron": by_neuron,
    "time": by_time,
}


def asked_for(text: str) -> tuple[str, ...]:
    """`session,area` -> its names. UserError for one that is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in BY]:
        raise UserError(f"evaluate: --by {unknown[0]!r}", way_out=f"use some of {','.join(BY)}")
    return names


def told(name: str, table: Table) -> str:
    """A table as text, for a terminal; of neurons and time what a screen can hold."""
    if not len(next(iter(table.values()), ())):
        return f"by {name}: nothing to tell"
    if name == "neuron":
        return _lines(_columns(list(_quantiles(table))))
    if name == "time":
        return _lines(_columns(list(_thirds(table))))
    missing = ~np.isfinite(table["score"])
    reasons = (
        dict.fromkeys(zip(table["metric"][missing].tolist(), table["remark"][missing].tolist(), strict=True))
        if "remark" in table
        else {}
    )
    notes = [f"no {metric}: {reason}" for metric, reason in reasons if reason]
    table = {column: values[~missing] for column, values in table.items()}
    kept = ("task", "metric", "channel", name, "score", "low", "high", "interval", "ceiling", "normalized", "n_units")
    if not len(table["score"]):
        return "\n".join(notes) or f"by {name}: nothing to tell"
    return "\n".join([_lines({column: table[column] for column in (*kept, "n_sessions") if column in table}), *notes])


def write_table(table: Table, path: Path) -> Path:
    """As CSV or, where the file is called so, as parquet. NaN is an empty field of the CSV and a null of the parquet."""
    if path.suffix == ".parquet":
        require_parquet()
        import pyarrow as pa
        import pyarrow.parquet

        columns = {name: pa.array(values.tolist(), from_pandas=True) for name, values in table.items()}
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pa.table(columns), sink)
        write_atomically(path, sink.getvalue())
        return path
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*([_cell(value) for value in values.tolist()] for values in table.values()), strict=True))
    write_atomically(path, lines.getvalue().encode())
    return path


def require_parquet() -> None:
    """UserError where parquet cannot be written: better before scoring than after."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(
            "parquet needs pyarrow", way_out='`pip install "omnimouse-jax[parquet]"`, or write CSV'
        ) from None


def _grouped(found: Evaluation, column: str, n: int, seed: int) -> Iterable[dict[str, Any]]:
    """Pooled correlation of neurons by a column of theirs."""
    neurons = found.neurons
    for task in dict.fromkeys(neurons["task"].tolist()) if neurons else ():
        mine = where(neurons, task=task)
        for name in sorted(dict.fromkeys(mine[column].tolist())):
            some = where(mine, **{column: name})
            sessions = dict.fromkeys(some["session"].tolist())
            of = [where(some, session=key) for key in sessions]
            scores = [np.nan_to_num(part["raw"]) for part in of]
            ceilings = [part["ceiling"] for part in of]
            score = float(np.mean([values.mean() for values in scores]))
            known = all(np.isfinite(values).all() for values in ceilings)
            law = {str(e) for part in of for e in part["ceiling_estimator"]}
            # A ceiling from repeats bounds another score than this one, which is of all trials.
            bounded = known and all(estimator.startswith("known law") for estimator in law)
            ceiling = float(np.mean([values.mean() for values in ceilings])) if bounded else float("nan")
            low, high, over = _interval(scores, n, seed)
            yield {
                "task": task,
                "metric": "response_correlation",
                "channel": "",
                column: name or "not told",
                "score": score,
                "low": low,
                "high": high,
                "interval": over,
                "ceiling": ceiling,
                "ceiling_estimator": min(law) if bounded else "",
                "normalized": score / ceiling if bounded and ceiling > 0 else float("nan"),
                "n_units": sum(map(len, scores)),
                "n_sessions": len(scores),
            }


def _behavior_of_animals(found: Evaluation, n: int, seed: int) -> Iterable[dict[str, Any]]:
    rows = [row for row in found.rows if row["metric"].startswith("behavior")]
    for task, metric, channel, animal in dict.fromkeys(
        (r["task"], r["metric"], r["channel"], r["animal"]) for r in rows
    ):
        mine = [
            r for r in rows if (r["task"], r["metric"], r["channel"], r["animal"]) == (task, metric, channel, animal)
        ]
        scores = np.array([float(np.nan_to_num(row["score"])) for row in mine])
        low, high, over = (float("nan"), float("nan"), "")
        if len(scores) >= LEAST_UNITS:
            low, high, over = *percentile_interval(_again([scores], n, seed)), "95% bootstrap over sessions"
        elif len(scores) == 1:
            low, high, over = _number(mine[0]["score_low"]), _number(mine[0]["score_high"]), mine[0]["interval"]
        yield {
            "task": task,
            "metric": metric,
            "channel": channel,
            "animal": animal,
            "score": float(scores.mean()),
            "low": low,
            "high": high,
            "interval": over,
            "ceiling": float("nan"),
            "ceiling_estimator": "",
            "normalized": float("nan"),
            "n_units": len(scores),
            "n_sessions": len(scores),
        }


def _interval(sessions: Sequence[np.ndarray], n: int, seed: int) -> tuple[float, float, str]:
    """Of the mean over sessions of the mean over neurons."""
    if n < 1:
        return float("nan"), float("nan"), ""
    if len(sessions) >= LEAST_UNITS:
        rng = np.random.default_rng([seed, len(sessions), STREAM])
        means = np.stack([_again([values], n, seed + 1 + number) for number, values in enumerate(sessions)])
        drawn = rng.integers(0, len(sessions), (n, len(sessions)))
        return *percentile_interval(
            means[drawn, np.arange(n)[:, None]].mean(1)
        ), "95% bootstrap over sessions and neurons"
    if min(map(len, sessions)) < LEAST_UNITS:
        return float("nan"), float("nan"), ""
    return *percentile_interval(_again(sessions, n, seed)), "95% bootstrap over neurons"


def _again(sessions: Sequence[np.ndarray], n: int, seed: int) -> Float[np.ndarray, " n"]:
    """Mean over sessions of means over units that are drawn again within each."""
    rng = np.random.default_rng([seed, STREAM])
    out = np.zeros(n)
    for values in sessions:
        step = max(1, 2_000_000 // len(values))
        for first in range(0, n, step):
            drawn = rng.integers(0, len(values), (min(step, n - first), len(values)))
            out[first : first + step] += values[drawn].mean(1) / len(sessions)
    return out


def _quantiles(neurons: Table) -> Iterable[dict[str, Any]]:
    for task in dict.fromkeys(neurons["task"].tolist()):
        raw = np.nan_to_num(where(neurons, task=task)["raw"])
        low, middle, high = np.quantile(raw, [0.05, 0.5, 0.95])
        above = {f"above {level:g}": float((raw > level).mean()) for level in (0.1, 0.3, 0.5)}
        yield {
            "task": task,
            "neurons": len(raw),
            "5 %": low,
            "median": middle,
            "95 %": high,
            "mean": raw.mean(),
            **above,
        }


def _thirds(time: Table) -> Iterable[dict[str, Any]]:
    for task, session in dict.fromkeys(zip(time["task"].tolist(), time["session"].tolist(), strict=True)):
        mine = where(time, task=task, session=session)
        parts = np.array_split(np.argsort(mine["start"], kind="stable"), 3)
        scores = {
            name: float(np.average(mine["score"][part], weights=mine["n"][part])) if len(part) else float("nan")
            for name, part in zip(("first third", "middle", "last third"), parts, strict=True)
        }
        yield {"task": task, "session": session, **scores, "blocks": len(mine["start"])}


def _columns(rows: Sequence[Mapping[str, Any]]) -> Table:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _lines(table: Table) -> str:
    cells = {name: [_short(value) for value in values.tolist()] for name, values in table.items()}
    cells = {name: column for name, column in cells.items() if any(column)}  # a column without a value tells nothing
    text = {name: values.dtype.kind in "US" for name, values in table.items()}
    width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}

    def line(of: Mapping[str, str]) -> str:
        return "  ".join(of[n].ljust(width[n]) if text[n] else of[n].rjust(width[n]) for n in cells).rstrip()

    rows = [{name: column[k] for name, column in cells.items()} for k in range(len(next(iter(cells.values()))))]
    return "\n".join([line({name: name for name in cells}), *map(line, rows)])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if np.isfinite(value) else ""
    return str(value)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
