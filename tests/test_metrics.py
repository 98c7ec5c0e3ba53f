"""Running sums agree with numpy and scipy on the pooled samples, in any order, in parts, and with any mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from omnimouse_jax.evaluate.metrics import (
    BlockCorrelation,
    PoissonSums,
    PooledCorrelation,
    TrialSums,
    bootstrap_interval,
    mean_over_units,
    percentile_interval,
)


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


def drawn(seed: int, n: int, units: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.gamma(1.0, 1.0, (n, units)) + offset
    return target * 0.5 + rng.gamma(1.0, 0.5, (n, units)) + offset / 2, target, rng.random((n, units)) > 0.2


def test_merged_sums_are_those_of_one_stream_with_large_means():
    p, t, mask = drawn(4, 90, 5, offset=1e4)
    block = np.arange(90) // 30
    for make, add in (
        (lambda: PooledCorrelation(5), lambda s, rows: s.update(slice(None), p[rows], t[rows], mask[rows])),
        (lambda: TrialSums(3, 5), lambda s, rows: s.update(slice(None), block[rows], p[rows], t[rows], mask[rows])),
    ):
        whole, first, second = make(), make(), make()
        add(whole, slice(None))
        add(first, slice(0, 40))
        add(second, slice(40, 90))
        first.merge(second)
        np.testing.assert_allclose(first.correlation(), whole.correlation(), rtol=1e-9)
        np.testing.assert_array_equal(first.count, whole.count)


def test_sums_per_trial_are_the_pooled_ones_and_r2_is_the_textbooks():
    p, t, mask = drawn(5, 120, 4)
    trials, pooled = TrialSums(4, 4), PooledCorrelation(4)
    trials.update(slice(None), np.arange(120) // 30, p, t, mask)
    pooled.update(slice(None), p, t, mask)
    np.testing.assert_allclose(trials.correlation(), pooled.correlation(), rtol=1e-10)
    np.testing.assert_allclose(trials.resampled(np.ones((1, 4)))[0], pooled.correlation(), rtol=1e-10)
    for n in range(4):
        x, y = p[mask[:, n], n], t[mask[:, n], n]
        assert trials.r2()[n] == pytest.approx(1 - ((y - x) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        first = mask[:30, n]
        assert trials.of_blocks()[0, n] == pytest.approx(np.corrcoef(p[:30, n][first], t[:30, n][first])[0, 1])


def test_a_bootstrap_over_trials_sees_what_trials_share():
    """Predictions that miss a trial's level: trials differ, so the interval is wider than for the same samples shuffled."""
    rng = np.random.default_rng(6)
    t = rng.standard_normal((20, 50, 1)) + 2 * rng.standard_normal((20, 1, 1))
    p = t - t.mean(1, keepdims=True) + rng.standard_normal(t.shape)
    widths = []
    for order in (np.arange(1000), rng.permutation(1000)):
        sums = TrialSums(20, 1)
        values = (p.reshape(-1, 1)[order], t.reshape(-1, 1)[order], np.ones((1000, 1), bool))
        sums.update(slice(None), np.arange(1000) // 50, *values)
        low, high = percentile_interval(sums.bootstrap(400, 0)[:, 0])
        assert low < sums.correlation()[0] < high
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]


def test_poisson_scores_are_those_of_scipys_likelihood():
    rng = np.random.default_rng(7)
    rate = rng.gamma(2.0, 1.0, (300, 3))
    counts = rng.poisson(rate).astype(float)
    predicted = rate * rng.lognormal(0, 0.2, rate.shape)
    sums, half = PoissonSums(3), PoissonSums(3)
    sums.update(slice(None), predicted[:100], counts[:100], np.ones((100, 3), bool))
    half.update(slice(None), predicted[100:], counts[100:], np.ones((200, 3), bool))
    sums.merge(half)
    mine, mean, best = (
        stats.poisson.logpmf(counts, x).sum(0)
        for x in (predicted, counts.mean(0) + 0 * rate, np.maximum(counts, 1e-300))
    )
    np.testing.assert_allclose(sums.deviance_explained(), 1 - (best - mine) / (best - mean), rtol=1e-9)
    np.testing.assert_allclose(sums.bits_per_spike(), (mine - mean) / counts.sum(0) / np.log(2), rtol=1e-9)
    scaled = PoissonSums(3)  # another unit of the same responses changes nothing
    scaled.update(slice(None), 7 * predicted, 7 * counts, np.ones((300, 3), bool))
    np.testing.assert_allclose(scaled.deviance_explained(), sums.deviance_explained(), rtol=1e-9)
    np.testing.assert_allclose(scaled.bits_per_spike(), sums.bits_per_spike(), rtol=1e-9)


@pytest.mark.parametrize(
    ("predicted", "target", "reason"),
    [(1.0, -0.1, "recorded values are below 0"), (-1.0, 1.0, "predictions are below 0"), (0.0, 1.0, "exactly 0")],
)
def test_poisson_scores_are_not_applicable_to_signals_that_are_no_counts(predicted, target, reason):
    sums = PoissonSums(1)
    sums.update(slice(None), np.array([[1.0], [predicted]]), np.array([[2.0], [target]]), np.ones((2, 1), bool))
    assert reason in sums.not_applicable
    assert np.isnan(sums.deviance_explained()).all()
    assert np.isnan(sums.bits_per_spike()).all()
    masked = PoissonSums(1)
    masked.update(slice(None), np.array([[1.0], [predicted]]), np.array([[2.0], [target]]), np.array([[True], [False]]))
    assert not masked.not_applicable


def test_the_mean_explains_no_deviance_and_the_truth_all_of_it():
    counts = np.random.default_rng(8).poisson(3.0, (50, 2)).astype(float)
    for predicted, expected in ((counts.mean(0) + 0 * counts, 0.0), (np.maximum(counts, 1e-9), 1.0)):
        sums = PoissonSums(2)
        sums.update(slice(None), predicted, counts, np.ones((50, 2), bool))
        np.testing.assert_allclose(sums.deviance_explained(), expected, atol=1e-6)
