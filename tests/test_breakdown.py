"""An evaluation by session, animal, area, neuron and time; its page; two evaluations against each other."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate import beside, breakdown
from omnimouse_jax.evaluate.evaluation import Evaluation
from omnimouse_jax.training.train import train
from tests.browser import look
from tests.micro import micro


@pytest.fixture(scope="module")
def run(colony, tmp_path_factory):
    folder = tmp_path_factory.mktemp("breakdown") / "run"
    train(micro(colony), folder)
    return folder


def made(scores: dict[tuple[str, str, str], list[float]]) -> Evaluation:
    """An evaluation of neurons with these scores: (session, animal, area) -> r."""
    columns: dict[str, list] = {name: [] for name in ("session", "animal", "area", "raw")}
    for (session, animal, area), values in scores.items():
        for name, value in (("session", session), ("animal", animal), ("area", area)):
            columns[name] += [value] * len(values)
        columns["raw"] += values
    n = len(columns["raw"])
    neurons = {name: np.array(values) for name, values in columns.items()}
    neurons |= {"task": np.full(n, "stimulus"), "unit_id": np.arange(n).astype(str)}
    neurons |= {"ceiling": np.full(n, 0.5), "ceiling_estimator": np.full(n, "known law: stimulus")}
    empty = {name: {} for name in ("behavior", "horizon", "time", "intervals")}
    return Evaluation("model", ("test",), [], [], [], neurons=neurons, blocks={}, **empty)


def rows(table):
    return [{name: table[name][k] for name in table} for k in range(len(next(iter(table.values()))))]


def test_sessions_count_once_and_silent_neurons_as_nothing():
    found = made(
        {
            ("a-1", "a", "V1"): [0.1, 0.3],
            ("a-2", "a", "LM"): [0.6, float("nan"), 0.6, 0.6],
            ("b-1", "b", ""): [0.2, 0.2, 0.2],
        }
    )
    animals = {row["animal"]: row for row in rows(breakdown.by_animal(found, 200, 0))}
    assert animals["a"]["score"] == pytest.approx((0.2 + 0.45) / 2)
    assert animals["a"]["ceiling"] == 0.5
    assert animals["a"]["normalized"] == pytest.approx(2 * animals["a"]["score"])
    assert (animals["b"]["low"], animals["b"]["high"]) == pytest.approx((0.2, 0.2)), "neurons that do not differ"
    areas = {row["area"]: row for row in rows(breakdown.by_area(found, 200, 0))}
    assert set(areas) == {"V1", "LM", "not told"}
    assert areas["LM"]["score"] == pytest.approx(0.45)
    assert np.isnan(areas["V1"]["low"]), "two neurons have no interval"


def test_intervals_over_sessions_hold_the_truth_as_often_as_they_say():
    """12 sessions of 20 neurons around their own means around 0.3: about 95 % (percentiles of 12: about 92)."""
    rng, hit = np.random.default_rng(0), 0
    for repeat in range(150):
        means = 0.3 + 0.1 * rng.normal(size=12)
        found = made({(f"s{k}", f"m{k}", "V1"): (m + 0.2 * rng.normal(size=20)).tolist() for k, m in enumerate(means)})
        row = rows(breakdown.by_area(found, 300, repeat))[0]
        hit += row["low"] <= 0.3 <= row["high"]
    assert 0.86 <= hit / 150 <= 0.99


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_written_whole_and_read_again(tmp_path, suffix):
    table = {"session": np.array(["a,b", "c"]), "score": np.array([0.1234567890123, np.nan]), "n": np.array([3, 4])}
    path = breakdown.write_table(table, tmp_path / f"t.{suffix}")
    if suffix == "csv":
        with path.open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [row["session"] for row in read] == ["a,b", "c"]
        assert float(read[0]["score"]) == 0.1234567890123
        assert read[1]["score"] == ""
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(path).to_pydict() == {
            "session": ["a,b", "c"],
            "score": [0.1234567890123, None],
            "n": [3, 4],
        }


def test_what_cannot_be_broken_down_by_is_told():
    with pytest.raises(UserError, match="layer"):
        breakdown.asked_for("session,layer")
    assert breakdown.asked_for("session, area,session") == ("session", "area")


def test_the_verb_prints_tables_and_draws_a_page(run, capsys, tmp_path):
    assert main(["evaluate", str(run), "--by", "session,animal,area,neuron,time"]) == 0
    told = capsys.readouterr().out
    for name in breakdown.BY:
        assert f"by {name}" in told
        with (run / f"evaluation-by-{name}.csv").open(newline="") as file:
            assert len(list(csv.reader(file))) > 1
    scored = json.loads((run / "evaluation.json").read_text())
    sessions = {row["session"] for row in scored["rows"]}
    page = (run / "evaluation.html").read_text()
    assert all(session in page for session in sessions)
    assert "nan" not in page.lower().replace("nanmean", "")
    probe = """
        say(document.querySelectorAll('svg.chart').length + ' charts');
        const chart = document.querySelector('svg.chart[tabindex]'); chart.focus();
        chart.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
        say(document.getElementById('tip').textContent ? 'tip' : 'no tip');
        say(document.documentElement.scrollWidth <= innerWidth ? 'fits' : 'too wide ' + document.documentElement.scrollWidth);
    """
    seen = look(run / "evaluation.html", tmp_path, probe, width=360)
    assert not [line for line in seen.said if line.startswith("error")]
    assert "tip" in seen.said
    assert "fits" in seen.said
    assert not seen.requests


def test_other_regimes_go_to_a_file_of_their_own(run, capsys):
    asked = ["evaluate", str(run), "--regimes", "video -> responses", "behavior -> responses", "--no-page"]
    assert main(asked) == 0
    scored = json.loads((run / "evaluation-asked.json").read_text())
    assert {row["task"] for row in scored["rows"]} == {"video -> responses", "behavior -> responses"}
    assert not (run / "evaluation-asked.html").exists()


def test_a_run_against_itself_is_no_better(run, capsys):
    if not (run / "evaluation.json").exists():
        main(["evaluate", str(run), "--no-page"])
    capsys.readouterr()
    assert main(["compare", str(run), str(run), "--task", "stimulus", "--resamples", "200"]) == 0
    told = capsys.readouterr().out
    assert told.count("+0.0000 [+0.0000, +0.0000]") == 4
    assert "few: the interval is too narrow" in told
    assert main(["compare", str(run), str(run), "--task", "nothing"]) == 2


def test_others_stand_beside_a_run_and_are_compared(run, tmp_path, capsys):
    if not (run / "evaluation.json").exists():
        main(["evaluate", str(run), "--no-page"])
    scored = json.loads((run / "evaluation.json").read_text())
    other = tmp_path / "others" / "worse"
    other.mkdir(parents=True)
    found = Evaluation.load(run / "evaluation-neurons.npz", scored)
    found.neurons["raw"] = found.neurons["raw"] - 0.1
    for row in scored["rows"]:
        row["score"] -= 0.1
    (other / "evaluation.json").write_text(json.dumps(scored))
    found.save(other / "evaluation-neurons.npz")
    others = beside.load([tmp_path / "others"])
    assert list(others) == ["worse"]
    row = beside.compared(Evaluation.load(run / "evaluation-neurons.npz", scored), others, "stimulus", 0)[0]
    assert row["difference"] == pytest.approx(0.1, abs=0.02), "neurons without variance count as 0 in one of them"
    assert row["low"] <= row["difference"] <= row["high"]
    found.neurons["unit_id"] = found.neurons["unit_id"][::-1].copy()
    row = beside.compared(found, others, "stimulus", 0)[0]
    assert row["difference"] is None
    assert "different neurons" in row["remark"]
    with pytest.raises(UserError, match="no evaluation in it"):
        beside.load([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="a second evaluation called worse"):
        beside.load([tmp_path / "others", other])
