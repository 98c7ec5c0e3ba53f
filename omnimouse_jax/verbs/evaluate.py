"""Verbs that score: evaluate a run, compare two evaluations."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import AddVerb

#: Names of `evaluate.breakdown.BY` and of `evaluate.paired.OVER`, which the help shows without importing them.
BY = "session, animal, area, neuron, time"
OVER = ("neurons", "trials", "sessions", "animals")


def add(verb: AddVerb) -> None:
    made = verb(evaluate, "Score a trained model on held-out tiers: tables, a page, files.", EVALUATE)
    made.add_argument("run", help="run folder")
    made.add_argument(
        "--regimes",
        nargs="+",
        default=[],
        metavar="REGIME",
        help="score these instead of the config's tasks (names, expressions)",
    )
    made.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME=REGIME",
        help="the same, with a name of your own; may be repeated",
    )
    made.add_argument("--by", default="", metavar="NAMES", help=f"tables by some of: {BY} (with commas)")
    made.add_argument(
        "--format", default="csv", choices=("csv", "parquet"), help="of these tables (default: %(default)s)"
    )
    made.add_argument("--tier", action="append", default=[], help="tier to score (default: the config's)")
    made.add_argument("--session", action="append", default=[], help="session to score (default: the config's)")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the config's)")
    made.add_argument("--store", default="", help="recordings, if they have moved")
    made.add_argument(
        "--out", type=Path, help="file of scores to write (default: RUN/evaluation.json); tables and page lie beside it"
    )
    made.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="PATH",
        help="on the page, compared pair by pair: another run, or what `baselines` wrote",
    )
    made.add_argument("--no-page", action="store_true", help="scores and tables only")

    made = verb(
        compare, "Compare two evaluations on the same neurons and trials: is one better, and how sure is that?", COMPARE
    )
    made.add_argument(
        "a", type=Path, help="run folder, a baseline's (OUT/ridge of `baselines`), or a file like evaluation.json"
    )
    made.add_argument("b", type=Path, help="the same of what it is compared with: differences are B less A")
    made.add_argument("--task", action="append", default=[], help="task (default: all that both have)")
    made.add_argument(
        "--over", action="append", default=[], choices=OVER, help="what is drawn again (default: all four)"
    )
    made.add_argument(
        "--metric", default="raw", help="column of the neurons, e.g. average_correlation (default: raw, the pooled one)"
    )
    made.add_argument("--resamples", type=int, default=2000, help="default: %(default)s")
    made.add_argument("--seed", type=int, default=0, help="of the resamples (default: %(default)s)")


EVALUATE = """
Every window of the tier is visited once. Scores are Pearson correlations per neuron (or behaviour channel), pooled over all
windows of a session; further metrics (correlation to average, FEVE, explained variance, Poisson deviance, R2) stand beside their
ceilings where stimuli were repeated. All have 95 % bootstrap intervals. docs/scores.md says what each is.

RUN/evaluation.json has the scores, RUN/evaluation-neurons.npz every neuron, RUN/evaluation.html shows them: distributions, traces,
maps over cortex, score by time ahead. Scores that differ from what the run's config asks for go to evaluation-asked instead.

  omnimouse-jax evaluate runs/first
  omnimouse-jax evaluate runs/first --by session,animal,area,neuron,time --format parquet
  omnimouse-jax evaluate runs/first --beside runs/first-baselines --beside runs/larger
  omnimouse-jax evaluate runs/first --regimes stimulus "video + behavior -> responses"
  omnimouse-jax evaluate runs/first --task half="responses[:0.5] + video + behavior -> responses[-0.5:]"
"""
COMPARE = """
Both must have been scored on the same sessions, tiers and tasks. Resamples are drawn alike for both, so what makes a trial or a
neuron easy for both cancels. Exit status 0, whatever comes out.

  omnimouse-jax compare runs/small runs/large
  omnimouse-jax compare runs/large-baselines/ridge runs/large --over sessions
"""


def evaluate(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.beside import load
    from omnimouse_jax.evaluate.breakdown import asked_for, require_parquet
    from omnimouse_jax.evaluate.evaluation import Evaluation
    from omnimouse_jax.evaluate.evaluator import NEURONS_SUFFIX, evaluate_run, table

    tasks = {regime: regime for regime in arguments.regimes}
    for task in arguments.task:
        name, equals, regime = task.partition("=")
        if not equals:
            raise UserError(f"evaluate: --task {task!r} has no regime", way_out='write --task NAME="EXPRESSION"')
        tasks[name] = regime
    if arguments.format == "parquet" and arguments.by:
        require_parquet()
    by, others = asked_for(arguments.by), load(arguments.beside)
    result = evaluate_run(
        arguments.run, tasks, arguments.tier, arguments.session, arguments.checkpoint, arguments.store, arguments.out
    )
    print(table(result["rows"]))
    file = Path(result["file"])
    print(f"checkpoint {result['checkpoint_step']}; scores: {file}")
    if not by and arguments.no_page:
        return
    neurons = file.with_name(file.stem + NEURONS_SUFFIX)
    found = Evaluation.load(neurons, result)
    _tables(file, found, by, arguments.format)
    if not arguments.no_page:
        page = _page(arguments, file, neurons, result, found, tasks, others)
        print(f"page: {page}")


def _tables(file: Path, found: Any, by: tuple[str, ...], suffix: str) -> None:
    from omnimouse_jax.evaluate import breakdown

    for name in by:
        made = breakdown.BY[name](found, 1000, 0)
        print(f"\nby {name}\n{breakdown.told(name, made)}")
        print(f"table: {breakdown.write_table(made, file.with_name(f'{file.stem}-by-{name}.{suffix}'))}")


def _page(
    arguments: argparse.Namespace,
    file: Path,
    neurons: Path,
    result: Mapping[str, Any],
    found: Any,
    tasks: Mapping[str, str],
    others: Mapping[str, Any],
) -> Path:
    from omnimouse_jax import __version__
    from omnimouse_jax.evaluate.evaluation_page import write_page
    from omnimouse_jax.evaluate.evaluation_traces import traces
    from omnimouse_jax.evaluate.opened import Run

    run = Run(arguments.run, result["checkpoint_step"], arguments.store)
    tiers = ", ".join(result["tiers"])
    sessions = len({row["session"] for row in result["rows"]})
    asked = dict(tasks or run.config.evaluation.tasks)
    facts = {
        "title": f"Scores of {Path(arguments.run).name}",
        "lede": f"Step {result['checkpoint_step']}, scored on tier {tiers} of {sessions} session{'s' * (sessions != 1)}.",
        "command": shlex.join(["omnimouse-jax", *sys.argv[1:]])
        if sys.argv[1:2] == ["evaluate"]
        else f"omnimouse-jax evaluate {arguments.run}",
        "facts": {
            "omnimouse_jax": __version__,
            "run": arguments.run,
            "checkpoint": result["checkpoint_step"],
            "recordings": run.store.name,
            "tiers": tiers,
            "seed of the bootstraps": run.config.seed,
            "resamples": run.config.evaluation.bootstrap,
            "every neuron": neurons,
        },
    }
    shown = traces(run, found, asked, result["tiers"])
    return write_page(found, facts, shown, file.with_suffix(".html"), others)


def compare(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.beside import FEW, load
    from omnimouse_jax.evaluate.paired import paired

    loaded: list[Any] = []
    for path in (arguments.a, arguments.b):
        there = load([path])
        if len(there) > 1:
            raise UserError(
                f"compare: {path} has {len(there)} evaluations: {', '.join(there)}",
                way_out=f"name one, such as {path / next(iter(there))}",
            )
        loaded += there.values()
    a, b = loaded
    of = [{*found.neurons.get("task", ()), *found.behavior.get("task", ())} for found in (a, b)]
    tasks = arguments.task or [
        task for task in dict.fromkeys([*b.neurons.get("task", ()), *b.behavior.get("task", ())]) if task in of[0]
    ]
    if not tasks:
        raise UserError(
            f"compare: no task is in both: {', '.join(sorted(of[0]))} and {', '.join(sorted(of[1]))}",
            way_out="evaluate both on the same tasks",
        )
    print(
        f"B less A: A is {arguments.a}, B is {arguments.b}; mean over sessions of the mean over neurons (or channels)"
    )
    for task in tasks:
        for over in arguments.over or (OVER if arguments.metric == "raw" else tuple(o for o in OVER if o != "trials")):
            try:
                found = paired(a, b, task, over, arguments.metric, arguments.resamples, arguments.seed)
            except UserError as error:
                if arguments.task:
                    raise
                print(f"  {task}: not compared ({error.what})")
                break
            units = "channels" if over == "neurons" and task not in a.neurons.get("task", ()) else over
            if found.low != found.low:
                print(
                    f"  {task}: {found.difference:+.4f}, no interval over {units}: there are {found.n_units}, it takes 3"
                )
                continue
            few = (
                ", few: the interval is too narrow" if units in ("sessions", "animals") and found.n_units < FEW else ""
            )
            interval = f"[{found.low:+.4f}, {found.high:+.4f}] 95% bootstrap over {units} ({found.n_units}{few})"
            sure = f"above 0 in {100 * found.share_above_0:.1f}% of resamples"
            print(f"  {task}: {found.difference:+.4f} {interval}, {sure}")
