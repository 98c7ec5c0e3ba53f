"""The compiled programs: one training step and one prediction per token layout. Pure functions of plain trees.

Programs are kept by what decides them (model, settings, layout, mesh), so several runs in one process share them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.omnimouse import OmniMouse, Predictions
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import optim
from omnimouse_jax.training.objective import LossSums, loss_sums
from omnimouse_jax.training.parallel import batch_sharding, replicated, shardings

Tree = Any


class Capacity(NamedTuple):
    """Rows of the three tables, padding included."""

    neurons: int
    sessions: int
    animals: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Capacity:
        return cls(vocabulary.neuron_capacity, vocabulary.session_capacity, vocabulary.animal_capacity)


class TrainState(NamedTuple):
    """All that a step changes. `step` is also the position in the data and the stream of random numbers."""

    params: Tree
    opt: optim.OptState
    step: Any  # () int32 array


def abstract_model(config: ModelConfig, capacity: Capacity) -> tuple[Any, Tree]:
    """(graph definition, tree of parameter shapes): nothing is allocated."""
    model = nnx.eval_shape(lambda: _model(config, capacity, jax.random.key(0)))
    graph, state = nnx.split(model, nnx.Param)
    return graph, nnx.to_pure_dict(state)


def init_params(config: ModelConfig, capacity: Capacity, seed: int, mesh: Mesh) -> Tree:
    """Parameters {"core", "tables"}: drawn on the host, the same on every host, and placed shard by shard."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = _model(config, capacity, jax.random.key(seed))
        drawn = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return jax.tree.map(
        lambda x, where: jax.make_array_from_callback(x.shape, where, lambda index: x[index]),
        drawn,
        shardings(drawn, mesh),
    )


def init_state(config: ModelConfig, capacity: Capacity, seed: int, mesh: Mesh) -> TrainState:
    params = init_params(config, capacity, seed, mesh)
    where = state_shardings(config, capacity, mesh)
    opt = jax.jit(optim.init, static_argnums=1, out_shardings=where.opt)(params, capacity.sessions)
    return TrainState(params, opt, jax.device_put(jnp.int32(0), where.step))


def abstract_state(config: ModelConfig, capacity: Capacity) -> TrainState:
    """Shapes and dtypes of a `TrainState`: what a restore needs to know."""
    params = abstract_model(config, capacity)[1]
    return TrainState(
        params, jax.eval_shape(lambda p: optim.init(p, capacity.sessions), params), jax.ShapeDtypeStruct((), jnp.int32)
    )


def state_shardings(config: ModelConfig, capacity: Capacity, mesh: Mesh) -> TrainState:
    """Where each leaf of a `TrainState` lives: moments with their parameters, counters everywhere."""
    where = shardings(abstract_model(config, capacity)[1], mesh)
    everywhere = replicated(mesh)
    steps = jax.tree.map(lambda _: everywhere, optim.split(where)[0])
    of_sessions = dict.fromkeys(optim.SESSION_TABLES, everywhere)
    return TrainState(where, optim.OptState(where, where, steps, of_sessions), everywhere)


class Program:
    """A jitted function whose executables can be made ahead: one per set of argument shapes."""

    def __init__(self, jitted: Any, mesh: Mesh):
        self.jitted, self.mesh = jitted, mesh
        self.executables: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        return self.executable(*args)(*args)

    def executable(self, *args: Any) -> Any:
        """The compiled function for arguments like these."""
        key = _shapes(args)
        if key not in self.executables:
            with jax.set_mesh(self.mesh):  # kernels that a compiler cannot split ask for it
                self.executables[key] = self.jitted.lower(*args).compile()
        return self.executables[key]

    def has(self, *args: Any) -> bool:
        """Whether arguments like these (arrays or shapes) were compiled for already."""
        return _shapes(args) in self.executables


def _shapes(args: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(args))


def compile_ahead(jobs: Iterable[tuple[Program, tuple[Any, ...]]]) -> int:
    """Compiles programs for arguments like these, as many at a time as there are cores; returns how many were missing."""
    missing = list({(id(p), _shapes(args)): (p, args) for p, args in jobs if not p.has(*args)}.values())
    progress = Progress(len(missing), label="compile ")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = {pool.submit(program.executable, *args) for program, args in missing}
        try:
            while running:
                done, running = wait(running, timeout=1.0, return_when=FIRST_EXCEPTION)
                for job in done:
                    job.result()
                progress.show(len(missing) - len(running))
        finally:
            pool.shutdown(
                wait=False, cancel_futures=True
            )  # an error or Ctrl-C does not wait for programs not yet begun
            progress.close()
    return len(missing)


@lru_cache(maxsize=512)
def gradient_program(config: ModelConfig, capacity: Capacity, layout: Layout, mesh: Mesh) -> Program:
    """(params, batch, step, seed) -> (gradients, losses). Stochastic depth draws from fold_in(key(seed), step)."""
    graph, shapes = abstract_model(config, capacity)
    where, everywhere = shardings(shapes, mesh), replicated(mesh)

    def gradient(params: Tree, batch: Batch, step: Array, seed: Array) -> tuple[Tree, dict[str, Array]]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), step)

        def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
            predictions = nnx.merge(graph, params)(batch, layout, dropout_key=dropout_key)
            means = loss_sums(predictions, batch, layout, config).means(config)
            return means["loss"], means

        return jax.grad(loss, has_aux=True)(params)

    places = (where, batch_sharding(mesh), everywhere, everywhere)
    return Program(jax.jit(gradient, in_shardings=places, out_shardings=(where, everywhere)), mesh)


@lru_cache(maxsize=64)
def update_program(config: ModelConfig, capacity: Capacity, settings: optim.AdamW, mesh: Mesh) -> Program:
    """(state, gradients, session rows, row mask, owner) -> (state, norms and rates). The state is donated.

    Apart from the gradient because it is the same for every layout: it is compiled once a run. owner: (neuron rows,) session of
    each neuron row.
    """
    where, everywhere = state_shardings(config, capacity, mesh), replicated(mesh)

    def update(
        state: TrainState, grads: Tree, session_rows: Array, row_mask: Array, owner: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        present = jnp.zeros(capacity.sessions, bool).at[session_rows].max(row_mask)
        params, opt, told = optim.update(grads, state.opt, state.params, state.step, present, owner, settings)
        return TrainState(params, opt, state.step + 1), told

    rows = batch_sharding(mesh)
    places = (where, where.params, rows, rows, everywhere)
    return Program(jax.jit(update, donate_argnums=0, in_shardings=places, out_shardings=(where, everywhere)), mesh)


@lru_cache(maxsize=512)
def predict_program(config: ModelConfig, capacity: Capacity, layout: Layout, mesh: Mesh) -> Program:
    """(params, batch) -> (Predictions, LossSums), without stochastic depth."""
    graph, shapes = abstract_model(config, capacity)

    def predict(params: Tree, batch: Batch) -> tuple[Predictions, LossSums]:
        predictions = nnx.merge(graph, params)(batch, layout)
        return predictions, loss_sums(predictions, batch, layout, config)

    return Program(
        jax.jit(
            predict,
            in_shardings=(shardings(shapes, mesh), batch_sharding(mesh)),
            out_shardings=(batch_sharding(mesh), replicated(mesh)),
        ),
        mesh,
    )


def _model(config: ModelConfig, capacity: Capacity, key: Array) -> OmniMouse:
    return OmniMouse(
        config,
        n_neurons=capacity.neurons,
        n_sessions=capacity.sessions,
        n_animals=capacity.animals,
        rngs=nnx.Rngs(params=key),
    )
