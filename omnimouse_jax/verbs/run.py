"""Verbs that train: train, anneal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config


def add(verb: AddVerb) -> None:
    made = verb(train, "Train one model; the same command goes on where it stopped.", TRAIN + CONFIG_HELP)
    config_argument(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--workdir", required=True, help="run folder: checkpoints, metrics.jsonl, config")
    made.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="FIELD",
        help="field or group of the config that may differ from what the run in --workdir had, e.g. optimizer.shared",
    )
    group = made.add_argument_group("several processes", "start the same command once per process, numbered from 0")
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="where process 0 runs, and a free port")
    group.add_argument("--processes", default="", metavar="N", help="how many (`auto`: as the cluster says)")
    group.add_argument("--process-id", default="", metavar="I", help="which one this is: 0 to N - 1")

    made = verb(anneal, "Lower the learning rate to 0 on branches from a run's checkpoints, and score them.", ANNEAL)
    made.add_argument("run", help="run folder, trained at a constant rate")
    made.add_argument("--step", type=int, action="append", required=True, help="a kept checkpoint; may be repeated")
    made.add_argument("--steps", type=int, default=10_000, help="length of a branch (default: %(default)s)")
    made.add_argument("--workdir", type=Path, help="folder of the branches' run folders (default: RUN/anneal)")
    made.add_argument("--store", default="", help="recordings, if they have moved")
    made.set_defaults(config=None)  # takes --config.field=value


TRAIN = """
A run that was stopped, killed or preempted goes on from its newest checkpoint, with the same config: fields that change no step
(how long, how often, on which devices) may differ, others with --allow-change; the run's checkpoints note what did.
Exit status: 0 trained, 75 told to stop by SIGTERM and saved (130: by Ctrl-C), 2 an error that says what to do, 76 another process
of the run was lost: start all of them again. Under SLURM and on TPU pods processes find each other by themselves.
"""
ANNEAL = """
One run at a constant learning rate gives models of several lengths: each branch goes on from a checkpoint for --steps steps, in
which the rate falls to 0 as 1 - sqrt(share done). Keep checkpoints to branch from with --config.train.keep_every. A branch is a
run of its own, RUN/anneal/STEP-STEPS; the same command goes on where it stopped.

  omnimouse-jax anneal runs/long --step 100000 --step 200000 --step 400000
  omnimouse-jax evaluate runs/long/anneal/100000-10000
"""


def train(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.training.processes import is_first, joined
    from omnimouse_jax.training.resume import comparable
    from omnimouse_jax.training.train import train

    config, workdir = load_config(arguments), Path(arguments.workdir)
    place = (arguments.coordinator, arguments.processes, arguments.process_id)
    with joined(*place, comparable(config.to_dict())):
        run = train(config, workdir, allow_change=tuple(arguments.allow_change))
        first = is_first()
    if first:
        print(
            f"trained {run['steps']} steps in {run['seconds']:.0f} s, and {run['compile_seconds']:.0f} s of compiling   "
            f"next: omnimouse-jax evaluate {workdir}"
        )


def anneal(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.configuration import apply, override
    from omnimouse_jax.evaluate.evaluator import evaluate_run, table
    from omnimouse_jax.training.branch import anneal, branch_folder

    def change(config: Any) -> None:
        if arguments.store:
            override(config, "data.store", arguments.store)
        for flag in arguments.overrides:
            apply(config, flag)

    run = Path(arguments.run)
    for number, step in enumerate(arguments.step, 1):
        folder = branch_folder(run, step, arguments.steps, arguments.workdir)
        told = f"branch {number} of {len(arguments.step)}: {folder}, from step {step} to {step + arguments.steps}"
        longer = " (longer than the run before it: --steps says how long)" if arguments.steps > step else ""
        print(told + longer, file=sys.stderr, flush=True)
        done = anneal(run, step, arguments.steps, folder, change)
        print(f"{folder}: annealed from step {step} to {done['steps']}")
        print(table(evaluate_run(folder)["rows"]))
