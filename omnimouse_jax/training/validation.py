"""The same validation windows after every stretch of training: which checkpoint is best, and whether going on is worth it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.training.processes import say
from omnimouse_jax.training.setup import Parts, mean_losses, regimes_of
from omnimouse_jax.training.step import TrainState


def validation_batches(parts: Parts, sessions: Sequence[str]) -> dict[str, EvaluationBatches]:
    """Per task, the same windows each time: spread evenly over the validation tier. Empty without such a tier."""
    config = parts.config
    if not config.train.validation_windows:
        if config.train.patience:
            raise UserError(
                "config: train.patience needs validations",
                way_out="set --config.train.validation_windows, or --config.train.patience=0",
            )
        return {}
    scored = tuple(config.evaluation.sessions) or sessions
    try:
        windows = parts.windows(scored, config.train.validation_tiers, config.evaluation.stride_s)
    except UserError as error:
        so = ", and so no early end" if config.train.patience else ""
        say(f"no validation{so}: {error}")
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


def validate(parts: Parts, state: TrainState, batches: Mapping[str, EvaluationBatches]) -> dict[str, float]:
    """`validation_loss`, the mean over tasks, and each task's; {} where there is no validation tier."""
    found = {task: mean_losses(parts, state.params, of_task) for task, of_task in batches.items()}
    # A task that nothing was recorded for has no loss; one whose loss is not finite makes the checkpoint the worst.
    losses = {f"validation_loss/{task}": of["loss"] for task, of in found.items() if of}
    losses = {name: loss if np.isfinite(loss) else float("inf") for name, loss in losses.items()}
    return {"validation_loss": float(np.mean(list(losses.values()))), **losses} if losses else {}


def exhausted(history: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` validations have brought nothing better; never with a patience of 0."""
    return bool(patience) and len(history) - 1 - int(np.argmin([*history, np.inf])) >= patience
