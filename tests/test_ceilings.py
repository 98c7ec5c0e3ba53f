"""Ceilings where the truth is planted: unbiased ones are, biased ones are off by what their formulas say, and too few repeats
give none."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.evaluate.ceilings import (
    BY_NAME,
    ESTIMATORS,
    LEAST_REPEATS,
    Inputs,
    RepeatedStimuli,
    ceiling_of,
    inputs_of,
    known_law,
    repeat_ceilings,
)
from omnimouse_jax.evaluate.ceilings.estimators import signal_power
from omnimouse_jax.evaluate.ceilings.stimuli import Visited
from omnimouse_jax.evaluate.metrics import RepeatSums, correlation_to_average, fev, single_trial_correlation
from omnimouse_jax.recordings.session import Trials
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.regimes import get, resolve

GROUPS, NEURONS = 480, 60


def planted(share: float, repeats: int, seed: int = 0, shared: float = 0.0) -> tuple[RepeatSums, np.ndarray]:
    """Gaussian signals with `share` of the variance of single responses; `shared` of the noise is common to a showing of a block.
    The prediction is the planted mean, so its scores are the ceilings.
    """
    rng = np.random.default_rng([seed, repeats, round(100 * share)])
    mean = 3 + rng.standard_normal((GROUPS, NEURONS))
    block = np.arange(GROUPS) * 6 // GROUPS
    sums = RepeatSums(GROUPS, NEURONS, block, repeats)
    noise = np.sqrt((1 - share) / share)
    for k in range(repeats):
        common = rng.standard_normal((6, NEURONS))[block] * np.sqrt(shared)
        r = mean + noise * (common + np.sqrt(1 - shared) * rng.standard_normal(mean.shape))
        sums.update(np.arange(GROUPS), k, np.arange(NEURONS), mean, r, np.ones(mean.shape, bool))
    power = mean.var(0)
    return sums, power / (power + noise**2)


def expected(name: str, share: np.ndarray, n: int) -> np.ndarray:
    """What each estimator gives in expectation, from its formula; S = share, N = 1 - share."""
    noise = 1 - share
    if name == "oracle jackknife":
        return share / np.sqrt(share + noise / (n - 1))
    if name == "oracle conservative":
        return np.sqrt(share + noise / n)
    if name == "FEV":
        return share
    return np.sqrt(share) if "single" in name else np.sqrt(share / (share + noise / n))


@pytest.mark.parametrize("repeats", [2, 4, 10])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_every_estimator_is_where_its_formula_says(share, repeats):
    sums, true = planted(share, repeats)
    total = sums.moments().total()
    for estimator in ESTIMATORS:
        off = float((estimator.of(total) - expected(estimator.name, true, repeats)).mean())
        assert abs(off) < 0.02, f"{estimator.name}, {repeats} repeats: {off:+.3f}"


@pytest.mark.parametrize("repeats", [4, 10])
def test_a_perfect_model_meets_the_unbiased_ceilings(repeats):
    sums, _ = planted(0.3, repeats, seed=1)
    total = sums.moments().total()
    assert BY_NAME["CC_max, single trial"].of(total).mean() == pytest.approx(
        single_trial_correlation(total).mean(), abs=0.01
    )
    assert BY_NAME["CC_max"].of(total).mean() == pytest.approx(correlation_to_average(total).mean(), abs=0.01)


def test_signal_power_is_schoppes():
    sums, _ = planted(0.3, 5, seed=2)
    mean = 3 + np.random.default_rng([2, 5, 30]).standard_normal((GROUPS, NEURONS))
    power = signal_power(sums.moments().total())
    assert power.mean() == pytest.approx(mean.var(0).mean(), rel=0.05)
    # eq. 3 of Schoppe et al. 2016 on the responses themselves: (var of the sum - sum of the variances) / (n (n - 1))
    rng = np.random.default_rng(3)
    r = rng.gamma(1.0, 1.0, (5, 80, 7)) + rng.standard_normal((80, 7))
    literal = (r.sum(0).var(0) - r.var(1).sum(0)) / 20
    again = RepeatSums(80, 7, showings=5)
    for k in range(5):
        again.update(np.arange(80), k, np.arange(7), r[k], r[k], np.ones((80, 7), bool))
    np.testing.assert_allclose(signal_power(again.moments().total()), literal, rtol=1e-9)


def test_signal_power_does_not_mind_what_a_showing_shares():
    """FEV counts the variance about group means, and so loses noise that moves many groups at once."""
    offs = []
    for seed in range(6):
        with_state, truth = planted(0.3, 4, seed=10 + seed, shared=0.9)
        total = with_state.moments().total()
        share = signal_power(total) / (signal_power(total) + total.v / total.groups)
        offs.append([(share - truth).mean(), (fev(total) - truth).mean()])
    ours, theirs = np.mean(offs, axis=0)
    assert abs(ours) < 0.01
    assert theirs == pytest.approx(-0.7 * 0.9 / 24, abs=0.01)


def test_without_signal_ceilings_scatter_around_zero_and_are_not_clipped():
    rng = np.random.default_rng(4)
    sums = RepeatSums(200, 300, showings=4)
    for k in range(4):
        r = rng.standard_normal((200, 300))
        sums.update(np.arange(200), k, np.arange(300), r, r, np.ones(r.shape, bool))
    total = sums.moments().total()
    for name in ("CC_max, single trial", "CC_max", "FEV", "oracle jackknife"):
        found = BY_NAME[name].of(total)
        assert (found < 0).mean() > 0.3, name
        assert abs(found.mean()) < 0.03, name
    assert BY_NAME["oracle conservative"].of(total).mean() == pytest.approx(
        0.5, abs=0.02
    )  # sqrt(1 / 4): why it is no bound


def test_an_interval_covers_the_planted_ceiling():
    held = 0
    for seed in range(12):
        sums, true = planted(0.3, 5, seed=100 + seed)
        found = repeat_ceilings(sums, "stimuli", 6, 100, seed)["CC_max, single trial"]
        held += found.low <= np.sqrt(true).mean() <= found.high
        assert found.low < found.value < found.high
    assert held >= 10


def test_too_few_repeats_give_no_ceiling_and_say_why():
    sums, _ = planted(0.3, LEAST_REPEATS - 1)
    for ceiling in repeat_ceilings(sums, "stimuli", 6, 50, 0).values():
        assert ceiling.value is None
        assert np.isnan(ceiling.per_unit).all()
        assert "4 times or more" in ceiling.reason
        assert ceiling.row()["low"] is None
    enough, _ = planted(0.3, LEAST_REPEATS)
    assert all(
        c.value is not None and c.repeats == LEAST_REPEATS
        for c in repeat_ceilings(enough, "stimuli", 6, 50, 0).values()
    )
    few = RepeatSums(10, 3, showings=6)
    for k in range(6):
        few.update(
            np.arange(10),
            k,
            np.arange(3),
            np.ones((10, 3)),
            np.random.default_rng(k).random((10, 3)),
            np.ones((10, 3), bool),
        )
    assert "at least 20" in repeat_ceilings(few, "stimuli", 1, 50, 0)["FEV"].reason


def test_a_neuron_that_never_varied_counts_as_zero_and_one_not_recorded_not_at_all():
    flat = RepeatSums(GROUPS, 3, showings=4)
    rng = np.random.default_rng(5)
    mean = rng.standard_normal(GROUPS)
    for k in range(4):
        r = np.stack([mean + rng.standard_normal(GROUPS), np.ones(GROUPS), np.ones(GROUPS)], axis=1)
        mask = np.tile([True, True, False], (GROUPS, 1))
        flat.update(np.arange(GROUPS), k, np.arange(3), r, r, mask)
    moments = flat.moments(4)
    found = ceiling_of(BY_NAME["CC_max"], moments, "stimuli", 4, 1, 0, 0)
    assert found.per_unit[1] == 0
    assert np.isnan(found.per_unit[2])
    assert found.value == pytest.approx(found.per_unit[0] / 2)


def trials_of(contents: list[str], tiers: list[str], seconds: float = 2.0) -> Trials:
    start = 100.0 + 2.4 * np.arange(len(contents))
    modality = np.array(["video" if c else "blank" for c in contents])
    text = np.array(contents)
    return Trials(start, start + seconds, np.array(tiers), modality, text, np.ones(len(contents), bool))


def test_samples_are_grouped_by_stimulus_and_nearest_bin():
    contents = ["a", "", "b", "a", "c", "b", "a", "a"]
    tiers = ["test", "", "test", "test", "test", "test", "train", "test"]
    trials = trials_of(contents, tiers)
    stimuli = RepeatedStimuli.of(trials, np.array(contents), ["test"], 30.0)
    assert stimuli.names == ("a", "b")  # c is shown once, and a showing of another tier is none
    assert stimuli.showing.tolist() == [0, -1, 0, 1, -1, 1, -1, 2]
    for jitter in (-0.49 / 30, 0.0, 0.49 / 30):
        for k, first in ((0, 0), (3, 0), (7, 0), (2, 60), (5, 60)):
            trial, group = stimuli.locate(trials.start[k] + np.arange(60) / 30 + jitter)
            assert trial.tolist() == [k] * 60
            np.testing.assert_array_equal(group, first + np.arange(60))
    _, outside = stimuli.locate(np.array([99.0, 102.2, trials.start[4] + 0.5, trials.start[6] + 0.5, 500.0]))
    assert outside.tolist() == [-1] * 5


def test_overlapping_windows_do_not_turn_one_showing_into_two():
    trials = trials_of(["a", "a"], ["test", "test"])
    stimuli = RepeatedStimuli.of(trials, trials.stimulus, ["test"], 30.0)
    visited = Visited(stimuli)
    first = visited.fresh(*stimuli.locate(100.0 + np.arange(40) / 30))
    second = visited.fresh(*stimuli.locate(100.0 + np.arange(20, 60) / 30))
    assert first.tolist() == list(range(40))
    assert second.tolist() == [-1] * 20 + list(range(40, 60))
    other = visited.fresh(*stimuli.locate(trials.start[1] + np.arange(60) / 30))
    assert other.tolist() == list(range(60))
    twice = Visited(stimuli).fresh(*stimuli.locate(np.array([100.0, 100.001, 100.04])))
    assert twice.tolist() == [0, -1, 1]


def test_blocks_are_stimuli_or_stretches_of_few():
    many = trials_of(["a", "b", "c"] * 2, ["test"] * 6)
    block, over = RepeatedStimuli.of(many, many.stimulus, ["test"], 30.0).blocks()
    assert (over, np.bincount(block).tolist()) == ("stimuli", [60, 60, 60])
    one = trials_of(["a"] * 2, ["test"] * 2, seconds=2.2)
    block, over = RepeatedStimuli.of(one, one.stimulus, ["test"], 30.0).blocks()
    assert over == "2 s stretches of stimuli"
    assert np.bincount(block).tolist() == [60, 6]
    nothing = RepeatedStimuli.of(one, one.stimulus, ["train"], 30.0)
    assert nothing.n_groups == 0
    assert nothing.locate(np.array([100.5]))[1].tolist() == [-1]


@pytest.mark.parametrize(
    ("regime", "inputs", "bound"),
    [
        ("validation/stimulus_driven", Inputs(True, False, False), True),
        ("stimulus", Inputs(True, True, False), False),
        ("population", Inputs(True, True, True), False),
        ("responses_from_behavior", Inputs(False, True, False), False),
    ],
)
def test_only_regimes_that_show_nothing_but_the_screen_are_bounded_by_repeats(regime, inputs, bound):
    found = inputs_of(resolve(get(regime), Grid(), 64))
    assert found == inputs
    assert (found.remark == "") == bound
    assert found.only_screen == bound


def test_the_known_law_is_that_of_what_the_regime_shows(colony):
    from omnimouse_jax.recordings.store import Store

    store = Store.open(colony)
    recording = store.recording(store.keys[0])
    scored = np.ones(recording.n_neurons, bool)
    for inputs, name in (
        (Inputs(True, False, False), "stimulus"),
        (Inputs(True, True, False), "stimulus_behavior"),
        (Inputs(True, True, True), "all_but_private_noise"),
    ):
        found = known_law(recording, inputs, ("test",), scored, 100, 0)
        assert found is not None
        assert found.estimator == f"known law: {name}"
        assert found.value == pytest.approx(recording.truth["ceiling"][name]["mean"])
        assert found.low < found.value < found.high
    assert known_law(recording, Inputs(False, True, False), ("test",), scored, 100, 0) is None
    assert known_law(recording, Inputs(True, False, False), ("validation",), scored, 100, 0) is None, "of another tier"


@pytest.mark.parametrize("late", [0.0, 1 / 120, 1 / 60, 1 / 40])
def test_every_sample_has_a_moment_however_late_it_is(late):
    """Trials on a clock of their own: half a sample after a grid of 30 Hz, rounding to even put two samples into one bin."""
    trials = Trials(
        np.array([0.0, 10.0]),
        np.array([10.0, 20.0]),
        np.array(["test"] * 2),
        np.array(["video"] * 2),
        np.array(["clip"] * 2),
        np.ones(2, bool),
    )
    stimuli = RepeatedStimuli.of(trials, np.array(["clip"] * 2), ("test",), 30)
    trial, group = stimuli.locate(late + np.arange(600) / 30)
    for number in (0, 1):
        mine = group[(trial == number) & (group >= 0)]
        assert len(mine) >= 299
        assert len(np.unique(mine)) == len(mine)
