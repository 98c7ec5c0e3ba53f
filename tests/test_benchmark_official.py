"""The official scorers' arithmetic against numbers of the original code, and properties that it must have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnimouse_jax.evaluate.benchmarks import official
from omnimouse_jax.evaluate.benchmarks.results import lines, score_of
from omnimouse_jax.evaluate.metrics.conventions import SKIPPED_FRAMES
from tests.shared import shared

LIMIT = 1e-6


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(shared("recordings/metrics_expected.npz")) as found:
        return {name: found[name] for name in found.files}


def test_images_against_the_original_scorer(golden: dict) -> None:
    responses, predictions, images = golden["resp"], golden["pred"], golden["image_ids"]
    assert np.abs(official.correlation(responses, predictions) - golden["single"]).max() < LIMIT
    assert np.abs(official.correlation_to_average(responses, predictions, images) - golden["average"]).max() < LIMIT
    found = official.feve(responses, predictions, images)
    assert np.abs(found.explainable - golden["fev"]).max() < LIMIT
    assert np.abs(found.explained - golden["feve"]).max() < LIMIT
    assert np.abs(found.explained[found.kept] - golden["feve_kept"]).max() < LIMIT
    assert found.score == pytest.approx(float(golden["feve_mean"]), abs=LIMIT)


def streamed(targets: list[np.ndarray], outputs: list[np.ndarray]) -> np.ndarray:
    sums = official.VideoCorrelation(targets[0].shape[1])
    for target, output in zip(targets, outputs, strict=True):
        sums.add(target, output)
    return sums.per_neuron()


def test_videos_against_the_original_scorer(golden: dict) -> None:
    ends = np.cumsum(golden["v_lens"])
    assert golden["v_resp"].shape[1] == ends[-1]
    parts = [
        [trial.T[SKIPPED_FRAMES:] for trial in np.split(golden[name], ends[:-1], axis=1)]
        for name in ("v_resp", "v_pred")
    ]
    found = streamed(*parts)
    assert np.abs(found - golden["v_corr"]).max() < LIMIT
    assert found.mean() == pytest.approx(float(golden["v_corr_mean"]), abs=LIMIT)


class TestProperties:
    def data(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, 7])
        images = np.repeat(np.arange(12), rng.integers(2, 6, 12))
        signal = rng.gamma(1, 1, (12, 5))[images]
        return signal + rng.normal(0, 0.3, signal.shape), signal, images

    def test_the_order_of_trials_changes_nothing(self) -> None:
        responses, predictions, images = self.data()
        order = np.random.default_rng(1).permutation(len(images))
        for score in (
            lambda r, p, i: official.correlation(r, p),
            official.correlation_to_average,
            lambda r, p, i: official.feve(r, p, i).explained,
        ):
            np.testing.assert_allclose(
                score(responses, predictions, images), score(responses[order], predictions[order], images[order])
            )

    def test_the_true_mean_explains_all_that_can_be_explained(self) -> None:
        found = [official.feve(*self.data(seed)).score for seed in range(20)]
        assert np.mean(found) == pytest.approx(1.0, abs=0.02)
        assert max(found) > 1  # nothing is clipped

    def test_predicting_the_mean_of_all_trials_explains_nothing(self) -> None:
        responses, _, images = self.data()
        flat = np.broadcast_to(responses.mean(axis=0), responses.shape)
        n = len(responses)
        found = official.feve(responses, flat, images)
        total, fev = responses.var(axis=0, ddof=1), found.explainable
        np.testing.assert_allclose(found.explained, total / n / (total * fev))  # ddof of E and V differ
        assert np.abs(official.correlation(responses, flat)).max() < 1e-12

    def test_without_repeats_there_is_no_ceiling(self) -> None:
        responses, predictions, images = self.data()
        images = images.copy()
        images[-1] = 99  # one image, shown once
        found = official.feve(responses, predictions, images)
        assert np.isnan(found.explainable).all()
        assert math.isnan(found.score)
        nothing = score_of("FEVE", found.explained[found.kept])
        assert math.isnan(nothing.value)
        assert nothing.as_json()["value"] is None
        assert "none" in lines([nothing])[1]

    def test_a_silent_neuron_counts_as_zero_and_a_missing_value_as_zero_in_videos_only(self) -> None:
        responses, predictions, _ = self.data()
        responses[:, 2] = 0
        assert official.correlation(responses, predictions)[2] == 0
        predictions = predictions.copy()
        predictions[3, 1] = np.nan
        assert np.isnan(official.correlation(responses, predictions)[1])
        found = streamed([responses[:10], responses[10:]], [predictions[:10], predictions[10:]])
        assert found[1] == 0
        assert found[0] == pytest.approx(official.correlation(responses, predictions)[0], abs=1e-12)

    def test_the_interval_narrows_with_neurons_and_holds_the_mean(self) -> None:
        values = np.random.default_rng(3).normal(0.4, 0.1, 900)
        wide, narrow = official.interval(values[:9]), official.interval(values)
        assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
        assert narrow[0] < values.mean() < narrow[1]
        assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * 0.1 / 30, rel=0.15)
        assert official.interval(values) == narrow
        assert all(math.isnan(end) for end in official.interval(values[:1]))
