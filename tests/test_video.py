"""Hiera: the patch convolution, the two token orders, and what may depend on what."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.video import Hiera, drop_path, normalize_screen
from omnimouse_jax.tokens.grid import Grid

CONFIG = ModelConfig(
    grid=Grid(n_samples=10, n_frames=10, n_behavior=5, response_rate=30, video_rate=30, behavior_rate=15),
    screen=(16, 32),
    d_model=8,
    n_heads=1,
    d_embedding=4,
    ffn_multiple=8,
    hiera_dim=8,
    hiera_stages=(1, 2),
    hiera_mask_unit=(1, 4, 4),
    hiera_stride=(4, 4),
    hiera_padding=(2, 2),
    hiera_order="spatial",
)
STEPS = CONFIG.grid.n_video_steps
ROWS, COLUMNS = CONFIG.feature_grid

#: Few calls each: compiling quickly matters more than running quickly.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def model(order: str) -> Hiera:
    hiera = quick_jit(lambda key: Hiera(dataclasses.replace(CONFIG, hiera_order=order), rngs=nnx.Rngs(key)))(
        jax.random.key(0)
    )
    # Released initial weights are so small that everything looks alike.
    state = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, nnx.state(hiera))
    nnx.update(hiera, state)
    return hiera


@functools.cache
def run(order: str, steps: tuple[int, int]):
    hiera = model(order)
    return quick_jit(lambda video: hiera(video, steps))


def video(seed: int = 0, b: int = 2) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((b, 10, 16, 32)), jnp.float32)


@pytest.mark.parametrize("order", ["spatial", "reference"])
def test_visible_steps_are_a_slice_of_all(order):
    whole = np.asarray(run(order, (0, STEPS))(video())).reshape(2, STEPS, ROWS * COLUMNS, -1)
    some = np.asarray(run(order, (1, 4))(video())).reshape(2, 3, ROWS * COLUMNS, -1)
    np.testing.assert_allclose(some, whole[:, 1:4], atol=1e-5 * np.abs(whole).max())


@functools.cache
def gradient_of_feature(order: str):
    hiera = model(order)
    return quick_jit(jax.grad(lambda v, at: jnp.sum(hiera(v, (0, STEPS))[:, at])))


def influence(order: str, step: int, cell: int) -> np.ndarray:
    """(frames, rows, columns): which pixels one feature depends on."""
    at = step * ROWS * COLUMNS + cell
    gradient = gradient_of_feature(order)(video(b=1), at)
    return np.abs(np.asarray(gradient)[0]) > 0


def test_spatial_order_keeps_time_and_windows_apart():
    seen = influence("spatial", step=2, cell=0)
    frames = np.flatnonzero(seen.any(axis=(1, 2)))
    assert frames.tolist() == list(range(2, 8))  # kernel 6, stride 2, padding 2: exactly the receptive field
    columns = np.flatnonzero(seen.any(axis=(0, 1)))
    assert columns.max() < 4 * 4 + 7 - 2  # patches 0-3 of the left window; the right one begins at pixel 14
    other = influence("spatial", step=2, cell=COLUMNS - 1)
    assert np.flatnonzero(other.any(axis=(0, 1))).min() >= 14


def test_reference_order_mixes_time_as_it_was_trained():
    seen = influence("reference", step=2, cell=0)
    assert np.flatnonzero(seen.any(axis=(1, 2))).tolist() != list(range(2, 8))


def test_patches_are_the_convolution():
    hiera, frames = model("spatial"), np.asarray(video(b=1), np.float64)
    ours = np.asarray(hiera._patches(jnp.asarray(frames, jnp.float32), 0, STEPS)).reshape(STEPS, 4, 8, -1)
    padded = np.pad(frames[0], ((2, 2), (2, 2), (2, 2)))
    kernel = np.asarray(hiera.patch_kernel[...], np.float64)
    place = np.asarray(hiera.position_space[...]).reshape(4, 8, -1)
    for step, row, column in ((0, 0, 0), (4, 3, 7), (2, 1, 5)):
        patch = padded[2 * step : 2 * step + 6, 4 * row : 4 * row + 7, 4 * column : 4 * column + 7]
        expected = np.einsum("tyx,tyxc->c", patch, kernel) + place[row, column]
        expected = expected + np.asarray(hiera.patch_bias[...]) + np.asarray(hiera.position_time[...])[step]
        np.testing.assert_allclose(ours[step, row, column], expected, atol=1e-4)


def test_arranging_is_undone():
    hiera = model("spatial")
    where = jnp.arange(STEPS * 4 * 8, dtype=jnp.float32)[None, :, None]
    windows = np.asarray(hiera._arrange(where, STEPS))[0, :, 0].astype(int).reshape(-1, 16)
    for window in windows:
        step, row, column = np.unravel_index(window, (STEPS, 4, 8))
        assert len(set(step)) == 1
        assert np.ptp(row) == 3
        assert np.ptp(column) == 3
        cells = np.stack([row // 2, column // 2], axis=1).reshape(4, 4, 2)
        assert (cells == cells[:, :1]).all()  # four in a row share a cell: pooling them is pooling space
    pooled = hiera._arrange(where, STEPS).reshape(1, -1, 4, 1).min(axis=2)
    back = np.asarray(hiera._rearrange(pooled, STEPS))[0, :, 0].astype(int)
    step, row, column = np.unravel_index(back, (STEPS, 4, 8))
    np.testing.assert_array_equal(
        np.ravel_multi_index((step, row // 2, column // 2), (STEPS, 2, 4)), np.arange(STEPS * 2 * 4)
    )


def test_drop_path_keeps_the_mean():
    x = jnp.ones((4000, 1, 2))
    out = np.asarray(drop_path(x, 0.25, jax.random.split(jax.random.key(0), 4000)))
    assert set(np.unique(out)) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert (out[..., 0] == out[..., 1]).all()
    assert out.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(drop_path(x, 0.25, None), x)


def test_screen_is_normalized():
    grey = jnp.full((1, 1, 2, 2), 113, jnp.uint8)
    np.testing.assert_array_equal(normalize_screen(grey, 113.0, 59.0), np.zeros((1, 1, 2, 2), np.float32))
