"""A study from cells to page: nested subsets, resumable cell by cell, failures recorded, one ledger."""

from __future__ import annotations

import csv
import itertools
import json

import pytest
from ml_collections import ConfigDict

from launch.local import run_study
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling import ledger
from omnimouse_jax.scaling.plan import cells, nested_order
from tests.micro import micro

SESSIONS = tuple(f"s{i}" for i in range(8))
STUDY = {
    "name": "x",
    "sizes": {"S": {"d_model": 8}, "M": {"d_model": 16}},
    "sessions": (2, 4, 8),
    "evaluation_sessions": 2,
    "orders": 2,
    "seeds": (0, 1),
}


def test_subsets_are_nested_and_hold_the_evaluation_sessions():
    planned = cells(STUDY, SESSIONS)
    assert len(planned) == 2 * 2 * (2 + 2 + 1)  # the whole store has one order
    assert len({cell.run_id for cell in planned}) == len(planned)
    for cell in planned:
        assert cell.evaluation_sessions == ("s0", "s1")
        assert cell.sessions[:2] == ("s0", "s1")
    for order in range(2):
        subsets = [
            set(cell.sessions) for cell in planned if cell.order in (0, order) and cell.size == "S" and cell.seed == 0
        ]
        of_order = [set(nested_order(SESSIONS, ("s0", "s1"), order)[:n]) for n in STUDY["sessions"]]
        assert all(a < b for a, b in itertools.pairwise(of_order))
        assert all(subset in subsets for subset in of_order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sessions": (1, 4)}, "data amounts"),
        ({"sessions": (2, 9)}, "data amounts"),
        ({"evaluation_sessions": ("s0", "nobody")}, "nobody"),
    ],
)
def test_impossible_studies_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        cells({**STUDY, **change}, SESSIONS)


@pytest.fixture(scope="module")
def study_config(colony) -> ConfigDict:
    config = micro(colony, train__steps=2)
    config.regimes = ("stimulus",)
    config.evaluation.tasks = ConfigDict({"stimulus": "stimulus"})
    config.study = ConfigDict(
        {
            "name": "micro",
            "sizes": {"S": {"d_model": 8}, "broken": {"d_model": 12}},
            "sessions": (1, 3),
            "evaluation_sessions": 1,
            "orders": 1,
            "seeds": (0,),
        }
    )
    return config


def test_a_study_runs_resumes_and_reports(study_config, tmp_path, capsys, monkeypatch):
    from launch import local

    real = local.train

    def train(config, *args):
        if config.model.d_model == 12:
            raise MemoryError("out of memory")
        return real(config, *args)

    monkeypatch.setattr(local, "train", train)
    states = run_study(study_config, tmp_path)
    assert len(states["done"]) == 2
    assert len(states["failed"]) == 2
    status = json.loads((tmp_path / "runs" / states["failed"][0] / "status.json").read_text())
    assert status["state"] == "failed"
    assert "out of memory" in status["error"]

    run_file = tmp_path / "runs" / states["done"][0] / "run.json"
    before = run_file.stat().st_mtime_ns
    again = run_study(study_config, tmp_path)
    assert run_file.stat().st_mtime_ns == before, "a finished cell is not run again"
    assert again == states

    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    page = tmp_path / "page" / "index.html"
    assert str(page) in out
    text = page.read_text()
    assert "stimulus" in text
    assert "broken" in text, "failed cells are listed"
    rows = ledger.read(tmp_path / "ledger.csv")
    done = ledger.finished(rows)
    assert {row["n_sessions"] for row in done} == {1, 3}
    assert all(row["n_params_core"] > 0 and row["hours"] > 0 and row["config_hash"] for row in done)
    with (tmp_path / "ledger.csv").open() as file:
        assert len(list(csv.reader(line for line in file if not line.startswith("#")))) == len(rows) + 1


def test_a_begun_cell_keeps_its_recipe_and_nothing_is_written_for_what_cannot_run(study_config, tmp_path):
    planned = cells(study_config.study.to_dict(), SESSIONS[:3])
    folder = tmp_path / "runs" / planned[0].run_id
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "done", "config_hash": "of another"}))
    with pytest.raises(UserError, match="begun with another config or other sessions"):
        run_study(study_config, tmp_path)
    for change in ({"d_model": 7}, {"hiera_order": "sideways"}):
        other = ConfigDict(study_config.to_dict())
        other.study.sizes = ConfigDict({"S": {"d_model": 8}, "broken": change})
        with pytest.raises(UserError, match=r"d_model|hiera_order"):
            run_study(other, tmp_path / "new")
    other = ConfigDict(study_config.to_dict())
    other.mesh.data = 64
    with pytest.raises(UserError, match="needs 64 devices"):
        run_study(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
