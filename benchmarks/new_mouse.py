"""A new mouse: how many minutes of it a pre-trained model needs, and whether its rows should begin better than at random.

    python benchmarks/new_mouse.py                                             synthetic mice
    python benchmarks/new_mouse.py --real ../shared/recordings/park_gratings   seven real mice, each held out in turn

Synthetic: a model is trained on 24 mice of 5 minutes each and adapted, core frozen, to 4 others of up to 20 minutes, from
the first 1, 2, 5, 10 and 20 of them, with rows that begin in five ways (omnimouse_jax.evaluate.starts). Beside it models of
the same architecture are trained from scratch on each of the 4 alone. Every model's checkpoint is chosen by the validation
tier, every score is of the test tier. Differences are paired by mouse and seed; intervals are 95 % bootstraps over those pairs.

Real: settings of benchmarks/real_mice.py with fewer steps. For each mouse a model is trained on the other six, then rows for
the new one, the core frozen; beside it a model of the mouse alone and a ridge regression. All have the same trials, and none
a validation tier (its loss misleads here, see docs/real_mice.md), so each is trained for a fixed number of steps and its last
one is scored.

Everything is a run folder under --workdir; a stopped call goes on. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import park_gratings, real_mice
from configs import demo
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.evaluate.new_mouse_runs import Before, Length, adapted, begin_from, config_for, finished, scored
from omnimouse_jax.evaluate.starts import STARTS
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic.colony import synthesize
from omnimouse_jax.training.train import train

#: What the mice are like: the demo's law with less noise, simpler cells that look at the middle of the screen.
LAW = {
    "private_noise": (0.1, 0.3),
    "latent_strength": 0.3,
    "complex_fraction": 0.1,
    "rf_spread": 8.0,
    "window_spread": 3.0,
}
OLD = {"n_animals": 24, "train_minutes": 5.0, **LAW}
NEW = {"n_animals": 4, "train_minutes": 20.0, "validation_clips": 4, "name": "n", "seed": 1, **LAW}
MINUTES = (1.0, 2.0, 5.0, 10.0, 20.0)
TASKS = ("stimulus", "behavior")
#: Steps at most, steps between validations, validations without a better one that end it.
PRETRAINING, ROWS, SCRATCH = 5000, Length(400, 20, 6), Length(1500, 100, 4)
SCRATCH_RATES = (1.0, 0.3)
#: The same of real mice: fixed numbers of steps.
REAL_PRETRAINING, REAL_ROWS, REAL_SCRATCH = 1000, 250, 500

Scores = dict[tuple[Any, ...], float]  # (seed, method, minutes, mouse, task) -> score


def pretraining(store: Path, steps: int, seed: int) -> ConfigDict:
    """The demo's middle size, with weights per neuron, on two tasks."""
    config = demo.get_config()
    del config.study
    config.model.update(demo.SIZES["M"], neuron_weights=True)
    config.seed, config.data.store = seed, str(store)
    config.regimes = (
        "stimulus",
        "behavior + video -> responses",
        "behavior",
    )  # the first two are the same: drawn twice as often
    config.evaluation.tasks = ConfigDict({task: task for task in TASKS})
    config.evaluation.bootstrap = 0
    config.optimizer.shared.learning_rate = 4e-3
    config.train.steps, config.optimizer.anneal_steps = steps, steps // 3
    config.train.checkpoint_every, config.train.validation_windows = max(1, steps // 8), 96
    return config


def synthetic(
    workdir: Path,
    seeds: Sequence[int],
    minutes: Sequence[float],
    steps: int,
    starts: Sequence[str],
    scratch_minutes: Sequence[float] | None,
) -> Scores:
    """Trains and scores it all: one pre-trained model, adapted once for each seed, start and number of minutes; models from
    scratch with all minutes and some fewer, unless that is None.
    """
    synthesize(str(workdir / "old"), "demo", OLD, say=tell)
    mice = synthesize(str(workdir / "new"), "demo", NEW, say=tell)
    old_store, new = Store.open(str(workdir / "old")), str(workdir / "new")
    found: Scores = {}

    def note(seed: int, method: str, m: float, result: dict[str, Any]) -> None:
        for row in result["rows"]:
            if row["channel"] in ("", "mean"):
                found[seed, method, m, row["session"], row["task"]] = row["score"]
                if row["ceiling"] is not None:
                    found[seed, "ceiling", m, row["session"], row["task"]] = row["ceiling"]

    run = workdir / "pretrained"
    tell("pre-training")
    finished(run, pretraining(workdir / "old", steps, 0))
    before = Before.of(run, "best")
    for seed in seeds:
        for m in minutes:
            for start in starts:
                tell(f"seed {seed}, {m:g} min, start {start}")
                config = config_for(before.config, new, mice, m, ROWS, "tables", seed)
                begun = workdir / f"seed{seed}/{m:g}min/{start}-before"
                begin_from(begun, before, config, mice, start, old_store)
                note(seed, f"before {start}", m, scored(begun))
                folder = workdir / f"seed{seed}/{m:g}min/{start}"
                note(seed, start, m, adapted(folder, Before.of(begun), config, mice, start, old_store))
    if scratch_minutes is not None:
        _from_scratch(workdir / "scratch", before.config, new, mice, seeds[0], scratch_minutes, minutes, note)
    return found


def _from_scratch(
    workdir: Path,
    base: ConfigDict,
    store: str,
    mice: Sequence[str],
    seed: int,
    fewer: Sequence[float],
    minutes: Sequence[float],
    note: Callable[[int, str, float, dict[str, Any]], None],
) -> None:
    """Models of one mouse each, at the learning rate of `SCRATCH_RATES` that the first mouse's validation tier likes best."""
    loss = {}
    for rate in SCRATCH_RATES:
        tell(f"{mice[0]} from scratch, learning rate x {rate:g}")
        found = scratch(workdir / f"{mice[0]}-all-{rate:g}", base, store, mice[0], 0.0, rate, seed)
        loss[rate] = min(loss for _, loss in found["validation"])
    rate = min(loss, key=lambda rate: loss[rate])
    for m in (0.0, *fewer):
        for mouse in mice:
            tell(f"{mouse} from scratch, {f'{m:g}' if m else 'all'} min")
            folder = workdir / f"{mouse}-{f'{m:g}' if m else 'all'}-{rate:g}"
            note(seed, "scratch", m or max(minutes), scratch(folder, base, store, mouse, m, rate, seed))


def scratch(
    folder: Path, base: ConfigDict, store: str, mouse: str, minutes: float, rate: float, seed: int
) -> dict[str, Any]:
    """A model of one mouse alone."""
    config = config_for(base, store, [mouse], minutes, SCRATCH, "all", seed)
    for group in (config.optimizer.shared, config.optimizer.session):
        group.learning_rate = rate * group.learning_rate
    return finished(folder, config)


def told_synthetic(found: Scores, minutes: Sequence[float], starts: Sequence[str]) -> dict[str, Any]:
    """Prints the tables; returns their numbers."""
    summary: dict[str, Any] = {}
    for task in TASKS:
        print(f"\n{task}: mean over mice and seeds, by minutes")
        print(f"{'':<22}" + "".join(f"{m:>9g}" for m in minutes))
        methods = [name for start in starts for name in (f"before {start}", start)] + ["scratch", "ceiling"]
        for method in methods:
            cells = [_mean(found, method, m, task) for m in minutes]
            if any(cell is not None for cell in cells):
                print(f"{method:<22}" + "".join(f"{'-' if c is None else f'{c:.3f}':>9}" for c in cells))
                summary.setdefault(task, {})[method] = dict(zip(map(str, minutes), cells, strict=True))
        print("\nstart less random [95 % interval over mouse x seed], after adapting")
        for start in [start for start in starts if start != "random"]:
            cells = [_difference(found, start, "random", m, m, task) for m in minutes]
            print(f"{start:<22}" + "".join(f"  {_told(cell)}" for cell in cells))
            summary.setdefault(f"{task}: less random", {})[start] = dict(zip(map(str, minutes), cells, strict=True))
        most = max(minutes)
        for start in starts[:1]:
            print(f"\nadapted with m minutes less scratch with all {most:g}, start {start}")
            cells = [_difference(found, start, "scratch", m, most, task) for m in minutes]
            print(f"{'':<22}" + "".join(f"  {_told(cell)}" for cell in cells))
            summary[f"{task}: less scratch with all"] = dict(zip(map(str, minutes), cells, strict=True))
    return summary


def _mean(found: Scores, method: str, m: float, task: str) -> float | None:
    values = [v for (_, name, at, _, t), v in found.items() if (name, at, t) == (method, m, task)]
    return round(float(np.mean(values)), 4) if values else None


def _difference(found: Scores, one: str, two: str, m_one: float, m_two: float, task: str) -> list[float] | None:
    """Mean and 95 % interval of paired differences, [difference, low, high]. Models from scratch have one seed."""
    pairs = []
    seeds = {seed for seed, method, *_ in found if method == two}
    for (seed, method, m, mouse, t), value in found.items():
        if (method, m, t) == (one, m_one, task):
            other = found.get((seed if seed in seeds else min(seeds), two, m_two, mouse, task)) if seeds else None
            if other is not None:
                pairs.append(value - other)
    if not pairs:
        return None
    rng = np.random.default_rng(0)
    means = np.array(pairs)[rng.integers(0, len(pairs), (4000, len(pairs)))].mean(1)
    return [round(float(x), 4) for x in (np.mean(pairs), *np.quantile(means, [0.025, 0.975]))]


def _told(cell: list[float] | None) -> str:
    return "-" if cell is None else f"{cell[0]:+.3f} [{cell[1]:+.3f}, {cell[2]:+.3f}]"


def real(
    data: str, workdir: Path, seed: int, only: Sequence[str], tier: str, steps: tuple[int, int, int]
) -> dict[str, Any]:
    """Every mouse held out in turn: adapted, from scratch, ridge. Prints the table; returns method -> task -> session -> score."""
    sessions = park_gratings.sessions(data)
    print(park_gratings.ASSUMED)
    place = workdir / "store"
    store = Store.create(str(place))
    for session in sessions:
        if session.key not in store.keys:
            store.add(park_gratings.recording(session, real_mice.SCREEN))
    scores: dict[str, dict[str, dict[str, float]]] = {
        method: {task: {} for task in real_mice.TASKS} for method in ("before", "adapted", "scratch", "ridge")
    }
    for session in [s for s in sessions if not only or s.key in only]:
        for method, folder in held_out(
            place, workdir / session.key, session.key, store.keys, seed, tier, steps
        ).items():
            rows = evaluate_run(folder, step="latest")["rows"]
            for task, of in real_mice.scores_of_rows(rows, [session], tier).items():
                scores[method][task] |= of
        for task in real_mice.TASKS:
            predicted = real_mice.ridge_predictions(session, task, tier)
            scores["ridge"][task][session.key] = real_mice.score(session, task, predicted, tier)
        tell(" ".join(f"{m} {t} {scores[m][t][session.key]:.3f}" for t in real_mice.TASKS for m in scores))
    print(real_mice.table(scores))
    return scores


def held_out(
    store: Path, workdir: Path, key: str, keys: Sequence[str], seed: int, tier: str, steps: tuple[int, int, int]
) -> dict[str, Path]:
    """Run folders of one mouse: rows at their start, rows adapted, and a model from scratch; trained, or gone on with."""
    pre, rows, alone = (real_mice.model_config(store, n, seed, tier) for n in steps)
    others = tuple(other for other in keys if other != key)
    pre.data.sessions = pre.evaluation.sessions = others
    tell(f"{key}: pre-training on {len(others)} others")
    train(pre, workdir / "others")
    for config in (rows, alone):
        config.data.sessions = config.evaluation.sessions = (key,)
    rows.train.trained = "tables"
    before = Before.of(workdir / "others", "latest")
    begin_from(workdir / "before", before, rows, [key], "match", None)
    begin_from(workdir / "adapted", Before.of(workdir / "before", "latest"), rows, [key], "match", None)
    tell(f"{key}: adapting")
    train(rows, workdir / "adapted")
    tell(f"{key}: from scratch")
    train(alone, workdir / "scratch")
    return {name: workdir / name for name in ("before", "adapted", "scratch")}


def tell(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--real", metavar="FOLDER", help="folder with one <session>.npz per real mouse")
    parser.add_argument("--workdir", default="runs/new_mouse", type=Path, help="where stores and runs go")
    parser.add_argument(
        "--seeds", default="0,1", help="of adapting: fresh rows and data order (real: of everything, the first)"
    )
    parser.add_argument("--minutes", default=",".join(f"{m:g}" for m in MINUTES))
    parser.add_argument(
        "--starts", default="random,match,mean,neighbours,regression", help="the first is set against scratch"
    )
    parser.add_argument(
        "--scratch-minutes", default="5", help="fewer minutes to train from scratch with, beside all; none: no scratch"
    )
    parser.add_argument("--steps", default=PRETRAINING, type=int, help="of pre-training on synthetic mice")
    parser.add_argument("--only", default="", help="real: some sessions, by comma")
    parser.add_argument(
        "--tier", choices=("test", "validation"), default="test", help="real; validation: to choose settings"
    )
    parser.add_argument("--real-steps", default=f"{REAL_PRETRAINING},{REAL_ROWS},{REAL_SCRATCH}")
    args = parser.parse_args(argv)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    try:
        if args.real:
            steps = [int(n) for n in args.real_steps.split(",")]
            only = [key for key in args.only.split(",") if key]
            told = real(args.real, args.workdir, seeds[0], only, args.tier, (steps[0], steps[1], steps[2]))
        else:
            minutes, starts = [float(m) for m in args.minutes.split(",")], [s for s in args.starts.split(",") if s]
            if unknown := set(starts) - set(STARTS):
                raise UserError(f"no start {sorted(unknown)[0]!r}", way_out=f"use some of {', '.join(STARTS)}")
            fewer = None if args.scratch_minutes == "none" else [float(m) for m in args.scratch_minutes.split(",") if m]
            found = synthetic(args.workdir, seeds, minutes, args.steps, starts, fewer)
            told = told_synthetic(found, minutes, starts)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
