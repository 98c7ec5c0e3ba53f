"""What made a loss or gradient NaN or Inf: found by taking the step again, row by row, before anything has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.pipeline import Step
from omnimouse_jax.training.objective import LossCounts
from omnimouse_jax.training.parallel import local_rows, put_everywhere
from omnimouse_jax.training.step import TrainState
from omnimouse_jax.training.stepper import Stepper

WAY_OUT = (
    "look at the dumped batch; lower --config.optimizer.shared.learning_rate, repair the recording, "
    "or pass --config.train.nonfinite=skip (with --allow-change train.nonfinite) to leave such steps out"
)


def error(stepper: Stepper, state: TrainState, number: int, workdir: Path) -> UserError:
    """The error that ends a run at step `number`, whose update `state` has not seen. Dumps the batch into `workdir`.

    Each row is computed alone, in every place of the batch at once, so that no other row can hide or cause it. In a run of
    several processes each looks at its own rows, and only at its inputs.
    """
    batches = stepper.batches
    mine = local_rows(stepper.parts.mesh, batches.micro_size)
    loaded = batches.load(number, mine)
    alone = jax.process_count() == 1
    causes = []
    for micro, batch in enumerate(loaded.batches):
        for row in np.flatnonzero(batch.row_mask).tolist():
            index = micro * batches.micro_size + mine.start + row
            found = _input(batch, row) or (alone and _computed(stepper, state, number, loaded, micro, row))
            if found:
                window = batches.order[number * batches.batch_size + index]
                causes.append({"row": index, "session": window.session, "start_s": window.start, "what": found})
    regimes = [batches.regime(number, micro).name for micro in range(batches.accumulate)]
    file = _dump(workdir, number, regimes, causes, loaded)
    told = "; ".join(f"row {c['row']}, session {c['session']} at {c['start_s']:.2f} s: {c['what']}" for c in causes[:3])
    more = f" and {len(causes) - 3} more rows" if len(causes) > 3 else ""
    which = f"batch {number}, {told}{more}" if causes else f"batch {number}, in no row alone"
    regime = ", ".join(dict.fromkeys(regimes))
    return UserError(
        f"step {number + 1}, regime {regime}: loss or gradient is not finite ({which}); batch dumped to {file}",
        way_out=WAY_OUT,
        cause="nan",
    )


def _input(batch: Batch, row: int) -> str:
    """What of a row's inputs is not finite, or so large that its square is not."""
    for name in ("responses", "behavior", "video"):
        values = np.asarray(getattr(batch, name)[row], np.float32)
        largest = float(np.max(np.abs(values), initial=0.0))
        if not largest < 1e18:
            return f"{name} are as large as {largest:g}"
    return ""


def _computed(stepper: Stepper, state: TrainState, number: int, loaded: Step, micro: int, row: int) -> str:
    """What this row alone leads to, if it is not finite."""
    batch = Batch(*(np.repeat(field[row : row + 1], len(field), axis=0) for field in loaded.batches[micro]))
    step = stepper.put(Step((batch,), loaded.touched))
    program = stepper.gradient_program(stepper.batches.plan.program(stepper.batches.regime(number, micro)))
    others: LossCounts = stepper.nothing
    at = put_everywhere(np.int32(number), stepper.parts.mesh)
    grads, losses = program(
        state.params, step.batches[0], step.touched, others, at, stepper.seed, stepper.first_rows[micro]
    )
    if not np.isfinite(loss := float(losses["loss"])):
        return f"its loss is {loss}"
    with np.errstate(over="ignore", invalid="ignore"):  # by its norm, as the update judges it
        finite = np.isfinite(sum(np.square(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(grads)))
    return "" if finite else f"its loss is {loss:g}, its gradient is not finite"


def _dump(workdir: Path, number: int, regimes: list[str], causes: list[dict[str, Any]], loaded: Step) -> Path:
    """All arrays of the step as this process had them, and what was found."""
    suffix = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
    file = workdir / f"nonfinite-step-{number + 1}{suffix}.npz"
    arrays: dict[str, Any] = {
        f"{micro}/{name}": value
        for micro, batch in enumerate(loaded.batches)
        for name, value in batch._asdict().items()
    }
    told = json.dumps({"step": number + 1, "batch": number, "regimes": regimes, "rows": causes})
    np.savez(file, told=np.array(told), **arrays)
    return file
