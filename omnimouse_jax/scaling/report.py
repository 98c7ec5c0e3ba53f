"""`report`: ledger in; one HTML page, figure files and CSV numbers out. `summary`: the same in ten lines of text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically
from omnimouse_jax.scaling import figures, ledger, page, tables
from omnimouse_jax.scaling.analysis import Study, analyse
from omnimouse_jax.scaling.collect import collect
from omnimouse_jax.scaling.outside_ledger import rows_of_table
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
    """Rows of study folders (collected now, or their ledger), .csv and .parquet ledgers, and with `columns` of outside tables."""
    rows: list[ledger.Row] = []
    for path in paths:
        if columns:
            rows += rows_of_table(path, columns, where)
        elif not path.is_dir():
            rows += ledger.read(path)
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
    return rows


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
) -> Path:
    """Write OUT/index.html, OUT/figures/*.png and *.svg, OUT/{ledger,cells,gains,fits,worth,left_out}.csv; return the page.

    `commands` are shown on the page as the way to make the study again; `moment`, `every`: of partial results (`page.Made`).
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
    made = page.Made(commands, checksum, moment, every)
    write_atomically(path, page.build(study, title or f"Scaling study: {study.name}", made))
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
