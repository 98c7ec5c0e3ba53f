"""The trainer, top to bottom: prepare, start or resume, step, validate, save, finish.

Invariants of the loop:
- the state's step says which batch comes next, which regime it has and which random numbers it draws; nothing else does;
- the host waits for the step before, never for the one that the device is at, except to validate and to save;
- a checkpoint holds all that the loop reads, so a run that was stopped goes on as if it had not been;
- a loss or gradient that is not finite changes no parameter, and is noticed before anything is saved.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.mixture import session_weights
from omnimouse_jax.tokens.pipeline import EvaluationBatches, Step, TrainingBatches
from omnimouse_jax.tokens.windows import few
from omnimouse_jax.training import columns, nonfinite, track
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.clock import Clock
from omnimouse_jax.training.lock import alone_in
from omnimouse_jax.training.parallel import local_rows, put_batch
from omnimouse_jax.training.processes import StopSignal, is_first, say
from omnimouse_jax.training.resume import as_in_run, start_or_resume
from omnimouse_jax.training.retention import Retention
from omnimouse_jax.training.setup import Parts, prepare, regimes_of
from omnimouse_jax.training.step import Program, TrainState, compile_ahead, predict_program
from omnimouse_jax.training.stepper import Stepper, shaped_for
from omnimouse_jax.training.validation import exhausted, validate, validation_batches

#: Damaged windows that a run may skip before they must be less than a tenth; the same for steps that are not finite.
MAY_SKIP = 64


#: What a step tells: losses, norms, rates, on the device.
Values = dict[str, jax.Array]


class Interrupted(Exception):
    """Ctrl-C or a preemption notice: the state was saved. `status` is the exit status."""

    def __init__(self, workdir: Path, step: int, total: int, signum: int):
        super().__init__(f"stopped at step {step} of {total}, saved in {workdir}; run the same command again to go on")
        self.status = 130 if signum == signal.SIGINT else 75


def train(
    config: ConfigDict,
    workdir: Path | str,
    labels: dict[str, Any] | None = None,
    allow_change: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains until `train.steps`, resuming whatever `workdir` holds; returns the columns of run.json.

    `labels` are columns that only the caller knows (study, size, data_order, ...). `allow_change` names fields of the config that
    may differ from those of the run that is resumed. Raises UserError before anything is written when the config cannot be run,
    and Interrupted after saving when it is told to stop.
    """
    workdir = Path(workdir)
    config, rows = as_in_run(config, workdir)
    parts = prepare(config, rows)
    stepper = Stepper(parts, training_batches(parts))
    validation = validation_batches(parts, parts.store.chosen(config.data.sessions))
    mine = local_rows(parts.mesh, stepper.batches.micro_size)
    with alone_in(workdir, needed=is_first()):
        return _train(stepper, mine, validation, workdir, labels or {}, allow_change)


def _train(
    stepper: Stepper,
    mine: slice,
    validation: dict[str, EvaluationBatches],
    workdir: Path,
    labels: dict[str, Any],
    allow_change: Sequence[str],
) -> dict[str, Any]:
    parts, batches = stepper.parts, stepper.batches
    config = parts.config
    saved = Checkpoints(workdir, Retention.of(config.train))
    meta = {
        "config": config.to_dict(),
        "vocabulary": parts.vocabulary.to_json(),
        "data": {
            "windows": batches.windows.fingerprint(),
            "sessions": {k: parts.store.summary(k)["check"] for k in parts.store.chosen(config.data.sessions)},
        },
        "version": __version__,
    }
    state, meta = start_or_resume(parts, saved, meta, workdir, allow_change)
    first = int(state.step)
    if first:
        say(f"going on from step {first} of {config.train.steps}")
    if skipped := batches.windows.skipped:
        say(f"{len(skipped)} sessions have nothing to train on and are left out: {few(skipped, 5)}")
    if is_first():
        track.write_json(workdir / "config.json", meta["config"])
        track.write_json(workdir / "vocabulary.json", meta["vocabulary"])
    metrics = track.Metrics(workdir, first, writes=is_first())

    clock, history = Clock(**meta.get("clock", {})), list(meta.get("validations", []))
    last = config.train.steps
    if exhausted(history, config.train.patience) and first < last:
        say(f"ended at step {first}: no better validation in {config.train.patience}; raise train.patience to go on")
        last = first
    cost = columns.of_work(parts, batches, last)
    if len(batches.plan.regimes) > cost["programs"]:
        more = f"{100 * cost['padding_flops']:.1f} % more FLOPs than exact shapes"
        say(f"{len(batches.plan.regimes)} regimes share {cost['programs']} programs, {more}")
    scored: dict[str, float] = {}
    pending: tuple[int, Values] | None = None
    before: tuple[int, Values] | None = None
    told, number, n_compiled = "", first, 0

    with StopSignal() as stop, ExitStack() as opened:
        if first < last:
            n_compiled = _compile_ahead(stepper, state, mine, validation, clock, stop, workdir)
        progress = Progress(last, first, label="train ", shown=is_first())
        clock.begin()
        stream = batches.stream(first, last, mine, config.data.threads, config.data.ahead)
        opened.enter_context(closing(stream))
        while number < last:
            loaded = _loaded(stream, number, parts, clock)
            state, values = stepper(state, number, loaded)
            if before is not None:
                _require_finite(stepper, state, *before, workdir, clock)
            if pending is not None:
                told, pending = _log(metrics, *pending, clock, first, batches), None
            before, number = (number, values), number + 1

            stopping = stop.agreed(number) and number < last
            saving = number == last or number % config.train.checkpoint_every == 0
            if saving or stopping or number % config.train.log_every == 0:
                pending = (number, values)
            progress.show(number, told)
            if not (saving or stopping):
                continue

            _require_finite(stepper, state, *before, workdir, clock)
            before = None
            scored = _validated(parts, state, validation, clock) if saving else {}
            history += [scored["validation_loss"]] if scored else []
            if pending is not None:
                told, pending = _log(metrics, *pending, clock, first, batches, scored), None
            metrics.sync()
            kept = {**meta, "clock": clock.to_json(), "validations": history, "scored": scored}
            saved.save(state, kept, scored.get("validation_loss"))
            if stopping:
                saved.close()
                progress.close()
                raise Interrupted(workdir, number, config.train.steps, stop.signum or signal.SIGTERM)
            if exhausted(history, config.train.patience) and number < last:
                say(f"no better validation in {config.train.patience}: ends at step {number} of {last}")
                break

        if first < last:
            progress.show(number, told, force=True)
        else:
            say(f"trained already: {first} steps")
        progress.close()
        saved.close()  # within: a notice now must not cut off the last checkpoint
        metrics.close()
        checkpoint_step = _evaluated(saved, config)
    spent = clock.to_json() if number > first else dict(vars(clock))
    run = {
        **columns.of_data(parts, batches, number),
        **columns.of_parameters(parts),
        **meta.get("parent", {}),
        **labels,
        "steps": number,
        **columns.of_work(parts, batches, number),
        "seconds": spent["seconds"],
        "seconds_waiting_for_data": spent["waiting_for_data"],
        "windows_skipped": spent["windows_skipped"],
        "steps_skipped": spent["steps_skipped"],
        "sessions_skipped": len(batches.windows.skipped),
        "programs_compiled": n_compiled,
        "compile_seconds": spent["compile_seconds"],
        **columns.of_validation(history),
        "checkpoint_step": checkpoint_step,
        **({} if checkpoint_step is None else saved.meta(checkpoint_step).get("scored", {})),
    }
    if is_first() and (first < last or not (workdir / "run.json").exists()):
        track.write_json(workdir / "run.json", run)
    return run


def training_batches(parts: Parts) -> TrainingBatches:
    """Everything that decides what training batch k of a run is."""
    config = parts.config
    cutter = parts.cutter(parts.store.chosen(config.data.sessions), at_most=parts.model.max_neurons)
    windows, regimes = parts.training_windows(), regimes_of(config.regimes, parts.model.grid)
    return TrainingBatches(
        cutter=cutter,
        windows=windows,
        plan=plan_of(parts.model, regimes, cutter.n_slots, config.train.programs),
        batch_size=config.data.batch_size,
        seed=config.seed,
        weights=session_weights(windows, parts.vocabulary, config.data.mixture, config.data.temperature),
        skip_damaged=config.data.damaged == "skip",
        accumulate=config.train.accumulate,
        regime_per=config.train.regime_per,
        update=config.optimizer.rows,
    )


def _evaluated(saved: Checkpoints, config: ConfigDict) -> int | None:
    """The step that evaluation will take; None if the config names one that was not kept."""
    named = str(config.evaluation.checkpoint)
    return saved.step_named(named) if named in ("best", "latest") or int(named) in saved.steps() else None


def _compile_ahead(
    stepper: Stepper,
    state: TrainState,
    mine: slice,
    validation: dict[str, EvaluationBatches],
    clock: Clock,
    stop: StopSignal,
    workdir: Path,
) -> int:
    """Compiles every program of the run before its first step, and says so: none of it is in the step times.

    Returns how many there were to compile. Told to stop meanwhile, a process alone does (several agree at their first step).
    """
    start, parts = time.monotonic(), stepper.parts
    jobs: list[tuple[Program, tuple[Any, ...]]] = list(stepper.jobs(state, stepper.batches.load(int(state.step), mine)))
    if validation:
        first = next(iter(validation.values()))
        batch = put_batch(first.rows(0, local_rows(parts.mesh, first.batch_size)), parts.mesh)
    for task in validation.values():
        program = predict_program(parts.model, parts.capacity, task.layout, parts.mesh, parts.trained)
        jobs.append((program, (state.params, shaped_for(task.layout, batch, parts))))
    alone = jax.process_count() == 1
    n = compile_ahead(jobs, lambda: alone and stop.signum is not None)
    if alone and stop.signum is not None:
        raise Interrupted(workdir, int(state.step), parts.config.train.steps, stop.signum)
    if n:
        say(f"compiled {n} programs in {time.monotonic() - start:.0f} s")
    clock.compile_seconds += time.monotonic() - start
    return n


def _loaded(stream: Iterator[Step], number: int, parts: Parts, clock: Clock) -> Step:
    """The next step's batches. UserError if too many of their windows were damaged."""
    waited = time.monotonic()
    loaded = next(stream)
    clock.waiting_for_data += time.monotonic() - waited
    clock.windows_skipped += sum(int((~batch.row_mask).sum()) for batch in loaded.batches)
    # The clock counts all stretches of the run, so the windows are counted from its beginning too.
    seen = (number + 1) * parts.config.data.batch_size // jax.process_count()
    if clock.windows_skipped > max(MAY_SKIP, seen // 10):
        raise UserError(
            f"step {number + 1}: {clock.windows_skipped} windows were damaged, more than a tenth",
            way_out=f"repair the store {parts.store.name}: ingest with --verify tells what is wrong",
        )
    return loaded


def _require_finite(
    stepper: Stepper, state: TrainState, number: int, values: Values, workdir: Path, clock: Clock
) -> None:
    """UserError if the update of step `number` was not finite; with `train.nonfinite=skip`, if that was so too often."""
    if bool(values["finite"]):
        return
    if stepper.parts.config.train.nonfinite == "stop":
        raise nonfinite.error(stepper, state, number, workdir)
    clock.steps_skipped += 1
    regime = _regimes(stepper.batches, number)
    say(f"step {number + 1}, regime {regime}: loss or gradient is not finite; skipped ({clock.steps_skipped} so far)")
    if clock.steps_skipped > max(MAY_SKIP, (number + 1) // 10):
        raise UserError(
            f"step {number + 1}: {clock.steps_skipped} steps were not finite, more than a tenth",
            way_out="go on with --config.train.nonfinite=stop --allow-change train.nonfinite to see what causes it",
            cause="nan",
        )


def _validated(
    parts: Parts, state: TrainState, validation: dict[str, EvaluationBatches], clock: Clock
) -> dict[str, float]:
    start = time.monotonic()
    scored = validate(parts, state, validation)
    clock.validating += time.monotonic() - start
    return scored


def _log(
    metrics: track.Metrics,
    step: int,
    values: Values,
    clock: Clock,
    first: int,
    batches: TrainingBatches,
    scored: Mapping[str, float] | None = None,
) -> str:
    """Writes the line of a step into metrics.jsonl; returns what the progress line says."""
    numbers = {name: float(value) for name, value in jax.device_get(values).items() if name != "finite"}
    rate = (step - first) * batches.batch_size / clock.stretch
    waiting = clock.waiting_here / clock.stretch
    line = {
        **{name: number if np.isfinite(number) else None for name, number in numbers.items()},
        "regime": _regimes(batches, step - 1),
        "windows_per_s": rate,
        "waiting_for_data": waiting,
        "windows_skipped": clock.windows_skipped,
        "steps_skipped": clock.steps_skipped,
    }
    metrics.write(step, {**line, **{k: v if np.isfinite(v) else None for k, v in (scored or {}).items()}})
    told = f"loss {numbers['loss']:.4f}  {rate:.1f} windows/s  waiting for data {waiting:.0%}"
    told += f"  {clock.windows_skipped} damaged windows skipped" if clock.windows_skipped else ""
    return told + (f"  {clock.steps_skipped} steps skipped" if clock.steps_skipped else "")


def _regimes(batches: TrainingBatches, number: int) -> str:
    """Names of the regimes of a step's micro-batches."""
    return ", ".join(dict.fromkeys(batches.regime(number, micro).name for micro in range(batches.accumulate)))
