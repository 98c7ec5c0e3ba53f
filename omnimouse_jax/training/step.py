"""The compiled programs: one training step and one prediction per token layout. Pure functions of plain trees.

Programs are kept by what decides them (model, settings, layout, mesh), so several runs in one process share them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import Rows, gather
from omnimouse_jax.model.omnimouse import Core, OmniMouse, Predictions
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.touched import Touched
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import adapters, optim, tables
from omnimouse_jax.training.objective import LossCounts, LossSums, loss_counts, loss_sums
from omnimouse_jax.training.parallel import batch_sharding, gathered, place, put_everywhere, replicated, shardings
from omnimouse_jax.training.processes import is_first

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


class Trained(NamedTuple):
    """Which top-level parts of the parameters are trained, and the rank of adapters where there are some."""

    parts: tuple[str, ...] = ("core", "tables")
    rank: int = 0

    @classmethod
    def of(cls, trained: str, rank: int) -> Trained:
        """`all`; `tables`: the core stays as it is; `adapters`: so it does, but for low-rank additions to its kernels."""
        known = {"all": cls(), "tables": cls(("tables",)), "adapters": cls(("tables", "adapters"), rank)}
        if trained not in known:
            raise UserError(f"config: train.trained is {trained!r}", way_out=f"use one of {', '.join(known)}")
        if rank < 1:
            raise UserError(f"config: train.adapter_rank is {rank}", way_out="use a positive whole number")
        return known[trained]


ALL = Trained()


def abstract_model(config: ModelConfig, capacity: Capacity) -> tuple[Any, Tree]:
    """(graph definition, tree of parameter shapes) of core and tables: nothing is allocated."""
    model = nnx.eval_shape(lambda: _model(config, capacity, jax.random.key(0)))
    graph, state = nnx.split(model, nnx.Param)
    return graph, nnx.to_pure_dict(state)


def abstract_params(config: ModelConfig, capacity: Capacity, trained: Trained = ALL) -> Tree:
    """Shapes of all parameters, adapters included."""
    shapes = abstract_model(config, capacity)[1]
    return {**shapes, "adapters": adapters.shapes(shapes["core"], trained.rank)} if trained.rank else shapes


def init_params(config: ModelConfig, capacity: Capacity, seed: int, mesh: Mesh, trained: Trained = ALL) -> Tree:
    """Parameters {"core", "tables"}: drawn on the host, the same on every host, and placed shard by shard."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = _model(config, capacity, jax.random.key(seed))
        drawn = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    if trained.rank:
        drawn["adapters"] = adapters.draw(drawn["core"], trained.rank, seed)
    return place(drawn, mesh)


def init_state(config: ModelConfig, capacity: Capacity, seed: int, mesh: Mesh, trained: Trained = ALL) -> TrainState:
    return state_of(init_params(config, capacity, seed, mesh, trained), mesh, trained)


def state_of(params: Tree, mesh: Mesh, trained: Trained = ALL) -> TrainState:
    """A state that begins with these parameters, placed on the mesh already."""
    learnt = {part: params[part] for part in trained.parts}
    opt = jax.jit(optim.init, out_shardings=shardings(jax.eval_shape(optim.init, learnt), mesh))(learnt)
    return TrainState(params, opt, put_everywhere(np.int32(0), mesh))


def abstract_state(config: ModelConfig, capacity: Capacity, trained: Trained = ALL) -> TrainState:
    """Shapes and dtypes of a `TrainState`: what a restore needs to know."""
    params = abstract_params(config, capacity, trained)
    learnt = {part: params[part] for part in trained.parts}
    return TrainState(params, jax.eval_shape(optim.init, learnt), jax.ShapeDtypeStruct((), jnp.int32))


def state_shardings(config: ModelConfig, capacity: Capacity, mesh: Mesh, trained: Trained = ALL) -> TrainState:
    """Where each leaf of a `TrainState` lives: moments and counts with their parameters."""
    return shardings(abstract_state(config, capacity, trained), mesh)


#: On a CPU the compiler itself uses all cores, and two threads that read its cache at once have crashed it.
_ONE_AT_A_TIME = threading.Lock()


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
                lowered = self.jitted.lower(*args)
                with _ONE_AT_A_TIME if jax.default_backend() == "cpu" else contextlib.nullcontext():
                    self.executables[key] = lowered.compile()
        return self.executables[key]

    def has(self, *args: Any) -> bool:
        """Whether arguments like these (arrays or shapes) were compiled for already."""
        return _shapes(args) in self.executables


def _shapes(args: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(args))


def compile_ahead(jobs: Iterable[tuple[Program, tuple[Any, ...]]], given_up: Callable[[], bool] = lambda: False) -> int:
    """Compiles programs for arguments like these, as many at a time as there are cores; returns how many were missing.

    Returns early, within a second, once `given_up()`.
    """
    missing = list({(id(p), _shapes(args)): (p, args) for p, args in jobs if not p.has(*args)}.values())
    progress = Progress(len(missing), label="compile ", shown=is_first())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = {pool.submit(program.executable, *args) for program, args in missing}
        try:
            while running and not given_up():
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
def gradient_program(
    config: ModelConfig, capacity: Capacity, layout: Layout, mesh: Mesh, trained: Trained = ALL
) -> Program:
    """(params, batch, touched, others, step, seed, first row) -> (gradients, losses) of a micro-batch.

    Gradients are like the trained parameters; those of tables are of the rows that the step touches. `others` counts the scored
    elements of the step's other micro-batches, so that gradients and losses of all of them add up to those of one large batch.
    Stochastic depth draws from fold_in(fold_in(key(seed), step), number of the row in the step's batch).
    """
    where, everywhere = shardings(abstract_params(config, capacity, trained), mesh), replicated(mesh)

    def gradient(
        params: Tree, batch: Batch, touched: Touched, others: LossCounts, step: Array, seed: Array, first_row: Array
    ) -> tuple[Tree, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        rows = first_row + jnp.arange(len(batch.row_mask))
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        read = {name: tables.read(name, table, touched, mesh) for name, table in params["tables"].items()}
        learnt = {part: params[part] for part in trained.parts if part != "tables"} | {"tables": read}

        def loss(learnt: Tree) -> tuple[Array, dict[str, Array]]:
            predictions = core_of({**params, **learnt}, config, mesh)(
                rows_of(learnt["tables"], batch, touched), batch, layout, dropout_keys=keys
            )
            means = loss_sums(predictions, batch, layout, config).means(config, others=others)
            return means["loss"], means

        return jax.grad(loss, has_aux=True)(learnt)

    places = (where, batch_sharding(mesh), *[everywhere] * 5)
    return Program(
        jax.jit(gradient, in_shardings=places, out_shardings=(gradient_shardings(where, mesh, trained), everywhere)),
        mesh,
    )


def gradient_shardings(params: Tree, mesh: Mesh, trained: Trained = ALL) -> Tree:
    """Gradients live with their parameters; those of the few touched rows everywhere."""
    of_tables = dict.fromkeys(params["tables"], replicated(mesh))
    return {part: params[part] for part in trained.parts} | {"tables": of_tables}


def abstract_gradients(params: Tree, touched: Touched, trained: Trained = ALL) -> Tree:
    """Shapes of a step's gradients: like the trained parameters, but of tables only the rows that it touches."""

    def shape(x: Any, *sides: int) -> Any:
        return jax.ShapeDtypeStruct(sides or x.shape, x.dtype)

    grads = {part: jax.tree.map(shape, params[part]) for part in trained.parts if part != "tables"}
    rows = {name: len(tables.rows_in(touched, name)) for name in params["tables"]}
    return grads | {"tables": {name: shape(x, rows[name], *x.shape[1:]) for name, x in params["tables"].items()}}


def core_of(params: Tree, config: ModelConfig, mesh: Mesh) -> Core:
    """The core that these parameters make, adapters added to it."""
    core = adapters.added(params["core"], params["adapters"]) if "adapters" in params else params["core"]
    return nnx.merge(_core_graph(config), gathered(core, mesh))


def rows_of(read: dict[str, Array], batch: Batch, touched: Touched) -> Rows:
    """The rows of a batch's windows, out of those that its step touches."""

    def taken(name: str, rows: Any) -> Array:
        return read[name].at[tables.positions(touched, name, jnp.asarray(rows))].get(mode="fill", fill_value=0)

    return Rows(
        taken("neuron_embedding", batch.neuron_rows),
        taken("neuron_bias", batch.neuron_rows),
        taken("session_embedding", batch.session_rows),
        taken("animal_embedding", batch.animal_rows),
    )


@lru_cache(maxsize=512)
def count_program(layout: Layout, mesh: Mesh) -> Program:
    """batch -> LossCounts: what a micro-batch scores, known before its gradient."""
    counts = jax.jit(
        lambda batch: loss_counts(batch, layout), in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh)
    )
    return Program(counts, mesh)


@lru_cache(maxsize=64)
def sum_program(config: ModelConfig, capacity: Capacity, mesh: Mesh, trained: Trained = ALL) -> Program:
    """(a, b) -> a + b of what gradient programs give, each in its place; `a` is donated."""
    where, everywhere = shardings(abstract_params(config, capacity, trained), mesh), replicated(mesh)
    places = (gradient_shardings(where, mesh, trained), everywhere)
    add = jax.jit(
        lambda a, b: jax.tree.map(jnp.add, a, b),
        donate_argnums=0,
        in_shardings=(places, places),
        out_shardings=places,
    )
    return Program(add, mesh)


@lru_cache(maxsize=64)
def update_program(
    config: ModelConfig,
    capacity: Capacity,
    settings: optim.AdamW,
    mesh: Mesh,
    trained: Trained = ALL,
    skip: bool = False,
) -> Program:
    """(state, gradients, touched, loss, number of the step) -> (state, norms and rates). The state is donated.

    Apart from the gradient because it is the same for every layout: it is compiled once a run. A loss or gradient that is not
    finite changes no parameter. Then the state's step stays what it was, and no later step is taken either, so that the state that
    caused it can be looked at; with `skip` the run goes on with the next batch.
    """
    where, everywhere = state_shardings(config, capacity, mesh, trained), replicated(mesh)

    def update(
        state: TrainState, grads: Tree, touched: Touched, loss: Array, number: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        ok = jnp.isfinite(loss) & (state.step == number)
        params, opt, told = optim.update(grads, state.opt, state.params, state.step, touched, ok, settings, mesh)
        step = state.step + (1 if skip else told["finite"].astype(jnp.int32))
        return TrainState(params, opt, step), told

    grads = gradient_shardings(where.params, mesh, trained)
    places = (where, grads, everywhere, everywhere, everywhere)
    return Program(jax.jit(update, donate_argnums=0, in_shardings=places, out_shardings=(where, everywhere)), mesh)


@lru_cache(maxsize=512)
def predict_program(
    config: ModelConfig, capacity: Capacity, layout: Layout, mesh: Mesh, trained: Trained = ALL
) -> Program:
    """(params, batch) -> (Predictions, LossSums), without stochastic depth."""
    shapes = abstract_params(config, capacity, trained)

    def predict(params: Tree, batch: Batch) -> tuple[Predictions, LossSums]:
        predictions = core_of(params, config, mesh)(gather(params["tables"], batch), batch, layout)
        return predictions, loss_sums(predictions, batch, layout, config)

    return Program(
        jax.jit(
            predict,
            in_shardings=(shardings(shapes, mesh), batch_sharding(mesh)),
            out_shardings=(batch_sharding(mesh), replicated(mesh)),
        ),
        mesh,
    )


@lru_cache(maxsize=64)
def _core_graph(config: ModelConfig) -> Any:
    return nnx.split(nnx.eval_shape(lambda: Core(config, rngs=nnx.Rngs(params=jax.random.key(0)))), nnx.Param)[0]


def _model(config: ModelConfig, capacity: Capacity, key: Array) -> OmniMouse:
    return OmniMouse(
        config,
        n_neurons=capacity.neurons,
        n_sessions=capacity.sessions,
        n_animals=capacity.animals,
        rngs=nnx.Rngs(params=key),
    )
