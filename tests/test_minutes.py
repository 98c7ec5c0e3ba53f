"""At most so many minutes of each session: the earliest ones, nested, cut inside a span if need be; of training windows only."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.splits import tier_spans
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.windows import WindowIndex, earliest
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.train import training_batches
from tests.micro import micro


def windows(colony: str, minutes: float, tiers=("train",)) -> WindowIndex:
    parts = prepare(micro(colony))
    return WindowIndex.of(Store.open(colony), parts.store.keys, tiers, parts.model.grid, 0.1, minutes=minutes)


@pytest.mark.parametrize("seconds", [0.5, 3.0, 7.5, 10.0])
def test_the_earliest_seconds_are_kept(seconds):
    spans = np.array([[1.0, 4.0], [10.0, 11.0], [20.0, 26.0]])
    kept = earliest(spans, seconds)
    assert (kept[:, 1] - kept[:, 0]).sum() == pytest.approx(seconds)
    inside = np.concatenate([np.linspace(*span, 50, endpoint=False) for span in spans])
    taken = [t for t in inside if any(lo <= t < hi for lo, hi in kept)]
    assert taken == inside.tolist()[: len(taken)], "nothing later than what was left out"
    np.testing.assert_array_equal(earliest(spans, 11.0), spans)


def test_few_minutes_are_among_more_and_each_session_has_its_own(colony):
    whole = windows(colony, 0.0)
    some = [windows(colony, minutes) for minutes in (0.1, 0.2)]
    sets = [{index[k] for k in range(len(index))} for index in (*some, whole)]
    assert sets[0] < sets[1] < sets[2]
    for index, minutes in zip(some, (0.1, 0.2), strict=True):
        for key in Store.open(colony).keys:
            spans = tier_spans(Store.open(colony).recording(key), ("train",))
            kept = earliest(spans, 60 * minutes)
            last = kept[kept[:, 1] - kept[:, 0] >= 2.0][-1, 1]  # of the spans that hold a window
            ends = [index[k].start + 2.0 for k in index.numbers_of(key)]
            assert last - 0.2 < max(ends) <= last + 1e-6


def test_only_training_windows_are_limited(colony):
    config = micro(colony, data__minutes=0.1)
    parts = prepare(config)
    n = len(training_batches(parts).windows)
    assert n < len(training_batches(dataclasses.replace(parts, config=micro(colony))).windows)
    for tier in ("validation", "test"):
        limited, whole = parts.windows(parts.store.keys, (tier,), 0.5), windows(colony, 0.0, (tier,))
        assert {w.session for w in map(limited.__getitem__, range(len(limited)))} == set(whole.sessions)
        spans = sum(np.diff(tier_spans(parts.store.recording(key), (tier,)), axis=1).sum() for key in parts.store.keys)
        assert len(limited) * 0.5 > spans / 3


def test_impossible_minutes_are_refused(colony):
    with pytest.raises(UserError, match=r"data.minutes is -1"):
        windows(colony, -1.0)
    with pytest.raises(UserError, match=r"no window of 2 s.*in their first 0.01 minutes"):
        windows(colony, 0.01)
    parts = prepare(micro(colony))
    with pytest.raises(UserError, match="not limited in minutes"):
        WindowIndex.of(
            parts.store, parts.store.keys, ("train",), parts.model.grid, 0.1, "none", "experanto", minutes=1.0
        )
