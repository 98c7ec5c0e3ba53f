"""Charts show what they claim: curves end, bands are dashed where there are no data, contours lie where the fit says."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from omnimouse_jax.scaling import tables
from omnimouse_jax.scaling.analysis import Study, Task, analyse
from omnimouse_jax.scaling.analysis_worth import cost_law
from omnimouse_jax.scaling.charts import BEYOND, decade_ticks, level_ticks, linear
from omnimouse_jax.scaling.charts_compute import compute_chart, rate_chart
from omnimouse_jax.scaling.charts_curves import animal_charts, curve_charts, session_charts
from omnimouse_jax.scaling.charts_plane import contour, contour_levels, plane_chart, why_no_frontier
from omnimouse_jax.scaling.charts_residuals import axis_charts, residual_charts
from omnimouse_jax.scaling.svg import render
from tests.planted import LAWS, SIZES
from tests.planted_ledger import planted_rows

ONE = {"population": LAWS["population"]}


@pytest.fixture(scope="module")
def study() -> Study:
    """Five sizes x six amounts x two seeds, two anneal points, two rates at one size, two orders of the small subsets."""
    rows = planted_rows(laws=ONE, anneal=(0.5, 1.0), rates={"5M": (1e-3, 3e-3)}, orders=2)
    return analyse(rows, resamples=200)


@pytest.fixture(scope="module")
def task(study: Study) -> Task:
    return study.tasks[0]


def test_curves_are_solid_inside_the_data_dashed_beyond_and_end_at_four_times(study: Study, task: Task) -> None:
    for chart, levels in zip(curve_charts(study, task), (task.grid.amounts, task.grid.sizes), strict=True):
        top = float(levels[-1])
        assert chart.data_end == top
        for series in chart.series:
            by_style = {line.style: line for line in series.lines}
            assert by_style["fit"].x.max() == pytest.approx(top)
            assert by_style["beyond"].x.min() == pytest.approx(top)
            assert by_style["beyond"].x.max() == pytest.approx(BEYOND * top)
            for band in series.bands:
                assert (band.x.max() <= top * (1 + 1e-9)) if band.inside else (band.x.min() >= top * (1 - 1e-9))
                assert np.all(band.low <= band.high)
        straight = [line for series in chart.series for line in series.lines if line.style == "straight"]
        assert len(straight) == 1  # the log-linear rival, through the top series
        drawn = render(chart)
        assert drawn.count('class="band beyond"') == len(chart.series)
        assert drawn.count('class="band-edge"') == 2 * len(chart.series)
        assert drawn.count('class="line beyond"') == len(chart.series)


def test_every_run_is_a_point_that_tells_seed_and_run(study: Study, task: Task) -> None:
    chart, _ = curve_charts(study, task)
    tips = [m.tip for s in chart.series for m in s.marks if m.kind == "run"]
    assert len(tips) == len(task.runs)
    for row in task.runs:
        assert any(f"seed {row['seed']}, " in tip and row["run_id"] in tip for tip in tips)


def test_sessions_and_animals_have_their_own_charts(study: Study, task: Task) -> None:
    by_session, by_animal = session_charts(study, task), animal_charts(study, task)
    assert [c.title for c in by_session] == [f"mouse{i // 2}-s{i} (mouse{i // 2})" for i in range(4)]
    assert [c.title for c in by_animal] == ["mouse0, mean of 2 sessions", "mouse1, mean of 2 sessions"]
    assert len({c.y_range for c in by_session}) == 1
    runs = [m for s in by_session[0].series for m in s.marks if m.kind == "run"]
    assert {m.y for m in runs} == set(task.grid.by_session[:, 0])
    assert all(m.tip.startswith("mouse0-s0") and "seed" in m.tip for m in runs)
    pair = task.grid.by_session[:, :2].mean(axis=1)
    assert {m.y for s in by_animal[0].series for m in s.marks if m.kind == "run"} == set(pair)


def test_compute_paths_join_the_anneal_points_of_one_training(study: Study, task: Task) -> None:
    chart = compute_chart(study, task)
    assert chart is not None
    for series in chart.series[:-1]:
        kinds = [m.kind for m in series.marks if m.kind != "run"]
        assert kinds.count("mean") == kinds.count("out") == 6  # six amounts, an earlier and a last point each
        assert len(series.lines) == 6
        for line in series.lines:
            assert np.all(np.diff(line.x) > 0)
            assert np.all(np.diff(line.y) > 0)  # the planted law gains along a training
    best = chart.series[-1].lines[0]
    assert np.all(np.diff(best.y) >= 0)
    assert best.y.max() == max(m.y for s in chart.series for m in s.marks if m.kind != "run")
    rated = rate_chart(study)
    assert rated is not None
    assert [s.name for s in rated.series] == ["5M"]
    assert {m.kind for m in rated.series[0].marks} == {"mean", "out"}
    assert next(m.x for m in rated.series[0].marks if m.kind == "mean") == 1e-3


def test_contours_lie_where_the_fit_has_their_value(task: Task) -> None:
    fit = task.joint.fit
    assert fit is not None
    ranges = (8.0, 1292.0), (1.7e6, 1.2e9)
    levels = contour_levels(fit, *ranges)
    assert len(levels) >= 4
    for level in levels:
        d, n = contour(fit, level, *ranges)
        assert np.all(np.diff(d) >= 0)
        assert np.all(np.diff(n) <= 1e-9 * n[:-1])
        np.testing.assert_allclose(fit.predict(np.stack([n, d], 1)), level, atol=2e-5)


def test_plane_marks_cells_and_parts_inside_from_beyond(study: Study, task: Task) -> None:
    chart = plane_chart(study, task)
    assert chart is not None
    level, cells, optimal, _ = chart.series
    assert len(cells.marks) == 30
    for line in level.lines:
        middle = len(line.x) // 2
        x, y = float(line.x[middle]), float(line.y[middle])
        inside = task.grid.amounts[0] <= x <= task.grid.amounts[-1] and task.grid.sizes[0] <= y <= task.grid.sizes[-1]
        assert inside == (line.style == "level")
    assert {line.style for line in optimal.lines} <= {"optimal", "optimal-beyond"}
    # along the compute-optimal line no move at equal cost gains
    fit = task.joint.fit
    assert fit is not None
    for line in optimal.lines:
        for d, n in zip(line.x[:: max(1, len(line.x) // 5)], line.y[:: max(1, len(line.y) // 5)], strict=False):
            here, more_data, more_size = fit.predict(np.array([[n, d], [n / 1.2, d * 1.2], [n * 1.2, d / 1.2]]))
            assert here >= max(more_data, more_size)


def test_no_compute_optimal_line_where_steps_are_fixed() -> None:
    rows = [row | {"flops": 6e3 * row["n_params_core"]} for row in planted_rows(laws=ONE, seeds=1)]
    study = analyse(rows, resamples=50)
    task = study.tasks[0]
    assert task.flops is not None
    assert not task.flops.is_product
    assert "No compute-optimal line" in why_no_frontier(task)
    chart = plane_chart(study, task)
    assert chart is not None
    assert len(chart.series) == 2
    assert "No compute-optimal line" in chart.caption
    assert task.prospects is not None
    assert task.prospects.data.flops == pytest.approx(0, abs=1e-3 * 6e3 * 3e8)


def test_residuals_are_seen_minus_expected_and_sum_to_little(study: Study, task: Task) -> None:
    charts = {c.x_name: c for c in residual_charts(study, task)}
    assert set(charts) == {
        *("core parameters", "training sessions", "expected score", "seed", "order of sessions", "session"),
    }
    fit = task.joint.fit
    assert fit is not None
    left = task.grid.score - fit.predict(np.stack([task.grid.parameters, task.grid.data], 1))
    for name, chart in charts.items():
        values = [m.y for s in chart.series for m in s.marks]
        assert len(values) == (30 * len(task.sessions) if name == "session" else len(left))
        if name != "session":
            assert sorted(values) == pytest.approx(sorted(left))
    assert abs(left.mean()) < 2e-3


def test_measures_of_data_are_compared_by_the_largest_amount(study: Study, task: Task) -> None:
    names = {check.names for check in task.axes}
    assert ("n_neurons", "neuron_hours") in names
    assert any("n_sessions" in n and "hours" in n for n in names)
    assert [c.error for c in task.axes] == sorted(c.error for c in task.axes)
    assert all(check.cells == 5 for check in task.axes)
    assert len(axis_charts(study, task)) == len(task.axes) >= 2


def test_prospects_agree_with_the_planted_law(task: Task) -> None:
    law = LAWS["population"][1]
    n, d = SIZES["300M"], 323.0
    found = task.prospects
    assert found is not None
    assert found.exchange is not None
    assert found.shares is not None
    worth, doubling = law(n, d + 10) - law(n, d), law(2 * n, d) - law(n, d)
    for option, truth in ((found.data, worth), (found.parameters, doubling)):
        assert option.worth.estimate == pytest.approx(truth, rel=0.35)
    more = 2.0 ** np.linspace(0, 4, 4000) * d
    units = float(np.interp(doubling, [law(n, m) - law(n, d) for m in more], more - d))
    assert found.exchange.interval.low < units < found.exchange.interval.high
    assert found.shares[0].value + found.shares[1].value == pytest.approx(1)
    share = 0.10 * (n / 1e6) ** -0.35 / (0.10 * (n / 1e6) ** -0.35 + 0.16 * (d / 8) ** -0.45)
    assert found.shares[0].interval.low < share < found.shares[0].interval.high
    assert found.data.recorded_hours == pytest.approx(12)
    assert found.parameters.flops == pytest.approx(max(r["flops"] for r in task.runs), rel=1e-6)


def test_cost_law_recovers_powers(task: Task) -> None:
    cost = [3.0 * n**0.8 * d**0.3 for n, d in zip(task.grid.parameters, task.grid.data, strict=True)]
    law = cost_law(task.grid, cost)
    assert law is not None
    assert (law.by_size, law.by_data) == pytest.approx((0.8, 0.3))
    assert law.at(2e6, 10.0) == pytest.approx(3 * 2e6**0.8 * 10**0.3)
    assert cost_law(task.grid, [None] * len(cost)) is None


def test_other_axes_keep_the_cells_of_several_orders() -> None:
    rows = planted_rows(("1M", "5M", "20M"), (8, 16, 32), 1, 2, laws=ONE, orders=3)
    task = analyse(rows, data_axis="n_neurons", resamples=50).tasks[0]
    assert task.grid.count.shape == (3, 3)
    assert any("geometric mean" in note for note in task.notes)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e15, 3e21), (0.0003, 0.02), (8.0, 323.0), (1e6, 4e6), (1.1e12, 2.7e12), (1.1e12, 1.18e12), (102.0, 105.0)],
)
def test_ticks_lie_inside_and_name_their_value(low: float, high: float) -> None:
    ticks = decade_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    powers = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    for value, name in ticks:
        assert low <= value <= high
        factor, _, power = name.rpartition("×") if "×" in name else ("1", "", name)
        told = float(name) if name.isascii() else float(factor) * 10.0 ** int(power[2:].translate(powers))
        assert told == pytest.approx(value)
    assert [name for _, name in level_ticks([8.0, 16.0, 32.0, 323.0], right=1292.0)] == ["8", "16", "32", "323", "1292"]
    (a, b), inside = linear(0.2, 0.2)
    assert a < 0.2 < b
    assert all(a <= v <= b for v, _ in inside)


def test_numbers_in_csv_are_those_of_the_study(study: Study, task: Task) -> None:
    def read(text: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(text)))

    worth = {row["step"]: row for row in read(tables.worth_csv(study))}
    assert task.prospects is not None
    assert float(worth["next 10 sessions"]["gain"]) == task.prospects.data.worth.estimate
    assert float(worth["next doubling of parameters"]["flops"]) == task.prospects.parameters.flops
    assert task.prospects.exchange is not None
    assert float(worth["sessions worth a doubling of parameters"]["gain"]) == task.prospects.exchange.value
    assert math.isfinite(task.prospects.exchange.value)
    listed = read(tables.left_out_csv(study))
    assert [(r["run_id"], r["rule"]) for r in listed] == [(e.point[0], e.rule) for e in study.selected.excluded]
