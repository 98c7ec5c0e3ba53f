"""The verb of a study that ran: report."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(report, "Fit scaling curves to a study's ledger and write the page.", REPORT)
    made.add_argument("ledger", nargs="+", type=Path, help="study folder, ledger .csv or .parquet, or several of them")
    made.add_argument("--out", type=Path, help="folder of the page (default: report beside the first ledger)")
    made.add_argument("--title", help="title of the page")
    made.add_argument(
        "--data-axis", default="n_sessions", help="the ledger's column that counts as data (default: n_sessions)"
    )
    made.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    made.add_argument(
        "--without-overfit", action="store_true", help="leave over-fit cells out of the fits, by the page's rule"
    )
    made.add_argument(
        "--watch", type=int, metavar="SECONDS", help="build the page again so often, until every cell is scored"
    )
    made.add_argument(
        "--columns",
        help="an outside table: ledger columns from its columns, as size=model,score=value; its columns source and note come along",
    )
    made.add_argument(
        "--where", default="", help="only rows for which this holds, of columns of the ledger or of the outside table"
    )


REPORT = """
One self-contained HTML file: verdicts, curves with points and intervals, what the next sessions are worth against a larger model,
what was left out and why, and how to reproduce it. Figures also as PNG and SVG, numbers as CSV.

  omnimouse-jax report studies/demo
  omnimouse-jax report studies/demo --watch 60                     # while the sweep runs: partial results, and saying so
  omnimouse-jax report studies/demo --where "size in ('5M', '20M') and n_sessions >= 8"   # columns as docs/ledger.md names them
  omnimouse-jax report TABLE.csv --out page --columns size=model,n_params_core=params,n_sessions=sessions,task=task,score=value
"""


def report(arguments: argparse.Namespace) -> None:
    from launch.states import settle
    from omnimouse_jax.scaling.outside_ledger import columns_of
    from omnimouse_jax.scaling.page import study_runs
    from omnimouse_jax.scaling.report import gather, load, report, summary

    first = arguments.ledger[0]
    folder = first if first.is_dir() else first.parent
    columns = columns_of(arguments.columns) if arguments.columns else None
    if arguments.watch is not None and arguments.watch < 1:
        raise UserError(f"report: --watch {arguments.watch}", way_out="a number of seconds from 1 on")
    options = {"data_axis": arguments.data_axis, "tasks": arguments.task, "without_overfit": arguments.without_overfit}
    while True:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        for path in arguments.ledger:
            settle(path)
        try:
            told = load(gather(arguments.ledger, columns, arguments.where), **options)
        except UserError as problem:
            if arguments.watch is None:
                raise
            print(f"{moment}: nothing to show yet ({problem})", flush=True)
            time.sleep(arguments.watch)
            continue
        page = report(
            told,
            arguments.out or folder / "report",
            title=arguments.title,
            commands=_commands(arguments, told.runs),
            moment=moment,
            every=arguments.watch or 0,
            files=arguments.watch is None or not study_runs(told.missing),
            inputs=arguments.ledger,
            where=arguments.where,
        )
        for line in summary(told):
            print(line)
        print(f"page: {page}", flush=True)
        if arguments.watch is None or not study_runs(told.missing):
            return
        time.sleep(arguments.watch)


def _commands(arguments: argparse.Namespace, runs: list) -> list[str]:
    """What planned the study, as the ledger says, and what made the page."""
    planned = dict.fromkeys(str(row.get("command") or "") for row in runs)
    again = ["omnimouse-jax", "report", *map(str, arguments.ledger)]
    for flag in ("out", "title", "data_axis", "columns", "where"):
        value = getattr(arguments, flag)
        if value and (flag, value) != ("data_axis", "n_sessions"):
            again += [f"--{flag.replace('_', '-')}", str(value)]
    again += [part for task in arguments.task for part in ("--task", task)]
    again += ["--without-overfit"] if arguments.without_overfit else []
    return [*[line for line in planned if line][:20], shlex.join(again)]
