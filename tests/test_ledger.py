"""The ledger keeps every run, typed and whole, and says in one line what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling import ledger
from omnimouse_jax.scaling.collect import collect
from omnimouse_jax.scaling.ledger import COLUMNS, finished, missing, read
from omnimouse_jax.scaling.plan import Cell, Plan
from tests.planted import planted_study, write


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return planted_study(tmp_path / "study", ["1M", "5M"], [2, 4], 1, 2, failed=[("5M", 4, 0)])


def test_rows_survive_the_file_with_their_types(study: Path, tmp_path: Path) -> None:
    rows = collect(study)
    assert len(finished(rows)) == 3 * 2 * 3  # runs x sessions x tasks
    path = ledger.write(rows, tmp_path / "out" / "ledger.csv")
    assert read(path) == rows
    for row in finished(rows):
        for column in COLUMNS:
            value = row[column.name]
            assert value is None or type(value) is column.kind, column.name
    assert [p.name for p in path.parent.iterdir()] == ["ledger.csv"]  # no temporary file is left


def test_a_parquet_file_holds_the_same_rows(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = collect(study)
    assert read(ledger.write(rows, tmp_path / "ledger.parquet")) == rows
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        ledger.write(rows, tmp_path / "ledger.xls")


def test_annealed_branches_are_rows_of_their_own(study: Path) -> None:
    run, branch = study / "1M-2-0", study / "1M-2-0" / "anneal" / "500-100"
    own = json.loads((run / "run.json").read_text())
    told = {k: v for k, v in own.items() if k not in ("run_id", "study", "size", "data_order")}
    branch.mkdir(parents=True)
    write(branch / "run.json", {**told, "steps": 600, "parent": str(run), "parent_step": 500})
    assert [r["error"] for r in collect(study) if r["run_id"] == "1M-2-0@500"] == ["not evaluated: no evaluation.json"]
    write(branch / "evaluation.json", json.loads((run / "evaluation.json").read_text()))
    rows = [r for r in finished(collect(study)) if r["run_id"] == "1M-2-0@500"]
    assert len(rows) == 2 * 3
    assert {(r["parent"], r["anneal_from"], r["steps"], r["study"], r["size"]) for r in rows} == {
        ("1M-2-0", 500, 600, own["study"], "1M")
    }
    assert {(r["parent"], r["anneal_from"]) for r in finished(collect(study)) if "@" not in r["run_id"]} == {("", None)}


def test_failed_and_unfinished_cells_are_kept_apart_with_their_reason(study: Path) -> None:
    write(study / "1M-2-0" / "status.json", {"state": "running"})
    cells = [Cell(name, "5M", {}, ("a", "b"), ("a",), 2.0, 0, 0) for name in ("5M-8-0", "5M-9-0")]
    Plan("study", {}, tuple(cells), command="sweep plan").write(study)
    (study / "5M-9-0").mkdir()
    write(study / "5M-9-0" / "status.json", {"state": "running"})
    (study / "1M-4-0" / "evaluation.json").write_text('{"rows": [')
    rows = {row["run_id"]: row for row in missing(collect(study))}
    assert rows["5M-4-0"]["state"] == "failed"
    assert "out of memory" in rows["5M-4-0"]["error"]
    assert rows["1M-2-0"]["state"] == "running"
    assert rows["5M-8-0"]["error"] == "not started"
    begun = rows["5M-9-0"]
    assert (begun["size"], begun["n_sessions"], begun["seed"]) == ("5M", 2, 0), (
        "known from the plan before there is a run"
    )
    assert "evaluation.json is not valid JSON" in rows["1M-4-0"]["error"]
    assert {row["run_id"] for row in finished(collect(study))} == {"5M-2-0"}


def test_single_run_folders_are_welcome(study: Path) -> None:
    rows = collect([study / "1M-2-0", study / "5M-2-0"])
    assert {row["run_id"] for row in rows} == {"1M-2-0", "5M-2-0"}


def test_an_unevaluated_run_is_unfinished(study: Path) -> None:
    (study / "1M-2-0" / "evaluation.json").unlink()
    row = next(r for r in missing(collect(study)) if r["run_id"] == "1M-2-0")
    assert row["state"] == "unfinished"
    assert "not evaluated" in row["error"]


def edit(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text())
    target = value["rows"][0] if "rows" in value else value
    target.update(changes)
    write(path, value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": "high"}, "run 1M-2-0: file evaluation.json: row 1: column score holds 'high'"),
        ({"n_units": 3.5}, "column n_units holds 3.5, which is not a whole number"),
        ({"session": ""}, "column session is missing"),
        ({"score": True}, "column score holds True"),
    ],
)
def test_a_wrong_column_names_run_file_and_field(study: Path, changes: dict[str, object], words: str) -> None:
    edit(study / "1M-2-0" / "evaluation.json", **changes)
    with pytest.raises(UserError, match="column") as caught:
        collect(study)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_score_twice_is_an_error(study: Path) -> None:
    with pytest.raises(UserError, match="occurs twice"):
        collect([study / "1M-2-0", study / "1M-2-0"])


def test_folders_without_runs_and_files_that_are_no_ledger(study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no runs under"):
        collect(tmp_path / "empty")
    with pytest.raises(UserError, match="is not a folder"):
        collect(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "nothing.csv")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a ledger"):
        read(other)


def test_another_version_and_a_damaged_line_are_told(study: Path, tmp_path: Path) -> None:
    path = ledger.write(collect(study), tmp_path / "ledger.csv")
    good = path.read_text().splitlines()
    path.write_text("\n".join([good[0], "1" + good[1][1:], *good[2:]]) + "\n")
    with pytest.raises(UserError, match="line 2: written as version 1, this program reads 2"):
        read(path)
    score = str(finished(collect(study))[1]["score"])
    path.write_text("\n".join([good[0], good[1], good[2].replace(score, "0.1x")]) + "\n")
    with pytest.raises(UserError, match=r"line 3: column score holds '0.1x'"):
        read(path)


def test_a_failed_write_leaves_the_old_file(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ledger.write(collect(study), tmp_path / "out" / "ledger.csv")
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("omnimouse_jax.files.os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        ledger.write([], path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["ledger.csv"]


def test_documentation_lists_every_column() -> None:
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    assert ledger.column_table() in text
