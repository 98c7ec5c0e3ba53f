"""Neurons go into slots so that a small row keeps the regime's meaning; padding is masked."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.collate import collate, neuron_slots
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import Sample, Window


@pytest.mark.parametrize("n_slots", [16, 64])
@pytest.mark.parametrize("visible", [0, 1, 5, 8, 12, 15, 16])
def test_slots_hold_every_neuron_once_and_the_visible_ones_first(n_slots, visible):
    for n in range(1, n_slots + 1):
        slots = neuron_slots(n, visible, n_slots)
        assert len(set(slots)) == n
        assert slots.min() >= 0
        assert slots.max() < n_slots
        shown = slots < visible
        assert not np.any(np.diff(shown.astype(int)) > 0), "shown neurons come first in the row's order"
        if 0 < visible < n_slots and n > 1:
            assert (~shown).sum() > 0, "something is left to predict"
            held_back = np.sort(slots[~shown])
            assert held_back[-1] == n_slots - 1
            assert np.all(np.diff(held_back) == 1), "the last slots, those that a regime asks for, fill up first"


def test_a_full_row_is_left_as_it_is():
    for visible in (0, 3, 10, 16):
        np.testing.assert_array_equal(neuron_slots(16, visible, 16), np.arange(16))


def test_too_many_neurons_are_refused():
    with pytest.raises(UserError, match="17 neurons do not fit into 16 slots"):
        neuron_slots(17, 4, 16)


def sample(key: str, n: int, seed: int, video: bool) -> Sample:
    rng = np.random.default_rng(seed)
    responses = rng.random((60, n)).astype(np.float32)
    responses[3, 0] = np.nan
    behavior = rng.standard_normal((2, 40)).astype(np.float32)
    behavior[1] = np.nan
    frames = rng.integers(0, 255, (60, 4, 6), dtype=np.uint8) if video else None
    return Sample(Window(key, 1.0), rng.permutation(n), responses, behavior, frames, 7)


def test_rows_of_different_mice_are_padded_and_masked():
    vocabulary = Vocabulary.of({"a": {"animal": "x", "n_neurons": 5}, "b": {"animal": "y", "n_neurons": 9}})
    rows = [sample("a", 5, 0, True), sample("b", 9, 1, False)]
    batch = collate(rows, vocabulary, Grid(), 2, 16, 4, (4, 6), np.dtype(np.uint8), np.arange(7) < 3, n_rows=3)
    for field in batch:
        assert np.all(np.isfinite(field.astype(np.float64)))
    assert batch.neuron_mask.sum(1).tolist() == [5, 9, 0]
    assert batch.row_mask.tolist() == [True, True, False]
    assert batch.video_mask.tolist() == [True, False, False]
    assert batch.response_mask[0].sum() == 5 * 60 - 1
    assert not batch.behavior_mask[:, 1].any()
    assert batch.context_shown.shape == (3, 7)
    assert batch.context_shown.sum(1).tolist() == [3, 3, 3]
    for row, one in enumerate(rows):
        slots = np.flatnonzero(batch.neuron_mask[row])
        first = vocabulary.entry(one.window.session).first_row
        order = np.argsort(neuron_slots(len(one.neurons), 4, 16))
        np.testing.assert_array_equal(batch.neuron_rows[row, slots] - first, one.neurons[order])


def test_a_screen_of_another_size_names_the_session():
    vocabulary = Vocabulary.of({"a": {"animal": "x", "n_neurons": 5}})
    with pytest.raises(UserError, match=r"session a: screen is 4x6, the model's is 8x8"):
        collate([sample("a", 5, 0, True)], vocabulary, Grid(), 2, 16, 4, (8, 8), np.dtype(np.uint8), np.ones(0, bool))


def test_a_vocabulary_grows_without_moving_rows():
    old = Vocabulary.of({"a": {"animal": "x", "n_neurons": 5}, "b": {"animal": "y", "n_neurons": 9}})
    new = old.extended({"c": {"animal": "x", "n_neurons": 3}, "a": {"animal": "x", "n_neurons": 5}})
    assert new.sessions[:2] == old.sessions
    assert new.neuron_rows("c").tolist() == [14, 15, 16]
    assert new.animal_row("c") == old.animal_row("a")
    assert Vocabulary.from_json(new.to_json()) == new


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_column_of_one_neuron_is_whole(n):
    """numpy 2.4's isfinite(..., out=view) leaves most of a strided view of one column as it was."""
    grid = Grid()
    vocabulary = Vocabulary.of({"a": {"animal": "a", "n_neurons": n}})
    sample = Sample(
        Window("a", 0.0),
        np.arange(n),
        np.ones((grid.n_samples, n), np.float32),
        np.zeros((1, grid.n_behavior)),
        None,
        0,
    )
    for n_visible in (0, 32):
        batch = collate([sample], vocabulary, grid, 1, 64, n_visible, (4, 6), np.dtype(np.uint8), np.zeros(0, bool))
        assert batch.response_mask.sum() == n * grid.n_samples
        assert batch.responses.sum() == n * grid.n_samples
