"""The model's own count of operations is what its traced program holds, and follows the window rule."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.model.flops import context_groups, forward_flops, query_groups, total_flops, train_flops
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle, visible_pairs
from omnimouse_jax.tokens.regimes import parse, resolve
from tests.test_model import MICRO, random_batch, showing

#: Tokens so long that everything overlaps everything: no score may be left out by any implementation of attention.
LONG = Grid(
    n_samples=20,
    n_frames=20,
    n_behavior=20,
    response_width=20,
    latent_width=20,
    latent_stride=20,
    video_kernel=20,
    video_stride=4,
    video_padding=8,
)
N = 6


def traced_flops(jaxpr) -> float:
    """Operations of all matrix products and convolutions of a program, loops unrolled."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += (
                2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            )
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / out_channels
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        inner = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple) else (value,))]
        total += repeats * sum(traced_flops(getattr(x, "jaxpr", x)) for x in inner if hasattr(x, "eqns"))
    return total


@pytest.mark.parametrize("behavior", ["input", "target"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hiera_order": "reference", "n_heads": 4, "n_kv_heads": 2, "experiment_time": True},
        {"neuron_weights": True, "hiera_stages": (2,), "hiera_q_pool": 0, "animal_embeddings": False},
    ],
    ids=["plain", "reference", "weights"],
)
def test_the_count_is_that_of_the_traced_program(changes, behavior):
    config = dataclasses.replace(MICRO, grid=LONG, d_model=32, hiera_mask_unit=(1, 4, 2), **changes)
    layout = Layout(LONG, N, 4, (Rectangle(0, 4, 0, 20),), (Rectangle(1, N, 5, 20),), (0,), (1, 4), behavior)
    model = nnx.eval_shape(lambda: OmniMouse(config, n_neurons=12, n_sessions=3, n_animals=2, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model)
    batch = showing(layout, random_batch(1, config=config), config)
    traced = jax.make_jaxpr(lambda params, batch: nnx.merge(graph, params)(batch, layout))(params, batch)
    told = forward_flops(config, layout)
    assert all(count > 0 for count in told.values())
    assert sum(told.values()) == pytest.approx(traced_flops(traced.jaxpr), rel=0.01)
    assert train_flops(config, layout) == 3 * total_flops(config, layout)


@pytest.mark.parametrize("touching", ["out", "in"])
def test_groups_are_the_tokens_and_pairs_those_of_the_window_rule(touching):
    config, n = SIZES["1M"], 10
    text = "responses[:, 0:15] + responses[:3, 15:60] + video[20:60] + behavior -> responses[-6:, 30:60]"
    layout = resolve(parse(text), config.grid, n)
    context, queries = context_groups(config, layout), query_groups(config, layout)
    tokens = np.concatenate([layout.response_tokens(), layout.behavior_tokens(config.n_channels)])
    np.testing.assert_array_equal(np.repeat(context.intervals, context.counts, axis=0), tokens)
    np.testing.assert_array_equal(np.repeat(queries.intervals, queries.counts, axis=0), layout.queries())
    assert queries.pairs(context, touching) == visible_pairs(layout.queries(), tokens, touching).sum()


def test_hidden_work_is_not_counted():
    spatial: ModelConfig = dataclasses.replace(SIZES["1M"], hiera_order="spatial")
    half = resolve(parse("video[30:60] -> responses[:, 30:60]"), spatial.grid, 64)
    whole = resolve(parse("video -> responses[:, 30:60]"), spatial.grid, 64)
    assert forward_flops(spatial, half)["encoder"] == 0
    assert forward_flops(spatial, half)["video"] < 0.6 * forward_flops(spatial, whole)["video"]
    in_order = (forward_flops(SIZES["1M"], layout)["video"] for layout in (half, whole))
    assert next(in_order) > 0.98 * next(in_order)
