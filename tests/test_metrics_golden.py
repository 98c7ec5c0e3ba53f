"""The numbers of the SENSORIUM scorers and of neuralpredictors, as their own code computed them."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.ceilings.estimators import oracle_conservative, oracle_jackknife
from omnimouse_jax.evaluate.metrics import RepeatSums, explainable_variance, sensorium2022, sensorium2023
from tests.shared import shared

EXACT = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(shared("recordings/metrics_expected.npz")) as file:
        return {name: file[name] for name in file.files}


def repeats(golden: dict[str, np.ndarray], order: np.ndarray, first: int = 10**6) -> RepeatSums:
    names, group = np.unique(golden["image_ids"], return_inverse=True)
    sums, shown = RepeatSums(len(names), 30, showings=10), np.zeros(len(names), int)
    for trial in order:
        image = group[trial]
        if shown[image] < first:
            row = slice(trial, trial + 1)
            values = (golden["pred"][row], golden["resp"][row], np.ones((1, 30), bool))
            sums.update(np.array([image]), int(shown[image]), np.arange(30), *values)
        shown[image] += 1
    return sums


@pytest.mark.parametrize("order", ["as it is", "permuted"])
def test_sensorium_2022(golden, order):
    rows = golden["order"] if order == "permuted" else np.arange(219)
    columns = golden["neuron_order"] if order == "permuted" else np.arange(30)
    p, r = (golden[name][rows][:, columns] for name in ("pred", "resp"))
    found = sensorium2022(p, r, golden["image_ids"][rows])
    for name in ("single", "average", "fev", "feve"):
        np.testing.assert_allclose(getattr(found, name), golden[name][columns], **EXACT)
    back = np.argsort(columns)
    np.testing.assert_allclose(found.feve[back][found.kept[back]], golden["feve_kept"], **EXACT)
    assert found.single.mean() == pytest.approx(float(golden["single_mean"]), abs=1e-6)
    assert found.average.mean() == pytest.approx(float(golden["average_mean"]), abs=1e-6)
    assert found.feve[found.kept].mean() == pytest.approx(float(golden["feve_mean"]), abs=1e-6)


@pytest.mark.parametrize("order", ["as it is", "permuted"])
def test_oracles_and_explainable_variance(golden, order):
    rows = golden["order"] if order == "permuted" else np.arange(219)
    total = repeats(golden, rows).moments().total()
    np.testing.assert_allclose(oracle_jackknife(total), golden["oracle_jackknife"], **EXACT)
    np.testing.assert_allclose(oracle_conservative(total), golden["oracle_conservative"], **EXACT)
    first = repeats(golden, np.arange(219), 8).moments().total()
    np.testing.assert_allclose(explainable_variance(first), golden["explainable_var_first8"], **EXACT)


def test_repeat_sums_in_two_parts_are_those_of_one(golden):
    whole, first, second = (RepeatSums(25, 30, showings=10) for _ in range(3))
    shown: dict[int, int] = {}
    for trial in np.random.default_rng(0).permutation(219):
        image = int(np.searchsorted(np.unique(golden["image_ids"]), golden["image_ids"][trial]))
        k = shown[image] = shown.get(image, -1) + 1
        row = slice(trial, trial + 1)
        values = (np.arange(30), golden["pred"][row], golden["resp"][row], np.ones((1, 30), bool))
        for sums in (whole, first if trial % 3 else second):
            sums.update(np.array([image]), k, *values)
    first.merge(second)
    for mine, theirs in zip(first.moments(), whole.moments(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_sensorium_2023_drops_fifty_frames(golden):
    ends = np.cumsum(golden["v_lens"])
    trials = [
        (golden["v_pred"][:, e - n : e], golden["v_resp"][:, e - n : e])
        for n, e in zip(golden["v_lens"], ends, strict=True)
    ]
    np.testing.assert_allclose(sensorium2023(trials), golden["v_corr"], **EXACT)
    short = [
        (p[:, 20:], r) for p, r in reversed(trials)
    ]  # a model's output may lack its first frames, and order is nothing
    np.testing.assert_allclose(sensorium2023(short), golden["v_corr"], **EXACT)
    assert sensorium2023(trials).mean() == pytest.approx(float(golden["v_corr_mean"]), abs=1e-6)
    with pytest.raises(UserError, match="prediction of 10 frames for a trial of 70"):
        sensorium2023([(np.zeros((2, 10)), np.zeros((2, 70)))])


def test_sensorium_2023_of_the_original_loader():
    with np.load(shared("recordings/sensorium/2023/expected_2023.npz")) as file:
        joined = [file[f"scores/oracle_{name}_concat"] for name in ("output", "target")]
        expected = file["scores/oracle_per_neuron"]
    padded = [np.concatenate([np.zeros((20, 50)), x], axis=1) for x in joined]
    found = sensorium2023([(padded[0], padded[1])])
    np.testing.assert_allclose(found, np.nan_to_num(expected), **EXACT)


def test_submission_scores_of_a_static_session():
    folder = "recordings/sensorium/2022"
    with np.load(shared(f"{folder}/submission/expected_submission_2022_inputs.npz")) as file:
        given = {name: file[name] for name in file.files}
    with np.load(shared(f"{folder}/expected_2022.npz")) as file:
        tier = {name: file[f"images/90011-1-1/test/{name}"] for name in ("index", "trial_idx", "image_id", "responses")}
    np.testing.assert_array_equal(tier["index"], given["90011-1-1/test/index"])
    session = next(shared(folder).glob("static90011-*[!p]"))
    neurons = np.argsort(np.load(session / "meta/neurons/unit_ids.npy"))
    p = given["90011-1-1/test/prediction"].astype(np.float64)[:, neurons]
    r = tier["responses"].astype(np.float64)[:, neurons]
    found = sensorium2022(p, r, tier["image_id"])
    np.testing.assert_allclose(found.single, given["metrics/single_per_neuron"], **EXACT)
    np.testing.assert_allclose(found.average, given["metrics/average_per_neuron"], **EXACT)
    np.testing.assert_allclose(found.feve[found.kept], given["metrics/feve_kept"], **EXACT)
    for name, values in (
        ("single", found.single),
        ("average", found.average),
    ):  # in training: the files' order of neurons
        np.testing.assert_allclose(values[np.argsort(neurons)], given[f"in_training/{name}"], rtol=0, atol=2e-6)


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="one row per trial"):
        sensorium2022(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(4))
