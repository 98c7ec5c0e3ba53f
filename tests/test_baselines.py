"""Ridge baseline: the closed form, nothing across segments, held-out trials unseen; real mice end to end."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.ridge import (
    PENALTIES,
    blocked_folds,
    by_condition,
    lagged,
    onset_basis,
    ridge_fit,
)
from tests.shared import shared

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not installed


def test_ridge_equals_solving_the_normal_equations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, [1.0, 5.0, 0.1], (60, 3)), rng.normal(size=(60, 2))
    fit = ridge_fit([x], y, np.arange(60) // 10, penalties=np.array([0.3]))
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(3)
    solved = np.linalg.solve(z.T @ z + 0.3 * 60 * np.eye(3), z.T @ (y - y.mean(0)))
    np.testing.assert_allclose(fit.predict(x), z @ solved + y.mean(0), atol=1e-12)


def test_penalty_is_chosen_per_target():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 20))
    y = np.stack([x @ rng.normal(size=20) + 0.01 * rng.normal(size=600), rng.normal(size=600)], axis=1)
    fit = ridge_fit([x[:, :5], x[:, 5:]], y, np.arange(600) // 100)
    assert fit.penalty[0] == PENALTIES[0]
    assert fit.penalty[1] > 1e-1
    assert fit.cv_r2[0] > 0.99
    assert abs(fit.cv_r2[1]) < 0.05


def test_predictions_do_not_depend_on_units_or_constant_features():
    rng = np.random.default_rng(2)
    x, y, folds = rng.normal(size=(80, 4)), rng.normal(size=(80, 3)), np.arange(80) // 20
    plain = ridge_fit([x], y, folds).predict(x)
    scaled = x * [1e-3, 1.0, 1e4, 7.0] + [5.0, -1.0, 1e5, 0.0]
    np.testing.assert_allclose(ridge_fit([scaled], y, folds).predict(scaled), plain, atol=1e-6)
    flat = np.concatenate([x, np.full((80, 1), 0.1)], axis=1)
    weights = ridge_fit([flat], y, folds).weights
    assert np.isfinite(weights).all()
    assert (weights[4] == 0).all()


def test_lags_stay_inside_their_segment():
    x = np.arange(10.0)[:, None]
    segment = np.repeat([4, 2], 5)  # labels need not be sorted
    late, early = lagged(x, segment, (1, -2)).T
    assert late.tolist() == [0, 0, 1, 2, 3, 5, 5, 6, 7, 8]
    assert early.tolist() == [2, 3, 4, 4, 4, 7, 8, 9, 9, 9]
    changed = x.copy()
    changed[5:] += 100
    for width in (1, 3):
        before, after = lagged(x, segment, (-2, 0, 2), width), lagged(changed, segment, (-2, 0, 2), width)
        np.testing.assert_array_equal(before[:5], after[:5])
    np.testing.assert_allclose(lagged(x, segment, (0,), width=3)[1:4, 0], [1, 2, 3])


def test_folds_are_blocks_of_whole_segments():
    segment = np.repeat(np.arange(10, 17), 3)
    folds = blocked_folds(segment, 3)
    assert set(folds) == {0, 1, 2}
    assert (np.diff(folds) >= 0).all()
    assert all(len(set(folds[segment == s])) == 1 for s in range(10, 17))
    with pytest.raises(UserError):
        blocked_folds(segment, 8)


def test_stimulus_features_recover_a_tuned_response():
    time = np.tile(np.arange(-16, 33) / 16, 64)
    direction = np.repeat(np.tile(np.arange(8) * 45.0, 8), 49)
    basis = onset_basis(time, 6, 2.0)
    assert (basis[time < 0] == 0).all()
    np.testing.assert_allclose(basis[time >= 0].sum(1), 1.0)  # neighbours overlap by half, so they sum to one
    truth = (1 + np.cos(np.deg2rad(direction))) * (1 - np.exp(-np.maximum(time, 0) / 0.4))
    bands = [basis, by_condition(basis, direction)]
    fit = ridge_fit(bands, truth[:, None], blocked_folds(np.repeat(np.arange(64), 49), 4))
    assert np.corrcoef(fit.predict(np.concatenate(bands, axis=1))[:, 0], truth)[0, 1] > 0.999


def test_bad_rows_are_refused_in_one_line():
    x, y, folds = np.zeros((6, 2)), np.zeros((6, 1)), np.arange(6) // 2
    for bands, targets, labels in (([x], y, folds * 0), ([x * np.nan], y, folds)):
        with pytest.raises(UserError, match="ridge: "):
            ridge_fit(bands, targets, labels)


def test_real_mice_ridge_uses_only_training_trials(capsys):
    from benchmarks import park_gratings, real_mice

    data = shared("recordings/park_gratings")
    mouse = park_gratings.sessions(data)[5]
    test = mouse.tier == "test"
    assert test.sum() == 26
    assert test[-26:].all()
    other = dataclasses.replace(mouse, responses=np.where(test[:, None, None], 0.0, mouse.responses))
    np.testing.assert_array_equal(
        real_mice.ridge_predictions(mouse, "stimulus_behavior"), real_mice.ridge_predictions(other, "stimulus_behavior")
    )

    early = mouse.tier == "train"
    other = dataclasses.replace(mouse, responses=np.where(early[:, None, None], mouse.responses, 0.0))
    np.testing.assert_array_equal(
        real_mice.ridge_predictions(mouse, "stimulus_behavior", "validation"),
        real_mice.ridge_predictions(other, "stimulus_behavior", "validation"),
    )
    for tier, used in (("test", ("train", "validation")), ("validation", ("train",))):
        config = real_mice.model_config(real_mice.Path("store"), steps=10, seed=0, tier=tier)
        assert (config.data.tiers, config.evaluation.tiers, config.train.validation_windows) == (used, (tier,), 0)

    assert real_mice.main(["--data", str(data), "--only", "ridge"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told) == {"stimulus_behavior", "population", "behavior"}
    for task in told.values():
        assert len(task["sessions"]) == 7
        assert task["ridge"] == pytest.approx(np.mean([s["ridge"] for s in task["sessions"].values()]), abs=1e-3)
        assert 0.1 < task["ridge"] < 0.6
    assert real_mice.main(["--data", "nowhere", "--only", "ridge"]) == 2


def test_park_recordings_hold_what_the_files_say():
    from benchmarks import park_gratings

    data = shared("recordings/park_gratings")
    mouse = park_gratings.sessions(data)[5]
    rec = park_gratings.recording(mouse)
    with np.load(data / f"{mouse.key}.npz") as file:
        published = file["responses"]
    values = np.asarray(rec.responses.values)
    np.testing.assert_array_equal(values.reshape(128, 49, -1), published[..., rec.neurons["unit_id"]])
    assert rec.trials.tiers() == {"train": 91, "validation": 11, "test": 26}
    assert rec.screen is not None
    onset = rec.screen.times[rec.screen.frame >= 0].reshape(128, 33)[:, 0]
    np.testing.assert_array_equal(onset, rec.trials.start + 1.0)
    # 0 degrees drifts to the right: a frame equals the previous one shifted; opposite directions are mirrored in time.
    frames = np.asarray(rec.screen.frames, float).reshape(8, 8, 16, 32)
    assert (frames[0] == frames[0][:, :1]).all()  # vertical bars
    np.testing.assert_allclose(frames[0], frames[4][:, ::-1, ::-1], atol=1.0)


def test_model_and_ridge_are_scored_on_the_same_samples_and_neurons():
    from benchmarks import park_gratings, real_mice
    from omnimouse_jax.recordings.sampling import read_responses
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.tokens import regimes
    from omnimouse_jax.tokens.collate import neuron_slots
    from omnimouse_jax.tokens.windows import WindowIndex
    from omnimouse_jax.training.defaults import model_config

    mouse = park_gratings.sessions(shared("recordings/park_gratings"))[5]
    rec = park_gratings.recording(mouse)
    config = real_mice.model_config(real_mice.Path("store"), steps=10, seed=0)
    grid = model_config(config.model).grid
    store = Store.create("memory://one-mouse")
    store.add(rec)
    windows = WindowIndex.of(store, store.keys, ["test"], grid, config.evaluation.stride_s)
    starts = [windows[k].start for k in range(len(windows))]
    seen = np.stack([read_responses(rec, s + np.arange(grid.n_samples) / grid.response_rate) for s in starts])
    scored = mouse.responses[mouse.tier == "test"][:, : real_mice.WINDOW]
    np.testing.assert_array_equal(seen, scored.astype(np.float32))

    layout = regimes.resolve(regimes.get(config.evaluation.tasks.population), grid, 128)
    (asked,) = layout.targets
    slots = neuron_slots(scored.shape[2], layout.n_visible, 128)
    assert (slots < layout.n_visible).sum() == mouse.n_visible
    assert ((slots >= asked.first_neuron) & (slots < asked.last_neuron)).sum() == scored.shape[2] - mouse.n_visible
    assert (asked.first_sample, asked.last_sample) == (0, real_mice.WINDOW)
