"""Losses, as sums and counts: means are taken once, over everything that belongs together (rows, devices, micro-batches)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.omnimouse import Predictions
from omnimouse_jax.tokens.layout import Layout


class LossCounts(NamedTuple):
    """How many elements are scored."""

    response: Any
    behavior: Any


class LossSums(NamedTuple):
    """Sums over scored elements and how many there were, all float32 scalars."""

    response: Array
    response_count: Array
    behavior: Array
    behavior_count: Array

    def means(
        self, config: ModelConfig, maximum: Callable[..., Any] = jnp.maximum, others: LossCounts | None = None
    ) -> dict[str, Any]:
        """Total = mean response loss + weight * mean behaviour loss; a part without targets counts as 0.

        `others`: elements scored in the other micro-batches of a step; then these are shares of the step's means, and add up to
        them. On the host pass `maximum=np.maximum` to stay in float64.
        """
        of_others = LossCounts(0.0, 0.0) if others is None else others
        response = self.response / maximum(self.response_count + of_others.response, 1.0)
        behavior = self.behavior / maximum(self.behavior_count + of_others.behavior, 1.0)
        return {
            "loss": response + config.behavior_loss_weight * behavior,
            "loss/responses": response,
            "loss/behavior": behavior,
        }


def loss_sums(predictions: Predictions, batch, layout: Layout, config: ModelConfig) -> LossSums:
    """Loss of every target element that was recorded (spec: model, section 5). `batch` is a Batch of device arrays."""
    zero = jnp.float32(0)
    response, response_count = zero, zero
    for rectangle, predicted_BxSxN in zip(layout.targets, predictions.responses, strict=True):
        samples = slice(rectangle.first_sample, rectangle.last_sample)
        neurons = slice(rectangle.first_neuron, rectangle.last_neuron)
        mask_BxSxN = batch.response_mask[:, samples, neurons] & batch.row_mask[:, None, None]
        element = response_loss(predicted_BxSxN, batch.responses[:, samples, neurons], config)
        response += jnp.sum(jnp.where(mask_BxSxN, element, 0.0))
        response_count += jnp.sum(mask_BxSxN, dtype=jnp.float32)
    behavior, behavior_count = zero, zero
    if predictions.behavior is not None:
        mask_BxCxT = batch.behavior_mask & batch.row_mask[:, None, None]
        element = jnp.square(predictions.behavior - batch.behavior)
        if config.behavior_loss_clip is not None:
            element = jnp.minimum(element, config.behavior_loss_clip)
        behavior = jnp.sum(jnp.where(mask_BxCxT, element, 0.0))
        behavior_count = jnp.sum(mask_BxCxT, dtype=jnp.float32)
    return LossSums(response, response_count, behavior, behavior_count)


def loss_counts(batch, layout: Layout) -> LossCounts:
    """The counts of `loss_sums`, which need no prediction."""
    zero = jnp.float32(0)
    response = zero
    for rectangle in layout.targets:
        samples = slice(rectangle.first_sample, rectangle.last_sample)
        neurons = slice(rectangle.first_neuron, rectangle.last_neuron)
        mask_BxSxN = batch.response_mask[:, samples, neurons] & batch.row_mask[:, None, None]
        response += jnp.sum(mask_BxSxN, dtype=jnp.float32)
    mask_BxCxT = batch.behavior_mask & batch.row_mask[:, None, None]
    behavior = jnp.sum(mask_BxCxT, dtype=jnp.float32) if layout.behavior == "target" else zero
    return LossCounts(response, behavior)


def response_loss(predicted: Array, target: Array, config: ModelConfig) -> Array:
    """Element-wise loss of responses: Poisson for deconvolved activity, Gaussian for signals of either sign."""
    if config.response_loss == "poisson":
        element = predicted - target * jnp.log(predicted + config.poisson_eps)
    else:
        element = 0.5 * jnp.square(predicted - target)
    clip = config.response_loss_clip
    return element if clip is None else jnp.clip(element, -clip, clip)
