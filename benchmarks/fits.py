"""Seconds that fits take: a joint fit of 500 rows with 1,000 resamples, and 100 tasks with every form a study uses.

Planted laws with 1 % noise. Medians over repetitions, wall clock and CPU time of the process. No jax.

How long: about two minutes on two CPU cores.
Command:
  python benchmarks/fits.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.uncertainty import bootstrap
from omnimouse_jax.scaling.verdict import judge

SIZES = np.array([1, 5, 20, 80, 300.0]) * 1e6
AMOUNTS = np.array([8, 16, 32, 64, 128, 323.0])
X = np.array([(n, d) for n in SIZES for d in AMOUNTS for _ in range(3)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=100)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, {asked.rounds} rounds; the tasks once")
    print("| what | wall s | CPU s |")
    print("|---|---|---|")
    for delta in ("auto", 1e-3):
        row(f"chinchilla, 500 rows, 1,000 resamples, delta {delta}", lambda i, d=delta: joint(i, d), asked.rounds)
    row("one study task: verdict with 1,000 resamples, 90 runs, 6 sessions", task, asked.rounds)
    row(f"{asked.tasks} tasks x 7 forms, point fits of 90 rows", lambda _: forms(asked.tasks), 1)


def row(what: str, do: Callable[[int], object], rounds: int) -> None:
    wall, cpu = [], []
    for i in range(rounds):
        start = time.perf_counter(), time.process_time()
        do(i)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    print(f"| {what} | {statistics.median(wall):.2f} | {statistics.median(cpu):.2f} |", flush=True)


def law(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    clean = 1 + 30 * x[:, 0] ** -0.35 + 0.8 * x[:, 1] ** -0.3
    return clean * np.exp(0.01 * rng.standard_normal(len(x)))


def joint(seed: int, delta: float | str) -> None:
    rng = np.random.default_rng(seed)
    x = np.stack([10 ** rng.uniform(6, 9, 500), 10 ** rng.uniform(1, 3, 500)], 1)
    bootstrap(fit(make_form("chinchilla"), x, law(x, rng), delta=delta), resamples=1000, seed=seed)


def task(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = 1 - 0.3 * law(X, rng)[:, None] * (1 + 0.1 * rng.standard_normal(6))
    judge(Grid(X[:, 0], X[:, 1], y, tuple("aabbcc")), resamples=1000, seed=seed)


def forms(tasks: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(tasks):
        y = law(X, rng)
        for name in ("constant", "log_linear", "pure_power", "chinchilla", "kaplan", "interaction"):
            form = make_form(name, axes=2 if name in ("log_linear", "pure_power") else None)
            fit(form, X, y)
        fit(make_form("score_joint"), X, 1 - 0.3 * y)


if __name__ == "__main__":
    main()
