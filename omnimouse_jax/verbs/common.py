"""What verbs share: how one is added to the parser, and the --config argument."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int | None]


#: Adds a verb named after the function that runs it, (run, about, details) -> its parser.
AddVerb = Callable[..., argparse.ArgumentParser]

CONFIG_HELP = """
Any field of the config can be set on the command line:  --config.train.steps=500 --config.optimizer.shared.learning_rate=1e-3
A field that does not exist, or a value of the wrong type, is an error that names the nearest valid one.
"""


def config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="Python file with get_config(), e.g. configs/tiny.py")


def load_config(arguments: argparse.Namespace) -> Any:
    """The ConfigDict of `--config` with `--store` and every `--config.field=value` applied."""
    from omnimouse_jax.configuration import load, override

    config = load(arguments.config, arguments.overrides)
    if arguments.store:
        override(config, "data.store", arguments.store)
    return config
