"""Baselines beside each other on synthetic and on real mice: scores with intervals, and how they compare with ridge regression.

    python benchmarks/baselines.py --like studies/colony/runs/48ch-8sessions-order0-seed0
    python benchmarks/baselines.py --real ../shared/recordings/park_gratings

The first takes tasks, sessions, store and the model to compare with from a trained run, the second those of benchmarks/real_mice.py
(same trials, held-out part and tasks; its trained model with --run). Every baseline is fitted to the training tiers of each mouse,
the CNN to those of all mice together, and scored on the held-out tier by the evaluation that scores models. Intervals: 95 %
bootstrap over neurons (behaviour: over trials), sessions counting alike; differences from ridge are paired, on the same units.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.score import Scored, score_baselines
from omnimouse_jax.evaluate.baselines.table import against
from omnimouse_jax.evaluate.evaluator import evaluation
from omnimouse_jax.evaluate.sources import ModelSource
from omnimouse_jax.progress import duration
from omnimouse_jax.training.setup import prepare

REFERENCE = "ridge"


def lines(scored: Scored, task: str) -> list[str]:
    """A markdown table of one task: score, difference from ridge with its interval, and sessions."""
    behavior = any(row["metric"].startswith("behavior") for row in scored.rows if row["task"] == task)
    over = "trials" if behavior else "neurons"
    compared = against(scored.evaluations, task, REFERENCE, over)
    told = [f"\n{task}\n", "| | score | less ridge | mice |", "|---|---|---|---|"]
    for name, found in scored.evaluations.items():
        mine = [r for r in found.rows if r["task"] == task and r["channel"] in ("", "mean")]
        if not mine:
            continue
        score = np.nan_to_num([row["score"] for row in mine]).mean()
        if name in compared:
            difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*compared[name])
        else:
            difference = "" if name == REFERENCE else "-"
        told.append(f"| {name} | {score:.3f} | {difference} | {len(mine)} |")
    missing = {f["source"]: f["not_applicable"] for f in scored.fits if f["task"] == task and "not_applicable" in f}
    told += ["", *(f"{name}: {why}" for name, why in missing.items())]
    return told


def synthetic(run_folder: str, store: str, names: list[str], tasks: list[str], seed: int) -> Scored:
    from omnimouse_jax.evaluate.opened import Run

    run = Run(run_folder)
    config = run.config
    if store:
        config.data.store = store
    config.mesh.update(data=run.mesh.shape["data"], fsdp=1, tensor=1)
    parts = prepare(config, run.vocabulary)
    sessions = tuple(config.evaluation.sessions) or run.sessions
    return _scored(parts, sessions, names, tasks, seed, run.params)


def real(data: str, run_folder: str, names: list[str], tasks: list[str], seed: int) -> Scored:
    from benchmarks import park_gratings, real_mice
    from omnimouse_jax.evaluate.opened import Run
    from omnimouse_jax.recordings.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store")
        for session in park_gratings.sessions(data):
            store.add(park_gratings.recording(session, real_mice.SCREEN))
        print(park_gratings.ASSUMED)
        config = real_mice.model_config(Path(folder) / "store", steps=10, seed=seed)
        config.evaluation.bootstrap = 1000
        config.mesh.update(data=1, fsdp=1, tensor=1)
        run = Run(run_folder, "latest") if run_folder else None
        parts = prepare(config, None if run is None else run.vocabulary)
        return _scored(parts, tuple(parts.store.keys), names, tasks, seed, None if run is None else run.params)


def _scored(parts: Any, sessions: tuple[str, ...], names: list[str], only: list[str], seed: int, params: Any) -> Scored:
    tasks = {name: text for name, text in dict(parts.config.evaluation.tasks).items() if not only or name in only}
    scored = score_baselines(parts, tasks, sessions, names, seed, params)
    if params is not None:
        scored.evaluations["trained model"] = evaluation(parts, ModelSource(params), tasks, sessions)
    for task in tasks:
        print("\n".join(lines(scored, task)), flush=True)
    return scored


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--like", default="", metavar="RUN", help="a trained run on synthetic mice")
    parser.add_argument("--store", default="", help="its recordings, if they have moved")
    parser.add_argument("--real", default="", metavar="DATA", help="folder with one <session>.npz per real mouse")
    parser.add_argument("--run", default="", help="with --real: a trained run of benchmarks/real_mice.py")
    parser.add_argument("--baseline", action="append", default=[], help="this one (default: all)")
    parser.add_argument("--task", action="append", default=[], help="this one (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="folder to write evaluations to")
    args = parser.parse_args(argv)
    began = time.monotonic()
    try:
        if bool(args.like) == bool(args.real):
            raise UserError("baselines: synthetic or real mice, one of them", way_out="pass --like RUN or --real DATA")
        shared = (args.baseline, args.task, args.seed)
        scored = synthetic(args.like, args.store, *shared) if args.like else real(args.real, args.run, *shared)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        scored.save(Path(args.out), {"seed": args.seed})
    print(f"\n{duration(time.monotonic() - began)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
