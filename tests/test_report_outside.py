"""Published scores drawn by the same command, with what such numbers can and cannot tell; and the verb's other sources."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling import ledger
from omnimouse_jax.scaling.analysis import analyse
from omnimouse_jax.scaling.analysis_worth import next_units
from omnimouse_jax.scaling.outside_ledger import columns_of, limits, rows_of_table
from omnimouse_jax.scaling.page import build
from omnimouse_jax.scaling.report import gather
from omnimouse_jax.scaling.verdict import NONE
from omnimouse_jax.scaling.words import title
from tests.planted import LAWS, planted_study
from tests.planted_ledger import planted_rows
from tests.shared import shared

COLUMNS = "size=model,n_params_core=params,n_sessions=sessions,task=task,score=value"
PUBLISHED = "metric == 'single_trial_pearson'"
TABLE = """# stated by others
model,params,sessions,task,value
S,1e6,8,population,0.21
S,1e6,64,population,0.27
L,2e7,64,population,0.30
L,2e7,64,population,0.30
M,,64,population,0.29
L,2e7,64,forecast,n/a
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "stated_scores.csv"
    path.write_text(TABLE)
    return path


def test_lines_become_rows_and_none_is_lost(table: Path) -> None:
    rows = rows_of_table(table, columns_of(COLUMNS))
    drawn = [(r["size"], r["n_params_core"], r["n_sessions"], r["score"]) for r in rows if r["state"] == "done"]
    assert drawn == [("S", 1_000_000, 8, 0.21), ("S", 1_000_000, 64, 0.27), ("L", 20_000_000, 64, 0.30)]
    lost = [r["error"] for r in rows if r["state"] == "failed"]
    assert "line 7 of stated_scores.csv: n_params_core is ''" in lost[0]
    assert "line 8 of stated_scores.csv: score is 'n/a'" in lost[1]
    assert all(r["seed"] is None for r in rows)


def test_wide_tables_are_a_task_per_column(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("n,hours,gaze,pupil\n1e6,10,.5,.6\n1e7,10,.55,.6\n")
    rows = rows_of_table(path, columns_of("n_params_core=n,hours=hours,score=gaze|pupil"))
    assert [(r["task"], r["score"]) for r in rows] == [("gaze", 0.5), ("pupil", 0.6), ("gaze", 0.55), ("pupil", 0.6)]
    study = analyse(rows, data_axis="hours")
    assert {t.name for t in study.tasks} == {"gaze", "pupil"}


def test_page_of_a_table_says_what_it_cannot_tell(table: Path) -> None:
    study = analyse(rows_of_table(table, columns_of(COLUMNS)))
    task = study.tasks[0]
    assert task.joint.verdict.name == NONE
    assert task.data_gain is not None
    assert task.data_gain.seeds is None
    assert task.data_gain.estimate == pytest.approx(0.02)
    told = " ".join(limits(study))
    for words in ("2 decimals", "No seeds", "2 amounts of data (8 and 64 sessions)", "cannot tell data-limited"):
        assert words in told
    assert "data +0.0200 [0.0167, 0.0233] (8 to 64 at S)" in told
    text = build(study, "Stated scores")
    assert "What these numbers can and cannot tell" in text
    assert "line 7 of stated_scores.csv" in text
    assert "next-step" not in text
    assert "Partial results" not in text


def test_published_scores(tmp_path: Path) -> None:
    """Gains per doubling of the public numbers, as computed from them elsewhere: .0075, .0131, .0056, .0150, .0244."""
    path = shared("scaling/omnimouse_published.csv")
    study = analyse(rows_of_table(path, columns_of(COLUMNS), PUBLISHED))
    tasks = {task.name: task for task in study.tasks}
    stated = {
        "forecast": 0.0075,
        "forecast stim": 0.0131,
        "population": 0.0056,
        "population stim": 0.0150,
        "running": 0.0244,
    }
    for name, gain in stated.items():
        found = tasks[name].data_gain
        assert found is not None
        assert found.estimate == pytest.approx(gain, abs=5e-5)
        assert tasks[name].joint.fit is None
        assert tasks[name].axis_fits == ()
    assert tasks["forecast"].size_names == (
        "OmniMouse-1M",
        "OmniMouse-5M",
        "OmniMouse-20M",
        "OmniMouse-80M",
        "OmniMouse-300M",
    )
    assert tasks["gaze"].data_gain is None
    text = (build(study, "Stated scores") + " ".join(limits(study))).replace("\u2212", "-")
    assert "46 stated scores" in text
    assert "with bigger models not monotone: 0.75 at OmniMouse-80M, 0.73 at OmniMouse-300M" in text
    assert "Cells from different sources are compared with more data (forecast, " in text
    assert (
        "line 48; source: papernotes (third-party note of the ICLR paper); data-matched 8 sessions; population uses n=256"
        in text
    )
    assert "parameters +0.0084 [0.0069, 0.0099]" in text  # in the list, and the same in the card:
    assert '+0.0084 <span class="soft">[0.0069, 0.0099]' in text
    for invented in (
        "1 evaluation session",
        "plain mean",
        "one run per cell",
        "nested order",
        "46 runs",
        "core parameters",
    ):
        assert invented not in text
    # the same number stated twice stands once; baselines without a size are listed
    assert len(tasks["forecast"].runs) == 6
    assert sum(row["state"] == "failed" for row in study.rows) == 12
    assert run(["report", path, "--out", tmp_path / "page", "--columns", COLUMNS, "--where", PUBLISHED]) == 0
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"<dt>{path.name}, SHA-256</dt><dd>{checksum}</dd>" in (tmp_path / "page" / "index.html").read_text()
    with (tmp_path / "page" / "cells.csv").open() as file:
        assert any(row["score"] == "0.25" for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("score=value", "does not name n_params_core"),
        ("n_params_core=params,n_sessions=x,score=value", "x"),
        ("a=b", "a=b"),
    ],
)
def test_mistakes_in_columns_are_named(table: Path, columns: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rows_of_table(table, columns_of(columns))


def test_no_line_left(table: Path) -> None:
    with pytest.raises(UserError, match="no line for which"):
        rows_of_table(table, columns_of(COLUMNS), "task == 'gaze'")


def run(arguments: Sequence[str | Path]) -> int:
    return main([str(a) for a in arguments]) or 0


def test_sources_folder_csv_parquet_and_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    laws = {"population": LAWS["population"]}
    first = planted_rows(("1M", "5M"), (8, 16), 1, 2, laws=laws)
    second = [r | {"run_id": r["run_id"] + "-b"} for r in planted_rows(("20M",), (8, 16), 1, 2, laws=laws)]
    one = ledger.write(first, tmp_path / "one.csv")
    two = ledger.write(second, tmp_path / "two.csv")
    assert gather([one, two]) == [*ledger.read(one), *ledger.read(two)]
    with pytest.raises(UserError, match="occurs twice"):
        gather([one, one])
    assert run(["report", one, two, "--out", tmp_path / "page", "--title", "Both"]) == 0
    assert "3 sizes (1M, 5M, 20M)" in capsys.readouterr().out
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<h1>Both</h1>" in text
    assert f"omnimouse-jax report {one} {two}" in text
    folder = tmp_path / "study"
    planted_study(folder / "runs", ["1M", "5M"], [2, 4], 1, 2)
    assert len({r["run_id"] for r in gather([folder])}) == 4
    with pytest.raises(UserError, match="no runs/ and no ledger"):
        gather([tmp_path / "page" / "figures"])
    parquet = pytest.importorskip("pyarrow") and ledger.write(first, tmp_path / "one.parquet")
    assert gather([parquet]) == ledger.read(one)


def test_task_axis_and_overfit_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planted_rows(("1M", "5M", "20M"), (8, 16, 32), 3, 2)
    fat = [r | {"validation_gap": 0.2} if r["size"] == "20M" and r["n_sessions"] == 8 else r for r in rows]
    path = ledger.write(fat, tmp_path / "ledger.csv")
    assert run(["report", path, "--task", "forecast", "--data-axis", "hours", "--without-overfit"]) == 0
    out = capsys.readouterr().out
    assert "forecast" in out
    assert "population" not in out
    text = (tmp_path / "report" / "index.html").read_text()
    assert "training hours" in text
    assert "Over-fit: the validation loss rose" in text
    assert "--without-overfit" in text
    wrongs = [
        (["--task", "smell"], "no task 'smell'"),
        (["--data-axis", "mice"], "choose one of"),
        (["--watch", "0"], "--watch 0"),
    ]
    for wrong, words in wrongs:
        assert run(["report", path, *wrong]) != 0
        assert words in capsys.readouterr().err


def test_watching_ends_when_every_cell_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laws = {"population": LAWS["population"]}
    path = tmp_path / "ledger.csv"
    states: list[int | None] = [0, 5, None]
    pages: list[str] = []

    def next_state(seconds: float = 0) -> None:
        if (tmp_path / "report" / "index.html").exists():
            pages.append((tmp_path / "report" / "index.html").read_text())
        ledger.write(planted_rows(("1M", "5M"), (8, 16), 2, 2, laws=laws, started=states.pop(0)), path)

    next_state()
    monkeypatch.setattr("time.sleep", next_state)
    assert run(["report", path, "--watch", "7"]) == 0
    assert states == []
    assert "nothing to show yet" in capsys.readouterr().out
    (partial,) = pages
    assert "5 of 8 runs are scored, 3 not started" in partial
    assert "looks for newer results every 7 s" in partial
    assert "Partial results" not in (tmp_path / "report" / "index.html").read_text()
    assert list((tmp_path / "report" / "figures").glob("*.svg"))  # written once, at the end


def test_the_ledger_beside_the_page_has_the_stated_checksum(tmp_path: Path) -> None:
    path = ledger.write(planted_rows(("1M", "5M"), (8, 16), 1, 2), tmp_path / "ledger.csv")
    assert run(["report", path, "--out", tmp_path / "page"]) == 0
    beside = (tmp_path / "page" / "ledger.csv").read_bytes()
    assert beside == path.read_bytes()
    assert hashlib.sha256(beside).hexdigest() in (tmp_path / "page" / "index.html").read_text()


def test_where_picks_rows_of_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planted_rows(("1M", "5M"), (8, 16), 2, 2, failed=("5M-016-order0-seed1-0.001",))
    path = ledger.write(rows, tmp_path / "ledger.csv")
    assert {r["size"] for r in gather([path], where="size == '5M' and seed < 1")} == {"5M"}
    some = gather([path], where="task == 'population'")
    assert {r["task"] for r in some if r["state"] == "done"} == {"population"}
    assert [r for r in some if r["state"] != "done"] == [
        r for r in rows if r["state"] != "done"
    ]  # failures have no task
    for wrong, words in (
        ("size == '9M'", "no scored row"),
        ("size > 3", "compare it with a text"),
        ("mice > 3", "no column"),
    ):
        with pytest.raises(UserError, match=words):
            gather([path], where=wrong)
    assert run(["report", path, "--where", "n_sessions == 8", "--out", tmp_path / "page"]) == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert "Only rows for which n_sessions == 8" in text
    assert "--where" in text
    assert "training sessions 8;" in text
    assert "1 amount of data (8 sessions)" in capsys.readouterr().out


def test_other_files_and_missing_folders_show_the_way(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table of scores.*--columns size=model"):
        gather([table])
    with pytest.raises(UserError, match=r"sweep plan.*sweep launch"):
        gather([tmp_path / "nope"])


def test_noise_that_nothing_tells_is_said_to_be_unknown() -> None:
    """One run in each of three cells on a line: no headline about noise, and no legend of bars that are not there."""
    rows = [
        r
        for r in planted_rows(("1M",), (1, 2, 3), 1, 1, laws={"population": LAWS["population"]})
        if r["state"] == "done"
    ]
    study = analyse(rows)
    assert title(study.tasks[0], study) == "Scored higher with more data; noise unknown"
    text = build(study, "page")
    assert "No measurable return" not in text
    assert "Thick bar" not in text
    falling = [r | {"score": 0.3 - 0.01 * r["n_sessions"]} for r in rows]
    low = analyse(falling)
    assert title(low.tasks[0], low) == "With more data not monotone: 0.290 at 1, 0.280 at 2; noise unknown"


@pytest.mark.parametrize(("largest", "told"), [(3.0, 9), (1.0, 3), (4.0, 10), (64.0, 10), (2.5, 7)])
def test_the_page_looks_no_further_than_four_times_the_data(largest: float, told: int) -> None:
    assert next_units(largest) == told


def test_small_studies_look_less_far_ahead() -> None:
    rows = planted_rows(("1M", "5M"), (1, 2, 3), 2, 2, laws={"population": LAWS["population"]})
    text = build(
        analyse([r | {"ceiling": 9e-1, "ceiling_estimator": "odd-even", "score": r["score"] - 0.9} for r in rows]),
        "page",
    )
    assert "What comes next: 9 sessions more" in text
    assert "No more than 9 sessions" in text
    assert "no cost" not in text
    assert "of the ceiling" not in text  # below zero it is no share
    assert "16 sessions or more (which the store must have)" in text
