"""Most exciting inputs of neurons whose answer is known, and the planted law of synthetic mice as a subject."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.probe.physiology import compare, exciting
from omnimouse_jax.probe.physiology.exciting import Ascent, ascend, blur_matrix, project, rms, scaled
from omnimouse_jax.probe.physiology.experiment import Protocol, examine
from omnimouse_jax.probe.physiology.planted import planted_mouse, planted_subject
from omnimouse_jax.probe.physiology.subject import Geometry
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic import neurons as law
from tests.physiology_neurons import GEOMETRY, Gabor, gabors, linear

READ = slice(0, 30)
BOUND = 0.15


@pytest.fixture(scope="module")
def films():
    """Two smooth filters of space and time that are 0 before frame 15."""
    rng = np.random.default_rng(5)
    raw = rng.standard_normal((2, 60, 16, 32))
    for axis, size in ((1, 60), (2, 16), (3, 32)):
        raw = np.moveaxis(np.tensordot(blur_matrix(size, 2.0), raw, axes=(1, axis)), 0, axis)
    raw[:, :15] = 0
    return raw / np.abs(raw).max() / 100


@pytest.mark.parametrize("video", [False, True])
def test_of_a_linear_neuron_it_is_the_filter_at_the_bound(films, video):
    subject = linear(films)
    found = ascend(
        subject, np.arange(2), READ, 0.5, BOUND, Ascent(steps=40, seeds=2, blur_pixels=0, blur_frames=0), video
    )
    best = films[:, 15:] if video else films[:, 15:].sum(axis=1, keepdims=True)
    d = found.stimuli - GEOMETRY.grey
    for mine, true in zip(d, best, strict=True):
        cosine = (mine * true).sum() / np.linalg.norm(mine) / np.linalg.norm(true)
        assert cosine > 0.99
    np.testing.assert_allclose(rms(d).ravel(), BOUND, rtol=1e-3)
    assert found.agreement.min() > 0.99
    assert np.all(found.by_seed.std(axis=1) < 0.01 * found.value)
    assert np.all(np.diff(found.history, axis=1)[:, 5:] > -1e-3 * np.abs(found.value)[:, None])


def test_smoothness_is_that_of_the_blurred_filter(films):
    rough = films + 0.3 * films.std() * np.random.default_rng(0).standard_normal(films.shape) * (films != 0)
    found = ascend(linear(rough), np.arange(2), READ, 0.5, BOUND, Ascent(steps=40, seeds=2, blur_pixels=1.5), False)
    still = rough[:, 15:].sum(axis=1)
    best = np.einsum("ih,nhw,wj->nij", blur_matrix(16, 1.5), still, blur_matrix(32, 1.5))
    for mine, true in zip(found.stimuli[:, 0] - GEOMETRY.grey, best, strict=True):
        assert (mine * true).sum() / np.linalg.norm(mine) / np.linalg.norm(true) > 0.99


def test_it_never_leaves_the_box_nor_the_ball():
    rng = np.random.default_rng(1)
    d = rng.standard_normal((20, 3, 8, 8)) * rng.uniform(0.01, 5, (20, 1, 1, 1))
    for grey in (0.5, 0.2, 0.9):
        inside = project(d, grey, 0.1)
        assert rms(inside).max() <= 0.1 * (1 + 1e-9)
        assert (inside + grey).min() >= -1e-12
        assert (inside + grey).max() <= 1 + 1e-12
        np.testing.assert_allclose(project(inside, grey, 0.1), inside)
        np.testing.assert_allclose(rms(scaled(d, 0.5, 0.05)).ravel(), 0.05, rtol=0.05)
    assert (np.linalg.eigvalsh(blur_matrix(16, 1.0)) > 0).all()
    np.testing.assert_array_equal(blur_matrix(4, 0), np.eye(4))


def test_it_beats_natural_stimuli_and_gratings_and_looks_like_the_field():
    neuron = Gabor(c50=1.0)
    subject = gabors(neuron, Gabor(direction=250.0, c50=1.0))
    ascent = Ascent(steps=25, seeds=2, seed=4)
    found = ascend(subject, np.array([0]), READ, 0.5, 0.05, ascent, True)
    again = ascend(subject, np.array([0]), READ, 0.5, 0.05, ascent, True)
    np.testing.assert_array_equal(found.stimuli, again.stimuli)
    natural = np.clip(0.5 + 0.1 * np.random.default_rng(0).standard_normal((16, 60, 16, 32)), 0, 1).astype(np.float32)
    best, _ = exciting.best_natural(subject, natural, READ, 0.5, 0.05, True)
    from omnimouse_jax.probe.physiology.gratings import Grating

    grating = Grating(neuron.direction, neuron.spatial_frequency, neuron.temporal_frequency)
    shown = exciting.best_grating(subject, np.array([0]), [grating], READ, 0.5, 0.05, True)
    assert found.value[0] > 1.2 * shown[0] > 1.2 * best[0]
    power = (found.stimuli[0] - 0.5).std(axis=0)
    x, y = GEOMETRY.pixels()
    centre = (power**4 * x).sum() / (power**4).sum(), (power**4 * y).sum() / (power**4).sum()
    assert np.hypot(centre[0] - neuron.x, centre[1] - neuron.y) < 6


@pytest.fixture(scope="module")
def recording(colony):
    return Store.open(colony).recording("m001-1")


@pytest.fixture(scope="module")
def planted(recording):
    spec = recording.provenance["spec"]
    geometry = Geometry(*spec["screen"], spec["screen_degrees"], spec["grey"] / 255, 60, 30.0)
    return planted_subject(recording, geometry, np.arange(30, 60) / 30, np.arange(recording.n_neurons))


def test_the_planted_subject_is_the_law_of_the_recordings(recording, planted):
    """Rates for a film after long grey, from the numpy law with its recursive filters; only the microscope is averaged."""
    mouse = planted_mouse(recording)
    spec = mouse.spec
    rng = np.random.default_rng(0)
    film = np.clip(spec.grey + 40 * rng.standard_normal((60, *spec.screen)), 0, 255).astype(np.uint8)
    ticks = np.concatenate([np.full(120, -1), np.arange(60)])
    view = law.make_view(spec, film, ticks)
    scale = law.unit_scale(law.stimulus_drive(mouse.view(), mouse.neurons), mouse.ticks >= 0)
    state = planted.context(1, {"running": 12.0})
    assert state[0, 4] == pytest.approx(np.tanh(12 / 18))
    rate = law.state_rate(mouse.neurons, law.stimulus_drive(view, mouse.neurons) * scale, np.repeat(state, 180, axis=0))
    seen = planted.params.seen.astype(np.float64)
    np.testing.assert_allclose(seen.sum(axis=1), 1, atol=1e-5)
    expected = seen @ rate[120:] * planted.params.unit
    found = planted.responses(1, lambda n: film[None].astype(np.float32) / 255, {"running": 12.0})[0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_tuning_is_recovered_from_the_planted_law(recording, planted):
    """What the analysis itself gets wrong, on a screen of 4 degrees per pixel."""
    spread = np.full(planted.n_neurons, 0.2)
    found = examine(planted, Protocol(n_phases=2, n_spatial=4, n_temporal=3, draws=200), spread)
    truth = {k: np.asarray(v) for k, v in recording.truth["tuning"].items() if k != "additive_channels"}
    found["minus_f1_f0"] = -found["f1_f0"]
    rows = {(row["quantity"], row["measure"]): row for row in compare.compared(found, truth, draws=100)}
    assert found["tuned"].mean() > 0.7
    assert rows["orientation", "median error"]["value"] < 8
    assert rows["direction", "median error"]["value"] < 8
    assert rows["direction", "median error"]["chance"] > 40
    assert rows["spatial_frequency", "rank correlation"]["value"] > 0.6
    assert rows["orientation", "median error"]["p"] < 0.05


def test_comparison_by_hand():
    n = 40
    rng = np.random.default_rng(0)
    planted = {
        "direction": rng.uniform(0, 360, n), "spatial_frequency": np.full(n, 0.02), "temporal_frequency": np.full(n, 2.0),
        "direction_selectivity": np.linspace(0, 1, n), "complexity": np.linspace(0, 1, n), "x": np.zeros(n), "y": np.zeros(n),
        "gain_running": rng.standard_normal(n), "gain_pupil": rng.standard_normal(n),
    }  # fmt: skip
    planted["orientation"] = (planted["direction"] + 90) % 180
    found = {
        "direction": (planted["direction"] + 10) % 360, "orientation": (planted["orientation"] - 5) % 180,
        "spatial_frequency": np.full(n, 0.04), "temporal_frequency": np.where(np.arange(n) < 3, 2.0, np.nan),
        "dsi_pref_null": planted["direction_selectivity"] ** 2, "minus_f1_f0": rng.standard_normal(n),
        "rf_x": np.full(n, 3.0), "rf_y": np.full(n, 4.0), "running_log_gain": planted["gain_running"] * 0.1,
    }  # fmt: skip
    rows = {(row["quantity"], row["measure"]): row for row in compare.compared(found, planted, draws=200)}
    assert rows["direction", "median error"]["value"] == pytest.approx(10)
    assert rows["direction", "median error"]["of"] == int((planted["direction_selectivity"] >= 0.3).sum())
    assert rows["orientation", "median error"]["value"] == pytest.approx(5)
    assert rows["spatial_frequency", "median error"]["value"] == pytest.approx(1)
    assert rows["temporal_frequency", "median error"]["value"] is None  # three neurons
    assert rows["rf_position", "median distance"]["value"] == pytest.approx(5)
    gains = rows["gain_running", "rank correlation with log gain"]
    assert gains["value"] == pytest.approx(1)
    assert gains["p"] < 0.01
    assert rows["complexity", "rank correlation with minus F1/F0"]["p"] > 0.01


def test_a_recording_without_a_law_says_so(recording):
    with pytest.raises(UserError, match="no planted law"):
        planted_mouse(dataclasses.replace(recording, provenance={}))
