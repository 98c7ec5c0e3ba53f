"""`report`: ledger in; one HTML page, figure files and CSV numbers out. `summary`: the same in ten lines of text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically
from omnimouse_jax.scaling import figures, ledger, page, tables
from omnimouse_jax.scaling.analysis import Study, analyse
from omnimouse_jax.scaling.collect import collect
from omnimouse_jax.scaling.outside_ledger import EXAMPLE, rows_of_table
from omnimouse_jax.scaling.outside_where import Column, rows_where
from omnimouse_jax.scaling.words import summary_lines

PAGE = "index.html"
Source = Study | Path | str | Sequence[ledger.Row]


def load(source: Source, data_axis: str = "n_sessions", **options: Any) -> Study:
    """An analysed study from a ledger file, its rows, or one made before. `options`: those of `analyse`."""
    if isinstance(source, Study):
        return source
    rows = ledger.read(source) if isinstance(source, (str, Path)) else source
    return analyse(rows, data_axis=data_axis, **options)


def gather(paths: Sequence[Path], columns: Mapping[str, str] | None = None, where: str = "") -> list[ledger.Row]:
    """Rows of study folders (collected now, or their ledger), .csv and .parquet ledgers, and with `columns` of outside tables.

    `where`: a condition on the columns of the table or of the ledger. UserError: nothing there, no row left.
    """
    rows: list[ledger.Row] = []
    for path in paths:
        if columns:
            rows += rows_of_table(path, columns, where)
        elif not path.is_dir():
            rows += _read(path)
        elif (path / "runs").is_dir() or (path / "plan.json").is_file():
            rows += collect(path)
        else:
            found = [
                path / f"ledger{suffix}" for suffix in (".csv", ".parquet") if (path / f"ledger{suffix}").is_file()
            ]
            if not found:
                raise UserError(
                    f"study {path}: no runs/ and no ledger", way_out="name a folder that `sweep` wrote, or a ledger"
                )
            rows += ledger.read(found[0])
    ledger.check_unique(rows)
    return rows if columns or not where else _picked(rows, where)


def _read(path: Path) -> list[ledger.Row]:
    """A ledger file; where there is none, or another table, with the way to what was meant."""
    if not path.exists() and path.suffix not in (".csv", ".parquet"):
        raise UserError(
            f"study {path}: no such folder",
            way_out=f"first `omnimouse-jax sweep plan --config CONFIG --store STORE --out {path}`, then "
            f"`omnimouse-jax sweep launch {path}`; or name a ledger .csv or .parquet",
        )
    try:
        return ledger.read(path)
    except UserError as problem:
        if "ledger_version" not in problem.what:
            raise
        raise UserError(
            problem.what,
            way_out=f"{problem.way_out}; or, if it is a table of scores, say which of its columns is what: --columns {EXAMPLE}",
        ) from None


def _picked(rows: Sequence[ledger.Row], where: str) -> list[ledger.Row]:
    """Rows for which a condition on the ledger's columns holds. A run without scores has no task, session or metric: where the
    condition names such a column, it stays, so that no failure is lost from sight."""
    asked: set[str] = set()

    def column(name: str, numeric: bool) -> Column:
        asked.add(name)
        if not numeric:
            return np.array([str("" if row.get(name) is None else row[name]) for row in rows], dtype=np.str_)
        if ledger.BY_NAME[name].kind is str:
            raise UserError(
                f"--where {where!r}: column {name} holds texts",
                way_out=f"compare it with a text in quotes: {name} == '..'",
            )
        return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)

    kept = rows_where(where, list(ledger.BY_NAME), column, len(rows), "--where")
    scored = any(ledger.BY_NAME[name].level == "score" for name in asked)
    found = [row for row, yes in zip(rows, kept, strict=True) if yes or (scored and row["state"] != ledger.DONE)]
    if not any(row["state"] == ledger.DONE for row in found):
        raise UserError(f"report: no scored row for which {where}", way_out="try another --where")
    return found


def report(
    source: Source,
    out_dir: Path | str,
    *,
    title: str | None = None,
    data_axis: str = "n_sessions",
    commands: Sequence[str] = (),
    moment: str = "",
    every: int = 0,
    files: bool = True,
    inputs: Sequence[Path] = (),
    where: str = "",
) -> Path:
    """Write OUT/index.html, OUT/figures/*.png and *.svg, OUT/{ledger,cells,gains,fits,worth,left_out}.csv; return the page.

    `commands` are shown on the page as the way to make the study again; `moment`, `every`: of partial results (`page.Made`);
    `inputs`: the files that were read, whose SHA-256 the page states; `where`: the condition that picked rows.
    `files` False: no figure files, which take longest (a page that is made again and again has no use for them).
    Without matplotlib the page and the numbers are written, and how to install it in OUT/figures/NOT_WRITTEN.txt.
    """
    study = load(source, data_axis)
    out = Path(out_dir)
    path = out / PAGE
    out.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.sha256(ledger.write(study.rows, out / "ledger.csv").read_bytes()).hexdigest()
    cells = [tables.cells_csv(study, task) for task in study.tasks]
    header = cells[0].split("\n", 1)[0]
    write_atomically(out / "cells.csv", header + "\n" + "".join(c.split("\n", 1)[1] for c in cells))
    write_atomically(out / "gains.csv", tables.gains_csv(study))
    write_atomically(out / "fits.csv", tables.fits_csv(study))
    write_atomically(out / "worth.csv", tables.worth_csv(study))
    write_atomically(out / "left_out.csv", tables.left_out_csv(study))
    read = [(one.name, hashlib.sha256(one.read_bytes()).hexdigest()) for one in inputs if one.is_file()]
    made = page.Made(commands, checksum, read, moment, every, where)
    kind = "Stated scores" if study.outside else "Scaling study"
    write_atomically(path, page.build(study, title or f"{kind}: {study.name}", made))
    if not files:
        return path
    note = out / "figures" / "NOT_WRITTEN.txt"
    try:
        figures.write_figures(study, out / "figures")
        note.unlink(missing_ok=True)
    except UserError as problem:
        write_atomically(note, f"{problem}\n")
    return path


def summary(source: Source, data_axis: str = "n_sessions") -> list[str]:
    """At most ten lines of plain text for a terminal."""
    return summary_lines(load(source, data_axis))
