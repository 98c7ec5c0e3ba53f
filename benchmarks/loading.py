"""How fast training batches come out of a store, per reader thread, and how many of those an accelerator box would need.

Sessions of true width (8,000 neurons at 30 Hz, 36 x 64 video, five behaviour channels) are written once to a folder; batches of 8
windows with 4,096 sampled neurons are then drawn as in training. Numbers of threads take turns within a round; medians are
told. What is needed follows from the model's FLOPs per window (mean over the 120 training regimes), the chips' peak rate and an
assumed efficiency.

How long: three minutes on two CPU cores, 2.5 GB of disk.
Command:
  python benchmarks/loading.py
  python benchmarks/loading.py --size 80M --chip h100 --chips 8 --efficiency 0.4 --threads 1,2,4,8
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.model.config import SIZES
from omnimouse_jax.model.flops import train_flops
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS, Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.classes import Plan
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.pipeline import Cutter, TrainingBatches
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex
from omnimouse_jax.training.chips import chip_named

SLOTS = 4096
BATCH = 8


class Noise:
    """Random numbers as an array on disk would give them: made where they are sliced, block by block."""

    def __init__(self, shape: tuple[int, ...], dtype: str, seed: int):
        self.shape, self.dtype, self._seed = shape, np.dtype(dtype), seed

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        rng = np.random.default_rng([self._seed, first])
        shape = (last - first, *self.shape[1:])
        if self.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        return rng.standard_exponential(shape, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=12.0, help="of each session")
    parser.add_argument("--dtype", default="float32", help="of the stored responses: float32 or float16")
    parser.add_argument("--threads", default="1,2,4")
    parser.add_argument("--batches", type=int, default=20, help="in a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="80M")
    parser.add_argument("--chip", default="h100")
    parser.add_argument("--chips", type=int, default=8)
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak rate that training reaches")
    parser.add_argument("--store", help="folder or URL to write to and keep (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = build(asked.store or str(Path(temporary) / "store"), asked)
        rows = measure(store, asked)
    needed = windows_needed(asked)
    if asked.json:
        print(json.dumps({"needed_windows_per_s": needed, "rows": rows}, indent=1))
    else:
        print(table(rows, needed, asked))


def build(place: str, asked: argparse.Namespace) -> Store:
    """Adds the sessions that are not there yet."""
    store = Store.create(place)
    for number in range(asked.sessions):
        key = f"m{number}-{asked.neurons}-{asked.dtype}"
        if key not in store:
            store.add(recording(key, number, asked.neurons, 60 * asked.minutes), dtype=asked.dtype)
    return store


def recording(key: str, seed: int, n_neurons: int, seconds: float) -> Recording:
    """One session: trials of 10 s, all of tier train, clips one after another."""
    n_trials, n = int(seconds // 10), int(seconds * 30)
    start = np.arange(n_trials) * 10.0
    text = {"tier": "train", "modality": "video"}
    columns = {name: np.full(n_trials, value) for name, value in text.items()}
    trials = Trials(
        start, start + 10, stimulus=np.arange(n_trials).astype(str), valid=np.ones(n_trials, bool), **columns
    )
    responses = Signal.continuous(Noise((n, n_neurons), "float32", seed), 30.0, 0.0)
    eye = Signal.continuous(Noise((int(seconds * 20), 5), "float32", seed + 1), 20.0, 0.0, channels=BEHAVIOR_CHANNELS)
    frames = Noise((n, 36, 64), "uint8", seed + 2)
    screen = Screen(frames, np.arange(n) / 30.0, np.arange(n), np.full(n, 128.0), seconds)
    return Recording(key, f"m{seed}", responses, trials, {"eye": eye}, screen, response_scale=np.ones(n_neurons))


def measure(store: Store, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over rounds for each number of threads; every round draws other batches."""
    grid = Grid()
    vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
    cutter = Cutter(store, vocabulary, grid, BEHAVIOR_CHANNELS, (36, 64), SLOTS)
    windows = WindowIndex.of(store, store.keys, ("train",), grid, 1 / 30)
    plan = Plan.exact(regimes.select(["training"]), grid, SLOTS)
    batches = TrainingBatches(cutter, windows, plan, BATCH, seed=0)
    counts = [int(n) for n in asked.threads.split(",")]
    found: dict[int, list[tuple[float, float]]] = {n: [] for n in counts}
    first = 0
    for _ in range(asked.rounds + 1):  # the first one warms up
        for n in counts:
            wall, work = time.perf_counter(), time.process_time()
            for _ in batches.stream(first, first + asked.batches, slice(None), n, 2 * n):
                pass
            found[n].append((time.perf_counter() - wall, time.process_time() - work))
            first += asked.batches
    read = (
        grid.n_samples * asked.neurons * np.dtype(asked.dtype).itemsize + grid.n_frames * 36 * 64 + grid.n_behavior * 20
    )
    rows = []
    for n in counts:
        wall, work = (statistics.median(column) for column in zip(*found[n][1:], strict=True))
        rate = BATCH * asked.batches / wall
        rows.append(
            {
                "threads": n,
                "windows_per_s": rate,
                "megabytes_per_s": rate * read / 1e6,
                "core_ms_per_window": 1e3 * work / (BATCH * asked.batches),
            }
        )
    return rows


def windows_needed(asked: argparse.Namespace) -> float:
    """Windows per second that the chips can train on, at the assumed efficiency."""
    config, grid = SIZES[asked.size], Grid()
    drawn = regimes.select(["training"])
    flops = [train_flops(config, regimes.resolve(regime, grid, SLOTS)) for regime in drawn]
    mean = float(np.average(flops, weights=[regime.weight for regime in drawn]))
    return asked.chips * asked.efficiency * chip_named(asked.chip).bfloat16 / mean


def table(rows: list[dict[str, Any]], needed: float, asked: argparse.Namespace) -> str:
    """The rows as Markdown, and what is needed."""
    lines = ["| threads | windows/s | MB/s | core-ms a window |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['threads']} | {row['windows_per_s']:.0f} | {row['megabytes_per_s']:.0f} | "
            f"{row['core_ms_per_window']:.1f} |"
        )
    cores = needed * min(row["core_ms_per_window"] for row in rows) / 1e3
    one = rows[0]["windows_per_s"] / rows[0]["threads"]
    lines.append(
        f"\n{asked.size} on {asked.chips} x {asked.chip} at {asked.efficiency:.0%} of peak: {needed:.0f} windows/s, "
        f"{needed / one:.1f} threads at the rate of {rows[0]['threads']} thread here, {cores:.1f} cores' work"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
