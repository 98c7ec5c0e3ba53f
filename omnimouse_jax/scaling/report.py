"""`report`: ledger in; one HTML page, figure files and CSV numbers out. `summary`: the same in ten lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling import figures, ledger, page, tables
from omnimouse_jax.scaling.analysis import Study, analyse
from omnimouse_jax.scaling.words import summary_lines

PAGE = "index.html"


def load(source: Study | Path | str | Sequence[ledger.Row], data_axis: str = "n_sessions") -> Study:
    """An analysed study from a ledger file, its rows, or one made before."""
    if isinstance(source, Study):
        return source
    rows = ledger.read(source) if isinstance(source, (str, Path)) else source
    return analyse(rows, data_axis=data_axis)


def report(
    source: Study | Path | str | Sequence[ledger.Row],
    out_dir: Path | str,
    *,
    title: str | None = None,
    data_axis: str = "n_sessions",
    commands: Sequence[str] = (),
) -> Path:
    """Write OUT/index.html, OUT/figures/*.png and *.svg, OUT/{cells,gains,fits}.csv, and return the page's path.

    `commands` are shown on the page as the way to make the study again. Without matplotlib the page and the numbers are
    written and the UserError that says how to install it is raised last, its text in OUT/figures/NOT_WRITTEN.txt.
    """
    study = load(source, data_axis)
    out = Path(out_dir)
    path = out / PAGE
    ledger.write_atomically(path, page.build(study, title or f"Scaling study: {study.name}", commands))
    cells = [tables.cells_csv(study, task) for task in study.tasks]
    header = cells[0].split("\n", 1)[0]
    ledger.write_atomically(out / "cells.csv", header + "\n" + "".join(c.split("\n", 1)[1] for c in cells))
    ledger.write_atomically(out / "gains.csv", tables.gains_csv(study))
    ledger.write_atomically(out / "fits.csv", tables.fits_csv(study))
    note = out / "figures" / "NOT_WRITTEN.txt"
    try:
        figures.write_figures(study, out / "figures")
        note.unlink(missing_ok=True)
    except UserError as problem:
        ledger.write_atomically(note, f"{problem}\n")
    return path


def summary(source: Study | Path | str | Sequence[ledger.Row], data_axis: str = "n_sessions") -> list[str]:
    """At most ten lines of plain text for a terminal."""
    return summary_lines(load(source, data_axis))
