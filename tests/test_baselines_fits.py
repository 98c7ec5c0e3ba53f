"""The fits behind baselines, against what others compute and against planted laws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from omnimouse_jax.evaluate.baselines.autoregression import fit_direct
from omnimouse_jax.evaluate.baselines.descent import Descent
from omnimouse_jax.evaluate.baselines.ln import FILTER_S, FittedLN, filters, fit_ln
from omnimouse_jax.evaluate.baselines.problem import Examples
from omnimouse_jax.evaluate.baselines.readouts import bilinear, masks, read
from omnimouse_jax.evaluate.baselines.reduced_rank import reduced_rank_fit
from omnimouse_jax.evaluate.baselines.ridge import ridge_fit
from omnimouse_jax.evaluate.baselines.shown import Shown, Truth, View
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.regimes import parse
from omnimouse_jax.tokens.windows import Window


def test_ridge_without_a_penalty_is_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)), rng.normal(size=(80, 3))
    fit = ridge_fit([x], y, np.arange(80) // 20, penalties=np.array([1e-12]))
    design = np.concatenate([x, np.ones((80, 1))], axis=1)
    np.testing.assert_allclose(fit.predict(x), design @ np.linalg.lstsq(design, y, rcond=None)[0], atol=1e-8)


def test_reduced_rank_regression_is_the_best_of_its_rank():
    """Without a penalty: least squares, its fitted values cut to rank 2 by singular values (Eckart and Young)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 7)) @ rng.normal(size=(7, 7))
    y = x @ rng.normal(size=(7, 5)) + 5 * rng.normal(size=(200, 5))
    fit = reduced_rank_fit([x], y, np.arange(200) // 40, penalties=np.array([1e-13]), ranks=(2,))
    z, spread = (y - y.mean(0)) / y.std(0), y.std(0)
    centred = x - x.mean(0)
    solved = centred @ np.linalg.lstsq(centred, z, rcond=None)[0]
    u, s, vt = np.linalg.svd(solved, full_matrices=False)
    expected = (u[:, :2] * s[:2]) @ vt[:2] * spread + y.mean(0)
    np.testing.assert_allclose(fit.predict(x), expected, atol=1e-7)
    assert np.linalg.matrix_rank(fit.weights, tol=1e-9 * np.abs(fit.weights).max()) == 2


def test_reduced_rank_finds_the_planted_rank_and_full_rank_is_ridge():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 12))
    y = x @ rng.normal(size=(12, 3)) @ rng.normal(size=(3, 20)) + 2 * rng.normal(size=(600, 20))
    folds = np.arange(600) // 120
    assert reduced_rank_fit([x], y, folds).rank == 3
    y = y / y.std(0)
    penalties = np.array([0.1])
    full = reduced_rank_fit([x], y, folds, penalties, ranks=(12,)).predict(x)
    np.testing.assert_allclose(full, ridge_fit([x], y, folds, penalties).predict(x), atol=1e-8)
    wide = reduced_rank_fit([x[:, :4]], y, folds, penalties, ranks=(20,)).predict(
        x[:, :4]
    )  # fewer features than targets
    np.testing.assert_allclose(wide, ridge_fit([x[:, :4]], y, folds, penalties).predict(x[:, :4]), atol=1e-8)


def test_autoregression_recovers_a_planted_process_of_order_two():
    """The best linear forecast of an AR(2) h steps ahead is the first row of its companion matrix to the power of h."""
    a, b = 1.2, -0.5
    rng = np.random.default_rng(3)
    series = np.zeros((20_000 * 30, 2))
    noise = rng.normal(size=series.shape)
    for t in range(2, len(series)):
        series[t] = a * series[t - 1] + b * series[t - 2] + noise[t]
    windows = series.reshape(20_000, 30, 2)
    past, ahead = windows[:, 19::-1], windows[:, 25:30]  # 5 samples that nobody sees lie between
    weights, order = fit_direct(past, ahead, np.arange(20_000) // 4000)
    companion = np.array([[a, b], [1.0, 0.0]])
    for number, h in enumerate(range(6, 11)):
        expected = np.linalg.matrix_power(companion, h)[0]
        np.testing.assert_allclose(weights[:, :2, number], [expected, expected], atol=0.05)
    assert np.abs(weights[:, 2:]).max() < 0.03  # older samples say nothing new
    assert (order >= 1).all()


def test_a_gaussian_readout_without_spread_is_bilinear_interpolation():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(2, 3, 7, 11, 4)).astype(np.float32)
    at = rng.uniform(-1, 1, (9, 2)).astype(np.float32)
    weights = rng.normal(size=(9, 4)).astype(np.float32)
    readout = {"mean": jnp.asarray(at), "log_sigma": jnp.full((9, 2), -40.0), "weights": jnp.asarray(weights)}
    drawn = masks(readout, (7, 11), jax.random.key(0))
    got = read(jnp.asarray(features), drawn, readout["weights"])
    rows, cols = ((at + 1) / 2 * np.array([6, 10])).T
    expected = np.zeros((2, 3, 9))
    for w in range(2):
        for s in range(3):
            each = [scipy.ndimage.map_coordinates(features[w, s, :, :, c], (rows, cols), order=1) for c in range(4)]
            expected[w, s] = (np.stack(each, 1) * weights).sum(1)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    wide = masks({**readout, "log_sigma": jnp.zeros((9, 2))}, (7, 11), jax.random.key(0))
    assert float(jnp.abs(wide - drawn).max()) > 0.1
    np.testing.assert_allclose(
        np.asarray(bilinear(jnp.array([[-1.0, 1.0], [5.0, -5.0]]), (7, 11)))[[0, 1], [0, 6], [10, 0]], 1
    )


def test_a_factorised_readout_is_an_einsum():
    rng = np.random.default_rng(5)
    features = rng.normal(size=(2, 3, 4, 6, 5)).astype(np.float32)
    flat, weights = rng.normal(size=(8, 24)).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    readout = {"mask": jnp.asarray(flat), "weights": jnp.asarray(weights)}
    got = read(jnp.asarray(features), masks(readout, (4, 6)), readout["weights"])
    expected = np.einsum("wsmc,nm,nc->wsn", features.reshape(2, 3, 24, 5).astype(np.float64), flat, weights)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.fixture(scope="module")
def planted():
    """Two neurons with known filters before white noise, and one without: windows to fit, windows to stop by, filters."""
    rng, grid = np.random.default_rng(6), Grid()
    view = View.of(parse("video + behavior -> responses[:, 30:60]", grid), grid, 3, 64)
    h, v = np.mgrid[:8, :16]
    lags = np.arange(round(FILTER_S * grid.video_rate))
    time = [np.exp(-((lags - 4) ** 2) / 4), np.exp(-((lags - 3) ** 2) / 3) - 0.7 * np.exp(-((lags - 7) ** 2) / 4)]
    blobs = [np.exp(-((h - y) ** 2 + (v - x) ** 2) / 3) for y, x in ((3, 5), (5, 11))]
    filters = np.stack([t[:, None] * b.reshape(1, -1) for t, b in zip(time, blobs, strict=True)])
    filters /= np.linalg.norm(filters, axis=(1, 2), keepdims=True)

    def draw(n: int) -> Examples:
        frames = rng.integers(0, 256, (n, 60, 8, 16)).astype(np.uint8)
        behavior = rng.normal(size=(n, 5, 40)).astype(np.float32)
        x = (frames.astype(np.float64) / 128 - 1).reshape(n, 60, -1)
        y = np.full((n, 60, 3), np.nan, np.float32)
        running = np.repeat(behavior[:, 4], 2, axis=1)[:, (np.arange(60) * 40 // 60) * 2]
        for s in range(30, 60):
            drive = np.einsum("wlp,nlp->wn", x[:, s - lags], filters) / 0.577
            rate = np.log1p(np.exp(2 * drive)) * np.array([1.0, 1.0])
            rate[:, 1] *= np.exp(0.5 * running[:, s])
            y[:, s, :2] = rng.poisson(rate)
            y[:, s, 2] = rng.poisson(1.0, n)
        windows = tuple(Window("planted", float(k)) for k in range(n))
        shown = Shown(windows, view, np.full_like(y, np.nan), frames, behavior)
        return Examples(shown, Truth(y, np.full((n, 5, 40), np.nan, np.float32)))

    return draw(160), draw(40), filters


def test_ln_recovers_planted_filters(planted):
    training, held_out, filters_NxLxP = planted
    settings = Descent(steps=240, look_every=20, patience=4, learning_rate=5e-3)
    params, _ = fit_ln(training, held_out, gain=True, positive=True, seed=0, settings=settings)
    found = filters(params)
    for n in range(2):
        r = np.corrcoef(found[n].ravel(), filters_NxLxP[n].ravel())[0, 1]
        assert r > 0.9, f"neuron {n}: {r:.3f}"
    gain = np.asarray(params["gain"]).reshape(-1, 5, 3)  # delay, channel, neuron
    assert 0.25 < gain[1, 4, 1] < 0.75  # planted: 0.5, on running at the same moment, of the second neuron
    assert np.abs(np.delete(gain[..., 1].ravel(), 9)).max() < 0.2
    assert np.abs(gain[..., 0]).max() < 0.2
    fitted = FittedLN(params, np.zeros(3), positive=True, gain=True)
    predicted = fitted.predict(held_out.shown).responses[:, 30:60]
    true = held_out.truth.responses[:, 30:60]
    assert np.corrcoef(predicted[..., 0].ravel(), true[..., 0].ravel())[0, 1] > 0.5
    assert np.std(predicted[..., 2]) < 0.2  # the one without a filter stays about its mean
