"""What a training step costs as the neuron tables grow, beside dense optax on the same table, and what travels between devices.

    python benchmarks/tables.py                      # 10^4 to 3 x 10^6 rows of 256 (13 GB of memory)
    python benchmarks/tables.py --rows 10000,1000000 # less

A step trains a small model (d_embedding 256) on windows of four sessions of 2,000 neurons, 256 of them in each window; all
rows of the four sessions are updated. Tables of all sizes are held at once and take turns, so that a busy machine slows all of
them; told are medians, and medians of ratios to the smallest within a turn. Dense optax: the gradient of the same gather with
respect to the whole table and `optax.adamw` on it, without a model; to be compared with the update. The last part compiles the
same step for eight fake devices, at two sizes of the tables, and lists its collectives: they should be the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

N_SESSIONS, OF_SESSION, OF_WINDOW, E = 4, 2_000, 256, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000,3000000")
    parser.add_argument("--dense-up-to", type=int, default=1_000_000, help="rows (dense optax at 3 x 10^6 needs 16 GB)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--update", default="session", choices=("session", "seen"), help="which rows are updated")
    parser.add_argument("--collectives", action="store_true", help="only the last part (the benchmark calls itself so)")
    asked = parser.parse_args()
    sizes = [int(rows) for rows in asked.rows.split(",")]
    if asked.collectives:
        print(json.dumps(collectives(sizes)))
        return
    print(table(measure(sizes, asked)))
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    again = [
        sys.executable,
        __file__,
        "--collectives",
        "--rows",
        f"{sizes[0]},{max(sizes[0], min(sizes[-1], 100_000))}",
    ]
    for line in json.loads(subprocess.run(again, env=env, check=True, capture_output=True, text=True).stdout):
        print(line)


class Steps:
    """A model with tables of so many rows, ready to take steps."""

    def __init__(self, rows: int, axes: tuple[int, int, int], update: str, built: bool = True):
        import jax
        import jax.numpy as jnp

        from omnimouse_jax.model.config import SIZES
        from omnimouse_jax.tokens.regimes import as_fractions, get, resolve
        from omnimouse_jax.training import optim, step
        from omnimouse_jax.training.doctor import abstract_batch, abstract_touched
        from omnimouse_jax.training.objective import LossCounts
        from omnimouse_jax.training.parallel import make_mesh, shardings

        self.mesh, self.rows = make_mesh(*axes), rows
        self.config = dataclasses.replace(SIZES["tiny"], d_embedding=E, max_neurons=OF_WINDOW)
        self.capacity = step.Capacity(-(-rows // 1024) * 1024, 64, 64)
        layout = resolve(as_fractions(get("train_video30_population_1024")), self.config.grid, OF_WINDOW)
        touched = N_SESSIONS * (OF_SESSION if update == "session" else OF_WINDOW)
        self.n_touched, self.update_all = -(-touched // 1024) * 1024, update == "session"
        self.windows = max(N_SESSIONS, axes[0] * axes[1])
        self.batch = abstract_batch(self.config, layout, self.windows, self.mesh)
        self.touched = abstract_touched(self.n_touched, self.windows, self.mesh)
        self.gradient = step.gradient_program(self.config, self.capacity, layout, self.mesh)
        self.update = step.update_program(self.config, self.capacity, optim.AdamW(), self.mesh)
        self.shapes = step.abstract_state(self.config, self.capacity)
        self.grads = step.abstract_gradients(self.shapes.params, self.touched)
        self.number, self.count = jnp.int32(0), jnp.float32(0)
        self.others = LossCounts(self.count, self.count)
        if built:
            small = jax.jit(
                lambda: jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), self.shapes),
                out_shardings=shardings(self.shapes, self.mesh),
            )
            self.state = small()._replace(step=jnp.int32(0))  # every page of the tables is written

    def programs(self) -> list[Any]:
        """Compiled gradient and update."""
        numbers = (self.number, self.number, self.number)
        params = self.shapes.params
        return [
            self.gradient.executable(params, self.batch, self.touched, self.others, *numbers),
            self.update.executable(self.shapes, self.grads, self.touched, self.count, self.number),
        ]

    def draw(self, seed: int) -> tuple[Any, Any]:
        """A batch of windows of four sessions anywhere in the table, and what it touches."""
        import numpy as np

        from omnimouse_jax.tokens.touched import Touched
        from omnimouse_jax.training.parallel import put_batch, put_everywhere

        rng = np.random.default_rng(seed)
        first = np.sort(rng.choice(self.rows // OF_SESSION, N_SESSIONS, replace=False)) * OF_SESSION
        of_sessions = first[:, None] + np.arange(OF_SESSION)
        shown = np.sort(rng.permuted(of_sessions, axis=1)[:, :OF_WINDOW], axis=1)
        rows = (of_sessions if self.update_all else shown).ravel()
        filled = np.full(self.n_touched, self.capacity.neurons, np.int32)
        filled[: len(rows)] = rows
        owners = np.full(self.n_touched, self.n_touched, np.int32)
        owners[: len(rows)] = np.repeat(np.arange(N_SESSIONS), OF_SESSION) if self.update_all else np.arange(len(rows))
        touched = Touched(filled, owners, *(np.arange(N_SESSIONS, dtype=np.int32) for _ in range(2)))

        def field(name: str, x: Any) -> Any:
            if name == "neuron_rows":
                return shown.astype(np.int32)
            if x.dtype == bool:
                return np.ones(x.shape, bool)
            small = rng.random(x.shape) if x.dtype == np.float32 else rng.integers(0, 4, x.shape)
            return small.astype(x.dtype)

        batch = type(self.batch)(*(field(name, x) for name, x in self.batch._asdict().items()))
        return put_batch(batch, self.mesh), put_everywhere(touched, self.mesh)

    def take(self, batch: Any, touched: Any) -> tuple[float, float]:
        """Seconds of one step, and of its update alone."""
        import jax

        number = self.state.step + 0  # the state is donated
        start = time.perf_counter()
        at = (self.state.step, self.number, self.number)
        grads, losses = self.gradient(self.state.params, batch, touched, self.others, *at)
        jax.block_until_ready(grads)
        middle = time.perf_counter()
        self.state, told = self.update(self.state, grads, touched, losses["loss"], number)
        jax.block_until_ready((self.state, told))
        end = time.perf_counter()
        return end - start, end - middle


class Dense:
    """optax.adamw on a whole table, with the gradient of a gather of the same rows."""

    def __init__(self, rows: int):
        import jax
        import jax.numpy as jnp
        import optax

        tx = optax.adamw(3e-3, 0.9, 0.98, 1e-6, weight_decay=0.001)

        def step(table: Any, state: Any, rows: Any) -> Any:
            grads = jax.grad(lambda table: jnp.sum(jnp.square(table[rows])))(table)
            updates, state = tx.update(grads, state, table)
            return optax.apply_updates(table, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.table = jnp.full((rows, E), 0.01, jnp.float32)
        self.state = jax.tree.map(lambda x: x + 0, tx.init(self.table))

    def take(self, rows: Any) -> float:
        import jax

        start = time.perf_counter()
        self.table, self.state = jax.block_until_ready(self.step(self.table, self.state, rows))
        return time.perf_counter() - start


def measure(sizes: list[int], asked: argparse.Namespace) -> list[dict[str, Any]]:
    made = {rows: Steps(rows, (1, 1, 1), asked.update) for rows in sizes}
    plans = {rows: [program.memory_analysis() for program in steps.programs()] for rows, steps in made.items()}
    times: dict[int, list[tuple[float, float]]] = {rows: [] for rows in sizes}
    for turn in range(asked.repeats + 2):
        for rows, steps in made.items():
            drawn = steps.draw(turn)
            took = steps.take(*drawn)
            if turn >= 2:  # the first ones touch new memory
                times[rows].append(took)
    del steps
    shown = {rows: made[rows].draw(0)[0].neuron_rows.ravel() for rows in sizes}
    made.clear()
    out = []
    for rows in sizes:
        dense = None
        if rows <= asked.dense_up_to:
            peer = Dense(rows)
            dense = statistics.median([peer.take(shown[rows]) for _ in range(7)][2:])
            del peer
        out.append(
            {
                "rows": rows,
                "step_ms": 1e3 * statistics.median(step for step, _ in times[rows]),
                "update_ms": 1e3 * statistics.median(update for _, update in times[rows]),
                "ratio": statistics.median(a / b for (a, _), (b, _) in zip(times[rows], times[sizes[0]], strict=True)),
                "temporary_mb": max(plan.temp_size_in_bytes for plan in plans[rows]) / 1e6,
                "table_mb": rows * E * 4 / 1e6,
                "dense_ms": None if dense is None else 1e3 * dense,
            }
        )
    return out


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["      rows     table     step   ratio   its update   temporary memory   dense optax on the table"]
    for row in rows:
        dense = "not run" if row["dense_ms"] is None else f"{row['dense_ms']:,.0f} ms"
        lines.append(
            f"{row['rows']:>10,} {row['table_mb']:>6,.0f} MB {row['step_ms']:>5,.0f} ms {row['ratio']:>7.3f} "
            f"{row['update_ms']:>9,.1f} ms {row['temporary_mb']:>15,.0f} MB {dense:>22}"
        )
    return "\n".join(lines)


def collectives(sizes: list[int]) -> list[str]:
    """Lines that list the collectives of gradient and update on eight devices, at two sizes of the tables."""
    lines = []
    for axes in ((8, 1, 1), (2, 2, 2)):
        for rows in sizes:
            steps = Steps(rows, axes, "session", built=False)
            part = steps.capacity.neurons * E // 8
            for name, program in zip(("gradient", "update"), steps.programs(), strict=True):
                found = Counter(collectives_in(program.as_text()))
                largest = max((size for _, size in found), default=0)
                kinds: Counter[str] = Counter()
                for (kind, _), n in found.items():
                    kinds[kind] += n
                told = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "none"
                mesh = " x ".join(map(str, axes))
                beside = f"largest {largest:,} numbers (a device's part of the table: {part:,})"
                lines.append(f"mesh {mesh}, {rows:,} rows, {name}: {told}; {beside}")
    return lines


def collectives_in(text: str) -> list[tuple[str, int]]:
    """(kind, numbers in its largest array) of every collective in a compiled program's text."""
    found = []
    for shape, kind in re.findall(
        r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(", text
    ):
        sizes = [math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\w+\[([\d,]*)\]", shape)]
        found.append((kind, max(sizes, default=1)))
    return found


if __name__ == "__main__":
    main()
