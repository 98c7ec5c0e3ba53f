"""`baselines`: what simpler predictors reach on the windows that a run is scored on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import AddVerb

ABOUT = "Fit baselines to the training tiers and score them as `evaluate` scores a model."
BASELINES = """
Same windows, samples, neurons, tiers and estimators as `evaluate`. Each baseline is fitted under the task's own regime and sees
what the regime shows. Where it is not defined it says why, and has no row. docs/baselines.md says what each of them is; --list does
so in a line each.

  omnimouse-jax baselines --like runs/first --out runs/first-baselines
  omnimouse-jax baselines --like runs/first --baseline ridge --baseline ln --task seen="video + behavior -> responses" --out out
  omnimouse-jax baselines --config configs/tiny.py --store stores/tiny --out baselines
"""


def add(verb: AddVerb) -> None:
    made = verb(baselines, ABOUT, BASELINES)
    made.add_argument("--like", default="", metavar="RUN", help="a trained run: its config, sessions and store")
    made.add_argument("--config", default="", help="in place of a run: Python file with get_config()")
    made.add_argument("--store", default="", help="recordings (with --like: if they have moved)")
    made.add_argument("--out", type=Path, help="folder to write: one folder per baseline, and all rows together")
    made.add_argument("--baseline", action="append", default=[], metavar="NAME", help="this one (default: all)")
    made.add_argument(
        "--task", action="append", default=[], metavar="NAME=REGIME", help="score this instead of the config's tasks"
    )
    made.add_argument("--tier", action="append", default=[], help="tier to score (default: the config's)")
    made.add_argument("--session", action="append", default=[], help="session to score (default: the config's)")
    made.add_argument("--seed", type=int, default=0, help="of fits that begin at random (default: %(default)s)")
    made.add_argument("--list", action="store_true", help="say what each baseline is, and end")


def baselines(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.baselines.registry import get
    from omnimouse_jax.evaluate.baselines.score import score_baselines
    from omnimouse_jax.evaluate.baselines.table import table

    if arguments.list:
        for name, baseline in get(arguments.baseline).items():
            print(f"{name:<18} {baseline.about}")
        return
    get(arguments.baseline)
    if arguments.out is None:
        raise UserError("baselines: nowhere to write to", way_out="pass --out FOLDER")
    parts, params, about = _parts(arguments)
    config = parts.config
    sessions = tuple(arguments.session) or tuple(config.evaluation.sessions)
    if not sessions:
        known = tuple(entry.key for entry in parts.vocabulary.sessions)
        sessions = parts.windows(known, config.evaluation.tiers, config.evaluation.stride_s).sessions
    tasks = dict(config.evaluation.tasks)
    if arguments.task:
        tasks = dict(_task(text) for text in arguments.task)
    found = score_baselines(parts, tasks, sessions, arguments.baseline, arguments.seed, params)
    found.save(arguments.out, {**about, "tiers": list(config.evaluation.tiers), "seed": arguments.seed})
    print(table(found.rows))
    print(f"written to {arguments.out}")


def _task(text: str) -> tuple[str, str]:
    name, equals, regime = text.partition("=")
    if not equals:
        raise UserError(f"baselines: --task {text!r} has no regime", way_out='write --task NAME="EXPRESSION"')
    return name, regime


def _parts(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Parts, parameters of the run if there is one, and what to write down about it."""
    from omnimouse_jax.configuration import apply
    from omnimouse_jax.evaluate.opened import Run
    from omnimouse_jax.training.setup import prepare
    from omnimouse_jax.verbs.common import load_config

    if bool(arguments.like) == bool(arguments.config):
        raise UserError(
            "baselines: a run or a config, one of them", way_out="pass --like RUN, or --config FILE --store STORE"
        )
    if arguments.config:
        config = load_config(arguments)
        run, vocabulary, about = None, None, {"config": arguments.config}
        config.mesh.update(data=1, fsdp=1, tensor=1)
    else:
        run = Run(arguments.like)
        config, vocabulary = run.config, run.vocabulary
        about = {"like": arguments.like, "checkpoint_step": run.step}
        for flag in arguments.overrides:
            apply(config, flag)
        if arguments.store:
            config.data.store = arguments.store
        config.mesh.update(data=run.mesh.shape["data"], fsdp=1, tensor=1)
    if arguments.tier:
        config.evaluation.tiers = tuple(arguments.tier)
    parts = prepare(config, vocabulary)
    return parts, None if run is None else run.params, about
