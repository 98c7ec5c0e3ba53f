"""How often sessions are drawn, and batches that do not depend on who loads them or on where a run was killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.classes import Plan
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.mixture import session_weights
from omnimouse_jax.tokens.pipeline import Cutter, TrainingBatches
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex


def batches_of(store_path: str, mixture: str, temperature: float = 1.0, seed: int = 5) -> TrainingBatches:
    store = Store.open(store_path)
    vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
    cutter = Cutter(store, vocabulary, Grid(), ("running", "pupil_size"), (16, 32), 16)
    windows = WindowIndex.of(store, store.keys, ("train",), cutter.grid, 0.5)
    weights = session_weights(windows, vocabulary, mixture, temperature)
    plan = Plan.exact(regimes.select(["tasks"]), cutter.grid, cutter.n_slots)
    return TrainingBatches(cutter, windows, plan, batch_size=4, seed=seed, weights=weights)


def shares(batches: TrainingBatches, n: int) -> np.ndarray:
    drawn = Counter(batches.order[i].session for i in range(n))
    return np.array([drawn[key] / n for key in batches.windows.sessions])


def test_sessions_are_drawn_in_the_shares_that_the_config_says(colony: str) -> None:
    plain = batches_of(colony, "duration")
    assert plain.weights is None
    n_windows = np.array([len(plain.windows.numbers_of(key)) for key in plain.windows.sessions], float)
    n_neurons = np.array([plain.cutter.vocabulary.entry(key).n_neurons for key in plain.windows.sessions], float)
    assert len(set(n_neurons)) > 1
    wanted = {
        ("uniform", 1.0): np.ones(len(n_windows)),
        ("neurons", 1.0): n_neurons,
        ("neurons", 0.5): n_neurons**2,
        ("duration", 2.0): np.sqrt(n_windows),
        ("neurons", 1e6): np.ones(len(n_windows)),
    }
    for (mixture, temperature), sizes in wanted.items():
        batches = batches_of(colony, mixture, temperature)
        assert np.allclose(shares(batches, 600), sizes / sizes.sum(), atol=2 / 600)


def test_each_session_is_still_visited_epoch_by_epoch(colony: str) -> None:
    batches = batches_of(colony, "neurons")
    key = batches.windows.sessions[0]
    numbers = batches.windows.numbers_of(key)
    drawn = [w.start for w in (batches.order[i] for i in range(4 * len(batches.windows))) if w.session == key]
    assert set(Counter(drawn[: len(numbers)]).values()) == {1}
    assert drawn[: len(numbers)] != sorted(drawn[: len(numbers)])
    assert drawn[: len(numbers)] != drawn[len(numbers) : 2 * len(numbers)]


def test_unknown_mixtures_are_refused(colony: str) -> None:
    for mixture, temperature, message in [
        ("size", 1.0, "data.mixture is 'size'"),
        ("neurons", 0.0, "temperature is 0"),
    ]:
        with pytest.raises(UserError, match=message):
            batches_of(colony, mixture, temperature)


LOADER = """
import hashlib, sys
from tests.test_mixture import batches_of, digest
store, out, mixture, first, last, rank, ranks, threads = sys.argv[1:9]
batches = batches_of(store, mixture)
size = batches.batch_size // int(ranks)
rows = slice(int(rank) * size, (int(rank) + 1) * size)
with open(out, "a") as file:
    for step, loaded in enumerate(batches.stream(int(first), int(last), rows, int(threads), 3), start=int(first)):
        (batch,) = loaded.batches
        print(step, batches.regime(step).name, *digest(batch), file=file, flush=True)
"""


def digest(batch) -> list[str]:
    """A hash of each row of a batch."""
    n = len(batch.row_mask)
    return [hashlib.sha256(b"".join(np.ascontiguousarray(f[i]).tobytes() for f in batch)).hexdigest() for i in range(n)]


@pytest.mark.parametrize("mixture", ["duration", "neurons"])
def test_killed_and_resumed_on_other_processes_and_workers_the_batches_are_the_same(
    mixture: str, colony: str, tmp_path: Path
) -> None:
    """One process with 3 threads is killed (SIGKILL); two processes with 2 and 1 threads go on after its last step."""
    n_steps = 60
    reference = batches_of(colony, mixture)
    wanted = [[reference.regime(k).name, *digest(reference[k])] for k in range(n_steps)]

    def start(out: Path, first: int, rank: int, ranks: int, threads: int) -> subprocess.Popen:
        arguments = [colony, str(out), mixture, *map(str, (first, n_steps, rank, ranks, threads))]
        return subprocess.Popen([sys.executable, "-c", LOADER, *arguments], cwd=Path(__file__).parents[1])

    def lines(path: Path) -> list[list[str]]:
        whole = path.read_text().split("\n")[:-1] if path.exists() else []
        return [line.split() for line in whole]

    alone = start(tmp_path / "alone", 0, 0, 1, 3)
    deadline = time.monotonic() + 120
    while len(lines(tmp_path / "alone")) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(alone.pid, signal.SIGKILL)
    alone.wait()
    before = lines(tmp_path / "alone")
    assert [row[1:] for row in before] == wanted[: len(before)]
    assert 5 <= len(before) < n_steps

    pair = [start(tmp_path / f"rank{r}", len(before), r, 2, 2 - r) for r in range(2)]
    assert [run.wait(timeout=120) for run in pair] == [0, 0]
    halves = [lines(tmp_path / f"rank{r}") for r in range(2)]
    after = [[a[1], *a[2:], *b[2:]] for a, b in zip(*halves, strict=True)]
    assert after == wanted[len(before) :]
