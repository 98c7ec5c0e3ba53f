"""Spans of tiers: windows stay inside, blanks follow, and every rule is a property of intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.experanto_windows import nan_free_spans
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.splits import (
    Blanks,
    cut_into_trials,
    hold_out_last,
    hold_out_stimuli,
    inside,
    intersect,
    merge,
    overlap_seconds,
    tier_spans,
)


def trials(*rows: tuple[float, float, str, str]) -> Trials:
    start, end, tier, modality = zip(*rows, strict=True)
    n = len(rows)
    return Trials(
        np.array(start, float),
        np.array(end, float),
        np.array(tier),
        np.array(modality),
        np.full(n, ""),
        np.ones(n, bool),
    )


def recording(some: Trials, segments: tuple[tuple[float, float], ...] = ((0.0, 100.0),)) -> Recording:
    rate = 10.0
    lengths = [round((hi - lo) * rate) for lo, hi in segments]
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    signal = Signal(np.zeros((sum(lengths), 2)), rate, np.array([lo for lo, _ in segments]), first)
    return Recording("s", "m", signal, some)


MIXED = trials(
    (0, 2, "", "blank"),
    (2, 10, "train", "video"),
    (10, 10.5, "", "blank"),
    (10.5, 20, "train", "video"),
    (20, 26, "", "blank"),
    (26, 30, "test", "image"),
    (30, 30.4, "", "blank"),
    (30.4, 31.2, "blank", "blank"),
    (31.2, 40, "train", "video"),
    (40, 41, "", "invalid"),
    (41, 42, "", "blank"),
)


def test_blanks_follow_their_trial_for_at_most_a_second() -> None:
    rec = recording(MIXED)
    assert tier_spans(rec, ["train"]).tolist() == [[2, 21], [31.2, 40]]
    assert tier_spans(rec, ["test"]).tolist() == [[26, 31.0]]
    assert tier_spans(rec, ["test"], max_blank_s=0.2).tolist() == [[26, 30.2]]
    assert tier_spans(rec, ["train"], blanks="none").tolist() == [[2, 10], [10.5, 20], [31.2, 40]]
    assert tier_spans(rec, ["train"], blanks="all").tolist() == [[0, 26], [30, 40], [41, 42]]


def test_tiers_never_share_time() -> None:
    rec = recording(MIXED)
    assert len(intersect(tier_spans(rec, ["train"]), tier_spans(rec, ["test"]))) == 0


def test_spans_are_cut_to_segments() -> None:
    some = trials((0, 10, "train", "video"), (10, 20, "train", "video"))
    rec = recording(some, ((1.0, 4.0), (4.0, 8.0), (12.0, 30.0)))
    assert tier_spans(rec, ["train"]).tolist() == [[1, 4], [4, 8], [12, 20]]


def test_invalid_trials_are_left_out() -> None:
    some = trials((0, 5, "train", "video"), (5, 10, "train", "video"))
    some.valid[1] = False
    assert tier_spans(recording(some), ["train"]).tolist() == [[0, 5]]


def test_missing_tier_is_empty() -> None:
    rec = recording(MIXED)
    spans = tier_spans(rec, ["final_test"])
    assert spans.shape == (0, 2)


def test_hold_out_last_takes_the_end() -> None:
    some = trials(*[(i, i + 0.5, "train", "video") if i % 2 else (i, i + 0.5, "", "blank") for i in range(20)])
    held = hold_out_last(some, 0.2)
    assert held.tiers() == {"train": 8, "test": 2, "blank": 10}
    assert held.start[held.tier == "test"].min() > held.start[held.tier == "train"].max()
    assert hold_out_last(some, 0.0).tiers() == some.tiers()
    assert hold_out_last(some, 0.01).tiers()["test"] == 1
    with pytest.raises(UserError, match="between 0 and 1"):
        hold_out_last(some, 1.0)


@pytest.mark.parametrize(
    ("n", "test", "validation"), [(1, 1, 0), (2, 1, 1), (5, 1, 1), (20, 4, 1), (100, 20, 5), (101, 20, 5)]
)
def test_validation_lies_before_what_is_held_out_however_few_there_are(n: int, test: int, validation: int) -> None:
    held = hold_out_last(trials(*[(i, i + 1, "train", "video") for i in range(n)]), 0.2, "test", 0.05).tier.tolist()
    assert held == ["train"] * (n - test - validation) + ["validation"] * validation + ["test"] * test


def test_only_training_trials_are_held_out() -> None:
    some = trials(*[(i, i + 1, tier, "video") for i, tier in enumerate(["oracle", "train", "none"] * 4)])
    held = hold_out_last(some, 0.25, "test", 0.25)
    assert held.tiers() == {"oracle": 4, "train": 2, "validation": 1, "test": 1, "none": 4}
    assert held.tier[[7, 10]].tolist() == ["validation", "test"]
    some = dataclasses.replace(some, stimulus=np.array([f"clip{i % 6}" for i in range(12)]))
    held = hold_out_stimuli(some, 0.5, "test")
    assert np.array_equal(held.tier != some.tier, held.tier == "test")
    assert set(some.tier[held.tier == "test"]) == {"train"}


@pytest.mark.parametrize("rule", [hold_out_last, hold_out_stimuli])
@pytest.mark.parametrize(
    ("share", "validation"), [(np.nan, 0.0), (0.2, np.nan), (-0.1, 0.0), (0.5, 0.5), (np.inf, 0.0)]
)
def test_shares_that_are_none_are_refused(rule: Callable, share: float, validation: float) -> None:
    with pytest.raises(UserError, match="less than 1 together"):
        rule(trials((0, 1, "train", "video")), share, "test", validation)


def test_no_trials_are_cut_at_a_rate_that_cannot_be() -> None:
    assert len(cut_into_trials(Signal.continuous(np.zeros((80, 1)), 2.0, 0.0))) == 4
    for rate, n in ((1e-9, 10), (0.05, 100), (0.2, 3_000_000)):
        values = np.broadcast_to(np.zeros(1, np.float32), (n, 1))
        with pytest.raises(UserError, match=r"samples per second last .* - correct the rate"):
            cut_into_trials(Signal.continuous(values, rate, 0.0))


def test_interval_arithmetic_equals_counting() -> None:
    rng = np.random.default_rng([5])
    grid = np.arange(0, 50, 0.01) + 0.005
    for _ in range(20):
        a, b = (merge(np.sort(np.round(rng.uniform(0, 50, (6, 2)), 2), axis=1), gap=0.0) for _ in range(2))
        both = intersect(a, b)
        assert np.array_equal(inside(grid, both), inside(grid, a) & inside(grid, b))
        edges = np.sort(np.round(rng.uniform(0, 50, 7), 2))
        counted = [inside(grid[(grid > lo) & (grid < hi)], a).sum() * 0.01 for lo, hi in itertools.pairwise(edges)]
        assert np.allclose(overlap_seconds(edges[:-1], edges[1:], a), counted)


def one_by_one(some: Trials, tiers: list[str], blanks: str, max_blank_s: float) -> np.ndarray:
    """The rule of `tier_spans`, trial by trial."""
    spans, left, follows, until = [], 0.0, False, -np.inf
    for start, end, tier, modality in zip(some.start, some.end, some.tier, some.modality, strict=True):
        asked = tier in tiers and modality != "invalid"
        if modality == "blank" and tier in ("", "blank") and not (asked and tier):
            if blanks == "all":
                spans.append((start, end))
            elif blanks == "follow" and follows and start <= until + 1e-3 and left > 0:
                take = min(end - start, left)
                spans.append((start, start + take))
                left, until = left - take, end
        elif asked:
            spans.append((start, end))
            left, follows, until = max_blank_s, True, end
        else:
            follows = False
    return merge(np.array(spans, np.float64).reshape(-1, 2))


@pytest.mark.parametrize("blanks", ["follow", "none", "all"])
def test_tier_spans_equal_the_rule_applied_trial_by_trial(blanks: Blanks) -> None:
    rng = np.random.default_rng([11])
    for _ in range(60):
        n = 40
        start = np.cumsum(rng.choice([0.25, 0.5, 1.0, 2.0], n))
        end = np.append(start[1:], start[-1] + 1) - rng.choice([0.0, 0.0, 0.0, 0.125], n)
        modality = rng.choice(["blank", "blank", "video", "invalid"], n, p=[0.3, 0.3, 0.35, 0.05])
        tier = np.where(modality == "blank", rng.choice(["", "blank", "train"], n, p=[0.7, 0.2, 0.1]), "test")
        tier = np.where((modality != "blank") & (rng.random(n) < 0.7), "train", tier)
        some = trials(*zip(start, end, tier, modality, strict=True))
        for tiers in (["train"], ["test"], ["blank"], ["train", "test"]):
            got = tier_spans(recording(some), tiers, blanks, max_blank_s=0.6)
            assert np.allclose(got, one_by_one(some, tiers, blanks, 0.6), atol=1e-9, rtol=0)


def test_stimuli_are_held_out_with_all_their_repeats_and_alike_in_every_session() -> None:
    rng = np.random.default_rng([12])

    def session(clips: np.ndarray) -> Trials:
        rows = trials(*[(i, i + 0.5, "train", "video") for i in range(len(clips))])
        return dataclasses.replace(rows, stimulus=np.array([f"clip{c}" if c >= 0 else "" for c in clips]))

    first, second = (hold_out_stimuli(session(rng.integers(-1, 200, 600)), 0.2, "test", 0.1) for _ in range(2))
    tier_of: dict[str, str] = {}
    for some in (first, second):
        for stimulus, tier in zip(some.stimulus.tolist(), some.tier.tolist(), strict=True):
            assert tier_of.setdefault(stimulus, tier) == tier
    assert tier_of[""] == "train"
    shares = {name: list(tier_of.values()).count(name) / len(tier_of) for name in ("train", "validation", "test")}
    assert abs(shares["test"] - 0.2) < 0.07
    assert abs(shares["validation"] - 0.1) < 0.05
    with pytest.raises(UserError, match="none of 1 stimuli falls into tier"):
        hold_out_stimuli(session(np.zeros(5, int)), 0.01)
    with pytest.raises(UserError, match="less than 1 together"):
        hold_out_stimuli(session(np.arange(5)), 0.7, validation=0.3)


def test_nan_filter_keeps_away_from_missing_samples() -> None:
    values = np.zeros((200, 2), np.float32)
    values[[50, 51, 199], [0, 1, 0]] = np.nan
    spans = nan_free_spans(Signal.continuous(values, 20.0, 0.0))
    w = 0.05 + 2 / 20
    assert np.allclose(spans, [[0, 2.5 - w], [2.55 + w, 9.95 - w]])
    assert nan_free_spans(Signal.continuous(np.zeros((10, 1)), 10.0, 0.0)).tolist() == [[0, 1]]
