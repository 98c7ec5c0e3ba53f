"""The verb that makes one tidy table of finished runs: ledger."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(
        ledger, "Collect studies into one table: a row per run, anneal point, session, task and metric.", LEDGER
    )
    made.add_argument("study", nargs="*", type=Path, help="study folders, or single run folders")
    made.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        help="FILE.csv or .parquet; may be repeated (default: STUDY/ledger.csv)",
    )
    made.add_argument("--columns", action="store_true", help="list what the columns mean, and stop")


LEDGER = """
Cells that failed or have not finished are rows too, with their state, cause and error and without a score. A cell that was annealed
from several points has a row for each: `anneal_from` says where it began, `parent` which run it belongs to.

  omnimouse-jax ledger studies/demo --out ledger.parquet --out ledger.csv
  omnimouse-jax ledger studies/first studies/more --out both.csv
  omnimouse-jax ledger --columns
"""


def ledger(arguments: argparse.Namespace) -> int:
    from launch.states import settle
    from omnimouse_jax.errors import UserError
    from omnimouse_jax.scaling import ledger as table
    from omnimouse_jax.scaling.collect import collect

    if arguments.columns:
        for column in table.COLUMNS:
            print(f"{column.name:22s} {column.kind.__name__:6s} {column.unit:10s} {column.meaning}")
        return 0
    if not arguments.study:
        raise UserError("ledger: no study named", way_out="omnimouse-jax ledger STUDY --out FILE.csv")
    for study in arguments.study:
        settle(study)
    rows = collect(arguments.study)
    for path in arguments.out or [arguments.study[0] / "ledger.csv"]:
        print(f"ledger: {table.write(rows, path)}")
    runs = {row["run_id"]: row["state"] for row in rows}
    states = ", ".join(f"{count} {state}" for state, count in Counter(runs.values()).items())
    print(f"{len(rows)} rows of {len(runs)} runs and anneal points: {states}", file=sys.stderr)
    return 0
