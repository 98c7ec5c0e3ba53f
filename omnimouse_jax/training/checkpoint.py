"""One checkpoint holds everything that must survive: parameters, optimiser, step (= data position), vocabulary, config.

Orbax writes it in the background and commits it atomically; it restores on any number of devices.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.training.step import Capacity, TrainState, abstract_state, state_shardings

FOLDER = "checkpoints"
IMPORTED = "reference.npz"  # beside it, in a run that began with imported weights


class Checkpoints:
    """The checkpoints of a run folder. Keeps the newest `newest` and the one with the lowest validation loss."""

    def __init__(self, workdir: Path, newest: int = 2, read_only: bool = False):
        self.folder = Path(workdir).resolve() / FOLDER
        if read_only and not self.folder.is_dir():
            raise UserError(f"run {workdir}: no {FOLDER}/ folder", way_out="train it first, or name another run folder")
        policy = keep.AnyPreservationPolicy(
            [
                keep.LatestN(newest),
                keep.BestN(get_metric_fn=lambda metrics: metrics["validation_loss"], reverse=True, n=1),
            ]
        )
        absl.logging.set_verbosity(absl.logging.ERROR)  # orbax warns that a read-only manager does not write
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda metrics: metrics["validation_loss"],  # without it orbax keeps no metrics
            best_mode="min",
            create=not read_only,
            read_only=read_only,
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, meta: dict[str, Any], validation_loss: float | None) -> None:
        """Starts writing; returns as soon as the device arrays are copied. A step that exists is left alone."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)), meta=ocp.args.JsonSave(meta))
        metrics = {"validation_loss": float("inf") if validation_loss is None else float(validation_loss)}
        self.manager.save(step, args=args, metrics=metrics)

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def best(self) -> int | None:
        """The step with the lowest validation loss, or the newest where none was measured."""
        losses = {step: (self.manager.metrics(step) or {}).get("validation_loss") for step in self.manager.all_steps()}
        measured = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
        return min(measured, key=lambda step: measured[step]) if measured else self.latest()

    def step_named(self, name: str | int) -> int:
        """`best`, `latest` or a number -> a step that exists."""
        found = (
            {"best": self.best, "latest": self.latest}[str(name)]() if str(name) in ("best", "latest") else int(name)
        )
        steps = sorted(self.manager.all_steps())
        if found is None or found not in steps:
            told = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"{self.folder}: no checkpoint {name!r} (there are: {told})", way_out="name one of these, or `latest`"
            )
        return found

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The state of `step`, placed like `target` (arrays or shapes with shardings)."""
        tree = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_tree(target))))[
            "state"
        ]
        return TrainState(tree["params"], type(target.opt)(**tree["opt"]), tree["step"])

    def meta(self, step: int) -> dict[str, Any]:
        """Vocabulary and config as they were saved with `step`."""
        return self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def close(self) -> None:
        """Waits for writes under way."""
        self.manager.wait_until_finished()
        self.manager.close()


def restore_target(config: ModelConfig, capacity: Capacity, mesh: Mesh) -> TrainState:
    """What a checkpoint of this model restores into on this mesh: shapes with shardings, nothing allocated."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        abstract_state(config, capacity),
        state_shardings(config, capacity, mesh),
    )


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """A config as plain JSON types, flat, so that two can be compared field by field."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = json.loads(json.dumps(value))

    walk("", config)
    return flat


def _tree(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "opt": state.opt._asdict(), "step": state.step}
