"""A new mouse end to end, small: what is trained and what is not, going on after a kill, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate import new_mouse_checks as checks
from omnimouse_jax.evaluate.new_mouse import finetune, summary
from omnimouse_jax.evaluate.new_mouse_asked import Asked
from omnimouse_jax.evaluate.new_mouse_runs import Before, Length, config_for, has_begun, started
from omnimouse_jax.evaluate.starts import STARTS, bias_shift, start_tables
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic import synthesize
from omnimouse_jax.training.train import Interrupted, train
from tests.micro import micro

KEY = "n001-1"
SHORT = {name: Length(4, 2, 2) for name in ("tables", "adapters", "core", "scratch")}


@pytest.fixture(scope="module")
def pretrained(colony, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    train(micro(colony, regimes=("stimulus",), evaluation__tasks={"stimulus": "stimulus"}), run)
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """A mouse of another colony."""
    place = str(tmp_path_factory.mktemp("new") / "store")
    synthesize(place, "tiny", {"n_animals": 1, "name": "n", "seed": 3, "neurons": (10, 10)}, say=lambda line: None)
    return place


@pytest.fixture
def asked(pretrained, store, tmp_path) -> Asked:
    return Asked(
        pretrained, store, (KEY,), tmp_path / "out", minutes=(0.2,), lengths=SHORT, scratch_rates=(1.0,), start="match"
    )


def shared(params: dict) -> bytes:
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params["core"]))


def test_one_call_adapts_compares_and_goes_on_where_it_was_killed(asked, monkeypatch):
    from omnimouse_jax.evaluate import new_mouse_runs

    real, calls = new_mouse_runs.train, []

    def killed(config, folder):
        calls.append(folder.name)
        if len(calls) == 2:
            shutil.copytree(asked.workdir, asked.workdir.with_name("as it was"))
            raise Interrupted(folder, 1, 2, 15)
        return real(config, folder)

    monkeypatch.setattr(new_mouse_runs, "train", killed)
    with pytest.raises(Interrupted):
        finetune(asked, say=lambda line: None)
    told: list[str] = []
    result = finetune(asked, say=told.append)
    assert calls == ["1-tables", f"scratch-{KEY}-1", f"scratch-{KEY}-1", "1-tables", f"scratch-{KEY}-1"]

    before, after = Before.of(asked.run), Before.of(Path(result["run"]))
    assert shared(before.params) == shared(after.params), "the core is frozen, bit for bit"
    old, new = before.vocabulary, after.vocabulary
    for entry in old.sessions:
        for table in ("neuron_embedding", "neuron_bias"):
            np.testing.assert_array_equal(
                before.params["tables"][table][old.neuron_rows(entry.key)],
                after.params["tables"][table][new.neuron_rows(entry.key)],
            )
    begun = Before.of(asked.workdir / "before").params["tables"]["neuron_embedding"]
    moved = after.params["tables"]["neuron_embedding"] != begun
    assert moved[new.neuron_rows(KEY)].any()
    assert not moved[new.n_neurons :].any()

    assert {row["method"] for row in result["scores"]} == {"before", "adapted", "scratch", "ridge"}
    points = {(row["method"], row["minutes"]) for row in result["curve"]}
    most = max(minutes for _, minutes in points)
    assert points == {(method, m) for method in ("adapted", "scratch", "ridge") for m in (0.2, most)}
    assert most > 0.3
    of_neurons = result["per_neuron"][KEY]["stimulus"]
    assert {len(of_neurons[name]) for name in ("before", "adapted", "scratch", "ceiling")} == {10}
    assert all(len(row["recorded"]) == len(row["adapted"]) == len(row["seconds"]) for row in result["traces"])
    (stage,) = result["stages"]
    assert stage["trained_parameters"] == 10 * 9 + 8 + 8
    assert [step for step, _ in stage["validation"]] == [2, 4]
    assert json.loads((asked.workdir / "result.json").read_text())["told"] == told
    assert Path(result["page"]).exists()
    assert "adapted" in summary(result)
    assert any("frozen: core" in line for line in told)
    assert any("animal n001 is new" in line for line in told)
    assert any("none of its" in line for line in told)

    again = finetune(asked, say=lambda line: None)
    assert len(calls) == 5, "nothing is trained twice"
    assert again["scores"] == result["scores"]
    with pytest.raises(UserError, match=r"another call.*seed"):
        finetune(dataclasses.replace(asked, seed=1))


def test_low_rank_adapters_leave_the_core_as_it_is(asked):
    result = finetune(
        dataclasses.replace(asked, stages=("tables", "adapters"), minutes=(), scratch=False, ridge=False),
        say=lambda line: None,
    )
    from omnimouse_jax.evaluate.opened import Run

    params = Run(result["run"]).params
    assert shared(params) == shared(Before.of(asked.run).params)
    assert any(np.asarray(pair["b"]).any() for pair in params["adapters"].values())
    assert [stage["name"] for stage in result["stages"]] == ["tables", "adapters"]
    assert result["stages"][1]["trained_parameters"] > result["stages"][0]["trained_parameters"]


@pytest.mark.parametrize("start", STARTS)
def test_every_start_looks_at_training_tiers_only_and_touches_nothing_else(start, pretrained, store, colony):
    """The same recording with other responses outside of its first seconds of training begins with the same rows."""
    before = Before.of(pretrained)

    class Altered(Store):
        def recording(self, key):
            found = super().recording(key)
            values = np.array(found.responses.values[:])
            first = found.trials.tier == "train"
            last = found.trials.start[first][0] + 6.0
            times = found.responses.segment_start[0] + np.arange(len(values)) / found.responses.rate
            values[times > last + 0.1] = np.random.default_rng(0).gamma(1.0, size=values[times > last + 0.1].shape)
            return dataclasses.replace(found, responses=dataclasses.replace(found.responses, values=values))

    config = config_for(before.config, store, [KEY], 0.1, SHORT["tables"], "tables", 0)
    parts, params = started(before, config, [KEY], start, Store.open(colony))
    altered = dataclasses.replace(parts, store=Altered.open(store))
    again = start_tables(start, altered, params, [KEY], before.vocabulary, Store.open(colony), 0)
    rows, whole = parts.vocabulary.neuron_rows(KEY), params["tables"]
    assert np.isfinite(whole["neuron_embedding"][rows]).all()
    for table, values in whole.items():
        np.testing.assert_array_equal(values, again[table])
    np.testing.assert_array_equal(
        whole["neuron_embedding"][: before.vocabulary.n_neurons],
        before.params["tables"]["neuron_embedding"][: before.vocabulary.n_neurons],
    )
    if start in ("neighbours", "regression"):
        with pytest.raises(UserError, match="--start match"):
            start_tables(start, parts, params, [KEY], before.vocabulary, None)


@pytest.mark.parametrize("beta", [None, 0.1, 1.0])
def test_the_fitted_bias_makes_the_mean_prediction_the_mean_response(beta):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 4)), rng.gamma(2.0, size=(200, 4))
    y[:, 1] *= 30
    mask = (rng.random((200, 4)) < 0.7).astype(float)
    mask[:, 3] = 0

    def rate(bias):
        return x + bias if beta is None else np.logaddexp(0.0, beta * (x + bias)) / beta

    shift = bias_shift(rate(0.0), y, mask, beta)
    assert shift[3] == 0, "never recorded"
    seen = mask[:, :3]
    np.testing.assert_allclose(
        (rate(shift)[:, :3] * seen).sum(0) / seen.sum(0), (y[:, :3] * seen).sum(0) / seen.sum(0), rtol=1e-6
    )


def test_what_cannot_be_adapted_is_refused_before_anything_is_written(asked, colony):
    for change, words in (
        ({"sessions": ("m001-1",), "store": colony}, "m001-1: among the 3 sessions"),
        ({"sessions": ("nobody",)}, "nobody: not in the store"),
        ({"sessions": (KEY, KEY)}, "named twice"),
        ({"stages": ("core",)}, "stages core"),
        ({"start": "lucky"}, "no start 'lucky'"),
        ({"minutes": (-1.0,)}, "-1 minutes"),
        ({"checkpoint": "77"}, "no checkpoint '77'"),
    ):
        with pytest.raises(UserError, match=words):
            finetune(dataclasses.replace(asked, **change), say=lambda line: None)
    with pytest.raises(UserError, match=r"screen is 8x8, the trained model's is 16x32.*resize the stimuli"):
        checks.require_screen("x", [8, 8], (16, 32))
    assert not has_begun(asked.workdir / "before")
    assert not asked.workdir.exists()


def test_stimuli_that_were_trained_on_are_found_across_stores(tmp_path):
    spec = {"n_animals": 2, "name": "p", "seed": 4, "share_test_clips": True}
    place = str(tmp_path / "store")
    synthesize(place, "tiny", spec, say=lambda line: None)
    one = Store.open(place)
    seen, of = checks.seen_stimuli(one, ["p001-1"], ("test",), one, "p002-1", ("test",))
    assert of == len(seen) == 2
    assert all(seconds > 4 for seconds in seen.values())
    assert checks.seen_stimuli(one, ["p001-1"], ("train",), one, "p002-1", ("test",)) == ({}, 2)
