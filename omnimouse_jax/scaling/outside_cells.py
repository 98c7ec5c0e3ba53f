"""The cells of a table of others: which rows are one run scored in several sessions, and which sessions can be compared."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.outside_rows import Rows
from omnimouse_jax.scaling.outside_where import Texts

MOST_CELLS = 10**6


@dataclasses.dataclass(frozen=True)
class Cells:
    """`grid` None where the axes have no levels to speak of, or no session was scored in all cells; `unbalanced`: which
    sessions miss which cells, in words, empty where none does."""

    grid: Grid | None
    unbalanced: str = ""


def cells_of(rows: Rows, higher: bool, notes: list[str]) -> Cells:
    """The cells of one or two axes. With sessions, a run is what --run names; without it the rows of a session in a
    cell are averaged, because nothing says which rows of two sessions are of one run. UserError: a run in two cells."""
    second = rows.x[:, 1] if rows.x.shape[1] > 1 else np.ones(len(rows.x))
    x = np.stack([rows.x[:, 0], second], axis=1)
    if rows.x.shape[1] > 2 or math.prod(len(np.unique(column)) for column in x.T) >= MOST_CELLS:
        return Cells(None)
    if rows.session is None:
        return Cells(Grid(x[:, 0], x[:, 1], rows.given[:, None], ("",), higher))
    places, cell = np.unique(x, axis=0, return_inverse=True)
    cell = cell.ravel()
    names, session = np.unique(rows.session, return_inverse=True)
    run = cell if rows.run is None else np.unique(rows.run, return_inverse=True)[1].ravel()
    for one in np.unique(run):
        if np.ptp(cell[run == one]):
            raise UserError(
                f"--run: the rows of run {rows.run[run == one][0] if rows.run is not None else one} have different --x",
                way_out="name a column that tells every training run apart",
            )
    values, count = np.zeros((2, int(run.max()) + 1, len(names)))
    np.add.at(values, (run, session), rows.given)
    np.add.at(count, (run, session), 1.0)
    if rows.run is None and count.max() > 1:
        notes.append("no --run column: the rows of a session in a cell are averaged where cells are compared")
    everywhere = (count > 0).all(axis=0)
    at = places[cell[np.unique(run, return_index=True)[1]]]  # of each run
    told = "" if everywhere.all() else _unbalanced(names, count, at)
    if not everywhere.any():
        return Cells(None, told)
    animals = tuple(str(name) for name in names[everywhere])
    if rows.animal is not None:
        animals = tuple(str(rows.animal[rows.session == name][0]) for name in names[everywhere])
    values = values[:, everywhere] / count[:, everywhere]
    return Cells(Grid(at[:, 0], at[:, 1], values, animals, higher), told)


def _unbalanced(names: Texts, count: Array, at: Array) -> str:
    missing = np.flatnonzero((count == 0).any(axis=0))
    worst = missing[np.argmax((count[:, missing] == 0).sum(axis=0))]
    gone = at[count[:, worst] == 0]
    shown = "; ".join(", ".join(f"{v:.4g}" for v in place) for place in np.unique(gone, axis=0)[:3])
    return (
        f"{len(missing)} of {len(names)} sessions were not scored in every run, so cells are not means over the same "
        f"sessions: {names[worst]} is missing from {len(gone)} of {len(count)}, at {shown}{' ..' if len(gone) > 3 else ''}; "
        "leave it out by --where, or fill it"
    )
