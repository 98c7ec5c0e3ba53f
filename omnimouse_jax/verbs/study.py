"""Verbs of a study: sweep, report."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config


def add(verb: AddVerb) -> None:
    made = verb(
        sweep,
        "Train and evaluate a grid of sizes x session subsets x seeds, one cell after another.",
        SWEEP + CONFIG_HELP,
    )
    config_argument(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--workdir", required=True, help="study folder: plan, runs, ledger")
    made.add_argument("--dry-run", action="store_true", help="list the cells and stop")

    made = verb(report, "Fit scaling curves to a study's ledger and write the page.", REPORT)
    made.add_argument("study", help="study folder, or a ledger .csv")
    made.add_argument("--out", type=Path, help="folder of the page (default: STUDY/report)")
    made.add_argument("--title", help="title of the page")


SWEEP = """
The config's `study` group names sizes, numbers of sessions (nested; the evaluation sessions are in all), orders and seeds. A cell
that is done is skipped, one that was interrupted goes on, one that failed is tried again.

  omnimouse-jax sweep --config configs/demo.py --store stores/demo --workdir studies/demo
"""
REPORT = """
One self-contained HTML file: curves with points, intervals and fits per task, the numbers, what each interval is over, and how
to reproduce it. Figures also as PNG and SVG, numbers as CSV.

  omnimouse-jax report studies/demo
"""


def sweep(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.progress import duration

    start = time.monotonic()
    config, study = load_config(arguments), Path(arguments.workdir)
    if "study" not in config:
        raise UserError(f"config {arguments.config} has no `study` group", way_out="see configs/demo.py for one")
    if arguments.dry_run:
        return _list_cells(config)
    from launch.local import run_study
    from omnimouse_jax.scaling import ledger

    states = run_study(config, study)
    path = study / "ledger.csv"
    ledger.write(ledger.collect(study), path)
    failed = f", {len(states['failed'])} failed: {', '.join(states['failed'])}" if states["failed"] else ""
    print(f"{len(states['done'])} cells done{failed} in {duration(time.monotonic() - start)}; ledger: {path}")
    print(f"next: omnimouse-jax report {study}")
    return 1 if states["failed"] else 0


def _list_cells(config) -> int:
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.scaling.plan import cells

    planned = cells(config.study.to_dict(), Store.open(config.data.store).chosen(config.data.sessions))
    for cell in planned:
        print(f"{cell.run_id:40s} {json.dumps(dict(cell.model))}")
    print(f"{len(planned)} cells")
    return 0


def report(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.scaling import ledger
    from omnimouse_jax.scaling.report import load, report, summary

    study = Path(arguments.study)
    path = study if study.suffix == ".csv" else study / "ledger.csv"
    if (study / "runs").is_dir():
        ledger.write(ledger.collect(study), path)
    elif not path.exists():
        raise UserError(
            f"study {study}: no runs/ and no ledger.csv", way_out="name a folder that `sweep` wrote, or a ledger"
        )
    told = load(path)
    page = report(told, arguments.out or path.parent / "report", title=arguments.title)
    for line in summary(told):
        print(line)
    print(f"page: {page}")
