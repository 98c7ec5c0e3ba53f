"""Options of the model that are off by default: behaviour cut into steps, and weights of each neuron's own."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import Rows
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.model.perceiver import Tokens
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.regimes import parse, resolve

WHOLE = Grid(n_samples=30, n_frames=30, n_behavior=20)
CUT = dataclasses.replace(WHOLE, behavior_width=5)
N = 4


def config(grid: Grid) -> ModelConfig:
    return ModelConfig(
        grid=grid,
        screen=(16, 16),
        behavior_channels=("pupil_size", "running"),
        d_embedding=8,
        d_model=16,
        n_heads=2,
        n_layers=1,
        local_to_global=(1, 0),
        ffn_multiple=8,
        latents_per_window=2,
        global_latents=1,
        hiera_dim=8,
        hiera_stages=(1, 1),
        hiera_mask_unit=(1, 4, 4),
        hiera_stride=(4, 4),
        hiera_padding=(2, 2),
        hiera_order="spatial",
    )


def layout(grid: Grid, text: str) -> Layout:
    return resolve(parse(text, grid), grid, N)


def batch(behavior: np.ndarray, mask: np.ndarray | None = None) -> Batch:
    rng = np.random.default_rng(0)
    b, _, t = behavior.shape
    return Batch(
        responses=rng.normal(size=(b, 30, N)).astype(np.float32),
        response_mask=np.ones((b, 30, N), bool),
        neuron_mask=np.ones((b, N), bool),
        neuron_rows=np.tile(np.arange(N, dtype=np.int32), (b, 1)),
        session_rows=np.zeros(b, np.int32),
        animal_rows=np.zeros(b, np.int32),
        video=np.zeros((b, 30, 16, 16), np.uint8),
        video_mask=np.ones(b, bool),
        behavior=behavior.astype(np.float32),
        behavior_mask=np.ones((b, 2, t), bool) if mask is None else mask,
        experiment_second=np.zeros(b, np.int32),
        row_mask=np.ones(b, bool),
        context_shown=np.ones((b, 8), bool),  # four steps of two channels
    )


def model(grid: Grid) -> OmniMouse:
    return OmniMouse(config(grid), n_neurons=N, n_sessions=1, n_animals=1, rngs=nnx.Rngs(params=jax.random.key(0)))


def test_intervals_and_sizes():
    asks = "video + behavior -> responses[:, 5:30]"
    assert layout(WHOLE, asks).behavior_tokens(2).tolist() == [[0, 60], [0, 60]]
    # 20 Hz on a clock of 60 ticks a second: a step of 5 samples is 15 ticks; channels side by side within a step.
    expected = [[start, start + 15] for start in (0, 15, 30, 45) for _ in range(2)]
    assert layout(CUT, asks).behavior_tokens(2).tolist() == expected
    assert (WHOLE.n_behavior_steps, CUT.n_behavior_steps) == (1, 4)
    core = model(CUT).core
    assert core.behavior_in.kernel.shape == (5, 16)
    assert core.behavior_out.shape == (2, 5, 16)
    with pytest.raises(UserError, match="behavior_width 6 does not divide n_behavior 20"):
        dataclasses.replace(WHOLE, behavior_width=6)


def test_a_step_is_a_token_of_its_own_time_and_channel():
    values = np.random.default_rng(1).normal(size=(1, 2, 20))
    core, plan = model(CUT).core, layout(CUT, "video + behavior -> responses[:, 5:30]")
    channels = jnp.zeros((1, 2, 16), jnp.float32)

    def tokens(values: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        made = core.behavior_tokens(channels, batch(values, mask), plan)
        return np.asarray(made.vectors[0]), np.asarray(made.mask[0]), made.seconds

    before, visible, seconds = tokens(values)
    assert visible.all()
    np.testing.assert_allclose(seconds, np.repeat([0, 0.25, 0.5, 0.75], 2))
    later = values.copy()
    later[0, 1, 10:15] += 1  # the second channel in the third step
    changed = np.abs(tokens(later)[0] - before).max(1) > 0
    assert changed.tolist() == [False] * 5 + [True] + [False] * 2
    gone = np.ones((1, 2, 20), bool)
    gone[0, 0, 5:8] = False  # 3 of 5 samples of the first channel's second step
    gone[0, 1, 5:7] = False  # 2 of 5
    assert tokens(values, gone)[1].tolist() == [True, True, False] + [True] * 5


def test_a_query_is_read_out_at_its_own_time():
    core, plan = model(CUT).core, layout(CUT, "responses + video -> behavior")
    channels = jnp.ones((1, 2, 16), jnp.float32)
    assert len(core.behavior_queries(channels, plan)) == 8
    intervals = plan.latents(2, 1)
    vectors = jnp.asarray(np.random.default_rng(2).normal(size=(1, len(intervals), 16)), jnp.float32)
    hidden = Tokens(vectors, intervals, np.zeros(len(intervals)))
    nobody = Rows(jnp.zeros((1, N, 8)), jnp.zeros((1, N)), jnp.zeros((1, 8)), jnp.zeros((1, 8)))

    def told() -> np.ndarray:
        return np.asarray(core.decode(hidden, jnp.zeros((1, N, 16)), channels, nobody, plan).behavior)

    before = told()
    assert before.shape == (1, 2, 20)
    readout = np.array(core.behavior_out[...])
    readout[1, 3] += 1.0  # the second channel's fourth sample of every step
    core.behavior_out = nnx.Param(jnp.asarray(readout))
    changed = np.abs(told() - before)[0] > 0
    assert not changed[0].any()
    assert np.flatnonzero(changed[1]).tolist() == [3, 8, 13, 18]


def test_neurons_weigh_their_own_signals_and_readouts():
    shown = batch(np.zeros((1, 2, 20)))
    (context,) = layout(WHOLE, "responses + video -> behavior").context
    (asked,) = layout(WHOLE, "video -> responses[:, 5:30]").targets
    net = OmniMouse(
        dataclasses.replace(config(WHOLE), neuron_weights=True, response_loss="gaussian"),
        n_neurons=N,
        n_sessions=1,
        n_animals=1,
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )
    core, rows = net.core, net.tables.gather(shown)
    neurons = jnp.asarray(np.random.default_rng(3).normal(size=(1, N, 16)), jnp.float32)
    still = shown._replace(responses=np.zeros_like(shown.responses))

    def signal() -> np.ndarray:
        """What the tokens hold of responses, beside who is recorded: (steps, N, D)."""
        moved, base = (core._rectangle(context, neurons, b)[0] for b in (shown, still))
        return np.asarray(moved - base)[0].reshape(-1, N, 16)

    gain = np.asarray(neurons @ core.response_gain.kernel[...])[0]
    weighed = signal()
    core.response_gain = None  # as a model without the option
    np.testing.assert_allclose(weighed, signal() * (1 + gain), atol=1e-5)

    answers = jnp.asarray(np.random.default_rng(4).normal(size=(1, 5 * N, 16)), jnp.float32)
    with_weights = np.asarray(core._read_responses(answers, rows, asked))
    kernel = np.asarray(core.neuron_out.kernel[...]).reshape(16, 5, 8)
    core.neuron_out = None
    extra = with_weights - np.asarray(core._read_responses(answers, rows, asked))
    expected = np.einsum("qnd,dse,ne->qsn", np.asarray(answers)[0].reshape(5, N, 16), kernel, rows.neuron_embedding[0])
    np.testing.assert_allclose(extra[0], expected.reshape(25, N), atol=1e-5)
