"""What is compared, and the probe from runs to page: planted recordings with areas and shared repeated clips."""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import open_run
from omnimouse_jax.probe.settings import plain
from omnimouse_jax.probe.similarity import responses as S
from omnimouse_jax.probe.similarity.measure import Read, compared
from omnimouse_jax.probe.similarity.page import build, write_page
from omnimouse_jax.probe.similarity.probe import lines
from omnimouse_jax.probe.similarity.rdm import euclidean_rdm
from omnimouse_jax.probe.similarity.settings import Settings
from omnimouse_jax.probe.similarity.tower import tower_values
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic import synthesize
from omnimouse_jax.training.train import train
from omnimouse_jax.verbs import probe_similarity
from tests.browser import look
from tests.micro import micro
from tests.test_similarity_areas import chain

AREAS = ("V1", "LM", "AL")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three mice that saw the same test clips four times, their neurons dealt out to three areas."""
    folder = tmp_path_factory.mktemp("similarity")
    overrides = {"share_test_clips": True, "test_repeats": 4, "neurons": (18, 18)}
    synthesize(str(folder / "made"), "tiny", overrides, workers=1, say=lambda line: None)
    made, store = Store.open(str(folder / "made")), Store.create(str(folder / "store"))
    for key in made.keys:
        recording = made.recording(key)
        areas = np.array([AREAS[k % 3] for k in range(recording.n_neurons)])
        store.add(dataclasses.replace(recording, neurons={**recording.neurons, "area": areas}))
    return store


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("similarity") / "run"
    train(micro(store.name), folder)
    return open_run(folder)


def test_conditions_are_bins_of_repeated_stimuli(store):
    session = store.keys[0]
    cut = S.cut(store, session, "test", 0.5)
    trials = store.recording(session).trials
    contents = np.asarray(store.trial_contents(session))
    assert cut.repeats == 4
    assert set(cut.showings) == set(contents[trials.tier == "test"].tolist())
    for content, shown in cut.showings.items():
        assert set(contents[list(shown)]) == {content}
        seconds = float(trials.end[shown[0]] - trials.start[shown[0]])
        assert sum(c.content == content for c in cut.conditions) == int(seconds / 0.5 + 1e-6)
    times = np.sort(np.concatenate([trials.start[t] + np.arange(60) / 30 for ts in cut.showings.values() for t in ts]))
    since = np.array([[t - max(o for o in trials.start if o <= t + 1e-9)] for t in times])
    means = cut.binned(times, since)
    for k, condition in enumerate(cut.conditions):
        if condition.bin < 4:  # bins of 15 samples: their mean time since onset
            np.testing.assert_allclose(means[:, k, 0], 0.5 * condition.bin + 7 / 30, atol=1e-6)
    assert len(set(cut.blocks(1.0).tolist())) > len(set(cut.clips().tolist()))
    with pytest.raises(UserError, match="shown twice"):
        S.cut(store, session, "train", 0.5)


def test_a_missing_sample_leaves_a_gap_only_where_it_is(store):
    cut = S.cut(store, store.keys[0], "test", 0.5)
    trial = next(iter(cut.showings.values()))[0]
    times = cut.onsets[trial] + np.arange(30) / 30
    values = np.ones((30, 2))
    values[:10, 1] = np.nan
    means = cut.binned(times, values)
    assert np.isfinite(means[..., 0]).sum() == 2
    assert np.isfinite(means[..., 1]).sum() == 1


def test_behaviour_is_taken_off_and_the_stimulus_is_not():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(40, 3))
    behavior = rng.normal(size=(6, 40, 2)) + signal[:, :1]  # behaviour goes with the stimulus
    responses = signal + behavior @ np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 3.0]])
    left = S.without_slopes(responses, behavior)
    np.testing.assert_allclose(
        left - left.mean((0, 1)), np.broadcast_to(signal - signal.mean(0), left.shape), atol=1e-9
    )
    missing = behavior.copy()
    missing[2, 5, 0] = np.nan
    assert np.isfinite(S.without_slopes(responses, missing)).all()
    np.testing.assert_array_equal(S.without_slopes(responses, behavior[..., :0]), responses)


@pytest.mark.slow
def test_recorded_and_predicted_are_of_the_same_neurons_and_conditions(run):
    session = run.sessions[0]
    of = S.session_data({"a": run, "fresh": run.untrained(0)}, session, "stimulus", "test", 0.5)
    assert of.recorded.conditions == of.models["a"].conditions == of.cut.conditions
    assert of.recorded.values.shape[0] == 4
    assert of.models["a"].values.shape == (1, *of.recorded.values.shape[1:])
    assert not np.allclose(of.models["a"].values, of.models["fresh"].values)
    prediction = run.predict(session, "stimulus", tiers=("test",))
    condition = of.cut.conditions[-1]
    trial = of.cut.showings[condition.content][0]
    since = prediction.time - of.cut.onsets[trial]
    inside = (
        (since >= 0.5 * condition.bin - 1e-6) & (since < 0.5 * condition.bin + 0.5 - 1e-6) & (prediction.trial == trial)
    )
    assert inside.sum() == 15
    raw = S.session_data({"a": run}, session, "stimulus", "test", 0.5)
    assert raw.corrected == of.corrected != ()
    again = raw.recorded.at(list(reversed(raw.cut.conditions)))
    np.testing.assert_array_equal(again.values[:, ::-1], raw.recorded.values)
    expected = of.cut.binned(prediction.time, prediction.recorded.astype(float))[0, -1]
    np.testing.assert_allclose(expected, np.nanmean(prediction.recorded[inside], 0), rtol=1e-5)


def test_simple_properties_of_a_stimulus(store):
    session = store.keys[0]
    recording, cut = store.recording(session), S.cut(store, session, "test", 0.5)
    features = S.stimulus_features(recording, cut)
    height, width = recording.screen.height, recording.screen.width
    assert features["pixels"].shape == (len(cut.conditions), height * width)
    assert features["contrast"].shape[1] == 1
    assert features["motion energy"].shape[1] == 32
    assert 0 <= features["pixels"].min() <= features["pixels"].max() <= 1
    other = S.cut(store, store.keys[1], "test", 0.5)
    again = S.stimulus_features(store.recording(store.keys[1]), other)
    assert other.conditions == cut.conditions  # the same clips in another mouse, found by content
    np.testing.assert_allclose(again["pixels"], features["pixels"], atol=0.02)


@pytest.mark.slow
def test_the_tower_has_a_value_for_every_moment(run):
    cut = S.cut(run.store, run.sessions[0], "test", 0.5)
    values = tower_values(run, cut, "stimulus")
    assert values.shape[:2] == (1, len(cut.conditions))
    assert np.isfinite(values).all(2).mean() > 0.8
    assert np.nanstd(values, axis=1).max() > 0


@pytest.mark.slow
def test_from_runs_to_a_page(run, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    probe_similarity.add(parser.add_subparsers())
    sessions = [flag for key in run.sessions for flag in ("--session", key)]
    out = tmp_path / "out"
    arguments = parser.parse_args(["similarity", str(run.folder), "--smoke", *sessions, "--out", str(out)])
    arguments.look(arguments)
    printed = capsys.readouterr().out
    result = json.loads((out / "similarity.json").read_text())
    assert result["probe"] == "similarity"
    assert result["provenance"]["settings"]["seed"] == 0
    assert len(result["provenance"]["runs"][0]["checkpoint_hash"]) == 16
    sources = {row["source"] for row in result["rsa"]}
    assert sources == {"run", "untrained", "pixels", "contrast", "motion energy"}
    assert {row["distance"] for row in result["rsa"]} == {"crossnobis", "correlation"}
    row = result["rsa"][0]
    assert set(row["raw"]) == {"pearson", "spearman", "rho-a", "tau-a", "cosine", "whitened cosine"}
    assert -1 <= row["score"] <= 1
    between = result["between mice"]
    assert between["conditions"] > 3
    assert {r["source"] for r in between["rsa"]} == {"recorded", "run", "untrained"}
    alignment = between["alignment"]
    if alignment["applicable"]:
        assert set(alignment["areas"]) == set(AREAS)
    else:  # nine neurons of an area tell little
        assert "areas < 3 with a similarity of at least 0.2 between mice" in alignment["reason"]
    assert "similarity.json" in printed
    assert "crossnobis" in printed
    assert (out / "index.html").read_text().startswith("<!doctype html>")


def planted(seed=0):
    """Four mice with a chain of four areas, two clips of 20 bins, 6 repeats; the signal itself as one model, with a little of
    something else as another, and other signals as the untrained one.
    """
    signals, responses, labels = chain(seed, noise=1.0, conditions=40, repeats=6)
    others, _, _ = chain(seed + 1, noise=1.0, conditions=40)
    conditions = tuple(S.Condition(clip, k) for clip in ("clip a", "clip b") for k in range(20))
    showings = {clip: tuple(range(6)) for clip in ("clip a", "clip b")}
    rng = np.random.default_rng(seed)
    for mouse, x in responses.items():

        def population(source, values, mouse=mouse):
            return S.Population(source, f"{mouse}-1", mouse, conditions, values, labels)

        cut = S.Cut(f"{mouse}-1", mouse, conditions, showings, np.zeros(6), np.full(6, 10.0), 0.5)
        near = signals[mouse] + 0.2 * rng.normal(size=signals[mouse].shape)
        models = {"true": signals[mouse], "near <it>": near, "untrained": others[mouse]}
        simple = {"pixels": euclidean_rdm(rng.normal(size=(40, 5)))}
        tower = {
            "true, tower": signals[mouse] @ rng.normal(size=(100, 20)),
            "untrained, tower": others[mouse][:, :, :8],
        }
        recorded = population("recorded", x)
        yield Read(
            S.SessionData(cut, recorded, {n: population(n, v) for n, v in models.items()}, {}, ()), simple, tower
        )


@pytest.fixture(scope="module")
def result():
    settings = Settings(bootstrap=30, permutations=40, splits=4, shuffles=1, draws=2, block_s=1.0)
    found = compared(planted(), ["true", "near <it>"], settings)
    return plain({"provenance": {"runs": [], "settings": dataclasses.asdict(settings)}, **found})


def test_the_true_model_is_found_and_the_untrained_is_not(result):
    rows = {(r["distance"], r["source"]): r for r in result["rsa summary"]}
    true, other = (rows["crossnobis", name] for name in ("true", "untrained"))
    assert true["score"] < true["corrected"] == pytest.approx(1, abs=0.1)
    assert true["partial"] == pytest.approx(true["score"], abs=0.02)
    assert abs(other["corrected"]) < 0.2
    assert all(r["permutation p"] == pytest.approx(1 / 41) for r in result["rsa"] if r["source"] == "true")
    assert np.mean([r["permutation p"] for r in result["rsa"] if r["source"] == "pixels"]) > 0.2
    for row in result["rsa"]:
        assert row["low"] < row["score"] < row["high"]
    low, high = true["animals interval"]
    assert low <= true["score"] <= high
    cka = {(r["a"], r["b"]): r["debiased"] for r in result["cka summary"]}
    assert cka["recorded", "true"] > cka["recorded", "recorded"] > 0.3 > abs(cka["recorded", "untrained"])
    assert cka["recorded", "true, tower"] > 0.3
    assert ("true", "true, tower") not in cka


def test_agreement_and_areas_between_mice(result):
    assert all(r["median"] < 0.3 * r["chance median"] for r in result["procrustes"])
    assert all(min(r["predictivity by tercile"]) > 0.3 for r in result["procrustes"])
    between = result["between mice"]
    scores = {r["source"]: r["score"] for r in between["rsa"]}
    assert scores["true"] > scores["recorded"] > 0.2 > abs(scores["untrained"])
    dispersed = {r["source"]: r for r in between["procrustes"]}
    assert dispersed["recorded"]["median"] < 0.5 * dispersed["recorded"]["chance median"]
    areas = between["alignment"]
    assert areas["applicable"]
    assert areas["neurons of each area"] == 25
    models = areas["models"]
    assert set(models) == {"true", "near <it>", "untrained", "true, pooled areas"}
    assert models["true"]["scores"]["profile"] > 0.95
    assert models["true"]["scores"]["profile"] > models["true, pooled areas"]["scores"]["profile"]
    assert models["untrained"]["scores"]["difference, all"] > models["true"]["scores"]["difference, all"]
    corrected, raw = (np.array(areas[name]) for name in ("brain matrix, corrected", "brain matrix"))
    assert (np.diag(corrected) > np.diag(raw)).all()


def test_the_page_of_a_result_with_areas(result, tmp_path):
    page = build(result)
    assert "&lt;it&gt;" in page
    assert "<it>" not in page
    assert "not an upper bound" in page.lower()
    assert "nan" not in page.lower().split()
    path = write_page(result, tmp_path)
    seen = look(
        path,
        tmp_path,
        "say(document.querySelectorAll('img.rdm').length); say(document.querySelectorAll('svg.chart').length);"
        "say([...document.images].every((i) => i.naturalWidth > 3)); say(document.documentElement.scrollWidth <= innerWidth);",
        width=360,
    )
    assert seen.said == ["4", "4", "true", "true"]
    assert seen.console == []
    assert seen.requests == []


def test_what_is_printed(result):
    printed = "\n".join(lines(result))
    assert "crossnobis   true" in printed
    assert "alignment patterns, true: 1.000" in printed or "alignment patterns, true: 0.9" in printed
    assert "nan" not in printed


@pytest.mark.slow
def test_runs_that_cannot_be_compared(run, tmp_path):
    parser = argparse.ArgumentParser()
    probe_similarity.add(parser.add_subparsers())
    twice = parser.parse_args(["similarity", str(run.folder), str(run.folder), "--out", str(tmp_path)])
    with pytest.raises(UserError, match="named twice"):
        twice.look(twice)
    wrong = parser.parse_args(["similarity", str(run.folder), "--compare", "kendall", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="comparison 'kendall'"):
        wrong.look(wrong)
