"""Every form: its derivatives, its parameters back from clean data, and the words where data cannot carry it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.form_names import FORMS
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.frontier import compute_optimal, fit_cost
from omnimouse_jax.scaling.uncertainty import bootstrap, profile

SIZES = np.array([1, 5, 20, 80, 300.0]) * 1e6
AMOUNTS = np.array([8, 16, 32, 64, 128, 323.0]) * 1e6
X = np.array([(n, d) for n in SIZES for d in AMOUNTS])
LINE = np.geomspace(10, 5000, 40)[:, None]
BROKEN = {"a": 0.413885, "b": 2.277272, "c0": 0.0550773, "c1": 5.662904, "d1": 612.5836, "f1": 0.0591930}


def broken(x: np.ndarray, a: float, b: float, c0: float, c1: float, d1: float, f1: float) -> np.ndarray:
    return a + b * x**-c0 * (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1)


def bounded(x: np.ndarray, end: float, start: float, a: float, beta: float, c: float) -> np.ndarray:
    """(L - end) / (start - L)^a = beta x^-c, solved by another root finder."""
    return np.array(
        [
            optimize.brentq(lambda v, x=x: (v - end) / (start - v) ** a - beta * x**-c, end, start - 1e-13, xtol=1e-15)
            for x in x
        ]
    )


@pytest.mark.parametrize("name", [*FORMS, "bnsl2"])
@pytest.mark.parametrize("response", ["log", "raw"])
def test_derivatives_are_those_of_finite_differences(name: str, response: str) -> None:
    if (name, response) in [("score1", "log"), ("score_joint", "log"), ("vapor_pressure", "raw")]:
        with pytest.raises(UserError):
            make_form(name, response=response)
        return
    form = make_form(name, response=response)
    rng = np.random.default_rng(0)
    logu = rng.standard_normal((9, form.axes))
    if name == "data_constrained":
        logu[:, 2] = logu[:, 1] - np.abs(rng.standard_normal(9))
    theta = 0.4 + 0.3 * rng.random((3, len(form.parameters)))
    if name == "m4":
        theta[:, 1] += 2
    _, slope = form.evaluate(theta, logu)
    for j in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[j] = 1e-6
        difference = (form.evaluate(theta + step, logu)[0] - form.evaluate(theta - step, logu)[0]) / 2e-6
        np.testing.assert_allclose(slope[..., j], difference, rtol=2e-6, atol=2e-8)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_kaplan_is_recovered_with_and_without_a_floor(floor: float) -> None:
    want = {"Nc": 8.8e13, "alpha_N": 0.076, "Dc": 5.4e13, "alpha_D": 0.095}
    y = floor + ((want["Nc"] / X[:, 0]) ** (0.076 / 0.095) + want["Dc"] / X[:, 1]) ** 0.095
    found = fit(make_form("kaplan_floor" if floor else "kaplan"), X, y)
    assert found.parameters == pytest.approx(want | ({"E": floor} if floor else {}), rel=1e-5)


def test_an_interaction_is_found_where_there_is_one_and_only_there() -> None:
    y = 1 + 30 * X[:, 0] ** -0.35 + 8 * X[:, 1] ** -0.3
    rng = np.random.default_rng(0)
    additive = fit(make_form("interaction"), X, y * np.exp(0.003 * rng.standard_normal(30)))
    named = bootstrap(additive, resamples=100).named()
    assert np.quantile(named["C"], 0.025) < 0 < np.quantile(named["C"], 0.975)
    mixed = fit(make_form("interaction"), X, y + 2000 * X[:, 0] ** -0.25 * X[:, 1] ** -0.2)
    assert mixed.objective < 1e-18
    assert mixed.parameters["C"] == pytest.approx(2000, rel=1e-4)
    assert "diagnostic" in [flag.code for flag in mixed.flags]


def test_repeats_that_decay_are_recovered_and_a_flat_decay_is_told() -> None:
    rng = np.random.default_rng(0)
    unique = np.repeat(10 ** rng.uniform(8, 9.5, 30), 6)
    seen = unique * np.tile([1, 2, 4, 10, 30, 100.0], 30)
    n = 10 ** rng.uniform(7, 9.5, 180)
    form = make_form("data_constrained")
    x = np.stack([n, seen, unique], 1)
    truth = {"E": 1.8, "A": 500.0, "alpha": 0.35, "B": 1500.0, "beta": 0.35, "R_D": 15.0, "R_N": 5.0}
    theta = np.array([1.8, np.log(500), 0.35, np.log(1500), 0.35, np.log(15), np.log(5)])
    y = np.exp(form.evaluate(theta, np.log(x))[0])
    assert fit(form, x, y).parameters == pytest.approx(truth, rel=1e-5)
    core = {k: truth[k] for k in ("E", "A", "alpha", "B", "beta")}
    held = fit(form, x, y * np.exp(0.01 * rng.standard_normal(180)), fixed=core)
    assert {k: held.parameters[k] for k in core} == pytest.approx(core)
    assert profile(held, "R_D").low < 15 < profile(held, "R_D").high
    once = fit(form, np.stack([n, unique, unique], 1), y, fixed=core)
    assert profile(once, "R_D").is_open  # nothing was repeated
    assert "few_repeats" in [flag.code for flag in once.flags]


def test_a_published_break_is_recovered_and_one_outside_the_data_is_not_identified() -> None:
    """Caballero et al. (2022), one break."""
    x = LINE[:, 0]
    found = fit(make_form("bnsl"), LINE, broken(x, **BROKEN))
    assert found.parameters == pytest.approx(BROKEN, rel=1e-6)
    assert found.starts >= 30
    assert not found.refused
    before = x[x <= 405]
    assert len(before) >= 12
    short = fit(make_form("bnsl"), before[:, None], broken(before, **BROKEN))
    assert short.parameters["a"] == pytest.approx(BROKEN["a"], rel=0.05)
    assert "not_identified" in [flag.code for flag in short.flags]
    with pytest.raises(UserError, match="11 points for a curve with 1 break"):
        fit(make_form("bnsl"), LINE[:11], broken(x[:11], **BROKEN))


def test_two_breaks() -> None:
    x = np.geomspace(1, 1e6, 60)
    law = broken(x, 0.2, 3.0, 0.05, 0.4, 100.0, 0.3) - 0.2
    y = 0.2 + law * (1 + (x / 2e4) ** (1 / 0.3)) ** (0.35 * 0.3)
    found = fit(make_form("bnsl2"), x[:, None], y)
    assert found.rmse < 1e-3
    assert len(found.parameters) == 9


@pytest.mark.parametrize("sign", [1, -1])
def test_curve_from_chance_to_plateau_is_solved_and_recovered(sign: int) -> None:
    x = np.geomspace(1, 1e5, 25)
    y = bounded(x, 0.3, 0.9, 0.7, 5.0, 0.5)
    form = make_form("m4", higher_is_better=sign < 0)
    found = fit(form, x[:, None], y if sign > 0 else 1.2 - y)
    ends = (0.3, 0.9) if sign > 0 else (0.9, 0.3)
    want = dict(zip(form.parameters, (*ends, 0.7, 5.0, 0.5), strict=True))
    assert found.parameters == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(found.predict(x[:, None]), y if sign > 0 else 1.2 - y, rtol=1e-9)


def test_without_a_bend_the_bounded_curve_is_the_power_law() -> None:
    form = make_form("m4", response="raw")
    logu = np.linspace(-3, 3, 9)[:, None]
    theta = np.array([0.3, 50.0, 0.0, -6.0, 0.4])
    np.testing.assert_allclose(form.evaluate(theta, logu)[0], 0.3 + 49.7 * np.exp(-6.0 - 0.4 * logu[:, 0]), rtol=1e-12)


def test_vapour_pressure_is_linear() -> None:
    x = LINE[:, 0]
    found = fit(make_form("vapor_pressure"), LINE, np.exp(0.3 + 2 / x - 0.2 * np.log(x)))
    assert found.parameters == pytest.approx({"a": 0.3, "b": 2.0, "c": -0.2}, rel=1e-6)


def test_compute_optimal_line_is_the_published_one() -> None:
    """Hoffmann's law as Besiroglu et al. (2024) refit it: the best size and amount for two budgets at 6 FLOPs."""
    law = {"E": 1.81722, "A": 477.826, "alpha": 0.34731, "B": 2143.42, "beta": 0.36717}
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7.5, 10.2, 60), 10 ** rng.uniform(9, 11.5, 60)
    y = law["E"] + law["A"] * n ** -law["alpha"] + law["B"] * d ** -law["beta"]
    found = fit(make_form("chinchilla"), np.stack([n, d], 1), y)
    assert found.parameters == pytest.approx(law, rel=1e-6)
    best = compute_optimal(found, 6.0, np.array([1e21, 5.76e23]))
    np.testing.assert_allclose(best.n, [2.79e9, 7.32e10], rtol=2e-3)
    np.testing.assert_allclose(best.d, [5.97e10, 1.31e12], rtol=3e-3)
    np.testing.assert_allclose(6 * best.n * best.d, best.budget, rtol=1e-9)
    assert best.exponent == pytest.approx(0.514, abs=5e-4)
    assert fit_cost(n, d, 6 * n * d) == pytest.approx(6.0)
    with pytest.raises(UserError, match="one term per axis"):
        compute_optimal(fit(make_form("log_linear", axes=2), np.stack([n, d], 1), y), 6.0, best.budget)


def test_held_parameters_stay_in_the_units_of_the_table() -> None:
    y = 1 + 30 * X[:, 0] ** -0.35 + 8 * X[:, 1] ** -0.3
    found = fit(make_form("chinchilla"), X, y, fixed={"A": 30.0, "E": 1.0})
    assert found.parameters == pytest.approx({"E": 1.0, "A": 30.0, "alpha": 0.35, "B": 8.0, "beta": 0.3}, rel=1e-6)
    free = fit(make_form("chinchilla"), X, y)
    assert found.centred == pytest.approx(free.centred, rel=1e-6)
    for wrong in ({"Z": 1.0}, {"A": -1.0}):
        with pytest.raises(UserError):
            fit(make_form("chinchilla"), X, y, fixed=wrong)
