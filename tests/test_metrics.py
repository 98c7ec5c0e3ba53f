"""Pooled correlations agree with numpy on the pooled samples, in any order and with any mask."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.evaluate.metrics import BlockCorrelation, PooledCorrelation, bootstrap_interval, mean_over_units


def test_pooled_correlation_is_numpys_on_all_samples_together():
    rng = np.random.default_rng(0)
    target = 1e4 + rng.standard_normal((200, 5))
    predicted = 1e4 + 0.5 * (target - 1e4) + rng.standard_normal((200, 5))
    mask = rng.random((200, 5)) > 0.2
    pooled = PooledCorrelation(5)
    for rows in np.array_split(rng.permutation(200), 7):
        for units in (np.array([4, 0, 2]), np.array([1, 3])):
            pooled.update(units, predicted[rows][:, units], target[rows][:, units], mask[rows][:, units])
    expected = [np.corrcoef(predicted[mask[:, n], n], target[mask[:, n], n])[0, 1] for n in range(5)]
    np.testing.assert_allclose(pooled.correlation(), expected, rtol=1e-9)


def test_no_variance_is_no_number_and_counts_as_zero():
    pooled = PooledCorrelation(3)
    values = np.random.default_rng(1).standard_normal((50, 3))
    flat = np.tile([[0.1, 0, 0]], (50, 1)) + values * [[0, 1, 1]]
    pooled.update(slice(None), flat, values, np.tile([[True, True, False]], (50, 1)))
    r = pooled.correlation()
    assert np.isnan(r[0])
    assert r[1] == pytest.approx(1)
    assert np.isnan(r[2])
    assert mean_over_units(r, pooled.count > 0) == pytest.approx(0.5)


def test_blocks_give_the_same_correlation_and_an_interval_around_it():
    rng = np.random.default_rng(2)
    blocks, pooled = BlockCorrelation(2), PooledCorrelation(2)
    for _ in range(40):
        target = rng.standard_normal((30, 2))
        predicted = target + rng.standard_normal((30, 2))
        mask = rng.random((30, 2)) > 0.1
        blocks.update(predicted, target, mask)
        pooled.update(slice(None), predicted, target, mask)
    np.testing.assert_allclose(blocks.correlation(), pooled.correlation(), rtol=1e-9)
    low, high = np.quantile(blocks.bootstrap(500, 0), [0.025, 0.975], axis=0)
    assert np.all((low < 0.5**0.5) & (high > 0.5**0.5))
    # 1,200 independent pairs: the standard error of r is (1 - r^2) / sqrt(n).
    np.testing.assert_allclose((high - low) / 3.92, 0.5 / np.sqrt(1080), rtol=0.3)


def test_bootstrap_over_neurons_has_the_width_of_the_standard_error():
    r = np.random.default_rng(3).normal(0.3, 0.1, 100)
    low, high = bootstrap_interval(r, np.ones(100, bool), 2000, seed=0)
    assert low < r.mean() < high
    assert (high - low) / 3.92 == pytest.approx(r.std() / 10, rel=0.1)
    assert np.isnan(bootstrap_interval(r[:2], np.ones(2, bool), 100, seed=0)).all()
