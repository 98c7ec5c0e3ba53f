"""`omnimouse-jax probe sensitivity`: how far small changes of the screen move predicted responses."""

from __future__ import annotations

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    made = subparsers.add_parser(
        "sensitivity",
        help="how far small changes of the screen move predicted responses",
        description=f"{ABOUT}\n{DETAILS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, of the same recordings; other seeds side by side"
    )
    made.add_argument("--out", required=True, metavar="DIR", help="folder of sensitivity.json, index.html and parts/")
    made.add_argument("--store", default="", help="recordings (default: the runs')")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")
    made.add_argument("--session", default="", metavar="KEY", help="default: the first that the runs know")
    made.add_argument("--regime", default="stimulus", help="one that shows frames (docs/regimes.md); default: stimulus")
    made.add_argument("--stimuli", type=int, default=16, help="windows that are attacked (default: 16)")
    made.add_argument("--neurons", type=int, default=32, help="neurons measured one by one (default: 32)")
    made.add_argument("--norm", choices=("l2", "linf", "both"), default="l2", help="default: l2")
    made.add_argument("--budgets", default="", metavar="LEVELS", help="grey levels of 255 (default: .25,.5,1,2,4,8)")
    made.add_argument("--clip", action="store_true", help="one budget for the clip (default: one for each frame)")
    made.add_argument(
        "--samples", choices=("mean", "each"), default="mean", help="response: window mean, or each sample"
    )
    made.add_argument("--before-output", action="store_true", help="attack the values before the model's softplus")
    made.add_argument("--steps", type=int, default=40, help="of projected gradient ascent (default: 40)")
    made.add_argument(
        "--floor", type=float, default=1e-3, help="leave out neurons whose model SD is below (default: 0.001)"
    )
    made.add_argument("--no-untrained", action="store_true", help="without the untrained control")
    made.add_argument("--seed", type=int, default=0, help="of windows, neurons, attacks and resamples (default: 0)")
    made.add_argument("--rows", type=int, default=32, help="windows on the device at a time (default: 32)")
    made.add_argument("--smoke", action="store_true", help="everything once, small: 4 stimuli, 3 budgets, 6 steps")
    made.set_defaults(look=sensitivity)


ABOUT = "Attack the screen within small budgets and see how far predicted responses move: a profile, not a score."
DETAILS = """
Gains without attack, projected gradient and full-step attacks against equal-norm random directions, curves with intervals, transfer
between the runs, an untrained control, low-pass controls and a causality profile. A probe that was stopped goes on
with what was finished: each model and norm is kept.

  omnimouse-jax probe sensitivity runs/a-seed0 runs/a-seed1 --session m001-1 --out probes/a
  omnimouse-jax probe sensitivity runs/a --norm both --smoke --out probes/smoke          (docs/sensitivity.md)
"""


def sensitivity(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.errors import UserError
    from omnimouse_jax.evaluate.opened import open_run
    from omnimouse_jax.files import require_folder
    from omnimouse_jax.probe.sensitivity.options import Options
    from omnimouse_jax.probe.sensitivity.page import table, write_page
    from omnimouse_jax.probe.sensitivity.study import probe

    a = arguments
    options = Options(
        session=a.session,
        regime=a.regime,
        stimuli=a.stimuli,
        neurons=a.neurons,
        norms=("l2", "linf") if a.norm == "both" else (a.norm,),
        framewise=not a.clip,
        steps=a.steps,
        readout=a.samples,
        before_output=a.before_output,
        floor=a.floor,
        untrained=not a.no_untrained,
        seed=a.seed,
        rows=a.rows,
    )
    if a.smoke:
        options = options.smoke()
    if a.budgets:
        import dataclasses

        try:
            levels = tuple(float(level) for level in a.budgets.split(","))
        except ValueError:
            raise UserError(f"--budgets {a.budgets} are not numbers", way_out="use such as 0.5,1,2") from None
        options = dataclasses.replace(options, budgets=levels)
    out = require_folder(a.out)
    result = probe([open_run(run, a.checkpoint, a.store) for run in a.runs], options, out)
    page = write_page(result, out)
    print(table(result))
    print(f"\n{out / 'sensitivity.json'}\n{page}")
