"""A study with a planted law, as run folders: what a sweep leaves behind, with scores that we chose."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

#: task: (metric, law of (parameters, sessions))
Law = Callable[[float, float], float]
LAWS: dict[str, tuple[str, Law]] = {
    "population": ("response_correlation", lambda n, d: 0.42 - 0.10 * (n / 1e6) ** -0.35 - 0.16 * (d / 8) ** -0.45),
    "forecast": ("response_correlation", lambda n, d: 0.30 - 0.02 * (n / 1e6) ** -0.30 - 0.10 * (d / 8) ** -0.50),
    "behavior": ("behavior_correlation", lambda n, d: 0.61),
}
SIZES = {"1M": 1.7e6, "5M": 5.1e6, "20M": 19e6, "80M": 86e6, "300M": 307e6}


def planted_study(
    folder: Path,
    sizes: Sequence[str],
    amounts: Sequence[int],
    seeds: int,
    sessions: int,
    *,
    noise: float = 0.003,
    session_spread: float = 0.1,
    laws: dict[str, tuple[str, Law]] | None = None,
    failed: Sequence[tuple[str, int, int]] = (),
    ceiling: float | None = None,
) -> Path:
    """RUN folders of a sizes x amounts x seeds sweep, scored on `sessions` sessions (two per animal from four on)."""
    rng = np.random.default_rng([7, len(sizes), len(amounts)])
    gain = 1 + session_spread * rng.standard_normal(sessions)
    for size in sizes:
        for amount in amounts:
            for seed in range(seeds):
                run = folder / f"{size}-{amount}-{seed}"
                run.mkdir(parents=True)
                write(run / "run.json", run_columns(folder.name, run.name, size, amount, seed))
                if (size, amount, seed) in failed:
                    write(
                        run / "status.json", {"state": "failed", "error": "out of memory: 12.1 GiB asked, 8 GiB there"}
                    )
                    continue
                rows = []
                for task, (metric, law) in (laws or LAWS).items():
                    value = law(SIZES[size], amount) + noise * rng.standard_normal()
                    for s in range(sessions):
                        animal = f"mouse{s // 2 if sessions >= 4 else s}"
                        row = {
                            "session": f"{animal}-s{s}",
                            "animal": animal,
                            "task": task,
                            "regime": task,
                            "tier": "test",
                        }
                        row |= {"metric": metric, "channel": "mean" if task == "behavior" else "", "n_units": 100}
                        row |= {"estimator": "pooled single-trial Pearson", "n_windows": 40, "ceiling": ceiling}
                        score = value * gain[s] + 0.3 * noise * rng.standard_normal()
                        rows.append(row | {"score": float(score), "score_low": None, "score_high": None})
                write(run / "evaluation.json", {"rows": rows})
                write(run / "status.json", {"state": "done", "error": None})
    return folder


def run_columns(study: str, run_id: str, size: str, amount: int, seed: int) -> dict[str, object]:
    core = int(SIZES[size])
    return {
        "run_id": run_id,
        "study": study,
        "size": size,
        "n_params_core": core,
        "n_params_neuron": 256 * 400 * amount,
        "n_params_total": core + 256 * 400 * amount,
        "n_sessions": amount,
        "n_animals": max(amount // 2, 1),
        "n_neurons": 400 * amount,
        "hours": 1.2 * amount,
        "seed": seed,
        "data_order": 0,
        "learning_rate": 1e-3,
        "schedule": "warm-up, constant, anneal",
        "batch_size": 32,
        "steps": 1000,
        "config_hash": f"{core * 31 + amount:08x}",
        "version": "0.1.0",
        "device": "cpu",
    }


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
