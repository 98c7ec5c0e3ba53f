"""Distances, their comparison, CKA and Procrustes: properties, and agreement with rsatoolbox where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from omnimouse_jax.errors import UserError
from omnimouse_jax.probe.similarity import rdm as R
from omnimouse_jax.probe.similarity import rsa
from omnimouse_jax.probe.similarity.cka import debiased_cka, linear_cka
from omnimouse_jax.probe.similarity.procrustes import dispersion, generalised_procrustes, terciles


def planted(seed=0, repeats=4, conditions=12, neurons=30, noise=1.0):
    """(signal K x N, responses R x K x N)."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(conditions, 3)) @ rng.normal(size=(3, neurons)) / np.sqrt(3)
    return signal, signal + noise * rng.normal(size=(repeats, conditions, neurons))


# --- distances


def test_crossnobis_is_the_mean_over_pairs_of_different_repeats():
    _, x = planted(repeats=3, conditions=5, neurons=4)
    weight = np.diag(np.arange(1.0, 5.0))
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            pairs = [(x[m, i] - x[m, j]) @ weight @ (x[n, i] - x[n, j]) for m in range(3) for n in range(3) if m != n]
            expected[i, j] = np.mean(pairs) / 4
    np.testing.assert_allclose(R.crossnobis_rdm(x, weight), R.condensed(expected), atol=1e-12)


def test_noise_biases_the_euclidean_distance_and_not_the_crossnobis():
    signal, _ = planted(neurons=20)
    true = R.euclidean_rdm(signal)
    rng = np.random.default_rng(1)
    draws = [signal + 2 * rng.normal(size=(4, *signal.shape)) for _ in range(300)]
    crossed = np.mean([R.crossnobis_rdm(x) for x in draws], axis=0)
    plain = np.mean([R.euclidean_rdm(x.mean(0)) for x in draws], axis=0)
    assert abs((crossed - true).mean()) < 0.03
    assert (plain - true).mean() == pytest.approx(2 * 4 / 4, abs=0.05)  # 2 sigma^2 / repeats
    nothing = R.crossnobis_rdm(rng.normal(size=(4, 40, 20)))
    assert 0.3 < (nothing < 0).mean() < 0.7  # not clipped


@pytest.mark.parametrize("distance", ["crossnobis", "correlation", "euclidean"])
def test_order_of_neurons_is_irrelevant_and_that_of_conditions_goes_along(distance):
    _, x = planted()
    rng = np.random.default_rng(3)
    base = R.rdm_of(x, distance)
    np.testing.assert_allclose(R.rdm_of(x[:, :, rng.permutation(30)], distance), base, atol=1e-12)
    order = rng.permutation(12)
    np.testing.assert_allclose(R.rdm_of(x[:, order], distance), R.reordered(base, order), atol=1e-12)


def test_shrunk_precision_lies_between_diagonal_and_full():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, 8))
    true = mix @ mix.T + np.eye(8)
    x = rng.normal(size=(4, 12, 8)) @ np.linalg.cholesky(true).T
    shrunk = np.linalg.inv(R.noise_precision(x, "shrinkage"))
    diagonal = np.linalg.inv(R.noise_precision(x, "diagonal"))
    np.testing.assert_allclose(np.diag(shrunk), np.diag(diagonal))
    residuals = (x - x.mean(0)).reshape(-1, 8)
    sample = residuals.T @ residuals / 36
    off = ~np.eye(8, dtype=bool)
    share = shrunk[off] / sample[off]
    assert np.allclose(share, share[0])
    assert 0 < share[0] < 1
    long = rng.normal(size=(4, 3000, 8)) @ np.linalg.cholesky(true).T
    np.testing.assert_allclose(np.linalg.inv(R.noise_precision(long, "shrinkage")), true, atol=0.08 * true.max())
    assert R.noise_precision(x, "none") is None


def test_reliability_of_halves_foretells_that_of_the_whole():
    found = []
    for seed in range(6):
        signal, x = planted(seed, repeats=8, conditions=25, noise=2.5)
        _, again = planted(seed + 100, repeats=8, conditions=25, noise=2.5)
        again = again - planted(seed + 100, repeats=8, conditions=25, noise=2.5)[0] + signal  # same signal, other noise
        half, full = R.split_half_reliability(R.half_rdms(x, "correlation", 20, 0), rsa.pearson)
        assert half < full
        found.append((full, rsa.pearson(R.rdm_of(x, "correlation"), R.rdm_of(again, "correlation"))))
    foretold, met = np.mean(found, axis=0)
    assert foretold == pytest.approx(met, abs=0.1)


def test_too_few_repeats_give_no_number():
    _, x = planted(repeats=3)
    assert np.isnan(R.split_half_reliability(R.half_rdms(x, "crossnobis", 3, 0), rsa.pearson)).all()
    assert np.isnan(rsa.corrected([], R.crossnobis_rdm(x), rsa.pearson))
    assert np.isfinite(R.split_half_reliability(R.half_rdms(x, "correlation", 3, 0), rsa.pearson)).all()
    with pytest.raises(UserError, match="one repeat"):
        R.crossnobis_rdm(x[:1])


# --- comparisons


def test_measures_of_likeness():
    rng = np.random.default_rng(0)
    a, b = rng.random(45), rng.random(45)
    for name, compare in rsa.COMPARISONS.items():
        assert compare(a, a) == pytest.approx(1), name
        assert compare(a, b) == pytest.approx(compare(b, a)), name
        assert compare(a, 3 * b) == pytest.approx(compare(a, b)), name
    assert rsa.rho_a(a, np.exp(b)) == pytest.approx(rsa.rho_a(a, b))
    assert rsa.rho_a(a, b) == pytest.approx(rsa.spearman(a, b))  # without ties
    tied = np.floor(3 * a)
    assert rsa.tau_a(tied, tied) < 1  # a model that predicts ties is not rewarded for them
    pairs = [(i, j) for i in range(45) for j in range(i)]
    by_hand = np.mean([np.sign(tied[i] - tied[j]) * np.sign(b[i] - b[j]) for i, j in pairs])
    assert rsa.tau_a(tied, b) == pytest.approx(by_hand)


def test_partial_comparison_leaves_what_the_simple_properties_do_not_explain():
    rng = np.random.default_rng(0)
    simple, own = rng.random(300), rng.random(300)
    a, b = simple + 0.1 * rng.random(300), simple + 0.1 * rng.random(300)
    assert rsa.pearson(a, b) > 0.9
    assert abs(rsa.partial(a, b, [simple])) < 0.15
    assert rsa.partial(simple + own, 2 * simple + own, [simple]) == pytest.approx(1)
    assert np.isnan(rsa.partial(a, 3 * simple + 1, [simple]))


def test_correction_for_reliability_finds_the_true_similarity():
    raw, corrected = [], []
    for seed in range(8):
        signal, x = planted(seed, repeats=6, conditions=30, noise=2.5)
        model = R.euclidean_rdm(signal)
        raw.append(rsa.pearson(R.crossnobis_rdm(x), model))
        corrected.append(rsa.corrected(R.half_rdms(x, "crossnobis", 20, 0), model, rsa.pearson))
    assert np.mean(raw) < 0.9
    assert np.mean(corrected) == pytest.approx(1, abs=0.07)
    assert np.isnan(rsa.disattenuated(0.3, -0.1))


def test_intervals_leave_out_pairs_of_copies():
    """Copies have distance 0 in both RDMs: with them, unrelated RDMs would come out alike."""
    rng = np.random.default_rng(0)
    a, b = 1 + 0.2 * rng.random(190), 1 + 0.2 * rng.random(190)
    low, high = rsa.stimulus_interval(a, b, rsa.pearson, np.arange(20), 300, 0)
    assert low < 0 < high < 0.5
    order = rng.integers(0, 20, 20)
    assert rsa.pearson(R.reordered(a, order), R.reordered(b, order)) > 0.5  # what it would be
    assert np.isnan(rsa.stimulus_interval(a, b, rsa.pearson, np.arange(20) // 10, 300, 0)).all()


def test_permutations_are_uniform_without_likeness_and_find_it():
    ps = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(2, 10, 5))
        ps.append(rsa.permutation_p(R.euclidean_rdm(x), R.euclidean_rdm(y), rsa.pearson, 99, seed))
    assert 0.35 < np.mean(ps) < 0.65
    assert np.mean(np.array(ps) <= 0.1) < 0.25
    a = R.euclidean_rdm(np.random.default_rng(0).normal(size=(10, 5)))
    assert rsa.permutation_p(a, a, rsa.pearson, 99, 0) == pytest.approx(0.01)


def test_whole_blocks_change_places_so_that_slow_signals_do_not_count():
    """Two unrelated slow signals: neighbours in time are alike in both."""
    every, blocked = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = np.cumsum(rng.normal(size=(2, 40, 4)), axis=1)
        a, b = R.euclidean_rdm(x), R.euclidean_rdm(y)
        every.append(rsa.permutation_p(a, b, rsa.pearson, 99, 0))
        blocked.append(rsa.permutation_p(a, b, rsa.pearson, 99, 0, np.arange(40) // 8))
    assert np.mean(np.array(every) <= 0.05) > 0.8
    assert np.mean(np.array(blocked) <= 0.05) < 0.6
    assert np.isnan(rsa.permutation_p(a, b, rsa.pearson, 9, 0, np.zeros(40, int)))


def test_interval_over_groups_takes_all_of_a_group():
    values = [0.1, 0.1, 0.5, 0.5, 0.9, 0.9]
    low, high = rsa.group_interval(values, list("aabbcc"), 2000, 0)
    narrow = rsa.group_interval(values, list("abcdef"), 2000, 0)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.9)
    assert narrow[1] - narrow[0] < high - low
    assert np.isnan(rsa.group_interval(values, list("aabbbb"), 2000, 0)).all()


# --- CKA


def test_cka_does_not_change_with_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 8)), rng.normal(size=(30, 5))
    y[:, :3] += x[:, :3]
    turned = 3 * x @ ortho_group.rvs(8, random_state=0) + rng.normal(size=8)
    for cka in (linear_cka, debiased_cka):
        assert cka(turned, y) == pytest.approx(cka(x, y))
        assert cka(x, x) == pytest.approx(1)
        assert cka(x @ np.diag(np.arange(1.0, 9)), y) != pytest.approx(cka(x, y), abs=1e-3)  # not of any linear map


def test_only_the_debiased_cka_of_noise_is_nothing():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 20, 100)) for _ in range(40)]
    assert np.mean([linear_cka(*pair) for pair in pairs]) > 0.7
    assert abs(np.mean([debiased_cka(*pair) for pair in pairs])) < 0.02
    assert np.isnan(debiased_cka(np.zeros((3, 2)), np.zeros((3, 2))))


# --- Procrustes


def test_rotated_copies_have_no_dispersion():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    copies = [
        x,
        2 * x @ ortho_group.rvs(6, random_state=1) + 3,
        np.pad(x @ ortho_group.rvs(6, random_state=2), ((0, 0), (0, 3))),
    ]
    fitted, mean = generalised_procrustes(copies, 6)
    for f, copy in zip(fitted, copies, strict=True):
        np.testing.assert_allclose(f(copy), mean, atol=1e-6)
        np.testing.assert_allclose(f.rotation @ f.rotation.T, np.eye(6), atol=1e-10)
    found = dispersion(copies, np.arange(40) // 10, k=6, shuffles=3)
    assert found.values.max() < 1e-10
    assert found.chance.min() > 0.1


def test_stimuli_on_which_representations_disagree_stand_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    hard = np.arange(60) % 3 == 0
    xs = [
        x @ ortho_group.rvs(4, random_state=s) + np.where(hard, 1.0, 0.1)[:, None] * rng.normal(size=(60, 4))
        for s in range(4)
    ]
    found = dispersion(xs, np.arange(60) // 12, k=4, shuffles=5)
    assert np.median(found.values[hard]) > 5 * np.median(found.values[~hard])
    assert np.median(found.values) < np.median(found.chance)
    low, middle, high = terciles(found.values, np.where(hard, 0.0, 1.0))
    assert low > 0.9
    assert high < 0.3
    assert low >= middle >= high


def test_fitted_on_the_same_stimuli_noise_seems_to_agree():
    """Fewer conditions than dimensions: in sample the dispersion of pure noise is small, cross-validated it is at chance."""
    rng = np.random.default_rng(0)
    xs = list(rng.normal(size=(3, 20, 40)))
    fitted, mean = generalised_procrustes(xs, 15)
    points = np.stack([f(x) for f, x in zip(fitted, xs, strict=True)])
    inside = ((points - mean) ** 2).sum(2).mean(0) / (mean**2).sum(1)
    found = dispersion(xs, np.arange(20) // 5, k=15, shuffles=5)
    assert np.median(inside) < 0.3 * np.median(found.values)
    assert np.median(found.values) == pytest.approx(np.median(found.chance), rel=0.4)


def test_procrustes_says_what_it_needs():
    x = np.zeros((6, 2))
    with pytest.raises(UserError, match="two or more"):
        generalised_procrustes([x], 2)
    with pytest.raises(UserError, match="one fold"):
        dispersion([x, x], np.zeros(6, int))


# --- rsatoolbox: numbers that nobody here wrote


@pytest.fixture(scope="module")
def toolbox():
    return pytest.importorskip("rsatoolbox", reason="rsatoolbox is not installed: pip install -e '.[rsa]'")


def of_toolbox(toolbox, x_RxKxN):
    repeats, conditions, _ = x_RxKxN.shape
    descriptors = {
        "condition": np.tile(np.arange(conditions), repeats),
        "repeat": np.repeat(np.arange(repeats), conditions),
    }
    return toolbox.data.Dataset(x_RxKxN.reshape(repeats * conditions, -1), obs_descriptors=descriptors)


def test_distances_as_in_rsatoolbox(toolbox):
    _, x = planted(conditions=15)
    data = of_toolbox(toolbox, x)
    precision = R.noise_precision(x, "diagonal")
    for ours, method, options in (
        (R.euclidean_rdm(x.mean(0)), "euclidean", {}),
        (R.correlation_rdm(x.mean(0)), "correlation", {}),
        (R.euclidean_rdm(x.mean(0), precision), "mahalanobis", {"noise": precision}),
        (R.crossnobis_rdm(x), "crossnobis", {"cv_descriptor": "repeat"}),
        (R.crossnobis_rdm(x, precision), "crossnobis", {"cv_descriptor": "repeat", "noise": precision}),
    ):
        theirs = toolbox.rdm.calc_rdm(data, method=method, descriptor="condition", **options)
        np.testing.assert_allclose(ours, theirs.get_vectors()[0], atol=1e-10, err_msg=method)


def test_precision_as_in_rsatoolbox(toolbox):
    _, x = planted(conditions=15)
    residuals = (x - x.mean(0)).reshape(-1, 30)
    theirs = toolbox.data.noise.prec_from_residuals(residuals, dof=15 * 3, method="diag")
    np.testing.assert_allclose(R.noise_precision(x, "diagonal"), theirs, atol=1e-10)
    # its amount of shrinkage divides by rows - 1 where the paper has rows: a few per cent of the correlations
    theirs = toolbox.data.noise.prec_from_residuals(residuals, dof=15 * 3, method="shrinkage_diag")
    np.testing.assert_allclose(R.noise_precision(x, "shrinkage"), theirs, atol=0.05 * np.abs(theirs).max())


def test_comparisons_as_in_rsatoolbox(toolbox):
    rng = np.random.default_rng(0)
    a, b = rng.random(105), np.floor(8 * rng.random(105))
    names = {
        "pearson": "corr",
        "spearman": "spearman",
        "rho-a": "rho-a",
        "tau-a": "tau-a",
        "cosine": "cosine",
        "whitened cosine": "cosine_cov",
    }
    for ours, theirs in names.items():
        expected = toolbox.rdm.compare(toolbox.rdm.RDMs(a[None]), toolbox.rdm.RDMs(b[None]), method=theirs)[0, 0]
        assert rsa.comparison(ours)(a, b) == pytest.approx(expected, abs=1e-9), ours
