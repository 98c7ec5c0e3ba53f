"""Verbs of one run: train, evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config


def add(verb: AddVerb) -> None:
    made = verb(train, "Train one model; the same command goes on where it stopped.", CONFIG_HELP)
    config_argument(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--workdir", required=True, help="run folder: checkpoints, metrics.jsonl, config")

    made = verb(evaluate, "Score a trained model on held-out tiers, task by task and session by session.", EVALUATE)
    made.add_argument("run", help="run folder")
    made.add_argument(
        "--task", action="append", default=[], metavar="NAME=REGIME", help="score this instead of the config's tasks"
    )
    made.add_argument("--tier", action="append", default=[], help="tier to score (default: the config's)")
    made.add_argument("--session", action="append", default=[], help="session to score (default: the config's)")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the config's)")
    made.add_argument("--store", default="", help="recordings, if they have moved")
    made.add_argument("--out", type=Path, help="file to write (default: RUN/evaluation.json)")


EVALUATE = """
Every window of the tier is visited once. Scores are Pearson correlations per neuron (or behaviour channel), pooled over all
windows of a session, with 95 % bootstrap intervals.

  omnimouse-jax evaluate runs/first
  omnimouse-jax evaluate runs/first --task half="responses[:0.5] + video + behavior -> responses[-0.5:]"
"""


def train(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.training.train import train

    config, workdir = load_config(arguments), Path(arguments.workdir)
    run = train(config, workdir)
    print(
        f"trained {run['steps']} steps in {run['seconds']:.0f} s ({run['programs_compiled']} programs compiled in "
        f"{run['compile_seconds']:.0f} s)   next: omnimouse-jax evaluate {workdir}"
    )


def evaluate(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.evaluator import evaluate_run, table

    tasks = {}
    for task in arguments.task:
        name, equals, regime = task.partition("=")
        if not equals:
            raise UserError(f"evaluate: --task {task!r} has no regime", way_out='write --task NAME="EXPRESSION"')
        tasks[name] = regime
    result = evaluate_run(
        arguments.run, tasks, arguments.tier, arguments.session, arguments.checkpoint, arguments.store, arguments.out
    )
    print(table(result["rows"]))
    print(f"checkpoint {result['checkpoint_step']}; written to {result['file']}")
