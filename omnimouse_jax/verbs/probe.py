"""The verb that looks into trained models beyond their scores: probe."""

from __future__ import annotations

import argparse

from omnimouse_jax.verbs import probe_physiology, probe_sensitivity, probe_similarity
from omnimouse_jax.verbs.common import AddVerb

#: Each has `add(subparsers)`, which names its own `run(arguments)` as `look`.
PROBES = (probe_sensitivity, probe_similarity, probe_physiology)


def add(verb: AddVerb) -> None:
    made = verb(probe, "Look into trained models beyond what their scores say.", DETAILS)
    subparsers = made.add_subparsers(dest="probe", metavar="PROBE", required=True)
    for module in PROBES:
        module.add(subparsers)


DETAILS = """
Every probe takes run folders and a regime, writes OUT/<probe>.json (with its settings, seed and the checkpoints' hashes) and a
page, and has a --smoke configuration that takes less than a minute on two cores.

  omnimouse-jax probe sensitivity runs/a runs/b --out probes/sensitivity   how far small changes of the screen move predictions
  omnimouse-jax probe similarity runs/a runs/b --out probes/similarity     which moments are alike, to models and to the recording
  omnimouse-jax probe physiology runs/a --out probes/physiology            tuning, receptive fields, most exciting inputs
"""


def probe(arguments: argparse.Namespace) -> int | None:
    return arguments.look(arguments)
