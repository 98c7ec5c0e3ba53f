"""The verb that writes predictions to a file: predict."""

from __future__ import annotations

import argparse

from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(predict, "Write a model's predictions of whole sessions to a zarr file, under any regime.", DETAILS)
    made.add_argument("--from", dest="run", required=True, metavar="RUN", help="run folder")
    made.add_argument("--store", default="", help="recordings (default: the run's)")
    made.add_argument("--session", action="append", required=True, metavar="KEY", help="session; may be repeated")
    made.add_argument("--regime", required=True, help="name or expression (docs/regimes.md)")
    made.add_argument("--out", required=True, metavar="FILE.zarr", help="a new folder, or a gs:// or s3:// address")
    made.add_argument(
        "--tier", action="append", default=[], help="tier (default: the whole recording); may be repeated"
    )
    made.add_argument("--stride", type=float, metavar="SECONDS", help="between windows (default: as evaluate has it)")
    made.add_argument("--recorded", action="store_true", help="also write what was recorded, sample by sample")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")
    made.add_argument("--overwrite", action="store_true", help="replace predictions that are there")


DETAILS = """
One group per session, in the recording's own units and times: time, responses (time, neuron), neuron_id, and behavior where the
regime asks for it. NaN where no window was asked for a sample. Nothing is under the final name before it is whole.

  omnimouse-jax predict --from runs/first --session m001-1 --regime stimulus --out m001.zarr --recorded
  omnimouse-jax predict --from runs/first --session m001-1 --regime "responses + video -> behavior" --tier test --out b.zarr

In Python, without a file: omnimouse_jax.open_run("runs/first").predict("m001-1", "stimulus")  (docs/new_mouse.md)
"""


def predict(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.opened import open_run
    from omnimouse_jax.evaluate.prediction_file import write

    a = arguments
    run = open_run(a.run, a.checkpoint, a.store)
    for line in write(run, a.session, a.regime, a.out, a.tier, a.stride, a.recorded, a.overwrite):
        print(line)
    print(f"checkpoint {run.step}; written to {a.out}   (xarray.open_zarr({a.out!r}, group={a.session[0]!r}))")
