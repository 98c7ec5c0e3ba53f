"""One training step on the devices: gradients of its micro-batches added up, then one update. Nothing here waits for a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jax
import numpy as np

from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import shown
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import Step, TrainingBatches
from omnimouse_jax.training.defaults import optimizer_settings
from omnimouse_jax.training.objective import LossCounts
from omnimouse_jax.training.parallel import batch_sharding, put_batch, put_everywhere
from omnimouse_jax.training.setup import Parts
from omnimouse_jax.training.step import (
    Program,
    TrainState,
    abstract_gradients,
    count_program,
    gradient_program,
    sum_program,
    update_program,
)

Tree = Any


@dataclasses.dataclass(frozen=True)
class Stepper:
    """Takes the steps of a run."""

    parts: Parts
    batches: TrainingBatches

    def __call__(self, state: TrainState, number: int, loaded: Step) -> tuple[TrainState, dict[str, jax.Array]]:
        """Step `number` with what was loaded for it: the next state, and losses, norms and rates. `state` is donated."""
        step = self.put(loaded)
        grads, losses = self.gradient(state, number, step)
        state, told = self.update(
            state, grads, step.touched, losses["loss"], put_everywhere(np.int32(number), self.parts.mesh)
        )
        return state, {**losses, **told}

    def put(self, loaded: Step) -> Step:
        """A step's arrays on the devices."""
        mesh = self.parts.mesh
        return Step(tuple(put_batch(batch, mesh) for batch in loaded.batches), put_everywhere(loaded.touched, mesh))

    def gradient(self, state: TrainState, number: int, step: Step) -> tuple[Tree, dict[str, jax.Array]]:
        """Gradients and losses of all micro-batches together."""
        total: Any = None
        for micro, (batch, others) in enumerate(zip(step.batches, self._others(number, step), strict=True)):
            program = self.gradient_program(self.batches.plan.program(self.batches.regime(number, micro)))
            at = (state.step, self.seed, self.first_rows[micro])
            found = program(state.params, batch, step.touched, others, *at)
            total = found if total is None else self.sum(total, found)
        return total

    def _others(self, number: int, step: Step) -> list[LossCounts]:
        """What is scored in the other micro-batches of each one."""
        if len(step.batches) == 1:
            return [self.nothing]
        mesh, plan = self.parts.mesh, self.batches.plan
        layouts = [plan.program(self.batches.regime(number, micro)) for micro in range(len(step.batches))]
        counts = [count_program(layout, mesh)(batch) for layout, batch in zip(layouts, step.batches, strict=True)]
        others = [counts[:i] + counts[i + 1 :] for i in range(len(counts))]
        return [LossCounts(*(sum(x[1:], x[0]) for x in zip(*rest, strict=True))) for rest in others]

    def gradient_program(self, layout: Layout) -> Program:
        parts = self.parts
        return gradient_program(parts.model, parts.capacity, layout, parts.mesh, parts.trained)

    @cached_property
    def sum(self) -> Program:
        parts = self.parts
        return sum_program(parts.model, parts.capacity, parts.mesh, parts.trained)

    @cached_property
    def update(self) -> Program:
        parts = self.parts
        skip, settings = parts.config.train.nonfinite == "skip", optimizer_settings(parts.config)
        return update_program(parts.model, parts.capacity, settings, parts.mesh, parts.trained, skip)

    @cached_property
    def seed(self) -> jax.Array:
        return put_everywhere(np.int32(self.parts.config.seed), self.parts.mesh)

    @cached_property
    def nothing(self) -> LossCounts:
        return put_everywhere(LossCounts(np.float32(0), np.float32(0)), self.parts.mesh)

    @cached_property
    def first_rows(self) -> list[jax.Array]:
        """Number of the first row of each micro-batch in its step's batch."""
        starts = range(0, self.batches.batch_size, self.batches.micro_size)
        return [put_everywhere(np.int32(start), self.parts.mesh) for start in starts]

    def jobs(self, state: TrainState, loaded: Step) -> Iterator[tuple[Program, tuple[Any, ...]]]:
        """Every program of the run with arguments like those that it will get, to compile them ahead."""
        step, plan = self.put(loaded), self.batches.plan
        batch = step.batches[0]
        for layout in plan.programs:
            shaped = shaped_for(layout, batch, self.parts)
            numbers = (state.step, self.seed, self.first_rows[0])
            yield self.gradient_program(layout), (state.params, shaped, step.touched, self.nothing, *numbers)
            if len(step.batches) > 1:
                yield count_program(layout, self.parts.mesh), (shaped,)
        grads = abstract_gradients(state.params, step.touched, self.parts.trained)
        yield self.update, (state, grads, step.touched, self.nothing.response, state.step)
        if len(step.batches) > 1:
            losses = dict.fromkeys(("loss", "loss/responses", "loss/behavior"), self.nothing.response)
            yield self.sum, ((grads, losses), (grads, losses))


def shaped_for(layout: Layout, batch: Batch, parts: Parts) -> Batch:
    """A batch as a layout's program will get it. Programs differ in their context tokens and in nothing else."""
    shape = (len(batch.row_mask), len(shown(layout, layout, parts.model.n_channels)))
    tokens: Any = jax.ShapeDtypeStruct(shape, bool, sharding=batch_sharding(parts.mesh))
    return batch._replace(context_shown=tokens)
