"""What a study concludes: orders as a random effect, the ratio without a curve, marginal value, saturation claims."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.marginal import marginal_values
from omnimouse_jax.scaling.selection import cell_error, compare
from omnimouse_jax.scaling.uncertainty import Interval
from omnimouse_jax.scaling.verdict import (
    DATA,
    NONE,
    free_ratio,
    judge,
    local_ratio,
    remaining_shares,
    saturation_claim,
)
from tests.test_fit import AMOUNTS, SIZES, X


def score(x: np.ndarray) -> np.ndarray:
    return 0.5 - 9.0 * x[:, 0] ** -0.35 - 0.3 * x[:, 1] ** -0.4


def study(rng: np.random.Generator, seeds: int = 2, sd: float = 0.001, spread: float = 0.1, sessions: int = 6) -> Grid:
    x = np.tile(X, (seeds, 1))
    gains = 1 + spread * rng.standard_normal(sessions)
    values = score(x)[:, None] * gains + sd * rng.standard_normal((len(x), 1))
    return Grid(x[:, 0], x[:, 1], values, tuple(f"m{k // 2}" for k in range(sessions)))


def test_orders_widen_the_intervals_of_small_subsets_as_a_random_effect() -> None:
    """Three orders per amount but the largest; the subset's luck is shared by all sizes. Coverage of the data slope."""
    rng = np.random.default_rng(0)
    x = np.array([(n, d, o) for n in SIZES for d in AMOUNTS for o in range(3 if d < 323 else 1) for _ in range(2)])
    covered = {True: 0, False: 0}
    noise = []
    truth = Grid(x[:, 0], x[:, 1], score(x)[:, None], ("a",))
    slope = truth.slope("data")
    assert slope is not None
    want = truth.contrast(slope).estimate
    for _ in range(60):
        luck = 0.006 * rng.standard_normal((len(AMOUNTS), 3)) * (AMOUNTS < 323)[:, None]
        y = (
            score(x)
            + luck[np.searchsorted(AMOUNTS, x[:, 1]), x[:, 2].astype(int)]
            + 0.001 * rng.standard_normal(len(x))
        )
        for known in (True, False):
            grid = Grid(
                x[:, 0], x[:, 1], y[:, None], ("a",), True, tuple(x[:, 2].astype(int).tolist()) if known else ()
            )
            found = grid.contrast(slope).seeds
            assert found is not None
            covered[known] += found.low < want < found.high
            if known:
                noise.append(grid.order_noise[0])
                assert "3 nested orders" in found.method
                assert grid.seed_noise[0] == pytest.approx(0.001, rel=0.4)
    assert covered[True] >= 53
    assert covered[False] < 50
    assert np.mean(noise) == pytest.approx(0.006, rel=0.2)
    # a bootstrap resamples an order's subset with all its sizes; the full set keeps its cells
    assert len(np.unique(grid.clusters)) == 30
    ordered = Grid(x[:, 0], x[:, 1], y[:, None], ("a",), True, tuple(x[:, 2].astype(int).tolist()))
    assert len(np.unique(ordered.clusters)) == 5 * 3 + 5


def test_orders_without_repeated_seeds_still_tell_the_noise() -> None:
    rng = np.random.default_rng(1)
    x = np.array([(n, d, o) for n in SIZES for d in AMOUNTS for o in range(3)])
    luck = 0.006 * rng.standard_normal((6, 3))
    y = score(x) + luck[np.searchsorted(AMOUNTS, x[:, 1]), x[:, 2].astype(int)] + 0.002 * rng.standard_normal(len(x))
    grid = Grid(x[:, 0], x[:, 1], y[:, None], ("a",), True, tuple(x[:, 2].astype(int).tolist()))
    assert grid.seed_noise[0] == pytest.approx(0.002, rel=0.3)
    assert grid.seed_noise[1] == 6 * 4 * 2


def test_ratio_without_a_curve_has_an_interval_that_may_be_open() -> None:
    rng = np.random.default_rng(2)
    free = free_ratio(study(rng, seeds=3, sd=0.0005))
    assert free is not None
    assert free.interval is not None
    assert free.ratio is not None
    truth = free_ratio(Grid(X[:, 0], X[:, 1], score(X)[:, None], ("a",)))
    assert truth is not None
    assert truth.ratio is not None
    assert free.interval.low < truth.ratio < free.interval.high
    noisy = free_ratio(study(rng, seeds=2, sd=0.02))
    assert noisy is not None
    assert noisy.interval is not None
    assert noisy.interval.is_open


def test_a_curve_that_the_corner_contradicts_gives_no_verdict() -> None:
    """One cell next to the corner makes the last step of size look large, where all cells together say otherwise."""
    rng = np.random.default_rng(3)
    x = np.tile(X, (3, 1))
    y = score(x) - np.where((x[:, 1] == 323) & (x[:, 0] == 8e7), 0.02, 0.0) + 0.0005 * rng.standard_normal(len(x))
    verdict = judge(Grid(x[:, 0], x[:, 1], y[:, None], ("a",)), resamples=100).verdict
    assert verdict.name == NONE
    assert "on the other side of 1" in verdict.words
    assert verdict.interval is not None


def test_verdict_tells_shares_and_both_ratios() -> None:
    joint = judge(study(np.random.default_rng(4)), resamples=100)
    verdict, found = joint.verdict, joint.fit
    assert verdict.name == DATA
    assert found is not None
    shares = remaining_shares(found, 3e8, 323.0)
    assert shares == (verdict.share_parameters, verdict.share_data)
    p = found.parameters
    terms = p["A"] * 3e8 ** -p["alpha"], p["B"] * 323 ** -p["beta"]
    assert shares[0] == pytest.approx(terms[0] / sum(terms))
    want = p["beta"] * terms[1] / (p["alpha"] * terms[0])
    assert verdict.local_ratio == pytest.approx(want, rel=1e-6)
    assert verdict.local_ratio == pytest.approx(float(local_ratio(found.form, found.theta, found.centre, 3e8, 323.0)))
    assert verdict.gain_data_interval is not None
    assert verdict.gain_data_interval.low < verdict.gain_data < verdict.gain_data_interval.high
    assert verdict.new_sessions is not None
    assert verdict.new_sessions.over == "new animals"


def test_marginal_value_of_ten_more_sessions_against_a_bigger_model() -> None:
    grid = study(np.random.default_rng(5), spread=0.05)
    joint = judge(grid, resamples=200)
    worth = marginal_values(grid, joint, extra=10)
    more = score(np.array([[3e8, 323.0], [3e8, 333.0], [6e8, 323.0]]))
    for one, truth in ((worth.data, more[1] - more[0]), (worth.parameters, more[2] - more[0])):
        assert one.these is not None
        assert one.new is not None
        assert one.new.low < truth < one.new.high
        assert one.new.high - one.new.low > one.these.high - one.these.low
        assert one.these.low < one.estimate < one.these.high
        assert "score joint law" in one.what
    small = np.isin(grid.parameters, SIZES[:2])
    part = Grid(grid.parameters[small], grid.data[small], grid.by_session[small], grid.animals)
    straight = marginal_values(part, judge(part), extra=323)
    slope = part.slope("data")
    assert slope is not None
    assert straight.data.estimate == pytest.approx(part.contrast(slope).estimate)  # one doubling
    assert "straight lines" in straight.data.what
    with pytest.raises(UserError, match="more units"):
        marginal_values(grid, joint, extra=0)


def test_saturation_is_claimed_only_by_equivalence_with_converged_tuned_models() -> None:
    def gain(low: float, high: float) -> Interval:
        return Interval(low, high, "these sessions", "", 9)

    assert saturation_claim("model size", gain(-0.001, 0.003), 0.005, converged=True, tuned=True).holds
    for interval, converged, tuned, words in (
        (gain(0.001, 0.003), True, True, "still gains"),
        (gain(-0.001, 0.02), True, True, "not excluded"),
        (gain(-0.001, 0.003), None, True, "not known whether larger models"),
        (gain(-0.001, 0.003), True, False, "not true that the learning rate"),
        (None, True, True, "no interval"),
    ):
        claim = saturation_claim("model size", interval, 0.005, converged=converged, tuned=tuned)
        assert not claim.holds
        assert words in claim.words


def test_each_cell_left_out_in_turn_tells_the_curve_from_the_straight_line() -> None:
    rng = np.random.default_rng(6)
    x = np.tile(AMOUNTS, 3)
    y = 0.30 - 0.10 * (x / 8) ** -0.6 + 0.001 * rng.standard_normal(18)
    picked = compare(x[:, None], y, score=True)
    errors = {c.name: c.cell_error for c in picked.candidates}
    assert errors["score1"] < errors["log_linear"] < errors["constant"]
    wide = {c.name: c.wide_hold_outs[0] for c in picked.candidates}
    assert {h.levels for h in wide.values()} == {2}
    assert abs(wide["score1"].error) < abs(wide["log_linear"].error)
    # against the same number by refitting one by one
    form = make_form("score1")
    found = fit(form, x[:, None], y, delta=np.inf)
    one_by_one = []
    for level in AMOUNTS:
        part = fit(form, x[x != level][:, None], y[x != level], delta=np.inf)
        one_by_one.append(float(part.predict(np.array([[level]]))[0] - y[x == level].mean()))
    assert cell_error(found) == pytest.approx(float(np.sqrt(np.mean(np.square(one_by_one)))), rel=1e-3)


def test_losses_of_any_sign_are_compared_and_judged_on_their_own_scale() -> None:
    rng = np.random.default_rng(7)
    x = np.tile(X, (2, 1))
    y = -3 - score(x) + 0.001 * rng.standard_normal(len(x))
    joint = judge(Grid(x[:, 0], x[:, 1], y[:, None], ("a",), False), resamples=50)
    assert joint.fit is not None
    assert joint.fit.form.response == "raw"
    assert joint.verdict.name == DATA
    assert compare(x, y, score=False)["chinchilla"].fit.form.response == "raw"
