"""Everything an evaluation found, as plain columns: the ledger's rows, and per neuron, channel, horizon and stretch of time.

A table is a dict of 1-D numpy columns of equal length. Text is text, what is not known is "" or NaN. Every table has the columns
`task`, `session` and `animal`.

| table | one row per | columns |
|---|---|---|
| `neurons` | task, session, neuron | unit_id, area, layer, x, y, z (um where the source says so), n (samples scored), raw (pooled |
|  |  | single-trial correlation), ceiling, ceiling_estimator, normalized, then the metrics of `NEURON_METRICS` |
| `behavior` | task, session, channel | channel, raw (correlation), r2, n |
| `horizon` | task, session, forecast sample | sample, seconds (after the last sample shown), score, low, high, n_units |
| `time` | task, session, block of trials | trial (first one), n_trials, start, end (s), score, n (samples x neurons) |
| `intervals` | task, session, metric, what is drawn again | metric, channel, over, score, low, high, n_units, resamples |

`session` is "" in rows of `intervals` that are about the mean over sessions.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

VERSION = 2
TABLES = ("neurons", "behavior", "horizon", "time", "intervals")
#: Further columns of `neurons`; NaN where not applicable.
NEURON_METRICS = {
    "repeats": "responses per moment of a repeated stimulus, median; NaN without repeats",
    "repeated_correlation": "single-trial correlation over repeated stimuli only",
    "repeated_ceiling": "its ceiling, CC_max of a single trial: an upper bound where the regime shows nothing but the screen",
    "repeated_normalized": "repeated_correlation / repeated_ceiling where it is one",
    "average_correlation": "correlation of mean prediction and mean response over moments of repeated stimuli",
    "average_ceiling": "its ceiling, CC_max",
    "explained_variance": "share of the variance of single responses to repeated stimuli that is explained, 1 - E / V",
    "fev": "share of it that the stimulus explains",
    "feve": "share of what the stimulus explains that is explained; noise where fev is small",
    "deviance_explained": "Poisson deviance explained",
    "bits_per_spike": "log2 likelihood gained over the mean rate, per unit of response",
}
Table = dict[str, np.ndarray]


class Blocks(NamedTuple):
    """Sums of one task and session per block of trials, for bootstraps over trials: n, p, t, pp, tt, pt (TrialSums)."""

    start: Float[np.ndarray, " blocks"]
    responses: Float[np.ndarray, "blocks 6 neurons"]
    behavior: Float[np.ndarray, "blocks 6 channels"]


@dataclasses.dataclass
class Evaluation:
    """What `evaluator.evaluation` returns. `rows` are those of evaluation.json and of the ledger; `metrics` are further metrics of
    each task and session with ceiling and normalised value beside them; `ceilings` every estimator of each; see `score_rows`.
    """

    source: str
    tiers: tuple[str, ...]
    rows: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    ceilings: list[dict[str, Any]]
    neurons: Table
    behavior: Table
    horizon: Table
    time: Table
    intervals: Table
    blocks: dict[tuple[str, str], Blocks]  # (task, session)
    regimes: dict[str, str] = dataclasses.field(default_factory=dict)  # task -> expression

    def save(self, path: Path) -> None:
        """Writes the tables and blocks as one .npz, at once or not at all. Lists of rows go to JSON, not here."""
        arrays: dict[str, np.ndarray] = {"version": np.array(VERSION), "source": np.array(self.source)}
        arrays["tiers"] = np.array(self.tiers, str)
        arrays["regimes"] = np.array(list(self.regimes.items()), str).reshape(-1, 2)
        for name in TABLES:
            table: Table = getattr(self, name)
            arrays |= {f"{name}/{column}": values for column, values in table.items()}
        keys = list(self.blocks)
        arrays["blocks/task"] = np.array([task for task, _ in keys], str)
        arrays["blocks/session"] = np.array([session for _, session in keys], str)
        for number, key in enumerate(keys):
            arrays |= {f"blocks/{number}/{field}": v for field, v in self.blocks[key]._asdict().items()}
        binary = io.BytesIO()
        np.savez_compressed(binary, **arrays)  # type: ignore[arg-type]
        write_atomically(path, binary.getvalue())

    @classmethod
    def load(cls, path: Path | str, scored: Mapping[str, Any] | None = None) -> Evaluation:
        """Reads what `save` wrote. `scored`: the content of evaluation.json, where its rows are wanted too.

        UserError for a file that is missing, not of this kind or of another version.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
            raise UserError(
                f"evaluation {path}: {problem}", way_out="make it with `omnimouse-jax evaluate RUN`"
            ) from None
        if int(arrays.get("version", np.array(0))) != VERSION:
            raise UserError(f"evaluation {path}: not of version {VERSION}", way_out="evaluate the run again")
        tables: dict[str, Any] = {
            name: {key.removeprefix(f"{name}/"): v for key, v in arrays.items() if key.startswith(f"{name}/")}
            for name in TABLES
        }
        keys = zip(arrays["blocks/task"].tolist(), arrays["blocks/session"].tolist(), strict=True)
        blocks = {
            key: Blocks(*(arrays[f"blocks/{number}/{field}"] for field in Blocks._fields))
            for number, key in enumerate(keys)
        }
        lists: dict[str, Any] = {name: list((scored or {}).get(name, [])) for name in ("rows", "metrics", "ceilings")}
        told: dict[str, Any] = {"source": str(arrays["source"]), "tiers": tuple(arrays["tiers"].tolist())}
        return cls(**told, blocks=blocks, regimes=dict(arrays["regimes"].tolist()), **lists, **tables)


def stacked(parts: Iterable[Mapping[str, Any]]) -> Table:
    """Tables below each other; a scalar stands for a whole column of its part. {} where there is none."""
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        length = max(np.size(value) for value in part.values())
        for name, value in part.items():
            columns.setdefault(name, []).append(np.broadcast_to(np.asarray(value), (length,)))
    return {name: np.concatenate(values) for name, values in columns.items()}


def where(table: Table, **wanted: str) -> Table:
    """The rows of a table in which these columns have these values."""
    length = len(next(iter(table.values()))) if table else 0
    kept = np.ones(length, bool)
    for name, value in wanted.items():
        kept &= table[name] == value if name in table else False
    return {name: values[kept] for name, values in table.items()}
