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
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import shown
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.mixture import session_weights
from omnimouse_jax.tokens.pipeline import EvaluationBatches, TrainingBatches
from omnimouse_jax.tokens.windows import few
from omnimouse_jax.training import columns, track
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.defaults import optimizer_settings
from omnimouse_jax.training.parallel import batch_sharding, local_rows, put_batch, replicated
from omnimouse_jax.training.resume import imported_rows, start_or_resume
from omnimouse_jax.training.setup import Parts, mean_losses, prepare, regimes_of
from omnimouse_jax.training.step import (
    Program,
    TrainState,
    compile_ahead,
    gradient_program,
    predict_program,
    update_program,
)

#: Damaged windows that a run may skip before they must be less than a tenth.
MAY_SKIP = 64


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
    windows_skipped: int = 0  # of this process: their chunks were damaged
    validating: float = 0.0


def train(config: ConfigDict, workdir: Path | str, labels: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains until `train.steps`, resuming whatever `workdir` holds; returns the columns of run.json.

    `labels` are columns that only the caller knows (study, size, data_order, ...). Raises UserError before anything is written
    when the config cannot be run, and Interrupted after saving when it is told to stop.
    """
    workdir = Path(workdir)
    parts = prepare(config, imported_rows(config, workdir))
    sessions = parts.store.chosen(config.data.sessions)
    cutter = parts.cutter(sessions, at_most=parts.model.max_neurons)
    drawn = regimes_of(config.regimes, parts.model.grid)
    windows = parts.training_windows()
    batches = TrainingBatches(
        cutter=cutter,
        windows=windows,
        plan=plan_of(parts.model, drawn, cutter.n_slots, config.train.programs),
        batch_size=config.data.batch_size,
        seed=config.seed,
        weights=session_weights(windows, parts.vocabulary, config.data.mixture, config.data.temperature),
        skip_damaged=config.data.damaged == "skip",
    )
    rows = local_rows(parts.mesh, config.data.batch_size)
    validation = _validation_batches(parts, sessions)

    saved = Checkpoints(workdir, config.train.keep)
    meta = {
        "config": config.to_dict(),
        "vocabulary": parts.vocabulary.to_json(),
        "data": {"windows": windows.fingerprint(), "sessions": {k: parts.store.summary(k)["check"] for k in sessions}},
        "version": __version__,
    }
    state = start_or_resume(parts, saved, meta, workdir)
    first = int(state.step)
    if first:
        print(f"going on from step {first} of {config.train.steps}", file=sys.stderr, flush=True)
    if windows.skipped:
        names = few(windows.skipped, 5)
        print(f"{len(windows.skipped)} sessions have nothing to train on and are left out: {names}", file=sys.stderr)
    track.write_json(workdir / "config.json", meta["config"])
    track.write_json(workdir / "vocabulary.json", meta["vocabulary"])
    metrics = track.Metrics(workdir, first)

    owner = jax.device_put(parts.vocabulary.session_of_row(), replicated(parts.mesh))
    seed = jax.device_put(jnp.int32(config.seed), replicated(parts.mesh))
    update = update_program(parts.model, parts.capacity, optimizer_settings(config), parts.mesh)
    clock, pending, told, scored = Clock(), None, "", {}
    cost = columns.of_work(parts, batches)
    if len(drawn) > cost["programs"]:
        more = f"{100 * cost['padding_flops']:.1f} % more FLOPs than exact shapes"
        print(f"{len(drawn)} regimes share {cost['programs']} programs, {more}", file=sys.stderr, flush=True)
    n_compiled = _compile_ahead(parts, state, batches, rows, validation, update, owner, seed)
    compile_seconds = time.monotonic() - clock.start
    clock.start = time.monotonic()
    progress = Progress(config.train.steps, first, label="train ")

    with _StopSignal() as stop:
        stream = batches.stream(first, config.train.steps, rows, config.data.threads, config.data.ahead)
        for step in range(first, config.train.steps):
            waited = time.monotonic()
            loaded = next(stream)
            clock.windows_skipped += int((~loaded.row_mask).sum())
            if clock.windows_skipped > max(MAY_SKIP, (step + 1 - first) * config.data.batch_size // 10):
                raise UserError(
                    f"step {step + 1}: {clock.windows_skipped} windows were damaged, more than a tenth",
                    way_out=f"repair the store {parts.store.name}: ingest with --verify tells what is wrong",
                )
            batch = put_batch(loaded, parts.mesh)
            clock.waiting_for_data += time.monotonic() - waited

            regime = batches.regime(step)
            gradient = gradient_program(parts.model, parts.capacity, batches.plan.program(regime), parts.mesh)
            grads, losses = gradient(state.params, batch, state.step, seed)
            state, norms = update(state, grads, batch.session_rows, batch.row_mask, owner)

            if pending is not None:
                told = _log(metrics, *pending, clock, first, config.data.batch_size)
                pending = None
            saving = step + 1 == config.train.steps or (step + 1) % config.train.checkpoint_every == 0
            if saving or (step + 1) % config.train.log_every == 0:
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
            if saving:
                if pending is not None:  # a loss or gradient that is not finite must stop the run before it is saved
                    told, pending = _log(metrics, *pending, clock, first, config.data.batch_size), None
                scored = _validate(parts, state, validation, metrics, clock)
                saved.save(state, meta, scored.get("validation_loss"))

    if pending is not None:
        told = _log(metrics, *pending, clock, first, config.data.batch_size)
    progress.show(config.train.steps, told, force=True)
    progress.close()
    metrics.close()
    run = {
        **columns.of_data(parts, batches),
        **columns.of_parameters(parts),
        **(labels or {}),
        "steps": config.train.steps,
        **cost,
        "seconds": time.monotonic() - clock.start,
        "seconds_waiting_for_data": clock.waiting_for_data,
        "windows_skipped": clock.windows_skipped,
        "sessions_skipped": len(windows.skipped),
        "programs_compiled": n_compiled,
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
) -> int:
    """Compiles every program of the run before its first step, and says so: none of it is in the step times.

    Returns how many there were to compile.
    """
    if int(state.step) >= parts.config.train.steps:
        return 0
    jobs: list[tuple[Program, tuple[Any, ...]]] = []
    batch = put_batch(batches.rows(int(state.step), rows), parts.mesh)
    for layout in batches.plan.programs:
        gradient = gradient_program(parts.model, parts.capacity, layout, parts.mesh)
        jobs.append((gradient, (state.params, _shaped_for(layout, batch, parts), state.step, seed)))
    jobs.append((update, (state, state.params, batch.session_rows, batch.row_mask, owner)))
    if validation:
        batch = put_batch(next(iter(validation.values()))[0], parts.mesh)
    for task in validation.values():
        program = predict_program(parts.model, parts.capacity, task.layout, parts.mesh)
        jobs.append((program, (state.params, _shaped_for(task.layout, batch, parts))))
    start = time.monotonic()
    n = compile_ahead(jobs)
    if n:
        print(f"compiled {n} programs in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return n


def _shaped_for(layout: Layout, batch: Batch, parts: Parts) -> Batch:
    """A batch as a layout's program will get it. Programs differ in their context tokens and in nothing else."""
    shape = (len(batch.row_mask), len(shown(layout, layout, parts.model.n_channels)))
    tokens: Any = jax.ShapeDtypeStruct(shape, bool, sharding=batch_sharding(parts.mesh))
    return batch._replace(context_shown=tokens)


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
            parts.cutter(scored),
            chosen,
            regimes_of([text], parts.model.grid)[0],
            config.evaluation.batch_size,
            config.data.damaged == "skip",
        )
        for task, text in config.evaluation.tasks.items()
    }


def _validate(
    parts: Parts, state: TrainState, validation: dict[str, EvaluationBatches], metrics: track.Metrics, clock: Clock
) -> dict[str, float]:
    """Mean over tasks of the validation loss; {} where there is no validation tier."""
    if not validation:
        return {}
    start = time.monotonic()
    losses = {task: mean_losses(parts, state.params, batches)["loss"] for task, batches in validation.items()}
    clock.validating += time.monotonic() - start
    losses = {task: loss for task, loss in losses.items() if np.isfinite(loss)}
    if not losses:
        return {}
    mean = float(np.mean(list(losses.values())))
    metrics.write(int(state.step), {"validation_loss": mean, **{f"validation_loss/{k}": v for k, v in losses.items()}})
    return {"validation_loss": mean}


def _log(
    metrics: track.Metrics, step: int, regime: str, values: dict[str, Any], clock: Clock, first: int, batch_size: int
) -> str:
    """Writes one line of metrics; returns what the progress line says. A loss that is not finite stops the run."""
    numbers = {name: float(value) for name, value in jax.device_get(values).items()}
    if broken := [name for name, number in numbers.items() if not np.isfinite(number)]:
        raise UserError(
            f"step {step}, regime {regime}: {broken[0]} is {numbers[broken[0]]}",
            way_out="lower --config.optimizer.shared.learning_rate, or look for NaN and huge values in the recordings",
        )
    seconds = time.monotonic() - clock.start - clock.validating
    rate = (step - first) * batch_size / seconds
    waiting = clock.waiting_for_data / seconds
    metrics.write(
        step,
        {
            **numbers,
            "regime": regime,
            "windows_per_s": rate,
            "waiting_for_data": waiting,
            "windows_skipped": clock.windows_skipped,
        },
    )
    told = f"loss {numbers['loss']:.4f}  {rate:.1f} windows/s  waiting for data {waiting:.0%}"
    return told + (f"  {clock.windows_skipped} damaged windows skipped" if clock.windows_skipped else "")


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
