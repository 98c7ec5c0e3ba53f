"""Planted laws are recovered, noise gives the intervals it should, and what cannot be known is refused in words."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import fit, predict
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.selection import compare
from omnimouse_jax.scaling.uncertainty import across_sessions, bootstrap, profile
from omnimouse_jax.scaling.verdict import (
    DATA,
    FLAT,
    NONE,
    PARAMETERS,
    free_ratio,
    gains_per_doubling,
    judge,
    local_ratio,
)

SIZES = np.array([1, 5, 20, 80, 300.0]) * 1e6
AMOUNTS = np.array([8, 16, 32, 64, 128, 323.0])
X = np.array([(n, d) for n in SIZES for d in AMOUNTS])
TRUTH = {"E": 1.0, "A": 30.0, "alpha": 0.35, "B": 0.8, "beta": 0.30}


def law(x: np.ndarray, **changes: float) -> np.ndarray:
    p = TRUTH | changes
    return p["E"] + p["A"] * x[:, 0] ** -p["alpha"] + p["B"] * x[:, 1] ** -p["beta"]


def noisy(y: np.ndarray, sd: float, seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(X, (seeds, 1)), np.tile(y, seeds) * np.exp(sd * rng.standard_normal(seeds * len(y)))


def grid_of(x: np.ndarray, y: np.ndarray, higher_is_better: bool = False) -> Grid:
    return Grid(x[:, 0].copy(), x[:, 1].copy(), y[:, None], ("mouse",), higher_is_better)


@pytest.mark.parametrize("delta", ["auto", 1e-3, np.inf])
def test_noise_free_law_is_recovered_with_its_ratio(delta: float | str) -> None:
    found = fit(make_form("chinchilla"), X, law(X), delta=delta)
    for name, value in TRUTH.items():
        assert found.parameters[name] == pytest.approx(value, rel=1e-6)
    assert found.flags == ()
    g_n, g_d = gains_per_doubling(found.form, found.theta, found.centre, 300e6, 323.0)
    assert g_d / g_n == pytest.approx(3.8062477851, rel=1e-6)
    assert local_ratio(found.form, found.theta, found.centre, 300e6, 323.0) == pytest.approx(3.7432913018, rel=1e-6)


def test_noise_free_scores_are_recovered() -> None:
    y = 0.45 - 9.0 * X[:, 0] ** -0.35 - 0.5 * X[:, 1] ** -0.4
    found = fit(make_form("score_joint"), X, y)
    want = {"S_inf": 0.45, "A": 9.0, "alpha": 0.35, "B": 0.5, "beta": 0.4}
    assert found.parameters == pytest.approx(want, rel=1e-6)
    one = fit(make_form("score1"), AMOUNTS[:, None], 0.3 - 0.35 * AMOUNTS**-0.6)
    assert one.parameters == pytest.approx({"S_inf": 0.3, "A": 0.35, "alpha": 0.6}, rel=1e-6)
    np.testing.assert_allclose(one.predict(np.array([[1292.0]])), 0.3 - 0.35 * 1292.0**-0.6, rtol=1e-9)


@pytest.mark.parametrize("name", ["power1", "chinchilla", "score1", "score_joint", "log_linear", "pure_power"])
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    form = make_form(name)
    rng = np.random.default_rng(0)
    logu = rng.standard_normal((7, form.axes))
    theta = 0.4 + 0.3 * rng.random((2, len(form.parameters)))
    _, slope = form.evaluate(theta, logu)
    for j in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[j] = 1e-6
        difference = (form.evaluate(theta + step, logu)[0] - form.evaluate(theta - step, logu)[0]) / 2e-6
        np.testing.assert_allclose(slope[..., j], difference, rtol=1e-6, atol=1e-8)


def test_noise_moves_estimates_no_further_than_the_published_simulation() -> None:
    """5-95 % ranges for 1 % noise and three seeds; a third of slack for 20 repetitions."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(20):
        x, y = noisy(law(X), 0.01, 3, rng)
        found = fit(make_form("chinchilla"), x, y, grid=9)
        ratio = float(local_ratio(found.form, found.theta, found.centre, 300e6, 323.0))
        far = float(found.predict(np.array([[300e6, 1292.0]]))[0])
        rows.append([found.parameters["alpha"], found.parameters["beta"], found.parameters["E"], ratio, far])
    low, high = np.quantile(rows, [0.05, 0.95], axis=0)
    far_truth = law(np.array([[300e6, 1292.0]]))[0]
    want_low = np.array([0.30, 0.25, 0.95, 3.1, 0.99 * far_truth])
    want_high = np.array([0.39, 0.35, 1.04, 4.5, 1.01 * far_truth])
    slack = (want_high - want_low) / 3
    assert np.all(low > want_low - slack)
    assert np.all(high < want_high + slack)


def test_robust_fit_beats_least_squares_with_outliers() -> None:
    rng = np.random.default_rng(4)
    errors = {"auto": [], "least squares": []}
    for _ in range(8):
        x, y = noisy(law(X), 0.01, 2, rng)
        wrong = rng.random(len(y)) < 0.05
        y = y * np.exp(np.where(wrong, 0.1 * rng.exponential(size=len(y)), 0.0))
        for name, delta in (("auto", "auto"), ("least squares", np.inf)):
            errors[name].append(fit(make_form("chinchilla"), x, y, delta=delta, grid=9).parameters["E"] - 1.0)
    assert np.std(errors["auto"]) < np.std(errors["least squares"])


def test_bootstrap_covers_the_truth_and_is_deterministic() -> None:
    x, y = noisy(law(X), 0.01, 3, np.random.default_rng(5))
    found = fit(make_form("chinchilla"), x, y)
    boot = bootstrap(found, grid_of(x, y).cell_number, resamples=200, seed=1)
    named = boot.named()
    for name, value in TRUTH.items():
        interval = boot.interval(named[name])
        assert interval.low < value < interval.high
    again = bootstrap(found, grid_of(x, y).cell_number, resamples=200, seed=1)
    np.testing.assert_array_equal(boot.theta, again.theta)
    low, high = boot.band(X)
    assert np.mean((low < law(X)) & (law(X) < high)) > 0.8
    assert boot.interval(named["E"]).method == "bootstrap over cells"


def test_clusters_are_resampled_whole() -> None:
    """Copies of the same rows in one cluster add no information: the interval must not shrink with them."""
    rng = np.random.default_rng(6)
    x, y = noisy(law(X), 0.01, 1, rng)
    once = bootstrap(fit(make_form("chinchilla"), x, y), np.arange(30), resamples=200)
    many = fit(make_form("chinchilla"), np.tile(x, (4, 1)), np.tile(y, 4))
    copied = bootstrap(many, np.tile(np.arange(30), 4), resamples=200)
    assert np.std(copied.named()["beta"]) == pytest.approx(np.std(once.named()["beta"]), rel=0.05)


def test_joint_fit_with_a_thousand_resamples_of_500_rows_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([10 ** rng.uniform(6, 9, 500), 10 ** rng.uniform(1, 3, 500)], 1)
    y = law(x) * np.exp(0.01 * rng.standard_normal(500))
    start = time.process_time()
    boot = bootstrap(fit(make_form("chinchilla"), x, y), resamples=1000)
    assert time.process_time() - start < 20  # 2 to 3 s of an idle core
    assert boot.theta.shape == (1000, 5)


def test_rescaling_an_axis_changes_its_coefficient_only() -> None:
    x, y = noisy(law(X), 0.01, 2, np.random.default_rng(7))
    one = fit(make_form("chinchilla"), x, y).parameters
    other = fit(make_form("chinchilla"), x * 1e3, y).parameters
    for name in ("E", "alpha", "beta"):
        assert other[name] == pytest.approx(one[name], rel=1e-6)
    assert other["A"] == pytest.approx(one["A"] * 1e3 ** one["alpha"], rel=1e-6)


def test_shifting_a_raw_loss_changes_its_floor_only() -> None:
    x, y = noisy(law(X), 0.003, 2, np.random.default_rng(8))
    form = make_form("chinchilla", response="raw")
    one, other = fit(form, x, y).parameters, fit(form, x, y - 5.0).parameters
    assert other["E"] == pytest.approx(one["E"] - 5.0, abs=1e-6)
    for name in ("A", "alpha", "B", "beta"):
        assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_a_small_parameter_exponent_flips_the_verdict() -> None:
    y = law(X, alpha=0.05)
    found = fit(make_form("chinchilla"), X, y)
    assert local_ratio(found.form, found.theta, found.centre, 300e6, 323.0) == pytest.approx(0.0750266, rel=1e-5)
    x, y = noisy(y, 0.005, 2, np.random.default_rng(9))
    verdict = judge(grid_of(x, y), resamples=200).verdict
    assert verdict.name == PARAMETERS
    assert verdict.interval is not None
    assert verdict.interval.high < 1


def test_no_parameter_term_is_told_not_infinite() -> None:
    found = fit(make_form("chinchilla"), X, law(X, A=0.0))
    assert "no_term" in [flag.code for flag in found.flags]
    assert found.refused
    joint = judge(grid_of(X, law(X, A=0.0)), resamples=50)
    assert joint.verdict.ratio is None
    assert "No parameter term" in joint.verdict.words


def test_data_limited_law_is_called_so() -> None:
    x, y = noisy(law(X), 0.01, 3, np.random.default_rng(10))
    joint = judge(grid_of(x, y), resamples=300)
    assert joint.verdict.name == DATA
    assert joint.verdict.ratio is not None
    assert joint.verdict.interval is not None
    assert joint.verdict.interval.low < 3.806 < joint.verdict.interval.high
    free = free_ratio(grid_of(x, y))
    assert free is not None
    assert joint.verdict.free_ratio == free.ratio


def test_plateau_and_its_interval_where_a_score_saturates() -> None:
    rng = np.random.default_rng(11)
    x = np.tile(AMOUNTS, 3)
    chosen = Counter()
    for _ in range(4):
        y = 0.30 - 0.10 * (x / 8) ** -0.6 + 0.002 * rng.standard_normal(18)
        picked = compare(x[:, None], y, score=True)
        chosen[picked.aicc_choice, picked.hold_out_choice, picked.saturates] += 1
        assert picked["score1"].fit.parameters["S_inf"] == pytest.approx(0.30, abs=0.008)
    assert chosen["score1", "score1", True] == 4


def test_slow_saturation_has_an_open_or_wide_plateau() -> None:
    rng = np.random.default_rng(12)
    for _ in range(4):
        y = 0.45 - 0.25 * (AMOUNTS / 8) ** -0.15 + 0.005 * rng.standard_normal(6)
        picked = compare(AMOUNTS[:, None], y, score=True)
        assert picked.aicc_choice is None  # six points are too few to ask it
        assert picked.plateau is not None
        assert picked.plateau.is_open or picked.plateau.high - picked.plateau.low > 0.35


def test_a_straight_line_in_the_log_never_saturates() -> None:
    rng = np.random.default_rng(13)
    x = np.tile(AMOUNTS, 3)
    for _ in range(4):
        picked = compare(x[:, None], 0.18 + 0.02 * np.log(x) + 0.003 * rng.standard_normal(18), score=True)
        assert not picked.saturates
        assert picked.words.startswith("saturation not established")


def test_flat_truth_has_no_measurable_return() -> None:
    rng = np.random.default_rng(14)
    constant, flat = 0, 0
    for _ in range(12):
        x = np.tile(AMOUNTS, 3)
        constant += compare(x[:, None], 0.25 + 0.004 * rng.standard_normal(18), score=True).aicc_choice == "constant"
    for _ in range(100):
        x = np.tile(X, (2, 1))
        flat += grid_of(x, 0.25 + 0.004 * rng.standard_normal(60), True).is_flat()
    assert constant >= 9
    assert flat >= 88
    y = 0.25 + 0.004 * np.random.default_rng(0).standard_normal(60)
    assert judge(grid_of(np.tile(X, (2, 1)), y, True)).verdict.name == FLAT


def test_shuffled_losses_give_no_fit_worth_quoting() -> None:
    rng = np.random.default_rng(15)
    x, y = noisy(law(X), 0.002, 3, rng)
    shuffled = rng.permutation(y.reshape(3, 30), axis=1)
    found = fit(make_form("chinchilla"), x, rng.permutation(y))
    assert found.r2 < 0.15
    assert found.flags
    # cells moved as wholes: seeds agree, neighbours do not
    order = rng.permutation(30)
    joint = judge(grid_of(x, y.reshape(3, 30)[:, order].ravel()), resamples=50)
    assert "non_monotone" in [flag.code for flag in joint.flags]
    assert joint.fit is None
    assert joint.verdict.name in (NONE, FLAT)
    assert judge(grid_of(x, shuffled.ravel()), resamples=50).verdict.name not in (DATA, PARAMETERS)


def test_a_narrow_range_gets_gains_but_no_exponent() -> None:
    keep = np.isin(X[:, 0], SIZES[:3]) & np.isin(X[:, 1], AMOUNTS[:3])
    x = np.tile(X[keep], (2, 1))
    y = 0.4 - law(x, E=0.0) * 0.05 + 0.0005 * np.random.default_rng(16).standard_normal(len(x))
    grid = grid_of(x, y, True)
    joint = judge(grid)
    assert joint.fit is None
    assert joint.verdict.name == NONE
    assert "no exponent: range too narrow" in joint.verdict.words
    gain = grid.contrast(grid.slope("data"))
    truth = grid_of(X[keep], 0.4 - law(X[keep], E=0.0) * 0.05, True)
    assert gain.seeds is not None
    assert gain.seeds.low < truth.contrast(truth.slope("data")).estimate < gain.seeds.high


def test_one_seed_takes_its_noise_from_the_departure_from_additivity() -> None:
    rng = np.random.default_rng(17)
    covered = 0
    additive = 0.1 + 0.02 * np.log2(X[:, 1] / 8) + 0.01 * np.log2(X[:, 0] / 1e6)
    for _ in range(200):
        grid = grid_of(X, additive + 0.004 * rng.standard_normal(30), True)
        interval = grid.contrast(grid.slope("data")).seeds
        assert interval is not None
        covered += interval.low < 0.02 < interval.high
    assert 0.88 <= covered / 200 <= 0.99
    assert "departure of the grid from additivity" in interval.method


def test_new_sessions_interval_sees_what_runs_share_and_groups_by_animal() -> None:
    """Slopes that differ by session: the run interval misses the population's slope, the session interval covers it."""
    rng = np.random.default_rng(18)
    x = np.tile(X, (2, 1))
    runs = covered = 0
    for _ in range(100):
        slopes = 0.02 * (1 + 0.4 * rng.standard_normal(8))
        scores = 0.1 + np.log2(x[:, 1] / 8)[:, None] * slopes + 0.002 * rng.standard_normal((60, 1))
        gain = Grid(x[:, 0].copy(), x[:, 1].copy(), scores, tuple("abcdefgh")).contrast
        found = gain(Grid(x[:, 0].copy(), x[:, 1].copy(), scores, tuple("abcdefgh")).slope("data"))
        assert found.seeds is not None
        assert found.sessions is not None
        runs += found.seeds.low < 0.02 < found.seeds.high
        covered += found.sessions.low < 0.02 < found.sessions.high
    assert runs < 40
    assert covered >= 88
    by_animal = across_sessions(np.array([1.0, 1.0, 2.0, 2.0]), ["a", "a", "b", "b"])
    assert by_animal is not None
    assert (by_animal.n, by_animal.over) == (2, "new animals")


def test_profile_is_open_where_the_data_do_not_close_it() -> None:
    rng = np.random.default_rng(19)
    x = np.tile(AMOUNTS, 3)[:, None]
    closed = profile(
        fit(make_form("score1"), x, 0.3 - 0.1 * (x[:, 0] / 8) ** -0.6 + 0.002 * rng.standard_normal(18)), "S_inf"
    )
    assert closed.low < 0.3 < closed.high
    assert not closed.is_open
    line = profile(fit(make_form("score1"), x, 0.1 + 0.02 * np.log(x[:, 0]) + 0.004 * rng.standard_normal(18)), "S_inf")
    assert line.is_open


def test_ceiling_bounds_the_plateau_and_says_so() -> None:
    y = 0.1 + 0.02 * np.log(AMOUNTS)
    found = fit(make_form("score1", ceiling=0.25), AMOUNTS[:, None], y)
    assert found.parameters["S_inf"] <= 0.25
    assert "bound" in [flag.code for flag in found.flags]


def test_bad_tables_are_refused_in_one_line() -> None:
    form = make_form("chinchilla")
    for x, y, words in (
        (X, np.where(X[:, 0] == 1e6, np.nan, law(X)), "NaN"),
        (X * 0.0, law(X), "<= 0"),
        (X, law(X) - 5.0, "no logarithm"),
        (X[:4], law(X[:4]), "4 points for the 5 parameters"),
        (X[:, :1], law(X), "2 axes"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            fit(form, x, y)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="choose one of"):
        make_form("zeta")


def test_predict_is_batched_over_parameter_vectors() -> None:
    form = make_form("score_joint")
    found = fit(form, X, 0.45 - 9.0 * X[:, 0] ** -0.35 - 0.5 * X[:, 1] ** -0.4)
    thetas = np.tile(found.theta, (3, 1))
    np.testing.assert_allclose(predict(form, thetas, found.centre, X)[2], found.predict(X))
