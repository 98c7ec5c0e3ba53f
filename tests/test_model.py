"""Properties of the model that hold for any weights: what is hidden, missing or padded changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.model.counts import describe, render
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.model.reference import flatten
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import shown
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle
from omnimouse_jax.tokens.regimes import parse, resolve

GRID = Grid(n_samples=30, n_frames=30, n_behavior=20)  # one second
MICRO = ModelConfig(
    grid=GRID,
    screen=(16, 16),
    behavior_channels=("pupil_size", "running", "licking"),
    d_embedding=8,
    d_model=16,
    n_heads=2,
    n_layers=2,
    ffn_multiple=8,
    latents_per_window=3,
    global_latents=2,
    hiera_dim=8,
    hiera_stages=(1, 1),
    hiera_mask_unit=(1, 4, 4),
    hiera_stride=(4, 4),
    hiera_padding=(2, 2),
    hiera_order="spatial",
)
N, ROWS = 6, 12
#: Neurons 0-2 shown in samples 0-14, the whole screen, behaviour in; all neurons asked for in samples 20-29.
ALL_IN = Layout(GRID, N, 3, (Rectangle(0, 3, 0, 15),), (Rectangle(0, N, 20, 30),), (0, 1, 2), (0, 15), "input")
FORECAST = Layout(GRID, N, N, (Rectangle(0, N, 0, 10),), (Rectangle(0, N, 15, 30),), (0, 1, 2), (0, 0), "hidden")
DECODE = Layout(GRID, N, N, (Rectangle(0, N, 0, 30),), (), (0, 1, 2), (3, 9), "target")


#: Few calls each: compiling quickly matters more than running quickly.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def build(config: ModelConfig, seed) -> OmniMouse:
    return OmniMouse(config, n_neurons=ROWS, n_sessions=3, n_animals=2, rngs=nnx.Rngs(seed))


@functools.cache
def graph_and_params(config: ModelConfig = MICRO):
    """Weights from numpy, larger than initial ones: what must not matter is then well visible if it does."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: build(config, 0)))
    rng = np.random.default_rng(0)
    return graph, jax.tree.map(
        lambda x: jnp.asarray(rng.normal(x.ndim == 1, 0.3, x.shape), x.dtype), nnx.to_pure_dict(shapes)
    )


@functools.cache
def program(layout: Layout, config: ModelConfig = MICRO):
    graph, _ = graph_and_params(config)
    return quick_jit(lambda params, batch, keys=None: nnx.merge(graph, params)(batch, layout, dropout_keys=keys))


def predict(batch: Batch, layout: Layout, config: ModelConfig = MICRO, keys=None):
    _, params = graph_and_params(config)
    return jax.tree.map(np.asarray, program(layout, config)(params, showing(layout, batch, config), keys))


def showing(layout: Layout, batch: Batch, config: ModelConfig = MICRO) -> Batch:
    """The batch for a program of exactly the layout's shape."""
    return batch._replace(context_shown=np.tile(shown(layout, layout, config.n_channels), (len(batch.row_mask), 1)))


def random_batch(b: int = 2, seed: int = 0, config: ModelConfig = MICRO, n: int = N) -> Batch:
    rng, g = np.random.default_rng(seed), config.grid
    behavior = (b, config.n_channels, g.n_behavior)
    return Batch(
        responses=rng.random((b, g.n_samples, n)).astype(np.float32),
        response_mask=np.ones((b, g.n_samples, n), bool),
        neuron_mask=np.ones((b, n), bool),
        neuron_rows=np.stack([rng.permutation(ROWS)[:n] for _ in range(b)]).astype(np.int32),
        session_rows=rng.integers(0, 3, b).astype(np.int32),
        animal_rows=rng.integers(0, 2, b).astype(np.int32),
        video=rng.integers(0, 256, (b, g.n_frames, *config.screen)).astype(np.uint8),
        video_mask=np.ones(b, bool),
        behavior=rng.standard_normal(behavior).astype(np.float32),
        behavior_mask=np.ones(behavior, bool),
        experiment_second=rng.integers(0, 1000, b).astype(np.int32),
        row_mask=np.ones(b, bool),
        context_shown=np.zeros((b, 0), bool),
    )


def assert_same(a, b, atol: float = 0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def changed(batch: Batch, **arrays) -> Batch:
    return batch._replace(**arrays)


def where_valid(values, mask, other):
    return np.where(mask, values, other).astype(values.dtype)


def test_initial_weights_are_the_released_ones():
    state = quick_jit(lambda key: nnx.to_pure_dict(nnx.state(build(MICRO, key))))(jax.random.key(0))
    flat = {path: np.asarray(x) for path, x in flatten(state).items()}
    stds = {
        "core/tower/local/attention/qkv/kernel": 16**-0.5,
        "core/decoder/feed_forward/down/kernel": MICRO.ffn_width(16, 4.0) ** -0.5,
        "core/latent": 16**-0.5,
        "core/behavior_in/kernel": 20**-0.5,
        "core/response_in/kernel": 0.02,
        "core/video/patch_kernel": 0.02,
        "core/video/blocks/1/attention/qkv/kernel": 0.02,
        "core/video/blocks/1/feed_forward/up/kernel": 0.02,
        "tables/neuron_embedding": 8**-0.5,
    }
    for path, std in stds.items():
        size = flat[path].size
        assert flat[path].std() == pytest.approx(std, rel=4 / np.sqrt(2 * size)), path
        assert abs(flat[path].mean()) < 4 * std / np.sqrt(size), path
    for path, x in flat.items():
        if path.endswith("bias"):
            linear_in_video = re.search(r"video/blocks/\d+/(attention/(qkv|out)|widen)/bias", path)
            assert (x == np.float32(0.02 if linear_in_video else 0.0)).all(), path
        elif path.endswith("scale"):
            assert (x == 1).all(), path
    assert nnx.eval_shape(lambda: build(MICRO, 0)).tables.neuron_bias.shape == (ROWS,)


@pytest.mark.parametrize("layout", [ALL_IN, FORECAST, DECODE])
def test_shapes_and_signs(layout):
    p = predict(random_batch(), layout)
    assert [r.shape for r in p.responses] == [(2, r.n_samples, r.n_neurons) for r in layout.targets]
    assert all(np.isfinite(r).all() and (r >= 0).all() and r.dtype == np.float32 for r in p.responses)
    assert (p.behavior is None) == (layout.behavior != "target")
    if p.behavior is not None:
        assert p.behavior.shape == (2, 3, GRID.n_behavior)
        assert np.isfinite(p.behavior).all()


def test_values_under_a_mask_change_nothing():
    batch = random_batch()
    rng = np.random.default_rng(1)
    masks = {
        "response_mask": rng.random(batch.responses.shape) < 0.7,
        "neuron_mask": np.array([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool),
        "video_mask": np.array([True, False]),
        "behavior_mask": rng.random(batch.behavior.shape) < 0.6,
    }
    masks["response_mask"] &= masks["neuron_mask"][:, None]
    batch = changed(batch, **masks)
    garbage = changed(
        batch,
        responses=where_valid(batch.responses, masks["response_mask"], 7e4),
        behavior=where_valid(batch.behavior, masks["behavior_mask"], -3e5),
        video=where_valid(batch.video, masks["video_mask"][:, None, None, None], 255),
    )
    for layout in (ALL_IN, DECODE):
        assert_same(predict(batch, layout), predict(garbage, layout))
    # A padding slot's row is anybody's: only its own prediction, which nobody reads, may differ.
    rows = np.where(masks["neuron_mask"], batch.neuron_rows, 0).astype(np.int32)
    ours, theirs = predict(batch, ALL_IN).responses[0], predict(changed(garbage, neuron_rows=rows), ALL_IN).responses[0]
    keep = np.broadcast_to(masks["neuron_mask"][:, None], ours.shape)
    np.testing.assert_array_equal(ours[keep], theirs[keep])


def test_a_token_counts_if_half_of_its_samples_do():
    batch = random_batch(1)
    for n_missing, inert in ((5, False), (6, True)):
        response_mask = np.ones_like(batch.response_mask)
        response_mask[0, 5 : 5 + n_missing, 0] = False  # inside the second token of neuron 0: samples 5-14
        response_mask[0, 0:5, 0] = False  # the first token, 0-9, is gone in either case
        one = changed(batch, response_mask=response_mask)
        responses = batch.responses.copy()
        responses[0, 11:15, 0] += 1.0
        assert_same_or_not(predict(one, ALL_IN), predict(changed(one, responses=responses), ALL_IN), inert)
    for n_missing, inert in ((10, False), (11, True)):
        behavior_mask = np.ones_like(batch.behavior_mask)
        behavior_mask[0, 1, :n_missing] = False
        one = changed(batch, behavior_mask=behavior_mask)
        behavior = batch.behavior.copy()
        behavior[0, 1, n_missing:] += 1.0
        assert_same_or_not(predict(one, ALL_IN), predict(changed(one, behavior=behavior), ALL_IN), inert)


def assert_same_or_not(a, b, same: bool):
    difference = max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert difference == 0.0 if same else difference > 1e-7


def test_a_row_without_a_modality_is_a_row_whose_regime_hides_it():
    batch = random_batch()
    nothing = changed(
        batch,
        response_mask=np.zeros_like(batch.response_mask),
        video_mask=np.zeros(2, bool),
        behavior_mask=np.zeros_like(batch.behavior_mask),
    )
    hidden = dataclasses.replace(ALL_IN, context=(), video_steps=(0, 0), behavior="hidden")
    assert_same(predict(nothing, ALL_IN), predict(batch, hidden), atol=1e-5)
    blind = changed(batch, video_mask=np.zeros(2, bool))
    assert_same(predict(blind, ALL_IN), predict(batch, dataclasses.replace(ALL_IN, video_steps=(0, 0))), atol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(predict(nothing, ALL_IN)))


def test_padding_slots_may_stand_anywhere():
    layout = dataclasses.replace(FORECAST, context=(Rectangle(0, N, 0, 10),))
    batch = random_batch()
    mask = np.array([[1, 0, 1, 1, 0, 1]] * 2, bool)
    there = changed(batch, neuron_mask=mask, response_mask=batch.response_mask & mask[:, None])
    slots = np.flatnonzero(mask[0])
    n = len(slots)
    compact = changed(
        batch,
        responses=batch.responses[..., slots],
        response_mask=batch.response_mask[..., slots],
        neuron_mask=batch.neuron_mask[:, slots],
        neuron_rows=batch.neuron_rows[:, slots],
    )
    small = Layout(GRID, n, n, (Rectangle(0, n, 0, 10),), (Rectangle(0, n, 15, 30),), (0, 1, 2), (0, 0), "hidden")
    padded = predict(there, layout).responses[0][..., slots]
    np.testing.assert_allclose(padded, predict(compact, small).responses[0], atol=1e-5)


def test_order_of_neurons_is_irrelevant():
    batch = random_batch()
    order = np.array([2, 0, 1, 5, 3, 4])  # visible ones stay visible
    shuffled = changed(
        batch,
        responses=batch.responses[..., order],
        neuron_rows=batch.neuron_rows[:, order],
    )
    ours, theirs = predict(batch, ALL_IN).responses[0], predict(shuffled, ALL_IN).responses[0]
    np.testing.assert_allclose(ours[..., order], theirs, atol=1e-5)


@pytest.mark.parametrize(
    "config", [MICRO, dataclasses.replace(MICRO, hiera_order="reference")], ids=lambda c: c.hiera_order
)
def test_a_mixed_batch_is_its_rows(config):
    batch = random_batch(3, config=config)
    mask = np.array([True, False, True])
    neurons = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1]], bool)
    batch = changed(batch, video_mask=mask, neuron_mask=neurons, response_mask=batch.response_mask & neurons[:, None])
    whole = predict(batch, ALL_IN, config).responses[0]
    for i in range(3):
        alone = predict(Batch(*(x[[i] * 3] for x in batch)), ALL_IN, config).responses[0]
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)


def test_the_future_does_not_leak():
    graph, params = graph_and_params()
    batch = jax.tree.map(jnp.asarray, showing(FORECAST, random_batch()))

    def asked(responses, video, behavior):
        b = batch._replace(responses=responses, video=video, behavior=behavior)
        return jnp.sum(nnx.merge(graph, params)(b, FORECAST).responses[0])

    gradients = quick_jit(jax.grad(asked, argnums=(0, 1, 2)))(
        batch.responses, batch.video.astype(jnp.float32), batch.behavior
    )
    responses, video, behavior = map(np.asarray, gradients)
    assert np.abs(responses[:, :10]).min() > 0
    assert (responses[:, 10:] == 0).all()
    assert (video == 0).all()
    assert (behavior == 0).all()


def test_gradients_reach_every_parameter_and_stay_finite():
    graph, params = graph_and_params()
    batch = random_batch()
    batch = changed(
        showing(ALL_IN, batch),
        video_mask=np.array([True, False]),
        behavior_mask=batch.behavior_mask & (np.arange(2) == 0)[:, None, None],
    )

    def total(params):
        prediction = nnx.merge(graph, params)(batch, ALL_IN, dropout_keys=jax.random.split(jax.random.key(1), 2))
        return jnp.sum(jnp.sin(prediction.responses[0]))

    unused = {"core/behavior_out"}
    for path, gradient in flatten(quick_jit(jax.grad(total))(params)).items():
        assert np.isfinite(gradient).all(), path
        assert (np.abs(gradient).max() > 0) == (path not in unused), path


def test_no_neuron_at_all_gives_finite_gradients():
    graph, params = graph_and_params()
    batch = showing(FORECAST, random_batch())
    none = changed(batch, neuron_mask=np.zeros((2, N), bool), response_mask=np.zeros_like(batch.response_mask))

    def total(params):
        return jnp.sum(nnx.merge(graph, params)(none, FORECAST).responses[0])

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(quick_jit(jax.grad(total))(params)))


def test_stochastic_depth_needs_a_key_and_drops_whole_rows():
    config = dataclasses.replace(MICRO, drop_path=0.9)
    batch = random_batch(4, config=config)
    still = predict(batch, ALL_IN, config)
    assert_same(still, predict(batch, ALL_IN, config))
    one, again, other = (predict(batch, ALL_IN, config, jax.random.split(jax.random.key(i), 4)) for i in (0, 0, 1))
    assert_same(one, again)
    assert np.abs(one.responses[0] - other.responses[0]).max() > 0


def test_options_change_what_they_say():
    batch = random_batch(1)
    layout = dataclasses.replace(ALL_IN, behavior="target")
    wide = dataclasses.replace(
        MICRO, n_heads=4, n_kv_heads=2, post_norm=True, local_to_global=(0, 1), meta_to_video=True
    )
    bare = dataclasses.replace(
        MICRO, qk_norm=False, global_positions=False, experiment_time=True, per_channel_behavior_readout=False,
        pre_norm=False, meta_to_embeddings=False, animal_embeddings=False, ffn_activation="gelu",
    )  # fmt: skip
    for config in (wide, bare):
        p = predict(batch, layout, config)
        assert np.isfinite(p.responses[0]).all()
        assert p.behavior.shape == (1, 3, GRID.n_behavior)
    later = changed(batch, experiment_second=batch.experiment_second + 500)
    assert_same_or_not(predict(batch, layout, bare), predict(later, layout, bare), same=False)
    assert_same(predict(batch, layout, wide), predict(later, layout, wide))
    signed = dataclasses.replace(MICRO, response_loss="gaussian", response_loss_clip=None)
    assert predict(batch, ALL_IN, signed).responses[0].min() < 0
    half = predict(batch, ALL_IN, dataclasses.replace(MICRO, compute_dtype="bfloat16")).responses[0]
    np.testing.assert_allclose(half, predict(batch, ALL_IN).responses[0], atol=0.2, rtol=0.05)


def test_layer_kinds():
    def kinds(n_layers, ratio):
        return dataclasses.replace(MICRO, n_layers=n_layers, local_to_global=ratio).layer_is_local

    assert kinds(6, (5, 1)) == (True,) * 5 + (False,)
    assert kinds(4, (2, 1)) == (True, True, True, False)
    assert kinds(3, (1, 0)) == (True,) * 3
    assert kinds(2, (0, 1)) == (False,) * 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"d_model": 17}, "n_heads 2 does not divide d_model 17"),
        ({"d_model": 18}, "rotary positions need pairs"),
        ({"n_kv_heads": 3}, "n_kv_heads 3 does not divide"),
        ({"local_to_global": (5, 1)}, "does not fit in 2 layers"),
        ({"screen": (10, 17), "hiera_padding": (4, 0)}, "do not divide by 2"),
        ({"hiera_mask_unit": (1, 4, 3)}, "hiera_mask_unit"),
        ({"screen": (2, 2), "hiera_padding": (0, 0)}, "smaller than hiera_kernel"),
        ({"hiera_order": "diagonal"}, "hiera_order is 'diagonal'"),
        ({"hiera_stages": (1, 1, 1)}, "hiera_stages"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"behavior_channels": ("running", "running")}, "behavior_channels"),
    ],
)
def test_contradictions_are_refused(changes, what):
    with pytest.raises(UserError, match="model config: ") as told:
        dataclasses.replace(MICRO, **changes)
    assert what in str(told.value)


def test_configs_from_json():
    fields = dataclasses.asdict(SIZES["tiny"])
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    assert ModelConfig.of({**fields, "screen_std": 59}) == SIZES["tiny"]
    assert hash(ModelConfig.of(fields)) == hash(SIZES["tiny"])
    with pytest.raises(UserError, match="no field d_modle"):
        ModelConfig.of({"d_modle": 3})


PUBLISHED = {  # millions: tower, everything but the per-session tables (arXiv 2604.18827 and its released checkpoints)
    "1M": (1.7, 6.4),
    "5M": (5.1, 9.8),
    "20M": (19, 35.2),
    "80M": (86, 114.5),
    "300M": (307, 347.8),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_parameter_counts(size):
    config, (tower, shared_total) = SIZES[size], PUBLISHED[size]
    told = describe(config, n_neurons=100, n_sessions=3, n_animals=2)
    assert told["tower"] / 1e6 == pytest.approx(tower, rel=0.03)
    # Released checkpoints carry the map of experiment time even though it is unused, and animals are not per-session.
    unused = (config.d_embedding + 1) * config.d_model
    assert (told["core"] + unused) / 1e6 == pytest.approx(shared_total, abs=0.06)
    assert told["parts"]["video"] / 1e6 == pytest.approx(2.2 if size in ("1M", "5M") else 7.5, abs=0.11)
    assert told["tables"] == 100 * 257 + 5 * 256
    assert told["total"] == told["core"] + told["tables"]
    assert f"{told['core']:,}" in render(told)


def test_tiny_runs_on_its_regimes():
    config = SIZES["tiny"]
    layout = resolve(parse("responses[:0.5, 0:30] + video + behavior -> responses[-0.5:, 30:60]"), config.grid, 8)
    assert config.features_per_step == 8
    model = nnx.eval_shape(lambda: OmniMouse(config, n_neurons=8, n_sessions=1, n_animals=1, rngs=nnx.Rngs(0)))
    batch = Batch(
        *(
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, dtype in (
                *(((2, 60, 8), np.float32), ((2, 60, 8), np.bool_), ((2, 8), np.bool_), ((2, 8), np.int32)),
                *(((2,), np.int32), ((2,), np.int32), ((2, 60, 16, 32), np.uint8), ((2,), np.bool_)),
                *(((2, 5, 40), np.float32), ((2, 5, 40), np.bool_), ((2,), np.int32), ((2,), np.bool_)),
                ((2, 5 * 4 + 5), np.bool_),
            )
        )
    )
    graph, params = nnx.split(model)
    p = jax.eval_shape(lambda params, batch: nnx.merge(graph, params)(batch, layout), params, batch)
    assert p.responses[0].shape == (2, 30, 4)
