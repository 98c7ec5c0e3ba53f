"""Verbs of a sweep: plan, launch, status, stop, retry, and cell, which engines run."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs import plan as planning
from omnimouse_jax.verbs.common import AddVerb

ENGINES = ("local", "slurm", "sky", "gke")
#: Seconds between looks of --watch and --wait.
LOOK_S = 2.0


def add(verb: AddVerb) -> None:
    made = verb(sweep, "Plan a study, run its cells anywhere, and see how they are.", SWEEP)
    parts = made.add_subparsers(dest="part", metavar="plan | launch | status | stop | retry | cell", required=True)
    planning.add_plan(parts)

    part = _part(parts, launch, "Submit every cell that is missing, interrupted or failed.", LAUNCH)
    _study(part)
    part.add_argument(
        "--on", choices=ENGINES, default="local", help="where: this machine (the default), SLURM, SkyPilot, GKE"
    )
    _cells(part, "submit only this cell; may be repeated")
    part.add_argument("--parallel", type=int, metavar="N", help="cells at a time")
    part.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the engine")
    part.add_argument("--options", type=Path, metavar="FILE", help="YAML file with options of the engine")
    part.add_argument("--attempts", type=int, help="at a cell whose failure may pass (default: 3)")
    part.add_argument("--store", default="", help="where the workers find the recordings (default: as planned)")
    part.add_argument("--dry-run", action="store_true", help="print exactly what would be submitted, and stop")
    part.add_argument("--wait", action="store_true", help="show the table until all cells have ended")

    part = _part(parts, status, "Every cell: queued, running with step and ETA, done, or failed and why.", STATUS)
    _study(part)
    part.add_argument("--watch", action="store_true", help="look again every few seconds, until all have ended")
    part.add_argument("--json", action="store_true", help="for programs")

    part = _part(parts, stop, "Tell running cells to save and stop, and take queued ones back.", STOP)
    _study(part)
    _cells(part, "stop only this cell; may be repeated")

    part = _part(parts, retry, "Submit failed cells again, where and how they were submitted last.", RETRY)
    _study(part)
    _cells(part, "only this cell; may be repeated")
    part.add_argument("--cause", action="append", default=[], help="only cells that failed of this; may be repeated")

    part = _part(parts, cell, "What engines run: train, anneal and evaluate one cell.", CELL)
    _study(part)
    part.add_argument("--run", required=True, metavar="RUN_ID", help="which cell of the plan")
    part.add_argument("--attempts", type=int, help="at a failure that may pass (default: 3)")
    part.add_argument("--store", default="", help="where the recordings are (default: as planned)")


SWEEP = """
  omnimouse-jax sweep plan --config configs/demo.py --store stores/demo --out studies/demo    lists cells and cost
  omnimouse-jax sweep launch studies/demo --parallel 2 --wait                               runs them
  omnimouse-jax sweep status studies/demo --watch
  omnimouse-jax report studies/demo                                                         works while it runs, too

`omnimouse-jax sweep launch --help` has the engines and their options, `docs/launch.md` more.
"""
LAUNCH = """
Cells that are done, queued or running (the engine is asked) are left alone, so the same command again submits only what is missing,
and goes on with what was interrupted. A cell that fails is recorded with its cause and does not stop the others.

  omnimouse-jax sweep launch studies/demo --parallel 2 --wait
  omnimouse-jax sweep launch studies/demo --on slurm --set partition=gpu --set gpus=1 --set time=12:00:00 --parallel 16
  omnimouse-jax sweep launch studies/demo --on sky --set accelerators=H100:1 --set bucket=gs://lab/demo --dry-run
  omnimouse-jax sweep launch studies/demo --on gke --options tpu.yaml --dry-run

"""
STATUS = """
A worker writes a sign of life every ten seconds. One whose process is gone, that its engine has lost, or that is silent for five
minutes ($OMNIMOUSE_STALE_S) is written down as failed, cause `lost`. Exit status: 0, or 1 if a cell has failed.

  omnimouse-jax sweep status studies/demo --watch
  omnimouse-jax sweep status studies/demo --json
"""
STOP = """
  omnimouse-jax sweep stop studies/demo                     all; `sweep launch` goes on where they stopped
  omnimouse-jax sweep stop studies/demo --run S-3sessions-order0-seed0
"""
RETRY = """
A cell goes on from its newest checkpoint. To change how it is run (more memory, say), use `sweep launch` with other options; to
train it from the beginning, remove its folder under STUDY/runs first.

  omnimouse-jax sweep retry studies/demo                    every failed cell
  omnimouse-jax sweep retry studies/demo --cause lost --cause disk_full
"""
CELL = """
Goes on where it stopped. Exit status: 0 done, 1 failed, 2 refused (the error says what to do), 75 told to stop (SIGTERM, SIGUSR1,
SIGUSR2) and saved, 130 the same by Ctrl-C, 76 its process was lost. status.json of the cell's run folder says how it is.

  omnimouse-jax sweep cell studies/demo --run S-3sessions-order0-seed0
"""


def sweep(arguments: argparse.Namespace) -> int:
    runs: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "plan": planning.plan,
        **{run.__name__: run for run in (launch, status, stop, retry, cell)},
    }
    return runs[arguments.part](arguments) or 0


def launch(arguments: argparse.Namespace) -> int:
    from launch import states
    from launch.cell import ATTEMPTS, require_same
    from launch.engine import Study, engine, settings_of

    if arguments.parallel is not None:
        arguments.set.append(f"parallel={arguments.parallel}")
    _require_attempts(arguments.attempts)
    settings = settings_of(arguments.on, arguments.set, arguments.options)
    study = Study.open(arguments.study, arguments.attempts or ATTEMPTS, arguments.store)
    for planned in study.plan.cells:
        require_same(study.run_folder(planned.run_id), planned.config_hash)
    with states.alone(study) if not arguments.dry_run else contextlib.nullcontext():
        cells = states.chosen(states.look(study), arguments.run)
        wanted = [cell for cell in cells if cell.state in states.TO_LAUNCH]
        run_ids = [cell.run_id for cell in wanted]
        if run_ids and not arguments.dry_run:
            states.submit(study, arguments.on, settings, run_ids)
    if arguments.dry_run:
        print(engine(arguments.on, study, settings).preview(run_ids) if run_ids else "nothing to submit")
        print(f"{_what(cells, wanted)}; nothing was submitted", file=sys.stderr)
        return 0
    print(_what(cells, wanted))
    if arguments.wait:
        return _watched(study, arguments.run)
    if run_ids:
        print(f"next: omnimouse-jax sweep status {arguments.study} --watch")
    return 0


def status(arguments: argparse.Namespace) -> int:
    from launch import board, states
    from launch.engine import Study

    study = Study.open(arguments.study)
    if arguments.watch and not arguments.json:
        return _watched(study, [])
    cells = states.look(study)
    if arguments.json:
        print(json.dumps({"study": study.plan.study, **board.as_json(cells)}, indent=1))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(board.table(cells, study.plan.study))
    else:
        print(board.text(cells))
    return _exit_status(cells)


def stop(arguments: argparse.Namespace) -> None:
    from launch import states
    from launch.engine import Study

    study = Study.open(arguments.study)
    with states.alone(study):
        stopped = states.stop(study, states.chosen(states.look(study), arguments.run))
    print(f"{len(stopped)} cells told to stop{': ' + ', '.join(stopped[:5]) if stopped else ''}")


def retry(arguments: argparse.Namespace) -> int:
    from launch import causes, states
    from launch.engine import Study

    if unknown := [cause for cause in arguments.cause if cause not in causes.POLICY]:
        raise UserError(f"sweep retry: no cause {unknown[0]!r}", way_out=f"causes: {', '.join(causes.POLICY)}")
    study = Study.open(arguments.study)
    with states.alone(study):
        cells = states.chosen(states.look(study), arguments.run)
        failed = [cell for cell in cells if cell.state == states.status.FAILED]
        wanted = [cell for cell in failed if not arguments.cause or cell.said.cause in arguments.cause]
        if homeless := [cell.run_id for cell in wanted if cell.job is None]:
            raise UserError(f"cell {homeless[0]} was never launched", way_out="use `omnimouse-jax sweep launch`")
        submitted = states.resubmit(study, wanted)
    print(
        f"{len(submitted)} of {len(failed)} failed cells submitted again{': ' + ', '.join(submitted[:5]) if submitted else ''}"
    )
    return 0


def cell(arguments: argparse.Namespace) -> int:
    from launch.cell import ATTEMPTS, run_cell
    from launch.engine import Study

    _require_attempts(arguments.attempts)
    return run_cell(Study.open(arguments.study).folder, arguments.run, arguments.attempts or ATTEMPTS, arguments.store)


def _part(
    parts: Any, run: Callable[[argparse.Namespace], int | None], about: str, details: str
) -> argparse.ArgumentParser:
    class Lazy(argparse.RawDescriptionHelpFormatter):
        """Engines and policies are listed only when help is asked for."""

        def format_help(self) -> str:
            return super().format_help() + (_engines_help() if run is launch else "")

    return parts.add_parser(run.__name__, help=about, description=f"{about}\n{details}", formatter_class=Lazy)


def _engines_help() -> str:
    from launch.causes import policy_text
    from launch.engine import ENGINES, options_help

    told = [f"\noptions of --on {name} (--set KEY=VALUE):\n{options_help(name)}\n" for name in ENGINES]
    return f"\nwhich failures are tried again by themselves, up to --attempts:\n{policy_text()}\n{''.join(told)}"


def _study(part: argparse.ArgumentParser) -> None:
    part.add_argument("study", metavar="STUDY", help="study folder, or its plan.json")


def _cells(part: argparse.ArgumentParser, about: str) -> None:
    part.add_argument("--run", action="append", default=[], metavar="RUN_ID", help=about)


def _require_attempts(attempts: int | None) -> None:
    if attempts is not None and attempts < 1:
        raise UserError(f"--attempts {attempts}", way_out="use a positive whole number")


def _what(cells: Sequence[Any], wanted: Sequence[Any]) -> str:
    from launch import states

    those = ", ".join(f"{count} {state}" for state, count in states.counts(wanted).items())
    rest = ", ".join(
        f"{count} {state}" for state, count in states.counts([c for c in cells if c not in wanted]).items()
    )
    return f"{len(wanted)} cells to submit{f' ({those})' if those else ''}{f'; left alone: {rest}' if rest else ''}"


def _watched(study: Any, run_ids: Sequence[str]) -> int:
    """Shows the table until no cell waits or runs; Ctrl-C leaves them running."""
    from launch import board, states

    def look() -> list[Any]:
        return states.chosen(states.look(study), run_ids)

    def busy(cells: Sequence[Any]) -> bool:
        return any(cell.state in (states.QUEUED, states.status.RUNNING) for cell in cells)

    try:
        cells = look()
        if sys.stdout.isatty():
            from rich.live import Live

            with Live(board.table(cells, study.plan.study), refresh_per_second=2) as live:
                while busy(cells):
                    time.sleep(LOOK_S)
                    cells = look()
                    live.update(board.table(cells, study.plan.study))
        else:
            told = ""
            while busy(cells):
                told, before = _line(cells), told
                if told != before:
                    print(told, flush=True)
                time.sleep(LOOK_S)
                cells = look()
            print(board.text(cells))
    except KeyboardInterrupt:
        print(f"cells go on without you: omnimouse-jax sweep status {study.folder}", file=sys.stderr)
        return 130
    return _exit_status(cells)


def _line(cells: Sequence[Any]) -> str:
    """Totals, and where running cells are: a line for logs."""
    from launch import board
    from launch.status import RUNNING

    here = [
        f"{cell.run_id} {cell.said.phase} {cell.said.step}/{cell.said.total}" for cell in cells if cell.state == RUNNING
    ]
    return "  ".join([board.totals(cells), *here])


def _exit_status(cells: Sequence[Any]) -> int:
    return 1 if any(cell.state == "failed" for cell in cells) else 0
