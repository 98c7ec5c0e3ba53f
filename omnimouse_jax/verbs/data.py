"""Verbs that make, read and show recordings: synthesize, ingest, inspect."""

from __future__ import annotations

import argparse
import sys

from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(synthesize, "Make synthetic mice from a known law, ceilings included.", SYNTHESIZE)
    made.add_argument("store", help="folder or URL of the store to write (sessions that are there already are skipped)")
    made.add_argument("--preset", default="demo", help="tiny, demo, colony, field or mixed (default: demo)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the preset")
    made.add_argument("--workers", type=int, default=1, help="sessions made at the same time (default: 1)")

    made = verb(ingest, "Read recordings of some format into a store.", INGEST)
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

    made = verb(inspect, "Show what a store holds: animals, sessions, neurons, rates, hours, tiers, missing data.")
    made.add_argument("store")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")


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


def synthesize(arguments: argparse.Namespace) -> None:
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


def ingest(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings.ingest import ingest

    ingest(
        arguments.format,
        arguments.source,
        arguments.store,
        nan_responses=arguments.nan_responses,
        overwrite=arguments.overwrite,
    )
    print(f"store: {arguments.store}   next: omnimouse-jax inspect {arguments.store}")


def inspect(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings import inspect

    print(
        inspect.as_json(arguments.store)
        if arguments.json
        else inspect.render(arguments.store, width=None if sys.stdout.isatty() else 160)
    )
