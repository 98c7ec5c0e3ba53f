"""Agreement with a PyTorch re-statement of the released model: outputs to 1e-5, gradients to 1e-4, windows exactly.

How a case is run and compared: `omnimouse_jax/evaluate/reference_check.py`, which `check-reference` uses as well.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.reference_check import Triple, check_case, open_triple
from omnimouse_jax.evaluate.reference_steps import check_steps
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.reference import check_constants, constants, load_state, save_state
from omnimouse_jax.model.reference_config import config_from_reference, reference_config
from tests.shared import shared

NAMES = ("real_rates", "dyadic_rates")
CASES = (
    *("population", "population_behavior_decoded", "behavior_from_all", "forecast", "forecast_video"),
    *("forecast_nothing_visible_late", "full_prefix_then_subset", "population_video"),
    *("video_behavior", "video_only", "behavior_only"),
)
#: Cases that between them touch everything; the others take minutes together and run with `-m slow`.
QUICK = {
    "real_rates": ("full_prefix_then_subset", "population_behavior_decoded"),
    "dyadic_rates": ("population_video", "video_only"),
}
EVERY = [
    pytest.param(name, case, marks=[] if case in QUICK[name] else [pytest.mark.slow])
    for name in NAMES
    for case in CASES
]


@functools.cache
def triple(name: str) -> Triple:
    return open_triple(shared(f"reference/{name}.json"))


@functools.cache
def weights(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared(f"reference/{name}.weights.npz")))


@functools.cache
def fields(name: str) -> dict:
    return json.loads(shared(f"reference/{name}.json").read_text())["config"]


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_outputs_gradients_and_windows_agree(name, case):
    result = check_case(triple(name), case)
    assert result.ok, result
    assert result.gradients is not None


@pytest.mark.parametrize("name", NAMES)
def test_all_cases_are_tested(name):
    assert tuple(triple(name).cases) == CASES
    assert triple(name).left_over == ()


@pytest.mark.slow
def test_optimiser_steps_agree():
    steps, finals = check_steps(triple("real_rates"))
    assert len(steps) == 6
    assert all(step.ok for step in steps), steps
    assert finals.ok, finals


@pytest.mark.parametrize("name", NAMES)
def test_constants_of_the_checkpoint(name):
    config, theirs = triple(name).config, weights(name)
    ours = constants(config)
    check_constants(config, theirs)
    for constant, value in ours.items():
        assert value.dtype == theirs[constant].dtype, constant
        assert value.shape == theirs[constant].shape, constant
        np.testing.assert_allclose(value, theirs[constant], rtol=1e-12, atol=6e-8, err_msg=constant)
    other = dataclasses.replace(config, grid=dataclasses.replace(config.grid, n_frames=72))
    with pytest.raises(UserError, match=r"rotary_emb\.inv_freq.*not what this config gives"):
        check_constants(other, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_bitwise(name):
    config, vocabulary = triple(name).config, triple(name).vocabulary
    saved = save_state(config, load_state(config, weights(name), vocabulary).params, vocabulary)
    unused = {"exp_time_to_model_proj.weight", "exp_time_to_model_proj.bias"}
    assert set(weights(name)) - set(constants(config)) - unused == set(saved)
    for k, value in saved.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, weights(name)[k], k)


#: What a field may be set to by mistake, or on purpose.
ANYTHING = (
    0,
    -1,
    None,
    "x",
    1.5,
    7,
    7.0,
    [],
    [1],
    [1, 0],
    [1, 1, 1],
    [2, 2, 2],
    True,
    False,
    {},
    float("nan"),
    object(),
)


def test_every_field_is_honoured_or_refused():
    told = fields("real_rates")
    apart = {"a": "x", "b": "y"}
    base = config_from_reference(told, apart)
    for field, value in itertools.product(told, ANYTHING):
        if isinstance(value, type(told[field])) and value == told[field]:
            continue
        try:
            changed = config_from_reference({**told, field: value}, apart)
        except UserError:
            continue
        same_number = isinstance(value, int | float) and value == told[field]
        assert changed != base or same_number, f"{field}={value!r} is ignored"


def test_what_is_refused_is_named_by_its_released_name():
    told = fields("real_rates")
    for changes, message in (
        ({"wings": 2}, "field wings is 2: it is not a known field"),
        ({"video_channels": 3}, "field video_channels is 3: only 1 is built"),
        ({"num_heads": 2.5}, "field num_heads is 2.5: it must be a whole number"),
        ({"num_heads": 5}, "num_heads 5 does not divide d_model 48"),
        ({"num_global_latents": 0}, "num_global_latents is 0 - use a positive number"),
        ({"local_to_global_ratio": [3, 1]}, r"local_to_global_ratio \(3, 1\) makes a cycle that does not fit"),
        ({"hiera_patch_stride": [2, 0, 2]}, r"hiera_patch_stride is \(0, 2\)"),
        ({"response_latent_window_stride_samples": 7}, "windows of latents .* do not fill"),
        ({"always_use_animal_embeddings": False}, "field always_use_animal_embeddings is False: it depends on"),
    ):
        with pytest.raises(UserError, match=message):
            config_from_reference({**told, **changes})
    with pytest.raises(UserError, match="field num_samples_per_s is missing"):
        config_from_reference({k: v for k, v in told.items() if k != "num_samples_per_s"})


def test_numbers_may_be_written_either_way():
    told = fields("real_rates")
    floats = {k: float(v) for k, v in told.items() if isinstance(v, int) and not isinstance(v, bool)}
    assert config_from_reference({**told, **floats}) == config_from_reference(told)


@pytest.mark.parametrize("name", NAMES)
def test_released_fields_come_back(name):
    back = reference_config(config_from_reference(fields(name)))
    assert {k: back[k] for k in fields(name) if k != "video_channels"} == {
        k: v for k, v in fields(name).items() if k != "video_channels"
    }
    assert config_from_reference(back) == config_from_reference(fields(name))


@pytest.mark.parametrize(
    "change",
    [{"neuron_weights": True}, {"response_loss": "gaussian"}, {"hiera_order": "spatial"}, {"ffn_multiple": 16}],
)
def test_what_the_released_model_cannot_be_is_refused(change):
    (field,) = change
    with pytest.raises(UserError, match=f"model.{field} is .*no such choice"):
        reference_config(dataclasses.replace(ModelConfig(), **change))


def test_wrong_weights_are_named():
    config, vocabulary, state = triple("real_rates").config, triple("real_rates").vocabulary, weights("real_rates")
    missing = {k: v for k, v in state.items() if k != "enc.attention.wq.weight"}
    with pytest.raises(UserError, match=r"enc\.attention\.wq\.weight is missing"):
        load_state(config, missing, vocabulary)
    with pytest.raises(UserError, match="has shape"):
        load_state(config, {**state, "behavior_featx.bias": np.zeros(3)}, vocabulary)
    with pytest.raises(UserError, match="not finite"):
        load_state(config, {**state, "behavior_featx.bias": state["behavior_featx.bias"] * np.nan}, vocabulary)
    renamed = {f"_orig_mod.{k}": v for k, v in state.items()}
    loaded = load_state(config, {**renamed, "something.else": np.zeros(2)}, vocabulary)
    assert loaded.left_over == ("something.else",)
