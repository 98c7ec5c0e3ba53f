"""Numbers made of shifts: curves, censored thresholds, transfer, what separates models, which frames matter. No attack is run."""

from __future__ import annotations

import math
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.pages.picture import png
from omnimouse_jax.probe.sensitivity.causality import dependence, profile
from omnimouse_jax.probe.sensitivity.curves import (
    Curve,
    Interval,
    Resamples,
    area,
    area_of,
    pairs_apart,
    ratio_of,
    threshold,
    threshold_of,
)
from omnimouse_jax.probe.sensitivity.options import Options
from omnimouse_jax.probe.sensitivity.page_words import causality_told, star_told
from omnimouse_jax.probe.sensitivity.recorded import Sums
from omnimouse_jax.probe.sensitivity.subject import Subject
from omnimouse_jax.probe.sensitivity.summary import _censored
from omnimouse_jax.probe.sensitivity.transfer import overlap, signed, transfer
from omnimouse_jax.probe.settings import digest, plain

BUDGETS = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])


def power_law(slope, at_one, n_stimuli=12, n_neurons=30, noise=0.0, seed=0):
    """z squared of a model whose D is at_one * budget ** slope on average over stimuli."""
    rng = np.random.default_rng(seed)
    of_stimulus = np.exp(noise * rng.normal(size=n_stimuli))
    of_stimulus /= of_stimulus.mean()
    d = at_one * BUDGETS[:, None] ** slope * of_stimulus
    return np.repeat(d[..., None] ** 2, n_neurons, -1)


def test_a_power_law_is_crossed_where_it_should_be():
    squares = power_law(0.7, 0.4, noise=0.3)
    everyone = np.ones(30, bool)
    curve = Curve.of(BUDGETS, squares, everyone, Resamples.draw(300, 12, everyone, 0))
    np.testing.assert_allclose(curve.mean, 0.4 * BUDGETS**0.7, rtol=1e-9)
    exact = 0.4 ** (-1 / 0.7)
    star = threshold_of(curve)
    assert star.value == pytest.approx(exact, rel=1e-6)
    assert star.low < exact < star.high
    a = area_of(curve)
    assert a.value == pytest.approx(np.trapezoid(0.4 * BUDGETS**0.7, np.log(BUDGETS)) / math.log(32), rel=1e-9)
    assert a.low < a.value < a.high
    assert area(BUDGETS[:1], curve.mean[:1]) == curve.mean[0]


def test_a_band_covers_the_mean_of_all_stimuli_as_often_as_it_says():
    rng = np.random.default_rng(0)
    everyone, inside = np.ones(5, bool), 0
    for seed in range(200):
        d = rng.gamma(4.0, 0.25, size=20)  # mean 1
        squares = np.repeat(d[None, :, None] ** 2, 5, -1)
        curve = Curve.of(BUDGETS[:1], squares, everyone, Resamples.draw(300, 20, everyone, seed))
        low, high = curve.intervals()[0][1:]
        inside += low <= 1.0 <= high
    assert 0.87 <= inside / 200 <= 0.98


def test_censored_values_are_told_and_never_averaged():
    never, always = threshold(BUDGETS, 0.1 * BUDGETS), threshold(BUDGETS, 10 * BUDGETS)
    assert never == np.inf
    assert always == 0.25
    assert threshold(BUDGETS, np.zeros(6)) == np.inf
    half = Interval.of(5.0, np.array([4.0] * 50 + [np.inf] * 50))
    assert half.low == 4.0
    assert half.high == np.inf
    told = star_told(_censored(half, Options()))
    assert told == "5.00 [4.00, > 8.00]"
    assert star_told(_censored(Interval(0.25, 0.25, 0.25), Options())).startswith("≤ 0.25")


def test_left_out_neurons_do_not_count():
    squares = power_law(1.0, 1.0)
    squares[..., :10] = 1e9
    some = np.arange(30) >= 10
    curve = Curve.of(BUDGETS, squares, some, Resamples.draw(50, 12, some, 0))
    np.testing.assert_allclose(curve.mean, BUDGETS, rtol=1e-9)
    np.testing.assert_allclose(curve.draws, np.tile(BUDGETS, (50, 1)), rtol=1e-9)


def test_the_ratio_to_random_is_of_the_means_over_directions():
    everyone = np.ones(30, bool)
    by = Resamples.draw(50, 12, everyone, 0)
    attacked = Curve.of(BUDGETS, power_law(1.0, 6.0), everyone, by)
    directions = np.stack([power_law(1.0, 1.0), power_law(1.0, 3.0)], 2)
    ratios = ratio_of(attacked, Curve.of(BUDGETS, directions, everyone, by))
    np.testing.assert_allclose([ratio.value for ratio in ratios], 3.0)
    still = ratio_of(attacked, Curve.of(BUDGETS, 0 * directions, everyone, by))
    assert all(math.isnan(ratio.value) for ratio in still)


def test_transfer_is_one_to_itself_and_nought_for_what_random_does():
    rng = np.random.default_rng(0)
    random = np.abs(rng.normal(size=(3, 10))) + 0.1
    shifts = np.broadcast_to(random[None], (3, 3, 10)).copy()  # as random moves each model
    shifts[np.arange(3), np.arange(3)] += 2.0
    shifts[0, 1] += 1.0
    stimuli = rng.multinomial(10, np.full(10, 0.1), 100).astype(float)
    found = transfer(shifts, random, stimuli)
    np.testing.assert_allclose(found.ratio, [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(found.low, found.high, atol=1e-9)
    nothing = transfer(0 * shifts, 0 * random, stimuli)
    assert np.isnan(nothing.ratio).all()
    own = np.array([1.0, -2.0, 0.0])
    assert signed(own, np.array([0.5, 1.0, 9.0])) == (0.0, 0.5)
    assert all(map(math.isnan, signed(0 * own, own)))


def test_spaces_of_perturbations_overlap_by_what_they_share():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(6, 1, 1, 400))
    found = overlap(np.stack([d, -d, np.roll(d, 1, -1) * 0 + rng.normal(size=d.shape)]), 6)
    np.testing.assert_allclose(np.diag(found.share), 1.0)
    assert found.share[0, 1] == pytest.approx(1.0)  # the sign does not matter
    many = [overlap(rng.normal(size=(2, 6, 400)), 6).share[0, 1] for _ in range(60)]
    assert np.mean(many) == pytest.approx(found.chance, rel=0.15)
    assert found.chance == 6 / 400


def test_models_are_told_apart_by_paired_stimuli():
    rng = np.random.default_rng(0)
    common = rng.gamma(1.0, 5.0, size=40)  # stimuli differ far more than models do
    values = np.stack([common, common + 0.3 + 0.1 * rng.normal(size=40), common + 0.01 * rng.normal(size=40)])
    stimuli = rng.multinomial(40, np.full(40, 1 / 40), 400).astype(float)
    found = {(p.first, p.second): p.separated for p in pairs_apart(values, ["a", "b", "c"], stimuli)}
    assert found == {("a", "b"): True, ("a", "c"): False, ("b", "c"): True}
    # As seeds of one architecture that lie further apart than the architectures do, b and c are one thing.
    values[2] -= 0.6
    grouped = pairs_apart(values, ["a", "b", "c"], stimuli, ["x", "y", "y"])
    assert len(grouped) == 1
    assert not grouped[0].separated


def test_correlations_of_resampled_stimuli_are_those_of_their_samples():
    rng = np.random.default_rng(0)
    predicted, recorded = rng.normal(size=(6, 9, 3)), rng.normal(size=(6, 9, 3))
    recorded[0, :4, 1] = np.nan
    weights = np.array([[1.0, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0]])
    found = Sums.of(predicted, recorded).correlation(weights)
    for row, value in zip(weights, found, strict=True):
        p, r = (np.repeat(x, row.astype(int), 0).reshape(-1, 3) for x in (predicted, recorded))
        some = np.isfinite(r)
        each = [np.corrcoef(p[some[:, n], n], r[some[:, n], n])[0, 1] for n in range(3)]
        assert value == pytest.approx(np.mean(each), rel=1e-9)


def lagged(weight_of_lag):
    """A model whose response at sample t is the sum of frame means at t - lag times a weight; frames and samples at one rate."""

    def apply(params, video, context):
        means = video.mean((2, 3))
        n = video.shape[1]
        matrix = np.zeros((n, n), np.float32)
        for lag, weight in weight_of_lag.items():
            for t in range(n):
                if 0 <= t - lag < n:
                    matrix[t, t - lag] = weight
        return (means @ matrix.T)[:, :, None] * jnp.ones((1, 1, 2))

    return apply


@pytest.mark.parametrize(("weights", "ahead"), [({0: 1.0, 1: 2.0, 3: 0.5}, 0.0), ({1: 1.0, -2: 0.25}, 0.2)])
def test_the_causality_profile_finds_the_lags_that_were_put_in(weights, ahead):
    video = np.random.default_rng(0).uniform(0.2, 0.8, (2, 8, 3, 4)).astype(np.float32)
    s = Subject("toy", lagged(weights), None, video, None, np.ones(2), rows=8)
    found = dependence(s, 2)
    times = np.arange(8) / 10
    told = profile(found, times, times)
    by_lag = {round(lag * 10): gain for lag, gain in zip(told.lag, told.gain, strict=True)}
    for lag in range(-7, 8):
        # d z / d frame is weight / pixels on each pixel: weight per unit of RMS.
        assert by_lag[lag] == pytest.approx(abs(weights.get(lag, 0.0)), abs=1e-6)
        if lag not in weights:
            assert by_lag[lag] == 0.0  # exactly
    assert told.ahead == pytest.approx(ahead)
    assert told.ahead_forward == pytest.approx(ahead)
    np.testing.assert_array_equal(found.changed, found.gain > 0)
    assert told.n_future == 28
    assert told.n_zero == 28 - (6 if ahead else 0)
    assert ("no response depends on a later frame" in causality_told(told._asdict())) == (ahead == 0)


def test_pictures_are_png():
    """Signature, sizes and pixels, by the format's own checksums."""
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    file = png(grey)
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(file):
        n = int.from_bytes(file[at : at + 4], "big")
        kind, body = file[at + 4 : at + 8], file[at + 8 : at + 8 + n]
        assert int.from_bytes(file[at + 8 + n : at + 12 + n], "big") == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + n
    assert chunks[b"IHDR"] == bytes([0, 0, 0, 4, 0, 0, 0, 3, 8, 0, 0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (rows[:, 0] == 0).all()
    np.testing.assert_array_equal(rows[:, 1:], grey)


def test_results_are_plain_json():
    assert plain({"a": np.float32(np.nan), "b": (np.int64(2), float("inf")), "c": Interval(1.0, 0.5, 2.0)}) == {
        "a": None,
        "b": [2, None],
        "c": {"value": 1.0, "low": 0.5, "high": 2.0},
    }
    assert digest(Options()) == digest(Options())
    assert digest(Options()) != digest(Options(seed=1))
