"""The work of one cell, in a process of its own: train, anneal, evaluate. Each part goes on where it stopped.

`launch.cell` starts it, watches it, and is told of errors through a pipe. Whatever it does, it does not write status.json.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import causes
from launch.points import branches, is_evaluated
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.plan import Cell, Plan


def work(study: Path, run_id: str, store: str = "", evaluate: bool = False) -> None:
    """Trains, anneals and evaluates a cell; what is done already is not done again.

    A run in several processes is only trained and annealed: `launch.cell` then has one process `evaluate` it.
    """
    import jax

    from omnimouse_jax.training.branch import anneal
    from omnimouse_jax.training.processes import is_first, joined
    from omnimouse_jax.training.resume import comparable
    from omnimouse_jax.training.train import train

    plan = Plan.read(study)
    cell, folder = plan.cell(run_id), study / "runs" / run_id
    config = plan.config_of(cell)
    _require_planned(cell, config)
    if store:
        config.data.store = store
    labels = {**cell.labels, "run_id": run_id, "config_hash": cell.config_hash}
    points = branches(folder, cell)
    if not evaluate:
        with joined(same=comparable(config.to_dict())):
            if not is_evaluated(folder):
                _say("train", first=is_first())
                train(config, folder, labels)
            for step, branch in points.items():
                if not is_evaluated(branch):
                    _say(f"anneal {step}", first=is_first())
                    anneal(folder, step, cell.anneal_steps, branch, _at(store))
            evaluate = jax.process_count() == 1
    if evaluate:
        _evaluate([folder, *points.values()], store)


def _evaluate(runs: Sequence[Path], store: str) -> None:
    from omnimouse_jax.evaluate.evaluator import evaluate_run

    for run in runs:
        if not is_evaluated(run):
            _say("evaluate")
            evaluate_run(run, store=store)


def _at(store: str) -> Any:
    def change(config: Any) -> None:
        if store:
            config.data.store = store

    return change


def _require_planned(cell: Cell, config: Any) -> None:
    from launch.planning import config_hash

    if (found := config_hash(config)) != cell.config_hash:
        raise UserError(
            f"study cell {cell.run_id}: its config has hash {found}, planned was {cell.config_hash}",
            way_out="plan the study again: plan.json was edited, or is of another version of omnimouse_jax",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the work; tells `--report` (a file descriptor) which phase it is in and how it failed. Returns the exit status."""
    parser = argparse.ArgumentParser("launch.work")
    parser.add_argument("study", type=Path)
    parser.add_argument("run_id")
    parser.add_argument("--store", default="")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--report", type=int, required=True)
    arguments = parser.parse_args(argv)
    for notice in (signal.SIGUSR1, signal.SIGUSR2):  # of schedulers, to every process of a job: the watcher hears them
        signal.signal(notice, signal.SIG_IGN)
    _die_with(os.getppid())
    global _report
    _report = arguments.report
    try:
        work(arguments.study, arguments.run_id, arguments.store, arguments.evaluate)
        return causes.DONE
    except KeyboardInterrupt:
        return causes.CTRL_C
    except Exception as error:
        if hasattr(error, "status"):  # Interrupted: saved, and ready to go on
            print(error, file=sys.stderr)
            return int(error.status)
        told = str(error) if isinstance(error, UserError) else traceback.format_exc()
        what = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        line = causes.last_line(" ".join(what.split()))
        _tell(cause=causes.of_error(error), error=line, details=told[-8000:])
        print(told, file=sys.stderr)
        return causes.BAD_INPUT if isinstance(error, UserError) else causes.FAILED


_report: int | None = None


def _say(phase: str, first: bool = True) -> None:
    if first:
        _tell(phase=phase)


def _tell(**values: Any) -> None:
    """One line of JSON into the pipe to `launch.cell`."""
    if _report is not None:
        os.write(_report, json.dumps(values).encode() + b"\n")


def _die_with(parent: int) -> None:
    """SIGTERM (save and stop) when the process that watches this one dies. Linux; elsewhere it runs on."""
    pr_set_pdeathsig = 1
    try:
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (causes.SAVED, causes.CTRL_C):  # programs that are still being compiled would be waited for
        os._exit(status)
    sys.exit(status)
