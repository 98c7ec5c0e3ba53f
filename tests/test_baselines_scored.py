"""Baselines scored by the evaluation that scores models, and the verb around it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines import registry
from omnimouse_jax.evaluate.baselines.models import donors, untrained_params
from omnimouse_jax.evaluate.baselines.problem import Problem
from omnimouse_jax.evaluate.baselines.score import score_baselines
from omnimouse_jax.evaluate.evaluation import Evaluation
from omnimouse_jax.evaluate.evaluator import evaluate
from omnimouse_jax.evaluate.paired import paired
from omnimouse_jax.training.setup import prepare, regimes_of
from tests.micro import micro

TASKS = {"stimulus": "video + behavior -> responses[:, 30:60]", "behavior": "behavior"}


@pytest.fixture(scope="module")
def parts(colony):
    return prepare(micro(colony))


@pytest.fixture(scope="module")
def scored(parts):
    keys = [entry.key for entry in parts.vocabulary.sessions][:2]
    params = untrained_params(Problem(parts, tuple(keys), regimes_of(["stimulus"], parts.model.grid)[0], seed=3))
    names = ["mean", "last_value", "ridge", "wiener", "untrained", "untrained_readout", "shuffled_stimulus"]
    return score_baselines(parts, TASKS, keys, names, seed=3, params=params), params, keys


def test_the_mean_scores_zero_and_a_regression_more(scored):
    found, _, keys = scored
    rows = {(r["source"], r["task"], r["session"]): r for r in found.rows if r["channel"] in ("", "mean")}
    for key in keys:
        assert rows["mean", "stimulus", key]["score"] == 0
        assert rows["mean", "behavior", key]["score"] == 0
        assert rows["ridge", "stimulus", key]["score"] > 0.05
    assert not any(source == "wiener" and task == "stimulus" for source, task, _ in rows)
    told = {(f["source"], f["task"]): f.get("not_applicable") for f in found.fits}
    assert "past" in told["last_value", "stimulus"]
    assert told["ridge", "stimulus"] is None


def test_an_untrained_model_is_scored_as_evaluate_scores_it(parts, scored):
    found, params, keys = scored
    expected = [r["score"] for r in evaluate(parts, params, TASKS, keys)]
    assert [r["score"] for r in found.evaluations["untrained"].rows] == pytest.approx(expected, abs=1e-12)


def test_baselines_compare_in_pairs(scored):
    found = scored[0].evaluations
    more = paired(found["mean"], found["ridge"], "stimulus", n=200)
    assert more.difference == pytest.approx(
        np.mean([r["score"] for r in found["ridge"].rows if r["task"] == "stimulus"]), abs=1e-12
    )
    assert paired(found["ridge"], found["ridge"], "behavior", "trials", n=50).difference == 0


def test_a_wrong_film_is_of_another_stimulus_and_of_the_same_session(parts):
    keys = tuple(entry.key for entry in parts.vocabulary.sessions)
    index = parts.windows(keys, ("test",), 1.0)
    windows = [index[number] for number in range(len(index))]
    found = donors(parts, windows, seed=0)
    assert found == donors(parts, windows, seed=0)
    assert found != donors(parts, windows, seed=1)
    for window, donor in found.items():
        assert donor != window
        assert donor.session == window.session
    frames = [parts.cutter(keys).sample(w).video.astype(float) for w in (windows[0], found[windows[0]])]
    assert (
        np.abs(frames[0] - frames[1]).mean(axis=(1, 2)) > 1
    ).mean() > 0.5  # grey levels; both may be blank for a moment


def test_the_right_film_matters_to_a_model_that_uses_it_only(scored):
    """An untrained model's answers depend on frames; without frames in the regime there is nothing to shuffle."""
    found = scored[0]
    a, b = found.evaluations["untrained"], found.evaluations["shuffled_stimulus"]
    assert not np.array_equal(a.neurons["raw"], b.neurons["raw"])
    assert np.array_equal(a.neurons["n"], b.neurons["n"])


def test_verb_writes_what_pages_read(colony, tmp_path, capsys):
    out = tmp_path / "out"
    config = tmp_path / "config.py"
    config.write_text("from tests.micro import micro\n\ndef get_config():\n    return micro('')\n")
    arguments = ["baselines", "--config", str(config), "--store", colony, "--out", str(out), "--session"]
    key = registry_session(colony)
    names = ["--baseline", "mean", "--baseline", "ridge", "--baseline", "linear_decoder"]
    assert main([*arguments, key, *names]) == 0
    assert "mean over sessions" in capsys.readouterr().out
    told = json.loads((out / "evaluation.json").read_text())
    assert {row["source"] for row in told["rows"]} == {"mean", "ridge", "linear_decoder"}
    own = json.loads((out / "ridge" / "evaluation.json").read_text())
    assert own["rows"] == [row for row in told["rows"] if row["source"] == "ridge"]
    table = Evaluation.load(out / "ridge" / "evaluation-neurons.npz")
    assert table.source == "ridge"
    score = next(row["score"] for row in own["rows"] if row["metric"] == "response_correlation")
    assert np.nan_to_num(table.neurons["raw"]).mean() == pytest.approx(score, abs=1e-12)

    assert main(["baselines", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(registry.BASELINES)
    assert main(["baselines", "--out", str(out)]) == 2
    assert main([*arguments, key, "--baseline", "rigde"]) == 2
    assert "did you mean 'ridge'" in capsys.readouterr().err
    assert main([*arguments, "nobody"]) == 2


def registry_session(store: str) -> str:
    from omnimouse_jax.recordings.store import Store

    return Store.open(store).keys[0]


def test_unknown_names_are_refused(parts):
    with pytest.raises(UserError, match="no baseline"):
        registry.get(["nothing like it"])
    key = parts.vocabulary.sessions[0].key
    with pytest.raises(UserError, match="named twice"):
        score_baselines(parts, TASKS, [key, key], ["mean"])
