"""Ledger rows of a study with a planted law, without run folders: anneal points, learning rates, failures, orders as wished."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse_jax.scaling.ledger import COLUMNS, VERSION, Row
from tests.planted import LAWS, SIZES, Law

EMPTY: Row = {c.name: "" if c.kind is str else None for c in COLUMNS}


def planted_rows(
    sizes: Sequence[str] = ("1M", "5M", "20M", "80M", "300M"),
    amounts: Sequence[int] = (8, 16, 32, 64, 128, 323),
    seeds: int = 2,
    sessions: int = 4,
    *,
    laws: Mapping[str, tuple[str, Law]] = LAWS,
    noise: float = 0.003,
    anneal: Sequence[float] = (1.0,),
    rates: Mapping[str, Sequence[float]] | None = None,
    orders: int = 1,
    failed: Sequence[str] = (),
    holdout: str = "time",
    started: int | None = None,
) -> list[Row]:
    """Rows of every cell, point, session and task.

    `anneal`: shares of a full training at which a branch was annealed, the last of them 1 (one point: no branches). `rates`:
    learning rates by size where there are others than 1e-3, the first the best. `orders` of sessions for the three smallest
    amounts. `failed` runs by name. `started`: only so many runs were started.
    """
    rng = np.random.default_rng([3, len(sizes), len(amounts), seeds])
    gain = 1 + 0.06 * rng.standard_normal(sessions)
    made: list[Row] = []
    cells = [
        (size, amount, order, seed, rate)
        for amount in amounts
        for order in range(orders if amount in sorted(amounts)[:3] else 1)
        for size in sizes
        for seed in range(seeds)
        for rate in (rates or {}).get(size, (1e-3,))[: None if seed == 0 and amount == sorted(amounts)[0] else 1]
    ]
    for number, (size, amount, order, seed, rate) in enumerate(cells):
        run = f"{size}-{amount:03d}-order{order}-seed{seed}-{rate:g}"
        worse = float(0.02 * abs(np.log10(rate / (rates or {}).get(size, (1e-3,))[0])))
        if started is not None and number >= started:
            made.append(
                EMPTY | _run(run, size, amount, order, seed, rate) | {"state": "unfinished", "error": "not started"}
            )
            continue
        if run in failed:
            error = {"state": "failed", "cause": "out_of_memory", "error": "out of memory: 12.1 GiB asked, 8 GiB there"}
            made.append(EMPTY | _run(run, size, amount, order, seed, rate) | error)
            continue
        shift = {task: float(noise * rng.standard_normal()) - worse for task in laws}
        for share in anneal:
            steps = round(100_000 * share)
            columns = EMPTY | _run(run, size, amount, order, seed, rate) | _work(size, amount, steps)
            columns |= {"train_loss": 0.9, "validation_loss": 1 - shift[next(iter(laws))] + 0.05 / share}
            columns |= {"validation_gap": 0.0, "best_validation_loss": columns["validation_loss"]}
            if len(anneal) > 1:
                columns |= {"run_id": f"{run}/{steps}", "parent": run, "anneal_from": steps - 1000}
            for task, (metric, law) in laws.items():
                less = 0.04 * (share**-0.4 - 1)
                value = law(SIZES[size], amount) + shift[task] - less
                for s in range(sessions):
                    animal = f"mouse{s // 2 if sessions >= 4 else s}"
                    score = value * gain[s] + 0.3 * noise * rng.standard_normal()
                    made.append(
                        columns
                        | {"session": f"{animal}-s{s}", "animal": animal, "task": task, "regime": task, "tier": "test"}
                        | {"metric": metric, "channel": "mean" if task == "behavior" else "", "score": float(score)}
                        | {
                            "estimator": "pooled single-trial Pearson",
                            "n_units": 100,
                            "n_windows": 40,
                            "holdout": holdout,
                        }
                    )
    return made


def _run(run: str, size: str, amount: int, order: int, seed: int, rate: float) -> dict[str, Any]:
    core = int(SIZES[size])
    rng = np.random.default_rng([order, amount])
    neurons = int(sum(rng.integers(300, 700, amount)))
    return {
        "ledger_version": VERSION,
        "run_id": run,
        "study": "planted",
        "state": "done",
        "size": size,
        "n_params_core": core,
        "n_params_neuron": 256 * neurons,
        "n_params_total": core + 256 * neurons,
        "n_sessions": amount,
        "n_animals": max(amount // 2, 1),
        "n_neurons": neurons,
        "hours": 1.2 * amount,
        "neuron_hours": 1.2 * neurons,
        "unique_stimulus_hours": 0.4 * amount**0.7,
        "seed": seed,
        "data_order": order,
        "learning_rate": rate,
        "schedule": "warm-up 1000, constant, 1 - sqrt over 1000",
        "batch_size": 32,
        "config_hash": f"{zlib.crc32(run.encode()):08x}",
        "version": "0.1.0",
        "device": "8 x TPU v4",
        "command": f"omnimouse-jax sweep cell studies/planted --run {run}",
    }


def _work(size: str, amount: int, steps: int) -> dict[str, Any]:
    """Training in proportion to the data: so many epochs whatever the amount."""
    windows = 32 * steps * amount // 8
    flops = 6.5 * SIZES[size] * 1e3 * windows
    return {
        "steps": steps,
        "checkpoint_step": steps,
        "windows_seen": windows,
        "tokens_seen": 1000 * windows,
        "epochs": windows / (amount * 2000),
        "flops": flops,
        "seconds": flops / 1e15,
    }
