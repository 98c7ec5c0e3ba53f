"""Which measure of data? Scores of the largest amount, predicted by fits without it, for every measure that the ledger has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import Array, make_form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.ledger import Row

DATA_AXES = {
    "n_sessions": ("session", "training sessions"),
    "n_animals": ("animal", "training animals"),
    "n_neurons": ("neuron", "training neurons"),
    "hours": ("hour", "training hours"),
    "neuron_hours": ("neuron-hour", "training neuron-hours"),
    "unique_stimulus_hours": ("stimulus hour", "unique stimulus hours in training"),
    "windows_seen": ("window", "windows seen in training"),
    "tokens_seen": ("token", "tokens seen in training"),
}
#: What could be recorded; windows and tokens seen are what was trained, and repeat it.
RECORDED = ("n_sessions", "n_animals", "n_neurons", "hours", "neuron_hours", "unique_stimulus_hours")
PROPORTIONAL = 0.9999  # correlation of the logs above which two measures are one up to a power


@dataclasses.dataclass(frozen=True)
class AxisCheck:
    """`names`: measures that are the same up to a power here. `error`: root mean square over the held-out cells, `bias`: mean of
    predicted - seen, `noise`: what seeds alone would leave; None where the noise is unknown."""

    names: tuple[str, ...]
    values: Array = dataclasses.field(repr=False)  # (runs,)
    form: str
    error: float
    bias: float
    noise: float | None
    cells: int


def compare_axes(grid: Grid, runs: Sequence[Row], ceiling: float) -> tuple[AxisCheck, ...]:
    """Best predictor of the largest amount first; empty with fewer than three amounts or two sizes."""
    if len(grid.amounts) < 3 or len(grid.sizes) < 2:
        return ()
    measures: list[tuple[list[str], Array]] = []
    for name in RECORDED:
        known = [row[name] for row in runs]
        if any(v is None or v <= 0 for v in known) or len(set(known)) < 3:
            continue
        logs = np.log(np.array(known, dtype=np.float64))
        twin = next((names for names, other in measures if np.corrcoef(logs, other)[0, 1] > PROPORTIONAL), None)
        if twin is not None:
            twin.append(name)
        else:
            measures.append(([name], logs))
    held = grid.cell[:, 1] == len(grid.amounts) - 1
    checks = [
        c for names, logs in measures if (c := _check(grid, tuple(names), np.exp(logs), held, ceiling)) is not None
    ]
    return tuple(sorted(checks, key=lambda c: c.error))


def _check(
    grid: Grid, names: tuple[str, ...], values: Array, held: Array | np.ndarray, ceiling: float
) -> AxisCheck | None:
    curved = len(grid.amounts) >= 5 and len(grid.sizes) >= 3
    x = np.stack([grid.parameters, values], 1)
    form = make_form("score_joint", ceiling=ceiling) if curved else make_form("log_linear", axes=2)
    kept = ~np.asarray(held, dtype=bool)
    if kept.sum() <= len(form.parameters) or len(np.unique(values[kept])) < 2:
        return None
    predicted = fit(form, x[kept], grid.score[kept], grid=9).predict(x[held])
    residual = predicted - grid.score[held]
    sizes = grid.cell[held, 0]
    by_cell = [float(residual[sizes == s].mean()) for s in np.unique(sizes)]
    count = float(np.mean([np.sum(sizes == s) for s in np.unique(sizes)]))
    noise = grid.noise[0] / np.sqrt(count) if grid.noise[1] else None
    rms = float(np.sqrt(np.mean(np.square(by_cell))))
    return AxisCheck(
        names, values, form.name, rms, float(np.mean(by_cell)), float(noise) if noise else None, len(by_cell)
    )
