"""Batches are pure functions of (seed, step); evaluation visits each window once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.classes import Plan
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.pipeline import Cutter, EvaluationBatches, TrainingBatches, slots_for
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex


@pytest.fixture(scope="module")
def cutter(colony) -> Cutter:
    store = Store.open(colony)
    vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
    n = max(entry.n_neurons for entry in vocabulary.sessions)
    return Cutter(store, vocabulary, Grid(), ("running", "pupil_size"), (16, 32), slots_for(n, 8))


def training(cutter: Cutter, seed: int = 3) -> TrainingBatches:
    windows = WindowIndex.of(cutter.store, cutter.store.keys, ("train",), cutter.grid, 0.5)
    plan = Plan.exact(regimes.select(["tasks"]), cutter.grid, cutter.n_slots)
    return TrainingBatches(cutter, windows, plan, batch_size=4, seed=seed)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_is_a_pure_function_of_seed_and_step(cutter):
    first, again, other = training(cutter), training(cutter), training(cutter, seed=4)
    streamed = list(first.stream(2, 5, slice(None), threads=2, ahead=3))
    for step, loaded in enumerate(streamed, start=2):
        (batch,) = loaded.batches
        assert equal(batch, again[step])
        assert first.regime(step) == again.regime(step)
        assert not equal(batch, other[step])


def test_processes_load_slices_of_one_global_batch(cutter):
    batches = training(cutter)
    whole = batches[7]
    for rows in (slice(0, 2), slice(2, 4)):
        assert equal([field[rows] for field in whole], batches.rows(7, rows))


def test_an_epoch_holds_each_window_once(cutter):
    batches = training(cutter)
    n = len(batches.windows)
    for epoch in range(2):
        drawn = Counter(batches.order[epoch * n + i] for i in range(n))
        assert set(drawn.values()) == {1}
        assert len(drawn) == n


def test_windows_stay_inside_their_tier(cutter):
    for tier in ("train", "validation", "test"):
        index = WindowIndex.of(cutter.store, cutter.store.keys, (tier,), cutter.grid, 1.0)
        for number in range(len(index)):
            window = index[number]
            trials = cutter.store.recording(window.session).trials
            touched = (trials.start < window.start + cutter.grid.seconds - 1e-6) & (trials.end > window.start + 1e-6)
            assert set(trials.tier[touched & (trials.modality != "blank")]) <= {tier}


def test_evaluation_visits_every_window_once_and_masks_the_rest(cutter):
    windows = WindowIndex.of(cutter.store, cutter.store.keys, ("test",), cutter.grid, 1.0)
    batches = EvaluationBatches(cutter, windows, regimes.get("population"), batch_size=5)
    seen = [window for number in range(len(batches)) for window in batches.windows_of(number)]
    assert seen == [windows[i] for i in range(len(windows))]
    assert sum(int(batch.row_mask.sum()) for batch in batches.stream(2, 2)) == len(windows)
    assert set(windows.numbers_of(windows.sessions[-1])) == {
        i for i in range(len(windows)) if windows[i].session == windows.sessions[-1]
    }


def test_a_tier_that_nobody_has_is_named(cutter):
    with pytest.raises(UserError, match="no window of 2 s in tiers nonsense"):
        WindowIndex.of(cutter.store, cutter.store.keys, ("nonsense",), cutter.grid, 1.0)
