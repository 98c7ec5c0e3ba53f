"""Verbs that tell what a model does and is: regimes, describe."""

from __future__ import annotations

import argparse
import json
import sys

from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config


def add(verb: AddVerb) -> None:
    made = verb(regimes, "List regimes: what each shows of a window and what it asks.", REGIMES)
    made.add_argument("regime", nargs="*", help="names, suites (tasks, test, training) or expressions (default: tasks)")
    made.add_argument("--training", action="store_true", help="list the 120 training regimes")
    made.add_argument("--neurons", type=int, default=4096, help="neurons in play (default: 4096)")

    made = verb(describe, "Print a model's parameter counts: tower, core, tables.", CONFIG_HELP)
    config_argument(made)
    made.add_argument("--store", help="count tables for the sessions of this store")
    made.add_argument("--json", action="store_true")


REGIMES = """
A regime is a name, or an expression: what is shown -> what is asked.

  omnimouse-jax regimes --training
  omnimouse-jax regimes "responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]"
"""


def regimes(arguments: argparse.Namespace) -> None:
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
