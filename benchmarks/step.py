"""One training step of each size, windowed attention against the plain masked path, in one run.

Per size and path: forward pass, full step (gradient and update), memory the compiler plans for, compile time, and the rate of
the work that the regime asks for (3 x forward, visible pairs only), as a share of what a large matrix product reaches here.
Paths take turns within a repetition, each warmed up first; medians are told, and the ratio of paths repetition by repetition.

How long: about ten minutes on two CPU cores for tiny and 1M; 5M needs 20 GB for the plain path.
Command:
  python benchmarks/step.py --sizes tiny,1M
  python benchmarks/step.py --sizes 20M,80M --batch 8 --dtype bfloat16 --paths auto     (on a GPU)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.model.flops import forward_flops, train_flops
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.touched import Touched
from omnimouse_jax.training import optim, step
from omnimouse_jax.training.doctor import abstract_batch
from omnimouse_jax.training.objective import LossCounts
from omnimouse_jax.training.parallel import make_mesh, put_batch, put_everywhere

REGIME = "train_video30_population_1024"
BUILT = 1024  # rows of the neuron table for `tiny`; released sizes get 8,192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,1M")
    parser.add_argument("--batch", type=int, default=1, help="windows in a step")
    parser.add_argument("--regime", default=REGIME)
    parser.add_argument("--dtype", default="float32", help="compute_dtype of the model and of the large matrix product")
    parser.add_argument("--paths", default="auto,plain", help="values of config.model.attention")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--order", default="spatial", help="hiera_order of the released sizes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    peak = matrix_product_rate(asked.dtype)
    device = jax.devices()[0].device_kind
    print(f"device: {device}; a product of two 4,096 x 4,096 {asked.dtype} matrices: {peak / 1e9:,.0f} GFLOP/s")
    rows = [row for size in asked.sizes.split(",") for row in measure(size, asked, peak)]
    if asked.json:
        print(json.dumps({"device": device, "matrix_product_flops": peak, "rows": rows}, indent=1))
    else:
        print(table(rows))


def matrix_product_rate(dtype: str) -> float:
    """FLOP/s of a large matrix product: the best of several."""
    n = 4096
    a = jnp.asarray(np.random.default_rng(0).standard_normal((n, n)), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * n**3 / min(seconds(lambda: product(a)) for _ in range(8))


def seconds(call: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(size: str, asked: argparse.Namespace, peak: float) -> list[dict[str, Any]]:
    """One row per path."""
    config = dataclasses.replace(SIZES[size], compute_dtype=asked.dtype, remat=asked.remat, hiera_order=asked.order)
    regime = regimes.get(asked.regime)
    neurons = config.max_neurons or 4096
    released = neurons >= regimes.BLOCK
    layout = regimes.resolve(regime if released else regimes.as_fractions(regime), config.grid, neurons)
    capacity = step.Capacity(max(BUILT, 2 * neurons), 64, 64)
    paths = asked.paths.split(",")
    made = {path: Path(dataclasses.replace(config, attention=path), layout, capacity, asked.batch) for path in paths}
    times: dict[tuple[str, str], list[float]] = {(path, what): [] for path in paths for what in ("forward", "step")}
    for _ in range(asked.repeats):
        for path, program in made.items():
            for what, call in (("forward", program.forward), ("step", program.step)):
                jax.block_until_ready(call())  # not counted: after another path's turn, memory has to be got anew
                times[path, what].append(seconds(call))
    useful = asked.batch * train_flops(config, layout)
    rows = []
    for path, program in made.items():
        whole = statistics.median(times[path, "step"])
        against = {
            f"{what}_against_{paths[-1]}": statistics.median(
                b / a for a, b in zip(times[path, what], times[paths[-1], what], strict=True)
            )
            for what in ("forward", "step")
        }
        rows.append(
            {
                "size": size,
                "attention": path,
                "forward_s": statistics.median(times[path, "forward"]),
                "step_s": whole,
                **against,
                "memory_gb": program.memory_bytes / 1e9,
                "compile_s": program.compile_s,
                "gflop": useful / 1e9,
                "gflop_per_s": useful / whole / 1e9,
                "share_of_matrix_product": useful / whole / peak,
            }
        )
    print(f"{size}: forward GFLOP by part:", {k: round(v / 1e9, 2) for k, v in forward_flops(config, layout).items()})
    return rows


class Path:
    """One model, compiled: a forward pass and a full step on random data."""

    def __init__(self, config: ModelConfig, layout: Layout, capacity: step.Capacity, batch_size: int):
        mesh = make_mesh()
        self.state = step.init_state(config, capacity, 0, mesh)
        self.batch = put_batch(random_batch(config, layout, capacity, batch_size), mesh)
        rows = np.arange(capacity.neurons, dtype=np.int32)  # the whole table: a step's sessions have as many neurons
        few = np.arange(batch_size, dtype=np.int32)
        self.touched = put_everywhere(Touched(rows, np.zeros_like(rows), few, few), mesh)
        self.number, self.others = jnp.int32(0), LossCounts(jnp.float32(0), jnp.float32(0))
        self.gradient = step.gradient_program(config, capacity, layout, mesh)
        self.predict = step.predict_program(config, capacity, layout, mesh)
        self.update = step.update_program(config, capacity, optim.AdamW(), mesh)
        start = time.perf_counter()
        compiled = self.gradient.executable(*self.arguments())
        self.compile_s = time.perf_counter() - start
        plan = compiled.memory_analysis()
        self.memory_bytes = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes

    def arguments(self) -> tuple[Any, ...]:
        numbers = (self.number, self.number, self.number)
        return self.state.params, self.batch, self.touched, self.others, *numbers

    def forward(self) -> Any:
        return self.predict(self.state.params, self.batch)

    def step(self) -> Any:
        grads, losses = self.gradient(*self.arguments())
        self.state, _ = self.update(self.state, grads, self.touched, losses["loss"], self.state.step + 0)
        return losses, self.state.step


def random_batch(config: ModelConfig, layout: Layout, capacity: step.Capacity, rows: int) -> Batch:
    """Noise in the shapes that the program takes, nothing missing."""
    rng = np.random.default_rng(0)

    def filled(shape: Any) -> np.ndarray:
        if shape.dtype == bool:
            return np.ones(shape.shape, bool)
        if shape.dtype == np.float32:
            return rng.exponential(1.0, shape.shape).astype(np.float32)
        return rng.integers(0, min(64, rows), shape.shape).astype(shape.dtype)

    batch = Batch(*map(filled, abstract_batch(config, layout, rows, make_mesh())))
    rows_of = np.stack([rng.permutation(capacity.neurons)[: layout.n_neurons] for _ in range(rows)])
    return batch._replace(neuron_rows=rows_of.astype(np.int32))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    last = rows[-1]["attention"]
    columns = ("size", "attention", "forward s", "full step s", f"{last} / this: forward, step")
    columns += ("memory GB", "compile s", "GFLOP/s", "of matrix product")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        ratio = f"{row[f'forward_against_{last}']:.2f}, {row[f'step_against_{last}']:.2f}"
        cells = (row["size"], row["attention"], f"{row['forward_s']:.3f}", f"{row['step_s']:.3f}", ratio)
        cells += (f"{row['memory_gb']:.2f}", f"{row['compile_s']:.0f}", f"{row['gflop_per_s']:.0f}")
        lines.append("| " + " | ".join((*cells, f"{row['share_of_matrix_product']:.0%}")) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
