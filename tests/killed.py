"""`train` as a process of its own, which tests stop in every way a machine can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import TrainState
from omnimouse_jax.training.track import read_metrics
from tests.micro import micro

ROOT = Path(__file__).parents[1]
#: Of a run whose every second step is saved and validated.
CHANGES = {"train__checkpoint_every": 2, "train__validation_windows": 2}
#: Columns of metrics.jsonl that say how fast it went.
OF_THE_CLOCK = ("windows_per_s", "waiting_for_data")


class Training:
    """`omnimouse-jax train` of `micro(store, steps, CHANGES)`, with the devices and the compiled programs of the tests."""

    def __init__(self, store: str, workdir: Path, steps: int):
        self.workdir, self.begun = workdir, time.time()
        config = workdir.with_name("config.py")
        made = f"micro({store!r}, train__steps={steps}, **{CHANGES!r})"
        config.write_text(f"from tests.micro import micro\ndef get_config():\n    return {made}\n")
        cache = str(jax.config.jax_compilation_cache_dir)  # type: ignore[attr-defined]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "omnimouse_jax.cli", "train", f"--config={config}", f"--workdir={workdir}"],
            cwd=ROOT,
            env={**os.environ, "OMNIMOUSE_COMPILE_CACHE": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def await_step(self) -> None:
        """Returns when this process has taken a step and said so, or has ended."""
        metrics = self.workdir / "metrics.jsonl"
        saved = Checkpoints(self.workdir, read_only=True).latest() if (self.workdir / "checkpoints").exists() else 0
        self._await(lambda: metrics.exists() and metrics.stat().st_mtime > self.begun)  # what lies ahead is cut by now
        self._await(lambda: max(read_metrics(self.workdir), default=0) > (saved or 0))

    def await_write(self) -> None:
        """Returns when a checkpoint is being written, or the process has ended."""
        self._await(lambda: bool(list(self.workdir.glob("checkpoints/*-tmp/*"))))

    def end(self, signum: int | None = None) -> str:
        """Sends a signal if one is given, waits for the end and returns what was printed."""
        if signum is not None:
            self.process.send_signal(signum)
        return self.process.communicate(timeout=300)[0]

    def _await(self, done: Callable[[], bool]) -> None:
        while self.process.poll() is None and not done():
            time.sleep(0.001)


def kill(training: Training, rng: np.random.Generator, when: str) -> None:
    """kill -9: `writing`, while a checkpoint is; `stepping`, a while after a step; `starting`, any time before."""
    if when == "starting":
        time.sleep(rng.uniform(0, 5))
    elif when == "stepping":
        training.await_step()
        time.sleep(rng.uniform(0, 1))
    else:
        training.await_write()
        time.sleep(rng.uniform(0, 0.05))
    training.end(signal.SIGKILL)


def final_state(store: str, workdir: Path, steps: int) -> TrainState:
    parts = prepare(micro(store, train__steps=steps, **CHANGES))
    saved = Checkpoints(workdir, read_only=True)
    return saved.restore(steps, restore_target(parts.model, parts.capacity, parts.mesh, parts.trained))


def require_same_run(store: str, one: Path, other: Path, steps: int) -> None:
    """The same last parameters and optimiser state, bit for bit, and the same numbers of every step, each once."""
    a, b = (final_state(store, workdir, steps) for workdir in (one, other))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(bits(x), bits(y))
    rows = []
    for workdir in (one, other):
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        found = read_metrics(workdir)
        assert len(lines) == len(found)
        assert list(found) == list(range(1, steps + 1))
        rows.append([{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in found.values()])
    assert rows[0] == rows[1]


def bits(x: jax.Array) -> np.ndarray:
    return np.asarray(x).reshape(-1).view(np.uint8)
