"""The table of a study's cells, on a terminal and as plain text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from launch import states, status
from launch.states import CellState
from omnimouse_jax.progress import duration

HEADER = ("cell", "state", "step", "rate", "ETA", "where", "says")
#: Of a table on a terminal; the others are counted.
ROWS = 40
STYLE = {
    status.RUNNING: "bold cyan",
    status.DONE: "green",
    status.FAILED: "bold red",
    status.INTERRUPTED: "yellow",
    states.QUEUED: "",
    states.MISSING: "dim",
}
#: What is worth seeing first where not all cells have room.
FIRST = (status.RUNNING, status.FAILED, status.INTERRUPTED, states.QUEUED, states.MISSING, status.DONE)


def row(cell: CellState) -> tuple[str, ...]:
    """The fields of HEADER."""
    said = cell.said
    running = cell.state == status.RUNNING
    step = f"{said.step}/{said.total}" if said.total else ""
    rate = f"{said.rate:.3g} steps/s" if running and said.rate else ""
    left = cell.left_s
    where = cell.job.engine + (f" {cell.job.job}" if cell.job.job != cell.job.engine else "") if cell.job else said.host
    return (cell.run_id, cell.state, step, rate, duration(left) if left is not None else "", where, _says(cell))


def _says(cell: CellState) -> str:
    said = cell.said
    if cell.state == status.FAILED:
        again = f" (attempt {said.attempt})" if said.attempt > 1 else ""
        return f"{said.cause}{again}: {textwrap.shorten(said.error, 200, placeholder=' ...')}"
    if cell.state == status.INTERRUPTED:
        return f"{said.cause}: saved, goes on with the next launch" if said.cause else cell.told
    if cell.state == status.RUNNING:
        silent = said.updated and said.phase != "starting" and said.age() > 6 * status.HEARTBEAT_S
        again = f", attempt {said.attempt}" if said.attempt > 1 else ""
        return f"{said.phase}{again}" + (f", no sign of life for {duration(said.age())}" if silent else "")
    return cell.told


def totals(cells: Sequence[CellState]) -> str:
    """3 running, 1 failed, 12 done of 16   ETA 1h02m"""
    found = [f"{count} {state}" for state, count in states.counts(cells).items()]
    left = states.left_s(cells)
    busy = any(cell.state in (states.QUEUED, status.RUNNING) for cell in cells)
    eta = f"   ETA {duration(left if left is not None else math.nan)}" if busy else ""
    return f"{', '.join(found)} of {len(cells)} cells{eta}"


def text(cells: Sequence[CellState]) -> str:
    """The table in plain text: every cell."""
    rows = [HEADER, *map(row, cells)]
    widths = [max(len(line[i]) for line in rows) for i in range(len(HEADER) - 1)]
    told = [
        "  ".join([*(f"{v:{w}s}" for v, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() for line in rows
    ]
    return "\n".join([*told, "", totals(cells)])


def table(cells: Sequence[CellState], title: str) -> Any:
    """The table for a terminal, in colours; of many cells those first that need a look."""
    from rich.table import Table
    from rich.text import Text

    shown = sorted(cells, key=lambda cell: FIRST.index(cell.state))[:ROWS]
    names = {cell.run_id for cell in shown}
    made = Table(title=title, caption=totals(cells), title_justify="left", caption_justify="left", expand=True)
    for name in HEADER:
        made.add_column(
            name, overflow="fold" if name in ("cell", "says") else "ellipsis", ratio=2 if name == "says" else None
        )
    for cell in cells:
        if cell.run_id in names:
            fields = row(cell)
            made.add_row(fields[0], Text(fields[1], STYLE[cell.state]), *fields[2:-1], Text(fields[-1]))
    if len(cells) > len(shown):
        made.add_row(f"... and {len(cells) - len(shown)} more", *[""] * (len(HEADER) - 1))
    return made


def as_json(cells: Sequence[CellState]) -> dict[str, Any]:
    """What `sweep status --json` prints: counts, seconds left, and each cell."""
    listed = [
        {
            "run_id": cell.run_id,
            "state": cell.state,
            "engine": cell.job.engine if cell.job else cell.said.engine,
            "job": cell.job.job if cell.job else cell.said.job,
            **{
                name: getattr(cell.said, name)
                for name in ("host", "phase", "step", "total", "rate", "attempt", "updated", "cause", "error")
            },
            "left_s": cell.left_s,
        }
        for cell in cells
    ]
    return {"counts": states.counts(cells), "left_s": states.left_s(cells), "cells": listed}
