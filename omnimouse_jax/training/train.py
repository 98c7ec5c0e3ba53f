"""The trainer, top to bottom: prepare, start or resume, step, validate, save, finish.

Invariants of the loop:
- the state's step says which batch comes next, which regime it has and which random numbers it draws; nothing else does;
- the host never waits for the device except to log, and then for the step before;
- a checkpoint holds all that the loop reads, so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.model import counts
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.pipeline import EvaluationBatches, TrainingBatches
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import checkpoint, track
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.defaults import optimizer_settings
from omnimouse_jax.training.parallel import local_rows, put_batch, replicated
from omnimouse_jax.training.setup import Parts, mean_losses, prepare, regimes_of
from omnimouse_jax.training.step import (
    Program,
    TrainState,
    compile_ahead,
    gradient_program,
    init_state,
    predict_program,
    update_program,
)

#: Fields that may differ when a run goes on: how long (until it anneals), how often, on what. They change no step.
MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "data.threads",
    "data.ahead",
    "mesh.",
    "evaluation.batch_size",
    "evaluation.bootstrap",
    "evaluation.tiers",
    "evaluation.checkpoint",
)


class Interrupted(Exception):
    """Ctrl-C or a preemption notice: the state was saved. `status` is the exit status."""

    def __init__(self, workdir: Path, step: int, total: int, signum: int):
        super().__init__(f"stopped at step {step} of {total}, saved in {workdir}; run the same command again to go on")
        self.status = 130 if signum == signal.SIGINT else 75


@dataclasses.dataclass
class Clock:
    """Where the seconds of a run went."""

    start: float = dataclasses.field(default_factory=time.monotonic)
    waiting_for_data: float = 0.0
    validating: float = 0.0


def train(config: ConfigDict, workdir: Path | str, labels: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains until `train.steps`, resuming whatever `workdir` holds; returns the columns of run.json.

    `labels` are columns that only the caller knows (study, size, data_order, ...). Raises UserError before anything is written
    when the config cannot be run, and Interrupted after saving when it is told to stop.
    """
    workdir = Path(workdir)
    parts = prepare(config)
    sessions = parts.store.chosen(config.data.sessions)
    batches = TrainingBatches(
        cutter=parts.cutter(sessions, at_most=parts.model.max_neurons),
        windows=parts.windows(sessions, config.data.tiers, config.data.stride_s),
        regimes=regimes_of(config.regimes, parts.model.grid),
        batch_size=config.data.batch_size,
        seed=config.seed,
    )
    rows = local_rows(parts.mesh, config.data.batch_size)
    validation = _validation_batches(parts, sessions)
    for regime in batches.regimes:
        regimes.resolve(regime, parts.model.grid, batches.cutter.n_slots)

    saved = Checkpoints(workdir, config.train.keep)
    meta = {"config": config.to_dict(), "vocabulary": parts.vocabulary.to_json(), "version": __version__}
    state = _start_or_resume(parts, saved, meta, workdir)
    first = int(state.step)
    track.write_json(workdir / "config.json", meta["config"])
    track.write_json(workdir / "vocabulary.json", meta["vocabulary"])
    metrics = track.Metrics(workdir, first)

    owner = jax.device_put(parts.vocabulary.session_of_row(), replicated(parts.mesh))
    seed = jax.device_put(jnp.int32(config.seed), replicated(parts.mesh))
    update = update_program(parts.model, parts.capacity, optimizer_settings(config), parts.mesh)
    clock, pending, told, scored = Clock(), None, "", {}
    n_programs, flops = _compile_ahead(parts, state, batches, rows, validation, update, owner, seed)
    compile_seconds = time.monotonic() - clock.start
    clock.start = time.monotonic()
    progress = track.Progress(config.train.steps, first, label="train ")

    with _StopSignal() as stop:
        stream = batches.stream(first, config.train.steps, rows, config.data.threads, config.data.ahead)
        for step in range(first, config.train.steps):
            waited = time.monotonic()
            batch = put_batch(next(stream), parts.mesh)
            clock.waiting_for_data += time.monotonic() - waited

            regime = batches.regime(step)
            layout = regimes.resolve(regime, parts.model.grid, batches.cutter.n_slots)
            gradient = gradient_program(parts.model, parts.capacity, layout, parts.mesh)
            grads, losses = gradient(state.params, batch, state.step, seed)
            state, norms = update(state, grads, batch.session_rows, batch.row_mask, owner)

            if pending is not None:
                told = _log(metrics, *pending, clock, first, config.data.batch_size)
                pending = None
            if (step + 1) % config.train.log_every == 0 or step + 1 == config.train.steps:
                pending = (step + 1, regime.name, {**losses, **norms})
            progress.show(step + 1, told)

            stopping = stop.signum is not None
            last = step + 1 == config.train.steps
            if stopping and not last:
                if pending is not None:
                    _log(metrics, *pending, clock, first, config.data.batch_size)
                saved.save(state, meta, None)
                saved.close()
                progress.close()
                raise Interrupted(workdir, step + 1, config.train.steps, stop.signum or 0)
            if last or (step + 1) % config.train.checkpoint_every == 0:
                if pending is not None:  # a loss that is not finite must stop the run before it is saved
                    told, pending = _log(metrics, *pending, clock, first, config.data.batch_size), None
                scored = _validate(parts, state, validation, metrics, clock)
                saved.save(state, meta, scored.get("validation_loss"))

    if pending is not None:
        _log(metrics, *pending, clock, first, config.data.batch_size)
    progress.close()
    metrics.close()
    run = {
        **_data_columns(parts, batches, config),
        **_parameter_columns(parts),
        **(labels or {}),
        "steps": config.train.steps,
        "flops": flops,
        "seconds": time.monotonic() - clock.start,
        "seconds_waiting_for_data": clock.waiting_for_data,
        "programs_compiled": n_programs,
        "compile_seconds": compile_seconds,
        "checkpoint_step": saved.step_named(config.evaluation.checkpoint),
        **scored,
    }
    saved.close()
    if first < config.train.steps or not (workdir / "run.json").exists():
        track.write_json(workdir / "run.json", run)
    return run


def _compile_ahead(
    parts: Parts,
    state: TrainState,
    batches: TrainingBatches,
    rows: slice,
    validation: dict[str, EvaluationBatches],
    update: Program,
    owner: jax.Array,
    seed: jax.Array,
) -> tuple[int, float]:
    """Compiles every program of the run before its first step, and says so: none of it is in the step times.

    Returns how many there were to compile, and the floating-point operations of the run's gradients over all devices, as the
    compiler counts them, in expectation over the drawn regimes.
    """
    steps = parts.config.train.steps
    if int(state.step) >= steps:
        return 0, float("nan")
    jobs: list[tuple[Program, tuple[Any, ...]]] = []
    gradients: dict[Regime, tuple[Program, tuple[Any, ...]]] = {}
    batch = put_batch(batches.rows(int(state.step), rows), parts.mesh)
    for regime in batches.regimes:
        layout = regimes.resolve(regime, parts.model.grid, batches.cutter.n_slots)
        gradient = gradient_program(parts.model, parts.capacity, layout, parts.mesh)
        gradients[regime] = (gradient, (state.params, batch, state.step, seed))
    jobs.extend(gradients.values())
    jobs.append((update, (state, state.params, batch.session_rows, batch.row_mask, owner)))
    if validation:
        batch = put_batch(next(iter(validation.values()))[0], parts.mesh)
    for task in validation.values():
        layout = regimes.resolve(task.regime, parts.model.grid, task.cutter.n_slots)
        jobs.append((predict_program(parts.model, parts.capacity, layout, parts.mesh), (state.params, batch)))
    start = time.monotonic()
    n = compile_ahead(jobs)
    if n:
        print(f"compiled {n} programs in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    per_step = np.average(
        [program.flops(*args) for program, args in gradients.values()], weights=[regime.weight for regime in gradients]
    )
    return n, float(steps * parts.mesh.size * per_step)


def _validation_batches(parts: Parts, sessions: tuple[str, ...]) -> dict[str, EvaluationBatches]:
    """Per task, the same windows each time: spread evenly over the validation tier. Empty without such a tier."""
    config = parts.config
    if not config.train.validation_windows:
        return {}
    scored = tuple(config.evaluation.sessions) or sessions
    try:
        windows = parts.windows(scored, config.train.validation_tiers, config.evaluation.stride_s)
    except UserError as error:
        print(f"no validation: {error}", file=sys.stderr)
        return {}
    numbers = np.linspace(0, len(windows) - 1, min(len(windows), config.train.validation_windows)).astype(int)
    chosen = [windows[int(number)] for number in numbers]
    return {
        task: EvaluationBatches(
            parts.cutter(scored), chosen, regimes_of([text], parts.model.grid)[0], config.evaluation.batch_size
        )
        for task, text in config.evaluation.tasks.items()
    }


def _start_or_resume(parts: Parts, saved: Checkpoints, meta: dict[str, Any], workdir: Path) -> TrainState:
    config = parts.config
    newest = saved.latest()
    if newest is None:
        return init_state(parts.model, parts.capacity, config.seed, parts.mesh)
    old = saved.meta(newest)
    before, now = checkpoint.comparable(old["config"]), checkpoint.comparable(meta["config"])
    changed = [
        k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and not k.startswith(MAY_CHANGE)
    ]
    if changed:
        told = "; ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        raise UserError(
            f"run {workdir}: trained with another config ({told})", way_out="use a new --workdir or the old values"
        )
    length, annealed = before["train.steps"], before["optimizer.anneal_steps"]
    if length != config.train.steps and annealed and newest > min(length, config.train.steps) - annealed:
        raise UserError(
            f"run {workdir}: at step {newest} of {length} the learning rate is already annealing",
            way_out="keep train.steps, or use a new --workdir",
        )
    if Vocabulary.from_json(old["vocabulary"]) != parts.vocabulary:
        raise UserError(f"run {workdir}: trained on other sessions", way_out="use a new --workdir or the same sessions")
    return saved.restore(newest, checkpoint.restore_target(parts.model, parts.capacity, parts.mesh))


def _validate(
    parts: Parts, state: TrainState, validation: dict[str, EvaluationBatches], metrics: track.Metrics, clock: Clock
) -> dict[str, float]:
    """Mean over tasks of the validation loss; {} where there is no validation tier."""
    if not validation:
        return {}
    start = time.monotonic()
    losses = {task: mean_losses(parts, state.params, batches)["loss"] for task, batches in validation.items()}
    mean = float(np.mean(list(losses.values())))
    metrics.write(int(state.step), {"validation_loss": mean, **{f"validation_loss/{k}": v for k, v in losses.items()}})
    clock.validating += time.monotonic() - start
    return {"validation_loss": mean}


def _log(
    metrics: track.Metrics, step: int, regime: str, values: dict[str, Any], clock: Clock, first: int, batch_size: int
) -> str:
    """Writes one line of metrics; returns what the progress line says. A loss that is not finite stops the run."""
    numbers = {name: float(value) for name, value in jax.device_get(values).items()}
    if not np.isfinite(numbers["loss"]):
        raise UserError(
            f"step {step}, regime {regime}: loss is {numbers['loss']}",
            way_out="lower --config.optimizer.shared.learning_rate, or look for NaN and huge values in the recordings",
        )
    seconds = time.monotonic() - clock.start - clock.validating
    rate = (step - first) * batch_size / seconds
    waiting = clock.waiting_for_data / seconds
    metrics.write(step, {**numbers, "regime": regime, "windows_per_s": rate, "waiting_for_data": waiting})
    return f"loss {numbers['loss']:.4f}  {rate:.1f} windows/s  waiting for data {waiting:.0%}"


def _data_columns(parts: Parts, batches: TrainingBatches, config: ConfigDict) -> dict[str, Any]:
    """What the run saw, in the ledger's columns."""
    sessions = [entry.key for entry in parts.vocabulary.sessions]
    summaries = [parts.store.summary(key) for key in sessions]
    hours = [sum(s["tier_hours"].get(tier, 0.0) for tier in config.data.tiers) for s in summaries]
    windows_seen = config.train.steps * config.data.batch_size
    return {
        "n_sessions": len(sessions),
        "n_animals": len(parts.vocabulary.animals),
        "n_neurons": parts.vocabulary.n_neurons,
        "hours": sum(hours),
        "neuron_hours": sum(h * s["n_neurons"] for h, s in zip(hours, summaries, strict=True)),
        "unique_stimulus_hours": parts.store.unique_stimulus_hours(sessions),
        "seed": config.seed,
        "learning_rate": config.optimizer.shared.learning_rate,
        "schedule": f"warm-up {config.optimizer.warmup_steps}, constant, 1 - sqrt over {config.optimizer.anneal_steps}",
        "batch_size": config.data.batch_size,
        "windows_seen": windows_seen,
        "tokens_seen": round(windows_seen * _mean_tokens(parts, batches)),
        "epochs": windows_seen * parts.model.grid.seconds / max(1e-9, sum(hours) * 3600),
        "version": __version__,
        "device": f"{parts.mesh.size} x {jax.devices()[0].device_kind}",
    }


def _mean_tokens(parts: Parts, batches: TrainingBatches) -> float:
    """Input tokens of a window, mean over regimes: responses, video features and behaviour channels."""
    tokens = []
    for regime in batches.regimes:
        layout = regimes.resolve(regime, parts.model.grid, batches.cutter.n_slots)
        behavior = len(layout.behavior_tokens(parts.model.n_channels)) if layout.behavior == "input" else 0
        video = (layout.video_steps[1] - layout.video_steps[0]) * parts.model.features_per_step
        tokens.append(len(layout.response_tokens()) + video + behavior)
    return float(np.average(tokens, weights=[regime.weight for regime in batches.regimes]))


def _parameter_columns(parts: Parts) -> dict[str, int]:
    """Parameter counts, core and tables apart; rows that only pad the tables do not count."""
    vocabulary = parts.vocabulary
    told = counts.describe(parts.model, vocabulary.n_neurons, len(vocabulary.sessions), len(vocabulary.animals))
    tables = told["table_parts"]
    return {
        "n_params_core": told["core"],
        "n_params_tower": told["tower"],
        "n_params_neuron": tables["neurons"],
        "n_params_session": tables["sessions"] + tables["animals"],
        "n_params_total": told["total"],
    }


class _StopSignal:
    """Remembers the first SIGINT or SIGTERM; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.old: dict[int, Any] = {}

    def __enter__(self) -> _StopSignal:
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.old[signum] = signal.signal(signum, self._note)
        except ValueError:  # not the main thread: whoever runs us handles signals
            pass
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self.old.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        print("\nstopping after this step, saving ... (again to stop at once)", file=sys.stderr)
