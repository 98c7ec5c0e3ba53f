"""The command line: `omnimouse-jax VERB`. Each verb imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError

DESCRIPTION = """\
Scaling studies of multi-session models of mouse visual cortex.

From recordings to a scaling page:
  omnimouse-jax synthesize STORE --preset demo       make a colony of synthetic mice (or `ingest` your own)
  omnimouse-jax inspect STORE                        see what is in it
  omnimouse-jax sweep --config configs/demo.py --store STORE --workdir STUDY
  omnimouse-jax report STUDY                         write the page

One model:
  omnimouse-jax train --config configs/tiny.py --store STORE --workdir RUN
  omnimouse-jax evaluate RUN

`omnimouse-jax VERB --help` explains a verb and shows examples.
"""

CONFIG_HELP = """
Any field of the config can be set on the command line:  --config.train.steps=500 --config.optimizer.shared.learning_rate=1e-3
A field that does not exist, or a value of the wrong type, is an error that names the nearest valid one.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0 done, 2 bad input, 130 or 75 stopped and saved."""
    parser, verbs = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.verb is None:
        parser.print_help()
        return 0
    overrides = [flag for flag in rest if flag.startswith("--config.")]
    unknown = [flag for flag in rest if not flag.startswith("--config.")]
    takes_config = "config" in vars(arguments)
    try:
        if unknown or (overrides and not takes_config):
            raise UserError(
                f"{arguments.verb}: unknown argument {(unknown or overrides)[0]}",
                way_out=f"`omnimouse-jax {arguments.verb} --help` lists what it takes",
            )
        arguments.overrides = overrides
        return verbs[arguments.verb](arguments) or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if hasattr(error, "status"):  # Interrupted: saved and ready to go on
            print(str(error), file=sys.stderr)
            return int(error.status)
        raise


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Callable[[argparse.Namespace], int | None]]]:
    parser = argparse.ArgumentParser(
        "omnimouse-jax", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"omnimouse-jax {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB")
    verbs: dict[str, Callable[[argparse.Namespace], int | None]] = {}

    def verb(run: Callable[[argparse.Namespace], int | None], about: str, details: str = "") -> argparse.ArgumentParser:
        name = run.__name__.lstrip("_").replace("_", "-")
        verbs[name] = run
        return subparsers.add_parser(
            name, help=about, description=f"{about}\n{details}", formatter_class=argparse.RawDescriptionHelpFormatter
        )

    made = verb(_synthesize, "Make synthetic mice from a known law, ceilings included.", SYNTHESIZE)
    made.add_argument("store", help="folder or URL of the store to write (sessions that are there already are skipped)")
    made.add_argument("--preset", default="demo", help="tiny, demo, colony, field or mixed (default: demo)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the preset")
    made.add_argument("--workers", type=int, default=1, help="sessions made at the same time (default: 1)")

    made = verb(_ingest, "Read recordings of some format into a store.", INGEST)
    made.add_argument("format", choices=("arrays", "experanto"), help="what SOURCE holds")
    made.add_argument("source", help="folder of one session, or of several")
    made.add_argument("--store", required=True, help="folder or URL of the store to write or append to")
    made.add_argument(
        "--nan-responses",
        choices=("error", "mask"),
        default="error",
        help="NaN in responses: refuse, or treat as not recorded",
    )
    made.add_argument("--overwrite", action="store_true", help="replace sessions of the same key")

    made = verb(_inspect, "Show what a store holds: animals, sessions, neurons, rates, hours, tiers, missing data.")
    made.add_argument("store")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")

    made = verb(_regimes, "List regimes: what each shows of a window and what it asks.", REGIMES)
    made.add_argument("regime", nargs="*", help="names, suites (tasks, test, training) or expressions (default: tasks)")
    made.add_argument("--training", action="store_true", help="list the 120 training regimes")
    made.add_argument("--neurons", type=int, default=4096, help="neurons in play (default: 4096)")

    made = verb(_describe, "Print a model's parameter counts: tower, core, tables.", CONFIG_HELP)
    _config(made)
    made.add_argument("--store", help="count tables for the sessions of this store")
    made.add_argument("--json", action="store_true")

    made = verb(_train, "Train one model; the same command goes on where it stopped.", CONFIG_HELP)
    _config(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--workdir", required=True, help="run folder: checkpoints, metrics.jsonl, config")

    made = verb(_evaluate, "Score a trained model on held-out tiers, task by task and session by session.", EVALUATE)
    made.add_argument("run", help="run folder")
    made.add_argument(
        "--task", action="append", default=[], metavar="NAME=REGIME", help="score this instead of the config's tasks"
    )
    made.add_argument("--tier", action="append", default=[], help="tier to score (default: the config's)")
    made.add_argument("--session", action="append", default=[], help="session to score (default: the config's)")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the config's)")
    made.add_argument("--store", default="", help="recordings, if they have moved")
    made.add_argument("--out", type=Path, help="file to write (default: RUN/evaluation.json)")

    made = verb(
        _sweep,
        "Train and evaluate a grid of sizes x session subsets x seeds, one cell after another.",
        SWEEP + CONFIG_HELP,
    )
    _config(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--workdir", required=True, help="study folder: plan, runs, ledger")
    made.add_argument("--dry-run", action="store_true", help="list the cells and stop")

    made = verb(_report, "Fit scaling curves to a study's ledger and write the page.", REPORT)
    made.add_argument("study", help="study folder, or a ledger .csv")
    made.add_argument("--out", type=Path, help="folder of the page (default: STUDY/report)")
    made.add_argument("--title", help="title of the page")
    return parser, verbs


SYNTHESIZE = """
Neurons of all mice come from one law (oriented, direction-selective receptive fields, contrast normalisation, gain by running
and pupil, shared fluctuations, private noise, calcium), so more mice really teach more. The noise is known, so every ceiling has
a true value: it is stored with each session.

  omnimouse-jax synthesize stores/demo
  omnimouse-jax synthesize stores/many --preset colony --set n_animals=40 --workers 2
"""
INGEST = """
arrays:     one folder per session with recording.json and .npy/.npz files: what a lab without a pipeline has (docs/data.md)
experanto:  folders with meta.yml and responses/, screen/, eye_tracker/, treadmill/

  omnimouse-jax ingest arrays my_recordings/ --store stores/lab
"""
REGIMES = """
A regime is a name, or an expression: what is shown -> what is asked.

  omnimouse-jax regimes --training
  omnimouse-jax regimes "responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]"
"""
EVALUATE = """
Every window of the tier is visited once. Scores are Pearson correlations per neuron (or behaviour channel), pooled over all
windows of a session, with 95 % bootstrap intervals.

  omnimouse-jax evaluate runs/first
  omnimouse-jax evaluate runs/first --task half="responses[:0.5] + video + behavior -> responses[-0.5:]"
"""
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


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="Python file with get_config(), e.g. configs/tiny.py")


def _load_config(arguments: argparse.Namespace):
    from omnimouse_jax.configuration import load, override

    config = load(arguments.config, arguments.overrides)
    if arguments.store:
        override(config, "data.store", arguments.store)
    return config


def _synthesize(arguments: argparse.Namespace) -> None:
    import ast

    from omnimouse_jax.recordings.synthetic import synthesize

    changes = {}
    for change in arguments.set:
        field, _, text = change.partition("=")
        try:
            changes[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changes[field] = text
    synthesize(arguments.store, arguments.preset, changes, workers=arguments.workers)
    print(f"store: {arguments.store}   next: omnimouse-jax inspect {arguments.store}")


def _ingest(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings.ingest import ingest

    ingest(
        arguments.format,
        arguments.source,
        arguments.store,
        nan_responses=arguments.nan_responses,
        overwrite=arguments.overwrite,
    )
    print(f"store: {arguments.store}   next: omnimouse-jax inspect {arguments.store}")


def _inspect(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings import inspect

    print(
        inspect.as_json(arguments.store)
        if arguments.json
        else inspect.render(arguments.store, width=None if sys.stdout.isatty() else 160)
    )


def _regimes(arguments: argparse.Namespace) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from omnimouse_jax.tokens import regimes
    from omnimouse_jax.tokens.grid import Grid
    from omnimouse_jax.tokens.picture import describe, picture

    chosen = regimes.select(arguments.regime or ["training" if arguments.training else "tasks"])
    if len(chosen) == 1:
        print(picture(chosen[0], Grid(), arguments.neurons))
        return
    table = Table("name", "shows -> asks", "tokens", "queries", box=box.SIMPLE_HEAD)
    for row in describe(chosen, Grid(), arguments.neurons):
        table.add_row(row["name"], row["expression"], str(row["tower_tokens"]), str(row["queries"]))
    Console(width=180 if not sys.stdout.isatty() else None).print(table)


def _describe(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.model.counts import describe, render
    from omnimouse_jax.training.defaults import model_config

    config = _load_config(arguments)
    rows = (0, 0, 0)
    if arguments.store:
        from omnimouse_jax.recordings.store import Store
        from omnimouse_jax.tokens.vocabulary import Vocabulary

        store = Store.open(arguments.store)
        vocabulary = Vocabulary.of({key: store.summary(key) for key in store.chosen(config.data.sessions)})
        rows = (vocabulary.n_neurons, len(vocabulary.sessions), len(vocabulary.animals))
    told = describe(model_config(config.model), *rows)
    print(json.dumps(told, indent=1) if arguments.json else render(told))


def _train(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.training.train import train

    config, workdir = _load_config(arguments), Path(arguments.workdir)
    run = train(config, workdir)
    print(
        f"trained {run['steps']} steps in {run['seconds']:.0f} s ({run['programs_compiled']} programs compiled in "
        f"{run['compile_seconds']:.0f} s)   next: omnimouse-jax evaluate {workdir}"
    )


def _evaluate(arguments: argparse.Namespace) -> None:
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


def _sweep(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.training.track import duration

    start = time.monotonic()
    config, study = _load_config(arguments), Path(arguments.workdir)
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


def _report(arguments: argparse.Namespace) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
