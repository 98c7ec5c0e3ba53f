"""`omnimouse-jax probe similarity`: RSA, CKA, Procrustes and alignment patterns of trained runs."""

from __future__ import annotations

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    made = subparsers.add_parser(
        "similarity",
        help="do models and mice find the same stimuli alike",
        description=f"{ABOUT}\n{DETAILS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="run folders; seeds or sizes side by side")
    made.add_argument("--out", required=True, metavar="DIR", help="folder of similarity.json and index.html")
    made.add_argument("--store", default="", help="recordings (default: the runs')")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")
    made.add_argument(
        "--session", action="append", default=[], metavar="KEY", help="default: up to 6 that runs are scored on"
    )
    made.add_argument(
        "--regime", default="stimulus", help="one that asks for responses (docs/regimes.md); default: stimulus"
    )
    made.add_argument("--tier", default="test", help="of the repeated stimuli (default: test)")
    made.add_argument("--bin", type=float, metavar="SECONDS", help="length of a condition (default: 0.5)")
    made.add_argument(
        "--block", type=float, default=2.0, metavar="SECONDS", help="drawn together in bootstraps (default: 2)"
    )
    made.add_argument(
        "--noise", choices=("none", "diagonal", "shrinkage"), default="diagonal", help="default: diagonal"
    )
    made.add_argument("--compare", default="pearson", metavar="NAME", help="of RDMs, for intervals (default: pearson)")
    made.add_argument(
        "--reliable", type=float, default=-1.0, metavar="R", help="leave out neurons of less odd-even correlation"
    )
    made.add_argument("--no-tower", action="store_true", help="predicted responses only")
    made.add_argument("--seed", type=int, default=0, help="of splits, draws and the untrained model (default: 0)")
    made.add_argument("--smoke", action="store_true", help="two sessions, coarse: under a minute")
    made.set_defaults(look=run)


ABOUT = "Compare which stimuli are alike to trained models, to an untrained one and to the recorded neurons."
DETAILS = """
RDMs by crossnobis and correlation distance (raw, corrected for noise, and without what pixels, contrast and motion explain), CKA,
generalised Procrustes (where models, or mice, disagree) and alignment patterns across areas, or why these do not apply.

  omnimouse-jax probe similarity runs/a-seed0 runs/a-seed1 --out probes/similarity
  omnimouse-jax probe similarity runs/a --smoke --out probes/smoke                        (docs/similarity.md)
"""


def run(arguments: argparse.Namespace) -> None:
    import dataclasses

    from omnimouse_jax.errors import UserError
    from omnimouse_jax.evaluate.opened import open_run
    from omnimouse_jax.files import require_folder
    from omnimouse_jax.probe.similarity.probe import lines, probe_similarity
    from omnimouse_jax.probe.similarity.rsa import comparison
    from omnimouse_jax.probe.similarity.settings import Settings

    a = arguments
    comparison(a.compare)
    if (a.bin is not None and a.bin <= 0) or a.block <= 0:
        raise UserError("probe similarity: --bin and --block are seconds", way_out="give numbers above 0")
    settings = Settings(
        regime=a.regime,
        tier=a.tier,
        block_s=a.block,
        noise=a.noise,
        compare=a.compare,
        least_reliability=a.reliable,
        tower=not a.no_tower,
        seed=a.seed,
    )
    if a.smoke:
        settings = settings.smoke()
    if a.bin is not None:
        settings = dataclasses.replace(settings, bin_s=a.bin)
    require_folder(a.out)
    runs = [open_run(folder, a.checkpoint, a.store) for folder in a.runs]
    result, paths = probe_similarity(runs, a.session, settings, a.out, a.smoke)
    for line in lines(result):
        print(line)
    for path in paths:
        print(path)
