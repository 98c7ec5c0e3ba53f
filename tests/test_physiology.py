"""Gratings, receptive fields, gain and spectra find what analytic neurons were given."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.probe.physiology import gain, spectrum, tuning
from omnimouse_jax.probe.physiology.experiment import Protocol, examine, sizes
from omnimouse_jax.probe.physiology.gratings import Grating, draw
from omnimouse_jax.probe.physiology.receptive_field import SparseNoise, fit_fields, gradient_maps, sparse_maps
from omnimouse_jax.recordings.stimuli import drifting_grating
from tests.physiology_neurons import GEOMETRY, SAMPLES, Gabor, flat, gabors

PROTOCOL = Protocol(n_temporal=4, n_spatial=5, n_directions=16, n_phases=2, draws=200)
NEURONS = (
    Gabor(),
    Gabor(direction=200.0, spatial_frequency=0.02, temporal_frequency=3.0, x=-20.0, y=10.0, radius=14.0, c50=0.5),
    Gabor(direction=315.0, simple=True, exponent=1.5, x=0.0, y=0.0, temporal_frequency=1.5, log_gain=-0.3),
)


@pytest.fixture(scope="module")
def natural():
    """Smooth moving noise."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((8, *(GEOMETRY.n_frames, GEOMETRY.height, GEOMETRY.width)))
    for axis, size in ((1, 4), (2, 3), (3, 3)):
        noise = np.apply_along_axis(lambda x, size=size: np.convolve(x, np.ones(size), "same"), axis, noise)
    return np.clip(0.5 + 0.15 * noise / noise.std(), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def subject():
    return gabors(*NEURONS)


@pytest.fixture(scope="module")
def found(subject):
    return examine(subject, PROTOCOL, np.full(len(NEURONS), 0.1))


def test_direction_and_frequencies_are_recovered(found):
    assert found["tuned"].all()
    error = np.abs((found["direction"] - [n.direction for n in NEURONS] + 180) % 360 - 180)
    assert error.max() < 4.0
    np.testing.assert_allclose(found["orientation"], (found["direction"] + 90) % 180)
    for name, planted, within in (
        ("spatial_frequency", "spatial_frequency", 0.35),
        ("temporal_frequency",) * 2 + (0.5,),
    ):
        octaves = np.log2(found[name] / [getattr(n, planted) for n in NEURONS])
        assert np.abs(octaves).max() < within
    # their one filter lets a part of the opposite direction through, and there is a baseline
    assert found["dsi_pref_null"].min() > 0.2
    assert found["osi_vector"].min() > 0.15
    assert np.all((found["bandwidth"] > 10) & (found["bandwidth"] < 90))


def test_contrast_law_is_recovered(found):
    """A complex cell's response at its best grating is Naka-Rushton's but for how near the grid's best is to the true one."""
    assert found["contrast_explained"].min() > 0.98
    drive = found["contrast_exponent"][:2]
    np.testing.assert_allclose(drive, [n.exponent for n in NEURONS[:2]], rtol=0.1)
    # the grid's grating is weaker than the best one, so that more contrast is needed
    ratio = found["c50"][:2] / [n.c50 for n in NEURONS[:2]]
    assert np.all((ratio > 0.95) & (ratio < 1.4))


def test_simple_and_complex_cells_differ_in_phase(found):
    assert found["f1_f0"][2] > 0.8
    assert found["f1_f0"][:2].max() < 0.25


def test_a_flat_neuron_is_not_tuned_and_has_no_numbers():
    found = examine(flat(), Protocol(n_directions=8, n_spatial=2, n_temporal=2, n_phases=2, draws=50), np.zeros(2))
    assert not found["tuned"].any()
    for name in (
        "direction",
        "orientation",
        "osi_vector",
        "dsi_pref_null",
        "bandwidth",
        "c50",
        "f1_f0",
        "spatial_frequency",
    ):
        assert np.isnan(found[name]).all(), name


def test_a_curve_that_phases_do_not_agree_on_is_no_tuning():
    rng = np.random.default_rng(0)
    unrelated = rng.standard_normal((40, 16, 4))
    shared = unrelated[:, :, :1] + 0.3 * rng.standard_normal((40, 16, 4))
    no, p = tuning.tuned(unrelated, np.zeros(40), 0.01, 200, 0)
    yes, _ = tuning.tuned(shared, np.zeros(40), 0.01, 200, 0)
    assert no.mean() <= 0.1
    assert yes.all()
    assert abs(p.mean() - 0.5) < 0.15


def test_selectivity_indices_by_hand():
    degrees = np.arange(8) * 45.0
    one = np.zeros((1, 8))
    one[0, 2] = 1.0
    both = one + np.roll(one, 4, axis=1)
    even = np.ones((1, 8))
    for curve, osi, dsi in ((one, 1.0, 1.0), (both, 1.0, 0.0), (even, 0.0, 0.0)):
        assert tuning.vector_selectivity(curve, degrees, 2)[0] == pytest.approx(osi, abs=1e-12)
        assert tuning.vector_selectivity(curve, degrees, 1)[0] == pytest.approx(dsi, abs=1e-12)
    assert [float(v[0]) for v in tuning.pref_orth_null(one)] == [1.0, 1.0]
    assert [float(v[0]) for v in tuning.pref_orth_null(both)] == [1.0, 0.0]
    assert np.isnan(tuning.vector_selectivity(one - 0.1, degrees, 2)).all()


def test_naka_rushton_comes_back_from_its_own_curve():
    contrasts = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
    laws = [(0.1, 2.0, 0.2, 1.5), (0.0, 1.0, 0.6, 3.0), (0.5, -0.4, 0.3, 2.0)]
    curves = np.array([tuning.naka_rushton(np.array(contrasts), *law) for law in laws])
    fit = tuning.fit_contrast(curves, contrasts)
    for n, (r0, rmax, c50, power) in enumerate(laws):
        assert (fit.r0[n], fit.rmax[n], fit.c50[n], fit.exponent[n]) == pytest.approx(
            (r0, rmax, c50, power), rel=1e-3, abs=1e-4
        )


def test_gratings_are_those_of_the_recordings():
    mine = draw([Grating(33.0, 0.03, 2.0, 0.8, 0.2)], GEOMETRY, 0.0)[0]
    theirs = drifting_grating(
        np.arange(60) / 30, direction=33.0, spatial_frequency=0.03, temporal_frequency=2.0, size=(16, 32),
        screen_deg=(64.0, 128.0), contrast=0.8, phase=0.2, mean=127.5,
    )  # fmt: skip
    np.testing.assert_allclose(mine * 255, theirs, atol=0.51)
    late = draw([Grating(33.0, 0.03, 2.0)], GEOMETRY, 0.5)[0]
    assert (late[:15] == GEOMETRY.grey).all()
    disc = draw([Grating(0.0, 0.03, 2.0, x=20.0, y=8.0, diameter=16.0)], GEOMETRY, 0.0)[0].std(axis=0)
    x, y = GEOMETRY.pixels()
    assert disc[np.hypot(x - 20, y - 8) > 12].max() == 0
    assert disc[np.hypot(x - 20, y - 8) < 6].min() > 0.2


def test_receptive_fields_are_where_they_are(subject, natural):
    read = subject.read(1.0, 2.0)
    maps, mean = gradient_maps(subject, natural, read)
    fields = fit_fields(maps, GEOMETRY)
    noise = SparseNoise(n_windows=96, cell_degrees=8.0)
    on, off, lag = sparse_maps(subject, noise)
    sparse = fit_fields(np.hypot(on, off), GEOMETRY)
    for found, within in ((fields, 2.0), (sparse, 6.0)):
        away = np.hypot(found.x - [n.x for n in NEURONS], found.y - [n.y for n in NEURONS])
        assert np.nanmax(away) < within
    assert np.isfinite(fields.x).all()
    assert np.isfinite(sparse.x[:2]).all()
    assert np.all((fields.sigma > 5) & (fields.sigma < 20))
    assert np.all((lag > 0) & (lag < 0.5))
    # causality: nothing after the last sample, and the mean Jacobian is of the screen's shape
    assert mean.shape == (3, 60, 16, 32)
    assert np.isnan(fit_fields(np.zeros((1, 16, 32)), GEOMETRY).x).all()
    assert np.isnan(fit_fields(np.random.default_rng(0).random((1, 16, 32)), GEOMETRY).x).all()


def test_sizes_saturate_where_the_field_ends(subject, found):
    x, y = np.array([n.x for n in NEURONS]), np.array([n.y for n in NEURONS])
    made = sizes(subject, PROTOCOL, found, x, y)
    curve = made["size_curve"]
    assert (np.diff(curve[:, :3], axis=1) > 0).all()
    assert np.abs(made["suppression"]).max() < 0.1  # these neurons have no surround
    nowhere = sizes(subject, PROTOCOL, found, np.full(3, np.nan), y)
    assert np.isnan(nowhere["preferred_size"]).all()


def test_gain_and_offset_are_recovered(subject, natural):
    made = gain.gains(subject, natural, {"running": (0.0, 1.0), "pupil_size": (1.0, 2.0)}, np.ones(3))
    np.testing.assert_allclose(made["running_log_gain"], [n.log_gain for n in NEURONS], atol=1e-3)
    np.testing.assert_allclose(made["running_offset"], [n.offset for n in NEURONS], atol=1e-3)
    assert "pupil_size_gain" not in made  # it is not shown
    assert np.isnan(gain.lines(np.ones((4, 1)), np.arange(4.0)[:, None])[0]).all()


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.6])
def test_cross_validated_pca_finds_a_planted_exponent_through_noise(alpha):
    """Noise as large as the signal, private to a repeat, makes plain PCA's spectrum flatter."""
    rng = np.random.default_rng(1)
    n, stimuli = 40, 1500
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    size = np.arange(1, n + 1) ** (-alpha / 2)
    signal = (rng.standard_normal((stimuli, n)) * size) @ basis.T
    a, b = (signal + np.sqrt(0.2 * (size**2).mean()) * rng.standard_normal((stimuli, n)) for _ in range(2))
    values, law = spectrum.spectrum(a.reshape(30, 50, n), b.reshape(30, 50, n), 2, 20, 40, 0)
    assert law.exponent == pytest.approx(alpha, abs=0.15)
    assert law.low <= law.exponent <= law.high
    assert values.sum() == pytest.approx((size**2).sum(), rel=0.05)
    plain = spectrum.exponent(np.linalg.eigvalsh(np.cov(a.T))[::-1], 2, 20)
    if alpha >= 1:
        assert plain < law.exponent


def test_too_few_ranks_have_no_exponent():
    assert np.isnan(spectrum.exponent(np.array([3.0, 2.0, 1.0]), 1, 3))
    assert np.isnan(spectrum.exponent(-np.ones(20), 1, 20))


def test_what_a_subject_cannot_do_is_told(subject):
    with pytest.raises(UserError, match=r"no response from 0 to 0.5 s"):
        subject.read(0.0, 0.5)
    with pytest.raises(UserError, match="no behaviour channel pupil_size"):
        subject.responses(1, lambda n: np.zeros((1, 60, 16, 32), np.float32), {"pupil_size": 1.0})
    assert subject.read(1.0, 2.0) == slice(0, len(SAMPLES))
