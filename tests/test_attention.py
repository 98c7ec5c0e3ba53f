"""Attention against sums written out in numpy, and rotary positions against their definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.model.attention import attend
from omnimouse_jax.model.rotary import Positions, rotate
from omnimouse_jax.model.visibility import Windows


def intervals(*pairs):
    return np.array(pairs, np.int64)


def by_hand(q, k, v, visible):
    """One softmax per row, head and query, over the keys it sees, in float64."""
    b, n_queries, heads, d = q.shape
    per_group = heads // k.shape[2]
    out = np.zeros((b, n_queries, heads, d))
    for i in range(b):
        for j in range(n_queries):
            seen = np.flatnonzero(visible[i, j])
            for h in range(heads):
                if len(seen):
                    scores = k[i, seen, h // per_group] @ q[i, j, h] / np.sqrt(d)
                    weights = np.exp(scores - scores.max())
                    out[i, j, h] = weights / weights.sum() @ v[i, seen, h // per_group]
    return out


QUERIES = intervals((0, 10), (0, 10), (20, 30), (50, 60), (0, 100))
KEYS = intervals((0, 10), (5, 15), (10, 20), (25, 35), (35, 45), (0, 100), (0, 10))


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_attention_is_what_it_says(windowed, masked, groups):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((3, len(QUERIES), 4, 6)).astype(np.float32)
    k, v = rng.standard_normal((2, 3, len(KEYS), groups, 6)).astype(np.float32)
    windows = Windows(QUERIES, KEYS) if windowed else None
    mask = rng.random((3, len(KEYS))) < 0.4
    mask[1] = False  # a row that sees nothing at all
    visible = np.broadcast_to(windows.mask() if windows else True, (3, len(QUERIES), len(KEYS)))
    if masked:
        visible = visible & mask[:, None]
    expected = by_hand(*(x.astype(np.float64) for x in (q, k, v)), visible)
    ours = attend(*map(jnp.asarray, (q, k, v)), windows, jnp.asarray(mask) if masked else None)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    if masked:
        assert (np.asarray(ours)[1] == 0).all()


def test_gradients_of_hidden_keys_are_exactly_zero():
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.standard_normal((2, len(QUERIES), 2, 4)), jnp.float32)
    k, v = (jnp.asarray(rng.standard_normal((2, len(KEYS), 2, 4)), jnp.float32) for _ in range(2))
    mask = jnp.asarray(np.array([[1, 0, 1, 0, 1, 1, 1], [0] * 7], bool))
    out = jax.grad(lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v, Windows(QUERIES, KEYS), mask))), argnums=(0, 1, 2))
    for gradient in out(q, k, v):
        assert np.isfinite(gradient).all()
        assert (np.asarray(gradient)[1] == 0).all()
    for gradient in out(q, k, v)[1:]:
        assert (np.asarray(gradient)[0, [1, 3]] == 0).all()


def test_touching_windows():
    queries, keys = intervals((10, 20)), intervals((0, 10), (20, 30), (19, 25), (0, 9), (10, 11))
    assert Windows(queries, keys).mask().tolist() == [[False, False, True, False, True]]
    assert Windows(queries, keys, "in").mask().tolist() == [[True, True, True, False, True]]


def test_a_query_outside_every_window_gets_zero():
    windows = Windows(intervals((0, 5), (90, 95)), intervals((0, 10), (3, 12)))
    assert not windows.somebody
    x = jnp.ones((1, 2, 1, 4))
    out = np.asarray(attend(x, x, x, windows))
    assert (out[0, 1] == 0).all()
    np.testing.assert_allclose(out[0, 0], 1.0)


def test_rotation_is_relative_and_keeps_lengths():
    rng = np.random.default_rng(2)
    x, y = jnp.asarray(rng.standard_normal((2, 1, 1, 2, 8)), jnp.float32)

    def product(t, s):
        a, b = (rotate(z, Positions(np.array([at]), 8, 2.0).tables()) for z, at in ((x, t), (y, s)))
        np.testing.assert_allclose(jnp.linalg.norm(a), jnp.linalg.norm(x), rtol=1e-6)
        return np.asarray(jnp.sum(a * b, axis=-1))

    np.testing.assert_allclose(product(0.5, 0.25), product(1.75, 1.5), atol=2e-3)
    np.testing.assert_allclose(product(0.0, 0.0), jnp.sum(x * y, axis=-1), atol=1e-6)
    assert np.abs(product(0.5, 0.25) - product(0.5, 0.5)).max() > 0.05


def test_rotation_pairs_are_neighbours():
    quarter = 0.25e-3  # of the fastest period, 1 ms; the slowest, 4 s / 1000^..., hardly moves
    x = jnp.asarray(np.arange(4.0, dtype=np.float32).reshape(1, 1, 1, 4))
    out = np.asarray(rotate(x, Positions(np.array([quarter]), 4, 2.0).tables()))[0, 0, 0]
    np.testing.assert_allclose(out[:2], [-1.0, 0.0], atol=1e-5)
    angle = 2 * np.pi * 1000 * 2000**-0.5 * quarter
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(out[2:], turn @ [2.0, 3.0], atol=1e-5)
