"""Agreement with a PyTorch re-statement of the released model: outputs to 1e-5, gradients to 1e-4, windows exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.attention import Windows
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import time_sinusoid
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.model.reference import config_from_reference, load_state, save_state
from omnimouse_jax.model.rotary import angular_frequencies
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.regimes import Regime, resolve
from omnimouse_jax.tokens.vocabulary import Vocabulary
from tests.shared import shared

NAMES = ("real_rates", "dyadic_rates")
CASES = (
    *("population", "population_behavior_decoded", "behavior_from_all", "forecast", "forecast_video"),
    *("forecast_nothing_visible_late", "full_prefix_then_subset", "population_video"),
    *("video_behavior", "video_only", "behavior_only"),
)
#: Cases that between them touch everything; the others compile for minutes and run with `-m slow`.
QUICK = {
    "real_rates": ("full_prefix_then_subset", "population_behavior_decoded"),
    "dyadic_rates": ("population_video", "video_only"),
}
EVERY = [
    pytest.param(name, case, marks=[] if case in QUICK[name] else [pytest.mark.slow])
    for name in NAMES
    for case in CASES
]
#: One call each: compiling quickly matters more than running quickly.
COMPILER = {"xla_backend_optimization_level": 0}


@functools.cache
def triple(name):
    told = json.loads(shared(f"reference/{name}.json").read_text())
    arrays = np.load(shared(f"reference/{name}.npz"))
    weights = dict(np.load(shared(f"reference/{name}.weights.npz")))
    config = dataclasses.replace(config_from_reference(told["config"]), screen_mean=0.0, screen_std=1.0)
    vocabulary = Vocabulary.of(
        {key: {"animal": s["animal_id"], "n_neurons": s["n_neurons"]} for key, s in told["sessions"].items()}
    )
    return told, arrays, weights, config, vocabulary


def merged(name):
    _, _, weights, config, vocabulary = triple(name)
    loaded = load_state(config, weights, vocabulary)
    assert loaded.left_over == ()
    return abstract_graph(config, vocabulary), jax.tree.map(jnp.asarray, loaded.params)


def abstract_graph(config, vocabulary):
    build = functools.partial(
        OmniMouse,
        config,
        n_neurons=vocabulary.neuron_capacity,
        n_sessions=vocabulary.session_capacity,
        n_animals=vocabulary.animal_capacity,
    )
    return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))[0]


def batch_of(name):
    told, arrays, _, _, vocabulary = triple(name)
    key, ids = told["session"], arrays["inputs/neuron_ids"]
    responses = np.take_along_axis(arrays["inputs/responses"], ids[:, None], axis=2)
    b = len(ids)
    behavior = arrays["inputs/behavior"]
    start = arrays["inputs/response_timestamps"][:, 0]
    return Batch(
        responses=responses,
        response_mask=np.ones(responses.shape, bool),
        neuron_mask=np.ones(ids.shape, bool),
        neuron_rows=vocabulary.neuron_rows(key)[ids],
        session_rows=np.full(b, vocabulary.session_row(key), np.int32),
        animal_rows=np.full(b, vocabulary.animal_row(key), np.int32),
        video=arrays["inputs/screen"][:, 0],
        video_mask=np.ones(b, bool),
        behavior=behavior,
        behavior_mask=np.ones(behavior.shape, bool),
        experiment_second=np.floor(start).astype(np.int32),
        row_mask=np.ones(b, bool),
    )


def layout_of(name, case):
    told, arrays, _, config, _ = triple(name)
    return resolve(Regime(**fields_of(told, case)), config.grid, arrays["inputs/neuron_ids"].shape[1])


def fields_of(told, case):
    return {field: value for field, value in told["cases"][case].items() if field != "grad_norms"}


def flattened(rectangles, stride):
    """(B, samples, neurons) per rectangle to the reference's order (step, neuron, sample in step)."""
    parts = []
    for x in rectangles:
        b, s, n = x.shape
        parts.append(np.asarray(x).reshape(b, s // stride, stride, n).swapaxes(2, 3).reshape(b, -1))
    return np.concatenate(parts, axis=1)


def loss_of(predictions, batch, layout, config: ModelConfig):
    """Section 5 in a few lines: mean Poisson loss, plus a tenth of the clipped squared error of behaviour."""
    total = jnp.float32(0)
    if layout.targets:
        elements = []
        for r, p in zip(layout.targets, predictions.responses, strict=True):
            y = batch.responses[:, r.first_sample : r.last_sample, r.first_neuron : r.last_neuron]
            elements.append(jnp.clip(p - y * jnp.log(p + config.poisson_eps), -100, 100).ravel())
        total += jnp.mean(jnp.concatenate(elements))
    if predictions.behavior is not None:
        error = jnp.minimum(jnp.square(predictions.behavior - batch.behavior), config.behavior_loss_clip)
        total += config.behavior_loss_weight * jnp.mean(error)
    return total


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())


def results(name, case):
    """Everything of one case, from one compiled program: outputs, intermediates, loss and released-name gradients."""
    _, _, _, config, vocabulary = triple(name)
    graph, params = merged(name)
    batch, layout = batch_of(name), layout_of(name, case)

    def everything(params, batch):
        model = nnx.merge(graph, params)
        core, rows = model.core, model.tables.gather(batch)
        meta, neurons, channels = core.identify(rows, batch)
        latents = core.encode(meta, neurons, channels, batch, layout)
        features = core.watch(meta, batch, layout)
        hidden = core.process(latents, features)
        predictions = core.decode(hidden, neurons, channels, rows, layout)
        seen = {"latents_after_encoder": latents.vectors, "hidden": hidden.vectors}
        if features is not None:
            seen["video_features"] = features.vectors
        return loss_of(predictions, batch, layout, config), (predictions, seen)

    step = jax.jit(jax.value_and_grad(everything, has_aux=True), compiler_options=COMPILER)
    (loss, (predictions, seen)), grads = step(params, batch)
    grads = save_state(config, jax.tree.map(np.asarray, grads), vocabulary)
    if layout.targets:
        seen["response_preds"] = flattened(predictions.responses, config.grid.response_stride)
    if predictions.behavior is not None:
        seen["behavior_preds"] = predictions.behavior
    return float(loss), {k: np.asarray(v) for k, v in seen.items()}, grads


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_outputs_and_gradients_agree(name, case):
    told, arrays, *_ = triple(name)
    loss, seen, grads = results(name, case)
    assert loss == pytest.approx(float(arrays[f"{case}/loss"]), rel=1e-5)
    expected = {"response_preds", "behavior_preds", "latents_after_encoder", "hidden", "video_features"}
    expected = {k for k in expected if f"{case}/{k}" in arrays.files}
    assert expected == set(seen)
    for k in expected:
        assert relative(seen[k], arrays[f"{case}/{k}"]) < 1e-5, k
    checked = [k for k in arrays.files if k.startswith(f"{case}/grad/")]
    assert checked
    for k in checked:
        # By norm: two patches of `real_rates` tie within 2e-7 in a max pooling, and each side picked another one.
        theirs = arrays[k]
        off = np.linalg.norm(grads[k.removeprefix(f"{case}/grad/")] - theirs) / np.linalg.norm(theirs)
        assert off < 1e-4, k
    for parameter, norm in told["cases"][case]["grad_norms"].items():
        assert np.linalg.norm(grads[parameter]) == pytest.approx(norm, rel=1e-4, abs=1e-7), parameter


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_windows_are_equal(name, case):
    _, arrays, _, config, _ = triple(name)
    layout = layout_of(name, case)

    def told(which):
        if f"{case}/{which}" not in arrays.files:
            return None
        shape = arrays[f"{case}/{which}_shape"]
        return np.unpackbits(arrays[f"{case}/{which}"], axis=-1)[..., : shape[-1]].astype(bool).reshape(shape)

    latents = layout.latents(config.latents_per_window, config.global_latents)
    hidden = np.concatenate([latents, layout.video(config.features_per_step)])
    behavior = layout.whole_window(config.n_channels)
    context = np.concatenate([layout.response_tokens(), behavior[: config.n_channels * (layout.behavior == "input")]])
    queries = np.concatenate([layout.queries(), behavior[: config.n_channels * (layout.behavior == "target")]])
    for which, ours in (
        ("mask_enc", (latents, context)),
        ("mask_latent", (hidden, hidden)),
        ("mask_dec", (queries, hidden)),
    ):
        theirs = told(which)
        if theirs is None:
            assert len(ours[1]) == 0
        else:
            np.testing.assert_array_equal(Windows(*ours).mask(), theirs, which)


@pytest.mark.parametrize("name", NAMES)
def test_constants_of_the_checkpoint(name):
    _, _, weights, config, _ = triple(name)
    ours = angular_frequencies(config.d_head, config.rotary_seconds)
    np.testing.assert_allclose(ours, weights["rotary_emb.inv_freq"], rtol=1e-12)
    table = weights["exp_time_embedding.positional_embeddings"]
    seconds = jnp.arange(len(table))
    np.testing.assert_allclose(time_sinusoid(seconds, table.shape[1]), table, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_bitwise(name):
    _, _, weights, config, vocabulary = triple(name)
    saved = save_state(config, load_state(config, weights, vocabulary).params, vocabulary)
    constants = ("positional_embeddings", "timestamps", "inv_freq", "_latent_ids", "_window_sizes", "exp_time_to")
    assert {k for k in weights if not any(c in k for c in constants)} == set(saved)
    for k, value in saved.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, weights[k], k)


def test_every_field_is_honoured_or_refused():
    told, *_ = triple("real_rates")
    base = config_from_reference(told["config"])
    for field in told["config"]:
        broken = {**told["config"], field: object()}
        with contextlib.suppress(UserError, TypeError, ValueError, AttributeError):
            assert config_from_reference(broken) != base, f"{field} is ignored"
    with pytest.raises(UserError, match="wings"):
        config_from_reference({**told["config"], "wings": 2})
    with pytest.raises(UserError, match="video_channels"):
        config_from_reference({**told["config"], "video_channels": 3})


def test_wrong_weights_are_named():
    _, _, weights, config, vocabulary = triple("real_rates")
    missing = {k: v for k, v in weights.items() if k != "enc.attention.wq.weight"}
    with pytest.raises(UserError, match=r"enc\.attention\.wq\.weight is missing"):
        load_state(config, missing, vocabulary)
    with pytest.raises(UserError, match="has shape"):
        load_state(config, {**weights, "behavior_featx.bias": np.zeros(3)}, vocabulary)
    with pytest.raises(UserError, match="not finite"):
        load_state(config, {**weights, "behavior_featx.bias": weights["behavior_featx.bias"] * np.nan}, vocabulary)
    renamed = {f"_orig_mod.{k}": v for k, v in weights.items()}
    loaded = load_state(config, {**renamed, "something.else": np.zeros(2)}, vocabulary)
    assert loaded.left_over == ("something.else",)
