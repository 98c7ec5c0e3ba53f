"""From a config to the parts of a run: store, vocabulary, windows, mesh, regimes. Shared by training and evaluation."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.recordings.leaks import left_out
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.pipeline import Cutter, EvaluationBatches, slots_for
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.touched import Update
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex
from omnimouse_jax.training.defaults import model_config
from omnimouse_jax.training.objective import LossSums
from omnimouse_jax.training.parallel import batch_shards, local_rows, make_mesh, put_batch
from omnimouse_jax.training.step import ALL, Capacity, Trained, predict_program

#: Fields that must be positive.
AT_LEAST_ONE = (
    "data.batch_size",
    "data.threads",
    "data.ahead",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.accumulate",
    "evaluation.batch_size",
)
#: Fields that must not be negative.
AT_LEAST_ZERO = (
    "data.minutes",
    "train.keep_every",
    "train.keep_minutes",
    "train.patience",
    "train.validation_windows",
)
#: Fields that take one of a few words.
ONE_OF = {
    "data.blanks": ("follow", "none", "all"),
    "data.damaged": ("stop", "skip"),
    "train.nonfinite": ("stop", "skip"),
    "train.regime_per": ("step", "micro"),
    "optimizer.rows": get_args(Update),
}
CACHE_VARIABLE = "OMNIMOUSE_COMPILE_CACHE"


@dataclasses.dataclass(frozen=True)
class Parts:
    """What training and evaluation of one run have in common."""

    config: ConfigDict
    store: Store
    vocabulary: Vocabulary
    model: ModelConfig
    capacity: Capacity
    mesh: Mesh
    trained: Trained = ALL

    def cutter(self, sessions: Sequence[str], at_most: int | None = None) -> Cutter:
        """Cuts batches with enough neuron slots for `sessions`, or for `at_most` sampled neurons."""
        slots = slots_for(max(self.vocabulary.entry(key).n_neurons for key in sessions))
        if at_most is not None:
            slots = min(slots, at_most)
        model = self.model
        return Cutter(self.store, self.vocabulary, model.grid, model.behavior_channels, model.screen, slots)

    def windows(
        self,
        sessions: Sequence[str],
        tiers: Sequence[str],
        stride_s: float,
        leave_out: Mapping[str, frozenset[str]] | None = None,
        minutes: float = 0.0,
    ) -> WindowIndex:
        """Windows with something to learn or to score, less the stimuli that `leave_out` names by session, in the first `minutes`.

        A session whose responses a benchmark withholds in all of these tiers is skipped, as one without such a tier is.
        UserError if none is left.
        """
        data = self.config.data
        kept = [key for key in sessions if self._withholds(key, tiers)]
        rest = [key for key in sessions if key not in kept]
        if not rest:
            raise UserError(
                f"session {kept[0]}: the responses of tier {', '.join(tiers)} are withheld by the benchmark that it comes from",
                way_out="name another tier",
            )
        rule = (data.blanks, data.windows, leave_out, minutes)
        index = WindowIndex.of(self.store, rest, tiers, self.model.grid, stride_s, *rule)
        return dataclasses.replace(index, skipped=(*index.skipped, *kept))

    def _withholds(self, key: str, tiers: Sequence[str]) -> bool:
        summary = self.store.summary(key)  # of hundreds of sessions no trial is read for this
        asked, kept = (sum(summary[what].get(tier, 0) for tier in tiers) for what in ("trials", "withheld"))
        return asked > 0 and asked == kept

    def training_windows(self) -> WindowIndex:
        """Windows to learn from: without what the config leaves out because it is held out somewhere."""
        config, data = self.config, self.config.data
        sessions = self.store.chosen(data.sessions)
        if data.leave_out == "nothing":
            return self.windows(sessions, data.tiers, data.stride_s, minutes=data.minutes)
        held = {*config.train.validation_tiers, *config.evaluation.tiers} - {*data.tiers}
        out = left_out(self.store, sessions, tuple(config.evaluation.sessions) or sessions, held, data.leave_out)
        try:
            return self.windows(sessions, data.tiers, data.stride_s, out, data.minutes)
        except UserError as error:
            raise UserError(
                f"{error.what}, less stimuli that are held out (data.leave_out={data.leave_out})",
                way_out="`omnimouse-jax inspect STORE --leaks` lists them",
            ) from None


def prepare(config: ConfigDict, vocabulary: Vocabulary | None = None) -> Parts:
    """Opens the store, names the rows, makes the mesh. `vocabulary` is that of a trained run, where there is one."""
    enable_compilation_cache()
    for field in AT_LEAST_ONE:
        group, name = field.split(".")
        if config[group][name] < 1:
            raise UserError(f"config: {field} is {config[group][name]}", way_out="use a positive whole number")
    for field in AT_LEAST_ZERO:
        group, name = field.split(".")
        if config[group][name] < 0:
            raise UserError(f"config: {field} is {config[group][name]}", way_out="use a positive number, or 0 for none")
    for field, words in ONE_OF.items():
        group, name = field.split(".")
        if config[group][name] not in words:
            told = ", ".join(map(repr, words))
            raise UserError(f"config: {field} is {config[group][name]!r}", way_out=f"use one of {told}")
    if config.data.batch_size % config.train.accumulate:
        raise UserError(
            f"config: batch_size {config.data.batch_size} does not divide into {config.train.accumulate} micro-batches",
            way_out="change --config.data.batch_size or --config.train.accumulate",
        )
    if config.optimizer.warmup_steps + config.optimizer.anneal_steps > config.train.steps:
        raise UserError(
            f"config: {config.optimizer.warmup_steps} warm-up and {config.optimizer.anneal_steps} anneal steps do not fit into "
            f"{config.train.steps} steps",
            way_out="lower --config.optimizer.warmup_steps and --config.optimizer.anneal_steps, or train longer",
        )
    if not config.data.store:
        raise UserError("config: data.store is empty", way_out="pass --store STORE (a folder, or a gs:// or s3:// URL)")
    store = Store.open(config.data.store)
    if vocabulary is None:
        vocabulary = Vocabulary.of({key: store.summary(key) for key in store.chosen(config.data.sessions)})
    model = model_config(config.model)
    _require_screen(store, vocabulary, model, store.chosen(config.data.sessions))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    if config.evaluation.batch_size % batch_shards(mesh):
        raise UserError(
            f"config: evaluation.batch_size {config.evaluation.batch_size} does not divide over {batch_shards(mesh)} devices",
            way_out=f"use a multiple of {batch_shards(mesh)}",
        )
    trained = Trained.of(config.train.trained, config.train.adapter_rank)
    return Parts(config, store, vocabulary, model, Capacity.of(vocabulary), mesh, trained)


def _require_screen(store: Store, vocabulary: Vocabulary, model: ModelConfig, sessions: Sequence[str]) -> None:
    """Every screen must be the model's; the error has the flags that make it so."""
    known = {entry.key for entry in vocabulary.sessions}
    for key in sessions:
        screen = store.summary(key)["screen_size"]
        if key not in known or screen is None or tuple(screen) == tuple(model.screen):
            continue
        size = f"{screen[0]}x{screen[1]}"
        flags = f"--config.model.screen='({screen[0]}, {screen[1]})'"
        padding = _padding_for(model, (int(screen[0]), int(screen[1])))
        if padding and padding != model.hiera_padding:
            flags += f" --config.model.hiera_padding='{padding}'"
        way_out = f"pass {flags}" if padding else "resize the stimuli before ingesting"
        raise UserError(
            f"session {key}: screen is {size}, the model's is {model.screen[0]}x{model.screen[1]}",
            way_out=f"{way_out}, or leave it out of --config.data.sessions",
        )


def _padding_for(model: ModelConfig, screen: tuple[int, int]) -> tuple[int, int] | None:
    """A padding with which the model takes such a screen: its own, the released one, or the smallest that will do."""
    tried = sorted(itertools.product(range(9), range(9)), key=lambda pair: (sum(pair), pair))
    for padding in (model.hiera_padding, ModelConfig().hiera_padding, *tried):
        try:
            return dataclasses.replace(model, screen=screen, hiera_padding=padding).hiera_padding
        except UserError:
            continue
    return None


def regimes_of(texts: Sequence[str], grid: Grid) -> tuple[Regime, ...]:
    """Regimes by name, suite or expression, on the model's grid."""
    released = {regime for suite in regimes.SUITES.values() for regime in suite}
    chosen = tuple(regimes.on_grid(r, grid) if r in released else r for r in regimes.select(texts, grid))
    if not chosen:
        raise UserError("config: regimes is empty", way_out="name at least one regime, e.g. ('training',)")
    return chosen


def predictions(parts: Parts, params: Any, batches: EvaluationBatches) -> Any:
    """Yields (windows, host batch, host predictions, loss sums) for each batch, one batch behind the device."""
    for number, batch, out in _ahead(parts, params, batches, slice(None)):
        predicted, sums = jax.device_get(out)
        yield batches.windows_of(number), batch, predicted, sums


def mean_losses(parts: Parts, params: Any, batches: EvaluationBatches) -> dict[str, float]:
    """Loss over all targets of some batches together, in float64; {} where nothing that was asked for was recorded.

    A process of several reads its own rows only.
    """
    totals = np.zeros(len(LossSums._fields), np.float64)
    for _, _, (_, sums) in _ahead(parts, params, batches, local_rows(parts.mesh, batches.batch_size)):
        totals += np.array(jax.device_get(sums), np.float64)
    counted = LossSums(*totals)
    if counted.response_count + counted.behavior_count == 0:
        return {}
    return {name: float(value) for name, value in counted.means(parts.model, np.maximum).items()}


def _ahead(parts: Parts, params: Any, batches: EvaluationBatches, rows: slice) -> Iterator[tuple[int, Batch, Any]]:
    """(number, host batch, what the device makes of it), each when the next one is under way."""
    program = predict_program(parts.model, parts.capacity, batches.layout, parts.mesh, parts.trained)
    pending = None
    with closing(batches.stream(parts.config.data.threads, parts.config.data.ahead, rows)) as stream:
        for number, batch in enumerate(stream):
            out = program(params, put_batch(batch, parts.mesh))
            if pending is not None:
                yield pending
            pending = (number, batch, out)
    if pending is not None:
        yield pending


def enable_compilation_cache() -> None:
    """Compiled programs are kept on disk, so that a second run starts at once. $OMNIMOUSE_COMPILE_CACHE says where.

    A folder, or a URL of storage that machines share (gs://bucket/programs): jax gets it as it is.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "omnimouse_jax" / "programs"
    jax.config.update("jax_compilation_cache_dir", os.environ.get(CACHE_VARIABLE, str(default)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
