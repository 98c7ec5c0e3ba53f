"""`omnimouse-jax probe physiology`: gratings, receptive fields, gain, spectra and most exciting inputs of a trained run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DETAILS = """
Shows a trained run what a physiologist would show a mouse: drifting gratings (direction, spatial and temporal frequency, contrast,
size), sparse noise, natural films with running and pupil held still at two levels; searches most exciting images and films; and
compares eigenspectra of recorded and predicted responses. On synthetic mice what is found is compared with what was planted, beside
the same experiments on the planted law itself (what the analysis can recover) and on the untrained run (what it finds where nothing
is). Writes OUT/physiology.json, OUT/physiology.npz and OUT/index.html; a stopped call goes on where it was.

  omnimouse-jax probe physiology runs/first --out probes/first
  omnimouse-jax probe physiology runs/first --session m002-1 --neurons 16 --out probes/m002
  omnimouse-jax probe physiology runs/first --smoke --out /tmp/look
"""


def add(subparsers: Any) -> None:
    made = subparsers.add_parser(
        "physiology",
        help="tuning, receptive fields, gain, spectra, most exciting inputs",
        description=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN", help="run folder")
    made.add_argument("--store", default="", help="recordings (default: the run's)")
    made.add_argument(
        "--session", default="", metavar="KEY", help="session (default: the first that the run is scored on)"
    )
    made.add_argument("--regime", default="", help="that shows frames and asks for responses (default: with behaviour)")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")
    made.add_argument(
        "--neurons", type=int, metavar="N", help="that most exciting inputs are searched for (default: 8)"
    )
    made.add_argument("--neuron", action="append", default=[], metavar="ID", help="name one instead; may be repeated")
    made.add_argument(
        "--degrees", type=float, help="width of the screen in visual degrees (default: the recording's, or 128)"
    )
    made.add_argument(
        "--contrast", type=float, help="RMS contrast of most exciting inputs (default: natural stimuli's)"
    )
    made.add_argument("--no-film", action="store_true", help="search images only")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--smoke", action="store_true", help="every experiment, tiny: under a minute on two cores")
    made.add_argument("--out", required=True, type=Path, help="folder for the files")
    made.set_defaults(look=run)


def run(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.probe.physiology.report import physiology, table

    a = arguments
    found, paths = physiology(
        a.run,
        a.out,
        store=a.store,
        session=a.session,
        regime=a.regime,
        checkpoint=a.checkpoint,
        neuron_ids=a.neuron,
        smoke=a.smoke,
        seed=a.seed,
        neurons=a.neurons,
        degrees=a.degrees,
        bound=a.contrast,
        film=False if a.no_film else None,
    )
    print(table(found))
    for path in paths:
        print(path)
