"""What a run will need, before anything is rented: memory of a device, work, time and data rate, from programs that never run.

The heaviest program of the config is compiled for fake CPU devices in the shape of the mesh. The compiler's plan for one of them
tells its memory; a second compilation without loops, which compilers count once however often they turn, tells operations and
bytes. Programs are traced as for an accelerator, with attention in blocks where it would call a kernel. A CPU's compiler holds
bfloat16 values as float32 here and there, so its plan is rather too high for an accelerator; what has to be kept for the backward
pass at its true width, evenly spread over the devices, is rather too low. Workspaces of kernels and collectives are in neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.counts import describe as parameter_counts
from omnimouse_jax.model.flops import total_flops
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.model.target import assume
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import Plan, shown
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import slots_for
from omnimouse_jax.tokens.touched import Touched, most_rows
from omnimouse_jax.tokens.vocabulary import ROW_MULTIPLE, SESSION_MULTIPLE, Vocabulary, padded
from omnimouse_jax.training import optim
from omnimouse_jax.training.chips import Chip
from omnimouse_jax.training.defaults import model_config
from omnimouse_jax.training.objective import LossCounts, loss_sums
from omnimouse_jax.training.parallel import batch_sharding, batch_shards, local_rows, make_mesh, replicated
from omnimouse_jax.training.setup import regimes_of
from omnimouse_jax.training.step import (
    ALL,
    Capacity,
    Trained,
    abstract_gradients,
    abstract_model,
    abstract_state,
    gradient_program,
    gradient_shardings,
    state_shardings,
    update_program,
)

MULTIPLES = (ROW_MULTIPLE, SESSION_MULTIPLE, SESSION_MULTIPLE)  # of rows of the three tables
#: Of a device's memory; the rest goes to the runtime, collectives and fragments.
USABLE = 0.9
#: Share of a chip's peak that a step is assumed to reach: a guess, not a measurement.
ASSUMED_EFFICIENCY = 0.4
#: Only what compilation decides above machine code is looked at; and what is to be computed again must stay so, which a CPU's
#: compiler would undo where it is not in a loop.
QUICK = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "cse_barrier_expander"}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device in a step: what lives through it, and what comes and goes."""

    parameters: float
    tables: float
    optimizer: float
    gradients: float
    batch: float
    activations: float  # the compiler's plan for everything in between, and its peak over both programs of a step
    activations_least: float  # what the backward pass needs of the forward pass, at its true width

    @property
    def lasting(self) -> float:
        return self.parameters + self.tables + self.optimizer + self.gradients + self.batch

    @property
    def most(self) -> float:
        return self.lasting + self.activations

    @property
    def least(self) -> float:
        return self.lasting + min(self.activations, self.activations_least)


def examine(
    config: ConfigDict,
    axes: tuple[int, int, int],
    device_memory: float | None,
    chip: Chip | None,
    counts: tuple[int, int, int] | None,
) -> dict[str, Any]:
    """Everything `omnimouse-jax doctor` says, as plain numbers: bytes, operations, seconds.

    axes: sizes of the mesh's axes. counts: neurons, sessions, animals of the tables; None: those of the config's store. Needs as
    many jax devices as the mesh has, of any kind. Raises UserError for a config that cannot be run on such a mesh.
    """
    mesh, shape = make_mesh(*axes), model_config(config.model)
    batch_size, micro_batches, dtype = config.data.batch_size, config.train.accumulate, shape.compute_dtype
    windows, shards = batch_size // micro_batches, batch_shards(mesh)  # of a micro-batch
    local_rows(mesh, windows)
    notes = []
    if counts is None:
        store = Store.open(config.data.store)
        vocabulary = Vocabulary.of({key: store.summary(key) for key in store.chosen(config.data.sessions)})
        capacity, slots = Capacity.of(vocabulary), slots_for(max(entry.n_neurons for entry in vocabulary.sessions))
        slots = min(slots, shape.max_neurons or slots)
    else:
        capacity = Capacity(*map(padded, counts, MULTIPLES))
        each = -(-max(1, counts[0]) // counts[1])  # neurons of a session
        alike = {str(i): {"animal": "", "n_neurons": each} for i in range(min(counts[1], batch_size))}
        slots, vocabulary = shape.max_neurons or slots_for(each), Vocabulary.of(alike)
        if not counts[0]:
            notes.append("tables hold next to nothing: pass --store, or --neurons and --sessions")
    plan = plan_of(shape, regimes_of(config.regimes, shape.grid), slots, config.train.programs)
    layout = heaviest(shape, plan)
    keys = [entry.key for entry in vocabulary.sessions]
    rows = min(most_rows(vocabulary, keys, batch_size, slots, config.optimizer.rows), capacity.neurons)
    touched = abstract_touched(rows, batch_size, mesh)
    trained = Trained.of(config.train.trained, config.train.adapter_rank)
    found = memory(shape, capacity, layout, windows, touched, mesh, micro_batches, trained)
    counted = work(shape, capacity, layout, windows, touched, mesh, trained)
    exact, paid = plan.expected(lambda each: total_flops(shape, each))
    counted["mean_share"] = paid / total_flops(shape, layout)
    sizes = parameter_counts(shape, capacity.neurons, capacity.sessions, capacity.animals)
    told: dict[str, Any] = {
        "core": sizes["core"],
        "tables": sizes["tables"],
        "compute_dtype": dtype,
        "remat": shape.remat,
        "mesh": list(axes),
        "batch_size": batch_size,
        "programs": {
            "regimes": len(plan.regimes),
            "gradients": len(plan.programs),
            "padding_flops": paid / exact - 1,
            "validation": len(config.evaluation.tasks) if config.train.validation_windows else 0,
        },
        "memory": {**dataclasses.asdict(found), "most": found.most, "least": found.least},
        "work": counted,
        "loader": {"batch_bytes": found.batch * shards},
        "notes": notes,
        "device_memory": device_memory,
        "verdict": None,
        "knobs": [],
    }
    if dtype == "bfloat16":
        notes.append("a CPU's compiler holds bfloat16 values as float32 in places: its plan is rather too high")
    if chip is not None:
        mean = counted["mean_share"] * micro_batches
        seconds = {k: v * mean for k, v in step_seconds(counted, chip, dtype).items()}
        rate = 1 / seconds["likely"]
        told |= {"chip": chip.name, "seconds_per_step": seconds, "assumed_efficiency": ASSUMED_EFFICIENCY}
        told["loader"] |= {"windows_per_s": rate * batch_size, "bytes_per_s": rate * told["loader"]["batch_bytes"]}
    if device_memory is not None:
        told |= _judged(found, device_memory, windows, shards)
        if told["verdict"] != "fits":
            for change, other, fewer in knobs(shape, windows, shards, micro_batches):
                parts = batch_size // fewer
                changed = memory(other, capacity, layout, fewer, touched, mesh, parts, trained)
                told["knobs"].append(
                    {"change": change, "most": changed.most, "verdict": verdict(changed, device_memory)}
                )
    return told


def _judged(found: Memory, device_memory: float, windows: int, shards: int) -> dict[str, Any]:
    """The verdict and why."""
    usable, word = USABLE * device_memory, verdict(found, device_memory)
    share = f"{found.most / usable:.2f} of the usable memory ({100 * USABLE:.0f} % of {device_memory / 1e9:g} GB)"
    if word == "fits":
        per_window = (found.batch + found.activations) * shards / windows
        more = int((usable - found.most) / per_window) * shards
        return {"verdict": word, "reason": f"{share}; about {more} more windows a step would fit too"}
    if word == "tight":
        return {"verdict": word, "reason": f"between {found.least / usable:.2f} and {share}; what brings it down:"}
    if found.lasting > usable:
        return {"verdict": word, "reason": f"{share}; state alone takes {found.lasting / usable:.2f}: use more devices"}
    return {"verdict": word, "reason": f"{share}; what each knob brings:"}


def heaviest(config: ModelConfig, plan: Plan) -> Layout:
    """The program with the most work: the one that also holds the most."""
    return max(plan.programs, key=lambda layout: total_flops(config, layout))


def memory(
    config: ModelConfig,
    capacity: Capacity,
    layout: Layout,
    windows: int,
    touched: Touched,
    mesh: Mesh,
    micro_batches: int = 1,
    trained: Trained = ALL,
    platform: str = "gpu",
) -> Memory:
    """What a step of this program, in micro-batches of so many windows, takes on each device of the mesh.

    With several micro-batches all of them are there, and two gradients: the sum, and the one to be added.
    """
    state, where = abstract_state(config, capacity, trained), state_shardings(config, capacity, mesh, trained)
    tables = _bytes_per_device(state.params["tables"], where.params["tables"])
    core = _bytes_per_device(state.params, where.params) - tables
    moments = sum(_bytes_per_device(getattr(state.opt, k), getattr(where.opt, k)) for k in state.opt._fields)
    grads = _placed(abstract_gradients(state.params, touched, trained), gradient_shardings(where.params, mesh, trained))
    gradients = _bytes_per_device(grads, jax.tree.map(lambda x: x.sharding, grads))
    batch = abstract_batch(config, layout, windows, mesh)
    of_batch = _bytes_per_device(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch))
    gradient = _compiled(config, capacity, layout, batch, touched, mesh, platform, trained).memory_analysis()
    update = update_program(config, capacity, optim.AdamW(), mesh, trained).jitted
    numbers = (_number(mesh, jnp.float32), _number(mesh, jnp.int32))
    updating = update.lower(_placed(state, where), grads, touched, *numbers).compile(QUICK).memory_analysis()
    with assume(platform):
        kept = _kept(config, capacity, layout, batch) / mesh.size  # at best, nothing is kept twice
    return Memory(
        parameters=core,
        tables=tables,
        optimizer=moments,
        gradients=gradients * min(2, micro_batches),
        batch=of_batch * micro_batches,
        activations=float(max(gradient.temp_size_in_bytes, updating.temp_size_in_bytes)),
        activations_least=kept,
    )


def work(
    config: ModelConfig,
    capacity: Capacity,
    layout: Layout,
    windows: int,
    touched: Touched,
    mesh: Mesh,
    trained: Trained = ALL,
) -> dict[str, float]:
    """Operations, and bytes read and written, of one device in a gradient of this program, as the compiler counts them."""
    counted = dataclasses.replace(config, scan_layers=False, attention="blocks_unlooped")
    batch = abstract_batch(config, layout, windows, mesh)
    told = _compiled(counted, capacity, layout, batch, touched, mesh, "gpu", trained).cost_analysis() or {}
    return {"flops": float(told.get("flops", np.nan)), "bytes": float(told.get("bytes accessed", np.nan))}


def step_seconds(counted: dict[str, float], chip: Chip, dtype: str) -> dict[str, float]:
    """Seconds of a step if the chip reached its peak, a usual share of it, and if every intermediate went through memory.

    Traffic between devices is in none of them.
    """
    at_peak = counted["flops"] / chip.peak(dtype)
    return {
        "peak": at_peak,
        "likely": at_peak / ASSUMED_EFFICIENCY,
        "all_through_memory": counted["bytes"] / chip.bandwidth,
    }


def verdict(found: Memory, device_memory: float) -> str:
    """`fits`, `does not fit`, or `tight` where the bounds disagree."""
    usable = USABLE * device_memory
    return "fits" if found.most <= usable else "does not fit" if found.least > usable else "tight"


def knobs(config: ModelConfig, windows: int, shards: int, micro_batches: int) -> Iterable[tuple[str, ModelConfig, int]]:
    """What to change for less memory: (how to say it, the changed config, the changed windows of a micro-batch)."""
    for remat in ("layer", "cycle"):
        if config.remat == "none":
            yield f"--config.model.remat={remat}", dataclasses.replace(config, remat=remat), windows
    if config.compute_dtype == "float32":
        half = dataclasses.replace(config, compute_dtype="bfloat16")
        yield "--config.model.compute_dtype=bfloat16", half, windows
    if windows // 2 >= shards and windows // 2 % shards == 0:
        yield f"--config.train.accumulate={2 * micro_batches}", config, windows // 2


def abstract_touched(n_rows: int, batch_size: int, mesh: Mesh) -> Touched:
    """Shapes of the rows that a step touches."""
    where = replicated(mesh)
    neurons, windows = (jax.ShapeDtypeStruct((n,), jnp.int32, sharding=where) for n in (n_rows, batch_size))
    return Touched(neurons, neurons, windows, windows)  # type: ignore[arg-type]


def abstract_batch(config: ModelConfig, layout: Layout, rows: int, mesh: Mesh) -> Batch:
    """Shapes and places of a batch that this program takes."""
    g, n, channels = config.grid, layout.n_neurons, config.n_channels

    def shape(dtype: Any, *sides: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *sides), dtype, sharding=batch_sharding(mesh))

    fields: dict[str, Any] = {
        "responses": shape(jnp.float32, g.n_samples, n),
        "response_mask": shape(bool, g.n_samples, n),
        "neuron_mask": shape(bool, n),
        "neuron_rows": shape(jnp.int32, n),
        "session_rows": shape(jnp.int32),
        "animal_rows": shape(jnp.int32),
        "video": shape(jnp.uint8, g.n_frames, *config.screen),
        "video_mask": shape(bool),
        "behavior": shape(jnp.float32, channels, g.n_behavior),
        "behavior_mask": shape(bool, channels, g.n_behavior),
        "experiment_second": shape(jnp.int32),
        "row_mask": shape(bool),
        "context_shown": shape(bool, len(shown(layout, layout, channels))),
    }
    return Batch(**fields)


def _compiled(
    config: ModelConfig,
    capacity: Capacity,
    layout: Layout,
    batch: Batch,
    touched: Touched,
    mesh: Mesh,
    platform: str,
    trained: Trained,
) -> Any:
    where = state_shardings(config, capacity, mesh, trained)
    params = _placed(abstract_state(config, capacity, trained).params, where.params)
    number, count = _number(mesh, jnp.int32), _number(mesh, jnp.float32)
    program = gradient_program.__wrapped__(
        config, capacity, layout, mesh, trained
    ).jitted  # traced anew, for that platform
    with assume(platform):
        lowered = program.lower(params, batch, touched, LossCounts(count, count), number, number, number)
        return lowered.compile(QUICK)


def _number(mesh: Mesh, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), dtype, sharding=replicated(mesh))


def _kept(config: ModelConfig, capacity: Capacity, layout: Layout, batch: Batch) -> float:
    """Bytes that the backward pass of the whole batch reads, parameters not counted."""
    graph, params = abstract_model(config, capacity)

    def backward(params: Any, batch: Batch) -> Any:
        def loss(params: Any) -> Any:
            predictions = nnx.merge(graph, params)(batch, layout)
            return loss_sums(predictions, batch, layout, config).means(config)["loss"]

        return jax.vjp(loss, params)[1]

    residuals = sum(_size(leaf) for leaf in jax.tree.leaves(jax.eval_shape(backward, params, batch)))
    return max(0.0, residuals - sum(_size(leaf) for leaf in jax.tree.leaves(params)))


def _placed(shapes: Any, where: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def _bytes_per_device(shapes: Any, where: Any) -> float:
    sizes = jax.tree.map(lambda x, s: float(np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize), shapes, where)
    return float(sum(jax.tree.leaves(sizes)))


def _size(x: Any) -> float:
    return float(np.prod(x.shape, dtype=np.float64) * np.dtype(x.dtype).itemsize) if hasattr(x, "dtype") else 0.0
