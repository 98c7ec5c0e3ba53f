"""Verbs that tell what a model does and is: regimes, describe."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config

if TYPE_CHECKING:
    from omnimouse_jax.tokens.regimes import Regime


def add(verb: AddVerb) -> None:
    made = verb(regimes, "List regimes: what each shows of a window and what it asks.", REGIMES)
    made.add_argument("regime", nargs="*", help="names, suites (tasks, test, training) or expressions (default: tasks)")
    made.add_argument("--training", action="store_true", help="list the 120 training regimes")
    made.add_argument("--neurons", type=int, default=4096, help="neurons in play (default: 4096)")
    made.add_argument(
        "--programs", action="store_true", help="list the programs they are compiled to (default: training)"
    )
    made.add_argument("--size", default="1M", help="model size that --programs counts FLOPs of (default: 1M)")
    made.add_argument("--json", action="store_true")

    made = verb(describe, "Print a model's parameter counts: tower, core, tables.", CONFIG_HELP)
    config_argument(made)
    made.add_argument("--store", help="count tables for the sessions of this store")
    made.add_argument("--json", action="store_true")


REGIMES = """
A regime is a name, or an expression: what is shown -> what is asked.

  omnimouse-jax regimes --training
  omnimouse-jax regimes "responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]"
  omnimouse-jax regimes --programs --size 20M
"""


def regimes(arguments: argparse.Namespace) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from omnimouse_jax.tokens import regimes
    from omnimouse_jax.tokens.grid import Grid
    from omnimouse_jax.tokens.picture import describe, picture

    everything = arguments.training or arguments.programs
    chosen = regimes.select(arguments.regime or ["training" if everything else "tasks"])
    if arguments.programs:
        return _programs(arguments, chosen)
    rows = describe(chosen, Grid(), arguments.neurons)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    if len(chosen) == 1:
        print(picture(chosen[0], Grid(), arguments.neurons))
        return
    table = Table("name", "shows -> asks", "tokens", "queries", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["name"], row["expression"], str(row["tower_tokens"]), str(row["queries"]))
    Console(width=180 if not sys.stdout.isatty() else None).print(table)


def _programs(arguments: argparse.Namespace, chosen: Sequence[Regime]) -> None:
    """Tables of the programs that a training run on these regimes would compile."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from omnimouse_jax.model.programs import describe, plan_of
    from omnimouse_jax.training.defaults import base, model_config

    config = base(arguments.size)
    model = model_config(config.model)
    told = describe(model, plan_of(model, chosen, arguments.neurons, config.train.programs))
    if arguments.json:
        print(json.dumps(told, indent=1))
        return
    names = (
        "regimes",
        "latents",
        "video",
        "behavior",
        "context: neurons x steps",
        "encoder tokens",
        "queries",
        "GFLOPs",
    )
    table = Table(*names, "padding", box=box.SIMPLE_HEAD)
    for row in told["programs"]:
        table.add_row(
            str(len(row["regimes"])),
            *(_run(row[which]) for which in ("latent_windows", "video_steps")),
            row["behavior"],
            " + ".join(f"{neurons} x {steps}" for neurons, steps in row["context"]) or "none",
            *(f"{row[which]:,}" for which in ("encoder_tokens", "queries")),
            f"{row['forward_flops'] / 1e9:,.1f}",
            f"{100 * row['padding']:.1f} %",
        )
    Console(width=180 if not sys.stdout.isatty() else None).print(table)
    print(
        f"{told['n_regimes']} regimes, {told['n_layouts']} layouts of {told['n_shapes']} shapes -> {told['n_programs']} programs\n"
        f"forward pass of a window, mean over regimes, {arguments.size}: {told['forward_flops'] / 1e9:,.1f} GFLOPs, exact shapes "
        f"{told['forward_flops_exact'] / 1e9:,.1f}: {100 * told['padding']:.1f} % more"
    )


def _run(numbers: Sequence[int]) -> str:
    """First and last of consecutive numbers."""
    return "-".join(str(n) for n in dict.fromkeys([numbers[0], numbers[-1]])) if numbers else "none"


def describe(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.model.counts import describe, render
    from omnimouse_jax.training.defaults import model_config

    config = load_config(arguments)
    rows = (0, 0, 0)
    if arguments.store:
        from omnimouse_jax.recordings.store import Store
        from omnimouse_jax.tokens.vocabulary import Vocabulary

        store = Store.open(arguments.store)
        vocabulary = Vocabulary.of({key: store.summary(key) for key in store.chosen(config.data.sessions)})
        rows = (vocabulary.n_neurons, len(vocabulary.sessions), len(vocabulary.animals))
    told = describe(model_config(config.model), *rows)
    print(json.dumps(told, indent=1) if arguments.json else render(told))
