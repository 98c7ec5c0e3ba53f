"""Layouts and window masks against the check data of the reference model, and the window rule on its own."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import numpy as np
import pytest

from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle, visible_pairs
from omnimouse_jax.tokens.regimes import Regime, resolve
from tests.shared import shared

REFERENCES = ("real_rates", "dyadic_rates")
CASES = (
    "population",
    "population_behavior_decoded",
    "behavior_from_all",
    "forecast",
    "forecast_video",
    "forecast_nothing_visible_late",
    "full_prefix_then_subset",
    "population_video",
    "video_behavior",
    "video_only",
    "behavior_only",
)


@cache
def load(reference: str):
    meta = json.loads(shared(f"reference/{reference}.json").read_text())
    return meta, np.load(shared(f"reference/{reference}.npz"))


def grid_of(config: dict) -> Grid:
    return Grid(
        response_rate=config["num_samples_per_s"],
        video_rate=config["num_frames_per_s"],
        behavior_rate=config["num_behavior_samples_per_s"],
        n_samples=config["num_samples_per_block"],
        n_frames=config["num_frames_per_block"],
        n_behavior=config["num_behavior_samples_per_block"],
        response_width=config["response_window_size_samples"],
        response_stride=config["response_stride_samples"],
        latent_width=config["response_latent_window_size_samples"],
        latent_stride=config["response_latent_window_stride_samples"],
        query_lookback=config["response_query_lookback_samples"],
        interpolation_buffer=config["interpolation_buffer"],
        skip_samples=config["skip_n_samples"],
        video_kernel=config["hiera_patch_kernel"][0],
        video_stride=config["hiera_patch_stride"][0],
        video_padding=config["hiera_patch_padding"][0],
    )


def features_per_step(config: dict) -> int:
    """Spatial size of the video features, from the patch embedding's and the pooling's shapes."""
    sides = (
        (size + 2 * pad - kernel) // stride + 1
        for size, kernel, stride, pad in zip(
            config["video_resolution"],
            config["hiera_patch_kernel"][1:],
            config["hiera_patch_stride"][1:],
            config["hiera_patch_padding"][1:],
            strict=True,
        )
    )
    pooled = [
        side // pool ** config["hiera_q_pool"] for side, pool in zip(sides, config["hiera_q_stride"][1:], strict=True)
    ]
    return pooled[0] * pooled[1]


def case(reference: str, name: str) -> tuple[Layout, dict, dict]:
    meta, arrays = load(reference)
    assert set(meta["cases"]) == set(CASES)
    fields = {key: value for key, value in meta["cases"][name].items() if key != "grad_norms"}
    assert len(fields) == 13
    layout = resolve(Regime(**fields), grid_of(meta["config"]), arrays["inputs/neuron_ids"].shape[1])
    found = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    return layout, meta["config"], found | {"neuron_ids": arrays["inputs/neuron_ids"]}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reference", REFERENCES)
def test_targets_and_their_order(reference, name):
    layout, _, expected = case(reference, name)
    stride = layout.grid.response_stride
    slots, positions = [np.zeros(0, int)], [np.zeros(0, int)]
    for r in layout.targets:
        step, neuron, sample = np.meshgrid(
            np.arange(r.first_sample, r.last_sample, stride),
            np.arange(r.first_neuron, r.last_neuron),
            np.arange(stride),
            indexing="ij",
        )
        slots.append(neuron.ravel())
        positions.append((step + sample).ravel())
    slot, position = np.concatenate(slots), np.concatenate(positions)
    if "response_positions" not in expected:
        assert len(slot) == 0
        assert len(layout.queries()) == 0
        return
    batch = len(expected["neuron_ids"])
    np.testing.assert_array_equal(expected["response_positions"], np.tile(position, (batch, 1)))
    np.testing.assert_array_equal(expected["response_neuron_ids"], expected["neuron_ids"][:, slot])
    ticks = position[::stride] * layout.grid.ticks_per_sample
    np.testing.assert_array_equal(layout.query_starts(), ticks)
    assert ("behavior_preds" in expected) == (layout.behavior == "target")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reference", REFERENCES)
def test_window_masks(reference, name):
    layout, config, expected = case(reference, name)
    channels = config["behavior_channels"]
    latents = layout.latents(config["num_response_latent_groups"], config["num_global_latents"])
    seen = layout.response_tokens()
    if layout.behavior == "input":
        seen = np.concatenate([seen, layout.behavior_tokens(channels)])
    tower = np.concatenate([latents, layout.video(features_per_step(config))])
    asked = layout.queries()
    if layout.behavior == "target":
        asked = np.concatenate([asked, layout.behavior_tokens(channels)])
    masks = {"enc": (latents, seen), "latent": (tower, tower), "dec": (asked, tower)}
    for which, (queries, keys) in masks.items():
        if f"mask_{which}" not in expected:
            assert which == "enc"
            assert len(keys) == 0
            continue
        shape = tuple(expected[f"mask_{which}_shape"])
        assert (len(queries), len(keys)) == shape, which
        mask = np.unpackbits(expected[f"mask_{which}"], axis=-1, count=shape[1]).astype(bool)
        np.testing.assert_array_equal(visible_pairs(queries, keys), mask, err_msg=which)


def test_only_touching_intervals_depend_on_the_option():
    edges = np.array([[0, 10], [10, 20], [5, 15], [20, 30]])
    out, inside = visible_pairs(edges, edges), visible_pairs(edges, edges, touching="in")
    touch = (edges[:, None, 1] == edges[None, :, 0]) | (edges[:, None, 0] == edges[None, :, 1])
    np.testing.assert_array_equal(inside, out | touch)
    assert not (out & touch).any()
    assert out.diagonal().all()


def test_lookback_widens_queries_to_the_past_only():
    grid = Grid()
    regime = Regime(max_n_reconstructed_neurons=2, n_visible_neurons=2, suffix_start_idx=30, suffix_len=30)
    plain = resolve(regime, grid, 4)
    back = resolve(regime, dataclasses.replace(grid, query_lookback=10), 4)
    np.testing.assert_array_equal(back.queries()[:, 1], plain.queries()[:, 1])
    np.testing.assert_array_equal(back.queries()[:, 0], plain.queries()[:, 0] - 10 * grid.ticks_per_sample)
    np.testing.assert_array_equal(back.query_starts(), plain.query_starts())


def test_a_video_feature_is_as_late_as_its_last_frame():
    grid = Grid()
    layout = resolve(Regime(n_visible_neurons=0, prefix_len=0, suffix_start_idx=30), grid, 4)
    features = layout.video(1)
    assert len(features) == grid.n_video_steps == 30
    # Without padding feature k would end with frame 2k + 5; two frames of padding come before and after.
    frame = np.minimum(2 * np.arange(30) + grid.video_kernel - 1 - grid.video_padding, 59)
    np.testing.assert_array_equal(features[:, 0], frame * grid.ticks_per_frame)
    np.testing.assert_array_equal(features[:, 1] - features[:, 0], 6 * grid.ticks_per_frame)


def test_rectangles_may_be_empty():
    assert Rectangle(4, 4, 0, 10).n_neurons == 0
    assert Rectangle(5, 4, 10, 0).n_neurons == Rectangle(5, 4, 10, 0).n_samples == 0
