"""The whole training loop beside its bare compiled step: does anything make the device wait?

    python benchmarks/loop.py                # the 1M model, two synthetic mice of 512 neurons

The loop reads windows from a store on disk, draws regimes, logs, and saves a checkpoint at the end of each stretch; the bare step
is the same programs on the same regimes with batches that are on the device already. Stretches of both take turns on the same
state; told is the median over turns of (bare seconds / loop seconds). Compiling is in neither, validation is off.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic import synthesize
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.defaults import base
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.stepper import Stepper
from omnimouse_jax.training.train import train, training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2, help="windows in a step")
    parser.add_argument("--steps", type=int, default=12, help="of each stretch")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--store", default="", help="a store made before; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.store or f"{folder}/store"
        if not asked.store:
            neurons = f"({asked.neurons}, {asked.neurons})"
            synthesize(place, "tiny", {"n_animals": "2", "neurons": neurons, "screen": "(36, 64)"}, workers=1)
        measure(asked, place, Path(folder) / "run")


def measure(asked: argparse.Namespace, store: str, workdir: Path) -> None:
    config = base(asked.size)
    config.data.store, config.data.batch_size = store, asked.batch
    config.data.sessions = Store.open(store).keys
    config.model.max_neurons = asked.neurons
    config.regimes = ("stimulus", "population", "behavior")
    config.mesh.data = 1
    config.train.validation_windows = 0
    config.train.log_every = 1
    config.optimizer.warmup_steps = 1
    config.train.checkpoint_every = asked.steps
    ratios, loops, bares, before = [], [], [], 0.0
    for turn in range(asked.turns + 1):
        config.train.steps = (turn + 1) * asked.steps
        run = train(config, workdir)
        loop, before = run["seconds"] - before, run["seconds"]
        bare = bare_seconds(config, workdir, turn * asked.steps, asked.steps)
        if turn:  # the first one warms up
            ratios.append(bare / loop)
            loops.append(loop / asked.steps)
            bares.append(bare / asked.steps)
        print(f"turn {turn}: loop {loop:.2f} s, bare {bare:.2f} s", file=sys.stderr, flush=True)
    print(
        f"{asked.size}, {asked.batch} windows of {asked.neurons} neurons: bare step {statistics.median(bares):.3f} s, "
        f"in the loop {statistics.median(loops):.3f} s; bare / loop {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} turns of {asked.steps} steps)"
    )


def bare_seconds(config, workdir: Path, first: int, n: int) -> float:
    """Steps [first, first + n) from the newest state, with everything on the device before the clock starts."""
    parts = prepare(config)
    stepper = Stepper(parts, training_batches(parts))
    saved = Checkpoints(workdir, read_only=True)
    state = saved.restore(saved.latest(), restore_target(parts.model, parts.capacity, parts.mesh))
    loaded = [stepper.batches.load(first + i, slice(None)) for i in range(n)]
    ready = [stepper.put(step) for step in loaded]
    jax.block_until_ready((state, ready))
    start = time.perf_counter()
    for i, step in enumerate(ready):
        grads, losses = stepper.gradient(state, first + i, step)
        number = state.step + 0
        state, told = stepper.update(state, grads, step.touched, losses["loss"], number)
    jax.block_until_ready((state, told))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
