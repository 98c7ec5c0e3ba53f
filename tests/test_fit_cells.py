"""What must not change an answer: the units of the values, how rows are listed, noise that is known, flags that are held."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.frontier import compute_optimal
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.outside import read_table
from omnimouse_jax.scaling.outside_cells import cells_of
from omnimouse_jax.scaling.outside_fit import Outcome, fit_table
from omnimouse_jax.scaling.outside_rows import Request, Rows, select_rows
from omnimouse_jax.scaling.uncertainty import Bootstrap, bootstrap
from omnimouse_jax.scaling.verdict import (
    DATA,
    FLAT,
    PARAMETERS,
    UNDECIDED,
    Verdict,
    decide,
    gains_per_doubling,
    judge,
    of_session,
)
from tests.test_fit import AMOUNTS, SIZES, X, law
from tests.test_fit_verdict import score

HEAD = "n,d,score,session,run"


def asked(path: Path, form: str = "score_joint", **changes: object) -> Request:
    made = Request(path, form, ("n", "d"), ("score",), session="session", resamples=30)
    return dataclasses.replace(made, **changes)


def write(folder: Path, rows: list[str], head: str = HEAD) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def fitted(folder: Path, x: np.ndarray, y: np.ndarray, form: str, **changes: object) -> Outcome:
    path = write(folder, [f"{n},{d},{v}" for (n, d), v in zip(x, y, strict=True)], "n,d,score")
    return fit_table(asked(path, form, session="", **changes))


@pytest.mark.parametrize("response", ["raw", "log"])
@pytest.mark.parametrize("delta", ["auto", np.inf])
def test_the_units_of_the_values_change_only_what_is_measured_in_them(response: str, delta: float | str) -> None:
    rng = np.random.default_rng(8)
    x = np.tile(X, (2, 1))
    y = law(x) * np.exp(0.003 * rng.standard_normal(60))
    results = []
    for unit in (1.0, 1e-7, 1e9):
        found = fit(make_form("chinchilla", response=response), x, y * unit, delta=delta, grid=9)
        boot = bootstrap(found, np.tile(np.arange(30), 2), resamples=40)
        g_n, g_d = gains_per_doubling(found.form, boot.theta, found.centre, 3e8, 323.0)
        ratio, floor = boot.interval(g_d / g_n), boot.interval(boot.named()["E"])
        p = found.parameters
        results.append([*(p[k] / unit for k in ("E", "A", "B")), p["alpha"], p["beta"], ratio.low, ratio.high,
                        floor.low / unit, floor.high / unit, found.optima])  # fmt: skip
    np.testing.assert_allclose(results[1:], [results[0]] * 2, rtol=1e-5)


def test_units_of_other_forms() -> None:
    rng = np.random.default_rng(0)
    line = np.geomspace(1, 1e4, 24)[:, None]
    m4 = 0.2 + 0.6 / (1 + (line[:, 0] / 50) ** 0.8) + 0.001 * rng.standard_normal(24)
    for name, x, y, scaled in (
        ("log_linear", X, law(X), ("c", "s1", "s2")),
        ("kaplan_floor", X, law(X), ("E",)),
        ("m4", line, m4, ("L_inf", "L_0")),
        ("score1", AMOUNTS[:, None], 0.3 - 0.35 * AMOUNTS**-0.6, ("S_inf", "A")),
    ):
        one, big = (
            fit(make_form(name, axes=x.shape[1], ceiling=np.inf, response="raw"), x, y * c).parameters
            for c in (1.0, 1e8)
        )
        for key in scaled:
            assert big[key] / 1e8 == pytest.approx(one[key], rel=1e-3), (name, key)


def flat(rng: np.random.Generator, level: float) -> np.ndarray:
    return level * (1 + 0.01 * rng.standard_normal(60))


@pytest.mark.parametrize(("form", "level"), [("score_joint", 0.25), ("chinchilla", 2.0)])
def test_flat_tables_have_no_measurable_return(tmp_path: Path, form: str, level: float) -> None:
    names = []
    for seed in range(2):
        x = np.tile(X, (2, 1))
        made = fitted(tmp_path, x, flat(np.random.default_rng([seed, 1]), level), form, holdout=("n",))
        names.append(made.verdict.name)
    assert names == [FLAT] * 2
    assert "No measurable return" in made.verdict.words


def decided(rng: np.random.Generator, y: np.ndarray, sd: float) -> tuple[Verdict, Bootstrap]:
    x = np.tile(X, (2, 1))
    found = fit(make_form("chinchilla"), x, np.tile(y, 2) * np.exp(sd * rng.standard_normal(60)), grid=9)
    boot = bootstrap(found, np.tile(np.arange(30), 2), resamples=60)
    return decide(found, boot, 3e8, 323.0, higher_is_better=False), boot


def test_a_term_at_zero_names_the_other_axis_only_by_an_interval() -> None:
    """Of flat values the optimiser puts one term or both at zero: that alone names nothing."""
    seen = set()
    for seed in range(6):
        verdict, boot = decided(np.random.default_rng([seed, 2]), np.full(30, 2.0), 0.01)
        if verdict.ratio is not None or verdict.name == FLAT:
            continue
        assert " term: " in verdict.words
        b_n, b_d = gains_per_doubling(boot.fit.form, boot.theta, boot.fit.centre, 3e8, 323.0)
        apart = boot.interval(b_d - b_n)
        assert verdict.name == (DATA if apart.low > 0 else PARAMETERS if apart.high < 0 else UNDECIDED)
        seen.add(verdict.name)
    assert UNDECIDED in seen
    verdict, _ = decided(np.random.default_rng(3), law(X, A=0.0), 0.0)
    assert verdict.name == DATA
    assert "No parameter term" in verdict.words
    verdict, _ = decided(np.random.default_rng(3), law(X, B=0.0), 0.0)
    assert verdict.name == PARAMETERS
    assert "No data term" in verdict.words


def ordered(rng: np.random.Generator, spread: float = 0.01) -> Grid:
    """Three orders at every amount but the largest, two seeds, a law that rises."""
    x = np.array([(n, d, o) for n in SIZES for d in AMOUNTS for o in range(3 if d < 323 else 1) for _ in range(2)])
    luck = spread * rng.standard_normal((6, 3)) * (AMOUNTS < 323)[:, None]
    y = score(x) + luck[np.searchsorted(AMOUNTS, x[:, 1]), x[:, 2].astype(int)] + 0.0005 * rng.standard_normal(len(x))
    return Grid(x[:, 0], x[:, 1], y[:, None], ("a",), True, tuple(x[:, 2].astype(int).tolist()))


def test_luck_of_orders_is_no_reversal_and_cells_are_covered() -> None:
    refused = inside = cells = 0
    for seed in range(25):
        grid = ordered(np.random.default_rng([seed, 3]))
        falls, pairs = grid.reversals()
        refused += falls >= 0.2 * pairs
        low, high = grid.cell_intervals()
        truth = score(X).reshape(5, 6)
        inside += int(((low < truth) & (truth < high)).sum())
        cells += truth.size
    assert pairs == 4 * 6 + 5 * 5
    assert refused <= 2
    assert 0.91 < inside / cells < 0.99


def test_real_reversals_are_still_seen() -> None:
    y = score(X) - np.where((X[:, 0] == 2e7), 0.05, 0.0)
    x = np.tile(X, (2, 1))
    values = np.tile(y, 2) + 0.001 * np.random.default_rng(4).standard_normal(60)
    assert Grid(x[:, 0], x[:, 1], values[:, None], ("a",)).reversals()[0] >= 6


def test_orders_at_one_size_count_only_the_runs_behind_their_means() -> None:
    """Three orders at the smallest size alone, one seed: the seed noise of one run stands behind each mean, not of 5."""
    found = []
    for seed in range(80):
        rng = np.random.default_rng([seed, 5])
        x = np.array([(n, d, o, s) for n in SIZES for d in AMOUNTS for o in range(3 if n == 1e6 and d < 323 else 1)
                      for s in range(2)])  # fmt: skip
        y = score(x) + 0.01 * rng.standard_normal(len(x))  # seeds alone, no noise of orders
        grid = Grid(x[:, 0], x[:, 1], y[:, None], ("a",), True, tuple(x[:, 2].astype(int).tolist()))
        found.append(grid.order_noise[0] ** 2)
    # truncated at 0, so not 0 on average; without the correction it would be near 0.01^2 / 2
    assert np.mean(found) < 0.25 * 0.01**2
    assert np.mean(np.array(found) == 0) > 0.35


def test_sessions_above_the_mean_ceiling_are_fitted() -> None:
    rng = np.random.default_rng(6)
    x = np.tile(X, (2, 1))
    values = score(x)[:, None] * np.array([0.7, 1.0, 1.3]) + 0.0005 * rng.standard_normal((60, 1))
    joint = judge(Grid(x[:, 0], x[:, 1], values, ("a", "b", "c")), ceiling=0.52, resamples=20)
    plateaus = [one.parameters["S_inf"] for one in joint.session_fits]
    assert plateaus == pytest.approx([0.35, 0.5, 0.65], abs=0.01)
    assert of_session(make_form("score1", ceiling=50.0), np.array([80.0])).ceiling == np.inf


def test_values_below_zero_are_held_out_on_their_own_scale(tmp_path: Path) -> None:
    made = fitted(tmp_path, X, law(X) - 5.0, "chinchilla", resamples=2)
    assert made.held_out
    assert max(held.rmse for held in made.held_out) < 1e-3


def sessions_table(rng: np.random.Generator, seeds: int = 2) -> list[str]:
    """Runs differ by 0.01, sessions of a run by 0.0001 and their level."""
    rows = []
    for k, (n, d) in enumerate(np.tile(X, (seeds, 1))):
        luck = 0.01 * rng.standard_normal()
        for s, level in enumerate((0.0, 0.1, 0.2)):
            value = 0.3 + float(score(np.array([[n, d]]))[0]) - level + luck + 0.0001 * rng.standard_normal()
            rows.append(f"{n},{d},{value:.6f},s{s},r{k}")
    return [rows[i] for i in rng.permutation(len(rows))]


def rows_of(path: Path, notes: list[str], **changes: object) -> Rows:
    return select_rows(read_table(path), asked(path, **changes), notes)


def test_a_run_column_pairs_the_sessions_of_a_run(tmp_path: Path) -> None:
    path = write(tmp_path, sessions_table(np.random.default_rng(7)))
    notes: list[str] = []
    grid = cells_of(rows_of(path, notes, run="run"), True, notes).grid
    assert grid is not None
    assert grid.by_session.shape == (60, 3)
    assert notes == []
    np.testing.assert_allclose(grid.by_session[:, 0] - grid.by_session[:, 2], 0.2, atol=0.001)
    assert grid.seed_noise[0] == pytest.approx(0.01, rel=0.4)
    averaged = cells_of(rows_of(path, notes), True, notes).grid
    assert averaged is not None
    assert averaged.by_session.shape == (30, 3)
    assert "no --run column" in notes[0]
    with pytest.raises(UserError, match="different --x"):
        cells_of(rows_of(path, notes, run="session"), True, notes)
    with pytest.raises(UserError, match="--run without --session"):
        fit_table(asked(path, session="", run="run"))


def test_sessions_that_miss_cells_are_named_and_give_no_verdict(tmp_path: Path) -> None:
    rows = [r for r in sessions_table(np.random.default_rng(7), 1) if not (r.startswith("300000000") and ",s1," in r)]
    path = write(tmp_path, rows)
    cells = cells_of(rows_of(path, [], run="run"), True, [])
    assert cells.grid is not None
    assert cells.grid.animals == ("s0", "s2")
    assert "s1 is missing from 6 of 30, at 3e+08, 8" in cells.unbalanced
    made = fit_table(asked(path, run="run", resamples=2))
    assert "unbalanced" in [flag.code for flag in made.flags]
    assert made.verdict.name == "no verdict"


def test_a_verdict_where_no_run_is_says_so(tmp_path: Path) -> None:
    along = X[(X[:, 0] == 1e6) | (X[:, 1] == 8)]  # an L: no run is both big and on much data
    words = [
        f.words
        for f in fitted(tmp_path, along, law(along), "chinchilla", resamples=2).flags
        if f.code == "no_run_there"
    ]
    assert "no curve-free check there" in words[0]
    assert "no_run_there" not in [f.code for f in fitted(tmp_path, X, law(X), "chinchilla", resamples=2).flags]


def test_the_frontier_does_not_depend_on_how_axes_were_centred() -> None:
    free = fit(make_form("chinchilla"), X, law(X))
    held = fit(make_form("chinchilla"), X, law(X), fixed={"E": 1.0})
    budgets = np.array([1e9, 1e11])
    one, other = (compute_optimal(found, 6.0, budgets) for found in (free, held))
    np.testing.assert_allclose(other.n, one.n, rtol=1e-4)
    np.testing.assert_allclose(other.n * other.d * 6.0, budgets)


def test_texts_of_a_condition_are_not_columns(tmp_path: Path) -> None:
    path = write(tmp_path, ["1,2,class,x", "3,4,other,y"], "n,d,kind,class")
    table = read_table(path)
    assert table.where("kind == 'class' and class == 'x'").tolist() == [True, False]
    assert table.where('kind != "class" and `class` == "y"').tolist() == [False, True]


def test_the_comparison_of_forms_says_what_it_leaves_out(tmp_path: Path) -> None:
    assert "without --fix" in fitted(tmp_path, X, law(X), "chinchilla", resamples=2, fixed={"E": 1.0}).selection.words
    assert "without" not in fitted(tmp_path, X, law(X), "chinchilla", resamples=2).selection.words
