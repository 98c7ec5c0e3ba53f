"""What stays out of the fits: by rule, with its reason, never by a test score, and never in silence."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.scaling.analysis import analyse
from omnimouse_jax.scaling.exclude import (
    EARLIER,
    FAILED_RULE,
    MINUTES,
    OVERFIT,
    RATE,
    UNFINISHED_RULE,
    earlier_points,
    family,
    other_minutes,
    overfit_points,
    point,
    points,
    schedule_rules,
    select,
    unscored,
    worse_rates,
)
from omnimouse_jax.scaling.ledger import Row
from omnimouse_jax.scaling.verdict import NONE
from tests.planted import LAWS
from tests.planted_ledger import planted_rows

ONE = {"population": LAWS["population"]}
RATES = {"5M": (1e-3, 3e-3, 1e-4), "20M": (3e-3, 1e-3)}
GRID = (("1M", "5M", "20M"), (8, 16, 32))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Anneal points, learning rates, a failure and cells to come."""
    return planted_rows(
        *GRID, 2, 3, laws=ONE, anneal=(0.5, 1.0), rates=RATES, failed=("20M-016-order0-seed1-0.003",), started=18
    )


def test_every_point_is_kept_or_listed_once(rows: list[Row]) -> None:
    selected = select(rows)
    kept, out = {point(r) for r in selected.kept}, [e.point for e in selected.excluded]
    assert len(out) == len(set(out))
    assert kept.isdisjoint(out)
    assert kept | set(out) == set(points(rows))
    assert {e.rule for e in selected.excluded} == {FAILED_RULE, UNFINISHED_RULE, RATE, EARLIER}
    assert all(e.reason and e.row["run_id"] == e.point[0] for e in selected.excluded)


def test_selection_does_not_depend_on_the_order_of_rows_or_on_scores(rows: list[Row]) -> None:
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    blind = [row | {"score": None if row["score"] is None else -row["score"]} for row in rows]
    chosen = {point(r) for r in select(rows).kept}
    assert {point(r) for r in select(shuffled).kept} == chosen
    assert {point(r) for r in select(blind).kept} == chosen


def test_failures_tell_their_cause(rows: list[Row]) -> None:
    found = {e.point[0]: e for e in unscored(rows)}
    assert found["20M-016-order0-seed1-0.003"].reason.startswith("out of memory: 12.1 GiB")
    assert sum(e.rule == UNFINISHED_RULE for e in found.values()) == len(
        {r["run_id"] for r in rows if r["state"] == "unfinished"}
    )
    bare = [row | {"error": "", "cause": "lost"} for row in rows if row["state"] == "failed"]
    assert unscored(bare)[0].reason == "lost"


def test_the_best_learning_rate_by_validation_loss_stays() -> None:
    rows = planted_rows(*GRID, 2, 2, laws=ONE, rates=RATES)
    out = worse_rates(rows)
    gone = {(e.row["size"], e.row["learning_rate"]) for e in out}
    assert gone == {("5M", 3e-3), ("5M", 1e-4), ("20M", 1e-3)}
    assert all("validation loss" in e.reason for e in out)
    assert worse_rates([r for r in rows if r["size"] == "1M"]) == []


def test_rates_without_a_common_cell_stay_and_it_is_said() -> None:
    rows = planted_rows(*GRID, 2, 2, laws=ONE)
    changed = [r | {"learning_rate": 3e-3} if r["size"] == "1M" and r["seed"] == 1 else r for r in rows]
    notes: list[str] = []
    assert worse_rates(changed, notes) == []
    assert "0.001, 0.003 have no cell in common" in notes[0]


@pytest.mark.parametrize("better", [True, False])
def test_a_rate_probed_in_one_cell_never_replaces_the_grid(better: bool) -> None:
    rows = planted_rows(*GRID, 1, 2, laws=ONE)
    one = [r for r in rows if r["size"] == "1M" and r["n_sessions"] == 32]
    loss = one[0]["validation_loss"] + (-0.1 if better else 0.1)
    probe = [r | {"run_id": "probe", "learning_rate": 3e-3, "validation_loss": loss} for r in one]
    notes: list[str] = []
    out = worse_rates([*rows, *probe], notes)
    assert {e.point[0] for e in out} == {"probe"}
    assert "tried in 1 of" in out[0].reason
    assert len(notes) == better
    assert all("not tuned" in note for note in notes)


def test_only_the_last_anneal_point_of_a_run_is_fitted() -> None:
    rows = planted_rows(*GRID, 2, 2, laws=ONE, anneal=(0.25, 0.5, 1.0))
    out = earlier_points(rows)
    kept = set(points(rows)) - {e.point for e in out}
    assert len(kept) == 18
    assert {step for _, step in kept} == {100_000}
    assert len({family(points(rows)[p]) for p in kept}) == 18
    # the constant run itself, evaluated without annealing, is no last point either
    whole = [
        row | {"run_id": row["parent"], "parent": "", "anneal_from": None} for row in rows if row["steps"] == 100_000
    ]
    again = {e.point for e in earlier_points([*rows, *whole])}
    assert {point(r) for r in whole} <= again
    assert kept.isdisjoint(again)


@pytest.mark.parametrize("state", ["failed", "running"])
def test_points_annealed_from_a_run_that_did_not_finish_enter_no_fit(state: str) -> None:
    rows = planted_rows(*GRID, 1, 2, laws=ONE, anneal=(0.25, 1.0))
    run = rows[0]["parent"]
    assert run
    own = [r | {"run_id": run, "parent": "", "anneal_from": None} for r in rows if r["parent"] == run][:1]
    lost = [r | {"state": state, "score": None} for r in own]
    selected = select([*rows, *lost])
    assert run not in {family(r) for r in selected.kept}
    assert {family(r) for r in select(rows).kept} == {family(r) for r in rows}, (
        "without a row of the run, points stand for it"
    )


def test_minutes_are_told_apart_where_the_axis_cannot() -> None:
    rows = planted_rows(*GRID, 1, 2, laws=ONE)
    few = [r | {"minutes": 5.0} if r["run_id"].startswith("1M-008") else r | {"minutes": None} for r in rows]
    assert {e.row["run_id"][:6] for e in other_minutes(few, "n_sessions")} == {"1M-008"}
    assert "5 minutes" in other_minutes(few, "n_sessions")[0].reason
    assert other_minutes(few, "hours") == []
    assert MINUTES in {e.rule for e in select(few).excluded}


def test_overfit_cells_are_marked_and_leave_only_when_asked() -> None:
    rows = planted_rows(*GRID, 3, 2, laws=ONE)
    fat = [r | {"validation_gap": 0.2} if r["size"] == "20M" and r["n_sessions"] == 8 else r for r in rows]
    marked = select(fat)
    assert {(e.row["size"], e.row["n_sessions"]) for e in marked.overfit} == {("20M", 8)}
    assert len(marked.overfit) == 3
    assert {point(r) for r in marked.kept} == set(points(fat))
    without = select(fat, without_overfit=True)
    assert {e.rule for e in without.excluded} == {OVERFIT}
    assert {point(r) for r in without.kept} == set(points(fat)) - {e.point for e in marked.overfit}
    # a gap within the noise of seeds marks nothing; without seeds nothing can be judged, which is said
    assert overfit_points([r | {"validation_gap": 1e-5} for r in rows]) == []
    notes: list[str] = []
    assert overfit_points([r | {"validation_gap": 0.2} for r in rows if r["seed"] == 0], notes) == []
    assert "no cell has two seeds" in notes[0]


def test_mixed_schedules_are_refused() -> None:
    rows = planted_rows(*GRID, 2, 2, laws=ONE)
    mixed = [r | {"schedule": "cosine"} if r["size"] == "1M" else r for r in rows]
    assert schedule_rules(mixed) == ["cosine", "warm-up 1000, constant, 1 - sqrt over 1000"]
    task = analyse(mixed, resamples=50).tasks[0]
    assert task.joint.fit is None
    assert task.joint.verdict.name == NONE
    assert any(flag.code == "mixed_schedule" and flag.refuse for flag in task.flags)
