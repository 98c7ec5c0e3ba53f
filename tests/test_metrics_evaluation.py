"""Evaluation of sources whose answers are known: what was recorded, its mean, noise; and two of them compared."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import NEURON_METRICS, TABLES, Evaluation, where
from omnimouse_jax.evaluate.evaluator import evaluation
from omnimouse_jax.evaluate.paired import paired
from omnimouse_jax.recordings.sampling import read_responses
from omnimouse_jax.recordings.synthetic import synthesize
from omnimouse_jax.training.setup import Parts, prepare
from tests.micro import micro

TASKS = {"stimulus": "stimulus", "screen": "validation/stimulus_driven", "forecast": "forecast", "behavior": "behavior"}


@dataclasses.dataclass(frozen=True)
class Echo:
    """Answers with what was recorded, and noise of its own: the better, the less of it."""

    noise: float
    name: str = "echo"

    def predictions(self, parts, batches):
        for number in range(len(batches)):
            batch = batches[number]
            rng = np.random.default_rng([number, 5])
            answers = []
            for r in batches.layout.targets:
                truth = batch.responses[:, r.first_sample : r.last_sample, r.first_neuron : r.last_neuron]
                noisy = truth + self.noise * rng.exponential(1.0, truth.shape)
                answers.append(noisy.astype(np.float32))
            behavior = None
            if batches.layout.behavior == "target":
                behavior = batch.behavior + self.noise * rng.standard_normal(batch.behavior.shape).astype(np.float32)
            yield batches.windows_of(number), batch, SimpleNamespace(responses=tuple(answers), behavior=behavior)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Parts:
    """Three tiny mice with four showings of each test clip."""
    store = str(tmp_path_factory.mktemp("repeats") / "store")
    synthesize(store, "tiny", {"test_repeats": 4, "train_images": 0, "neurons": (8, 10)}, workers=1)
    return prepare(micro(store, evaluation__bootstrap=30))


@pytest.fixture(scope="module")
def perfect(parts) -> Evaluation:
    return evaluation(parts, Echo(0.0), TASKS, parts.store.keys)


@pytest.fixture(scope="module")
def noisy(parts) -> Evaluation:
    tasks = {task: TASKS[task] for task in ("screen", "behavior")}
    return evaluation(parts, Echo(1.0, "noisy"), tasks, parts.store.keys)


def test_what_was_recorded_scores_one_everywhere(perfect):
    assert all(row["score"] == pytest.approx(1, abs=1e-6) for row in perfect.rows)
    for name in ("raw", "repeated_correlation", "average_correlation", "explained_variance", "deviance_explained"):
        np.testing.assert_allclose(perfect.neurons[name], 1, atol=1e-5)
    assert (perfect.neurons["bits_per_spike"] > 0).all()
    np.testing.assert_allclose(perfect.behavior["r2"], 1, atol=1e-5)
    np.testing.assert_allclose(perfect.horizon["score"], 1, atol=1e-5)
    assert (perfect.time["score"] > 0.85).all(), "a neuron that is silent in a trial counts as 0 there"


def test_scores_above_their_ceiling_are_not_clipped(perfect):
    """An oracle that knows the noise passes the ceiling of a single trial."""
    rows = [row for row in perfect.metrics if row["task"] == "screen" and row["metric"] == "repeated_correlation"]
    assert len(rows) == 3
    for row in rows:
        assert row["ceiling"] < 1
        assert row["normalized"] == pytest.approx(row["score"] / row["ceiling"])
        assert row["normalized"] > 1
        assert row["ceiling_low"] < row["ceiling"] < row["ceiling_high"]
        assert row["ceiling_repeats"] == 4


def test_repeats_bound_only_what_shows_nothing_but_the_screen(perfect):
    for row in perfect.metrics:
        if row.get("ceiling") is not None:
            assert (row["normalized"] is None) == (row["task"] != "screen")
            assert ("not an upper bound" in row["ceiling_remark"]) == (row["task"] != "screen")
    for row in perfect.ceilings:
        law = row["estimator"].startswith("known law")
        assert row["upper_bound"] == (law or row["task"] == "screen")
    named = {(row["task"], row["estimator"]) for row in perfect.ceilings}
    assert ("screen", "known law: stimulus") in named
    assert ("stimulus", "known law: stimulus_behavior") in named
    assert not any(task == "forecast" and name.startswith("known") for task, name in named), "it shows no screen"


def test_without_enough_repeats_there_is_no_ceiling(colony):
    few = prepare(micro(colony, evaluation__bootstrap=30))
    found = evaluation(few, Echo(0.5), {"screen": "validation/stimulus_driven"}, few.store.keys[:1])
    for row in found.metrics:
        if row["metric"] in ("repeated_correlation", "average_correlation", "explained_variance", "feve"):
            assert row["score"] is row["ceiling"] is row["normalized"] is None
            assert "no ceiling" in row["not_applicable"]
    assert np.isnan(found.neurons["repeated_ceiling"]).all()
    assert not np.isnan(found.neurons["ceiling"]).any(), "the law is known all the same"


def test_repeats_are_those_of_the_recording_read_by_hand(parts, perfect):
    """Groups made from windows that are not aligned with trials: FEV is that of responses cut at the trials' starts."""
    key = parts.store.keys[0]
    recording, contents = parts.store.recording(key), parts.store.trial_contents(key)
    mine = where(perfect.neurons, task="screen", session=key)
    np.testing.assert_allclose(mine["repeats"], 4, atol=0.01)
    assert (mine["repeats"] <= 4).all()
    trials, powers = recording.trials, []
    for name in np.unique(contents[trials.tier == "test"]):
        shown = np.flatnonzero((contents == name) & (trials.tier == "test"))
        r = np.stack([read_responses(recording, trials.start[k] + np.arange(30, 145) / 30) for k in shown])
        powers.append(r / recording.response_scale)
    both = np.concatenate(powers, axis=1).astype(np.float64)
    noise, total = both.var(0, ddof=1).mean(0), both.reshape(-1, both.shape[2]).var(0, ddof=1)
    np.testing.assert_allclose(mine["fev"], (total - noise) / total, atol=0.12)
    assert np.mean(mine["fev"] - (total - noise) / total) == pytest.approx(0, abs=0.03)


def test_no_sample_counts_twice_however_close_windows_are(parts, perfect):
    config = parts.config.copy_and_resolve_references()
    config.evaluation.stride_s = 0.1
    key = parts.store.keys[0]
    found = evaluation(dataclasses.replace(parts, config=config), Echo(0.0), {"screen": TASKS["screen"]}, [key])
    trials = parts.store.recording(key).trials
    spans = (trials.end - trials.start)[(trials.tier == "test") & trials.valid]
    assert (found.neurons["n"] <= 30 * spans.sum() + len(spans)).all()
    assert (found.neurons["repeats"] <= 4).all()


def test_a_score_does_not_depend_on_what_is_scored_beside_it(tmp_path):
    """A mouse of few neurons alone, and beside one of many: half of the neurons are shown, the same half."""
    store = str(tmp_path / "store")
    synthesize(store, "tiny", {"n_animals": 4, "neurons": (20, 150)}, workers=1)
    both = prepare(micro(store, evaluation__bootstrap=10))
    task = {"quarter": "responses[:0.25] + video -> responses[-0.25:]"}
    small, *_, large = sorted(both.store.keys, key=lambda key: both.vocabulary.entry(key).n_neurons)
    assert both.vocabulary.entry(small).n_neurons < 64 < both.vocabulary.entry(large).n_neurons
    alone = evaluation(both, Echo(0.5), task, [small])
    beside = where(evaluation(both, Echo(0.5), task, [small, large]).neurons, session=small)
    assert alone.neurons["unit_id"].tolist() == beside["unit_id"].tolist()
    np.testing.assert_array_equal(alone.neurons["n"], beside["n"])


def test_asking_for_few_neurons_leaves_them_their_ceilings(parts):
    task = {"third": "responses[:0.75] + video -> responses[-0.05:]"}
    found = evaluation(parts, Echo(0.0), task, [parts.store.keys[0]])
    asked = len(found.neurons["task"])
    assert asked < parts.vocabulary.entry(parts.store.keys[0]).n_neurons / 2
    assert all(row["value"] is not None for row in found.ceilings), [row["reason"] for row in found.ceilings]


def test_other_regimes_are_not_compared(parts, perfect):
    other = evaluation(parts, Echo(0.0), {"screen": "stimulus"}, parts.store.keys)
    with pytest.raises(UserError, match="is of regimes"):
        paired(perfect, other, "screen", "neurons")


def test_every_row_and_table_has_what_it_says(parts, perfect, noisy):
    n = sum(parts.vocabulary.entry(key).n_neurons for key in parts.store.keys)
    assert len(noisy.neurons["task"]) == n
    assert set(NEURON_METRICS) < set(noisy.neurons)
    for name in TABLES:
        table = getattr(perfect if name == "horizon" else noisy, name)
        assert {"task", "session", "animal"} < set(table), name
        assert len({len(column) for column in table.values()}) == 1, name
    ahead = where(perfect.horizon, session=parts.store.keys[0])
    assert set(ahead["task"]) == {"forecast"}
    np.testing.assert_allclose(np.diff(ahead["seconds"]), 1 / 30)
    assert ahead["seconds"][0] == pytest.approx((30 - 24) / 30), (
        "the last sample that is shown is number 24 of the window"
    )
    for row in noisy.rows:
        scored = where(noisy.neurons, task=row["task"], session=row["session"])["raw"]
        if row["metric"] == "response_correlation":
            assert row["score"] == pytest.approx(np.nan_to_num(scored).mean())
    assert {row["interval"] for row in noisy.rows if row["channel"]} == {"95% bootstrap over trials"}


def test_intervals_say_what_they_are_over_and_widen_with_what_is_drawn(noisy):
    mine = where(noisy.intervals, task="screen", metric="response_correlation")
    assert set(mine["over"]) == {"neurons", "trials", "neurons and trials", "sessions", "animals"}
    held = (mine["low"] <= mine["score"]) & (mine["score"] <= mine["high"])
    assert held.mean() > 0.8
    width = {over: np.mean((mine["high"] - mine["low"])[mine["over"] == over]) for over in set(mine["over"])}
    assert width["neurons and trials"] > width["trials"]


def test_it_is_saved_and_read_again_as_it_was(noisy, tmp_path):
    path = tmp_path / "evaluation-neurons.npz"
    noisy.save(path)
    rows = json.loads(json.dumps({"rows": noisy.rows}, default=float))
    again = Evaluation.load(path, rows)
    assert (again.source, again.tiers, again.rows) == ("noisy", ("test",), rows["rows"])
    for name in TABLES:
        for column, values in getattr(noisy, name).items():
            np.testing.assert_array_equal(getattr(again, name)[column], values)
    assert again.blocks.keys() == noisy.blocks.keys()
    key = ("screen", noisy.rows[0]["session"])
    np.testing.assert_array_equal(again.blocks[key].responses, noisy.blocks[key].responses)
    (tmp_path / "other.npz").write_bytes(b"no such file")
    with pytest.raises(UserError, match="omnimouse-jax evaluate"):
        Evaluation.load(tmp_path / "other.npz")


@pytest.mark.parametrize("over", ["neurons", "trials", "sessions", "animals"])
@pytest.mark.parametrize("task", ["screen", "behavior"])
def test_the_better_of_two_sources_is_found(perfect, noisy, over, task):
    found = paired(noisy, perfect, task, over, n=200)
    assert found.difference > 0
    if found.n_units >= 3:
        assert found.low <= found.difference <= found.high
        assert found.share_above_0 > 0.95
    back = paired(perfect, noisy, task, over, n=200)
    assert back.difference == pytest.approx(-found.difference)
    same = paired(noisy, noisy, task, over, n=200)
    assert same.difference == same.low == same.high == 0
    assert same.share_above_0 == 0
    assert over in str(found)


def test_units_that_differ_are_refused(parts, noisy):
    some = evaluation(parts, Echo(1.0), {"screen": TASKS["screen"]}, parts.store.keys[:1])
    with pytest.raises(UserError, match="different neurons or samples"):
        paired(noisy, some, "screen")
    with pytest.raises(UserError, match="was not evaluated"):
        paired(noisy, some, "nothing")
    with pytest.raises(UserError, match="tiers"):
        paired(noisy, dataclasses.replace(noisy, tiers=("validation",)), "screen")
    with pytest.raises(UserError, match="over 'mice'"):
        paired(noisy, noisy, "screen", "mice")
    with pytest.raises(UserError, match="raw scores only"):
        paired(noisy, noisy, "screen", "trials", metric="feve")
    with pytest.raises(UserError, match="no number"):
        paired(noisy, noisy, "screen", metric="xcorr")
    fewer = paired(noisy, noisy, "screen", metric="average_correlation")
    assert fewer.difference == 0
