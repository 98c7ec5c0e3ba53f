"""Every knob of a run, declared once. `configs/*.py` start from `base()` and change a few."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.training.optim import AdamW, Group


def base(size: str = "1M") -> ConfigDict:
    """The released recipe at a named size (see `omnimouse_jax.model.config.SIZES`)."""
    config = ConfigDict()
    config.seed = 0
    config.model = model_fields(size)
    config.regimes = (
        "training",
    )  # names, suites ("training": the 120 released ones) or expressions; one is drawn per step

    config.data = ConfigDict()
    config.data.store = ""  # path or URL of a store; `--store` sets it
    config.data.sessions = ()  # session keys; empty: all in the store
    config.data.tiers = ("train",)
    config.data.batch_size = 8  # windows per step, over all devices
    config.data.stride_s = 1 / 30  # seconds between the starts of neighbouring training windows
    config.data.blanks = "follow"  # blank screens between trials: "follow", "none" or "all"
    config.data.windows = "spans"  # where windows start: anew in each stretch of trials, or where "experanto" lets them
    config.data.minutes = 0.0  # of each session's training tiers, the first ones; 0: all
    config.data.leave_out = (
        "nothing"  # stimuli held out in the same "session", "animal" or "any" session are not trained on
    )
    config.data.mixture = "duration"  # how often a session is drawn: by "duration", "neurons", or all alike ("uniform")
    config.data.temperature = 1.0  # above 1: closer to uniform; below 1: further from it
    config.data.damaged = "stop"  # a damaged chunk: "stop" the run, or "skip" the window and count it
    config.data.threads = 2  # reader threads of a process
    config.data.ahead = 4  # batches read early

    config.optimizer = ConfigDict(_plain(AdamW()))

    config.train = ConfigDict()
    config.train.steps = 1_000_000
    config.train.log_every = 50  # steps between lines of metrics.jsonl
    config.train.checkpoint_every = 5_000  # steps; a checkpoint is scored on the validation tier first
    config.train.keep = 2  # newest checkpoints kept beside the best one
    config.train.keep_every = 0  # steps: checkpoints at multiples of it are kept for good (to anneal from); 0: none
    config.train.keep_minutes = 0.0  # one checkpoint in so many minutes is kept for good; 0: none
    config.train.validation_tiers = ("validation",)
    config.train.accumulate = 1  # micro-batches that a step's batch is computed in, one after another
    config.train.regime_per = "step"  # one regime for a whole "step", or one for each "micro"-batch
    config.train.nonfinite = "stop"  # a loss or gradient of NaN or Inf: "stop" the run, or "skip" the step and count it
    config.train.patience = 0  # validations in a row without a better one after which a run ends; 0: never
    config.train.trained = "all"  # or "tables": the core stays as it is; "adapters": but for low-rank additions to it
    config.train.adapter_rank = 4  # of these
    config.train.programs = 32  # at most so many gradient programs, if the regimes allow it; 0: one per exact shape
    config.train.validation_windows = 256  # at most, spread over sessions and time; 0: no validation

    config.evaluation = ConfigDict()
    config.evaluation.sessions = ()  # empty: the sessions trained on
    config.evaluation.tiers = ("test",)
    config.evaluation.checkpoint = (
        "best"  # by validation loss; "latest": the last one, the only one that is annealed; or a step
    )
    config.evaluation.stride_s = 1.0  # the second half of a 2 s window is scored, so 1 s visits each sample once
    config.evaluation.batch_size = 8
    config.evaluation.bootstrap = 1000  # resamples of neurons behind each interval
    config.evaluation.tasks = ConfigDict()  # task -> regime (name or expression)
    config.evaluation.tasks.stimulus = "video_behavior"
    config.evaluation.tasks.population = "population_1024_response_video_behavior"
    config.evaluation.tasks.forecast = "causal_response_25_video_behavior"
    config.evaluation.tasks.behavior = "all_response_video"

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that share a batch; -1: all that are left
    config.mesh.fsdp = 1  # devices that share a batch and the core's parameters and moments
    config.mesh.tensor = 1  # devices that share a matrix and the work on it
    return config


def model_fields(size: str, **changes: Any) -> ConfigDict:
    """The fields of a named size as a ConfigDict, some of them changed."""
    if size not in SIZES:
        raise UserError(f"config: no model size {size!r}", way_out=f"use one of {', '.join(SIZES)}")
    fields = dataclasses.asdict(SIZES[size])
    unknown = set(changes) - set(fields)
    if unknown:
        raise UserError(f"config: model has no field {sorted(unknown)[0]}", way_out=f"fields: {', '.join(fields)}")
    return ConfigDict({**fields, **changes})


def model_config(fields: ConfigDict) -> ModelConfig:
    """The typed model config of a config's `model` group."""
    values = dict(fields)
    grid = values.pop("grid")
    return ModelConfig(grid=Grid(**dict(grid)), **values)


def optimizer_settings(config: ConfigDict) -> AdamW:
    """The typed settings of a config's `optimizer` group; the run's length comes from `train.steps`."""
    values = dict(config.optimizer)
    shared, session = (Group(**dict(values.pop(name))) for name in ("shared", "session"))
    return AdamW(shared=shared, session=session, **values, total_steps=config.train.steps)


def _plain(settings: AdamW) -> dict[str, Any]:
    values = {name: dict(v._asdict()) if isinstance(v, Group) else v for name, v in settings._asdict().items()}
    del values["total_steps"]  # declared as train.steps
    return values
