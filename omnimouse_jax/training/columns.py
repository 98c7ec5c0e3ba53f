"""What a run says of itself when it is done: what it saw, what that cost, how large it is. Columns of run.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from omnimouse_jax import __version__
from omnimouse_jax.model import counts
from omnimouse_jax.model.flops import train_flops
from omnimouse_jax.tokens.pipeline import TrainingBatches
from omnimouse_jax.training.setup import Parts


def of_data(parts: Parts, batches: TrainingBatches, steps: int) -> dict[str, Any]:
    """What the run saw in so many steps, in the ledger's columns."""
    config = parts.config
    sessions = parts.store.chosen(config.data.sessions)  # the tables may have more
    summaries = [parts.store.summary(key) for key in sessions]
    most = config.data.minutes / 60 or np.inf
    hours = [min(most, sum(s["tier_hours"].get(tier, 0.0) for tier in config.data.tiers)) for s in summaries]
    windows_seen = steps * config.data.batch_size
    return {
        "n_sessions": len(sessions),
        "n_animals": len({s["animal"] for s in summaries}),
        "n_neurons": sum(s["n_neurons"] for s in summaries),
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
        "minutes": config.data.minutes or None,
        "version": __version__,
        "jax_version": jax.__version__,
        "device": f"{parts.mesh.size} x {jax.devices()[0].device_kind}",
    }


def of_work(parts: Parts, batches: TrainingBatches, steps: int) -> dict[str, Any]:
    """What the windows of so many steps cost, in expectation over the drawn regimes.

    `flops` are the model's: three forward passes of exact shapes for every window (two where the core is frozen, whose parameters
    need no gradient), whatever the programs compute beyond that. Covers add a share of `padding_flops`.
    """
    exact, paid = batches.plan.expected(lambda layout: train_flops(parts.model, layout))
    windows = steps * parts.config.data.batch_size
    passes = 1.0 if {"core", "adapters"} & {*parts.trained.parts} else 2 / 3
    flops = windows * exact * passes
    return {"flops": flops, "programs": len(batches.plan.programs), "padding_flops": paid / exact - 1}


def of_validation(losses: Sequence[float]) -> dict[str, float]:
    """The best of all validation losses of a run, and how far the last one is above it."""
    return {"best_validation_loss": min(losses), "validation_gap": losses[-1] - min(losses)} if losses else {}


def _mean_tokens(parts: Parts, batches: TrainingBatches) -> float:
    """Input tokens of a window, mean over regimes: responses, video features and behaviour channels."""
    tokens = []
    for layout in batches.plan.layouts:
        behavior = len(layout.behavior_tokens(parts.model.n_channels)) if layout.behavior == "input" else 0
        video = (layout.video_steps[1] - layout.video_steps[0]) * parts.model.features_per_step
        tokens.append(len(layout.response_tokens()) + video + behavior)
    return float(np.average(tokens, weights=[regime.weight for regime in batches.plan.regimes]))


def of_parameters(parts: Parts) -> dict[str, int]:
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
