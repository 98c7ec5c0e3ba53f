"""Which rows a step touches: all that its windows show, few beyond, the same whoever asks."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.tokens.touched import most_rows, touched
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.train import training_batches
from tests.micro import micro

SUMMARIES = {
    "a": {"animal": "x", "n_neurons": 5},
    "b": {"animal": "y", "n_neurons": 3},
    "c": {"animal": "x", "n_neurons": 4},
}


@pytest.mark.parametrize("update", ["session", "seen"])
@pytest.mark.parametrize("slots", [16, 4])
def test_every_row_that_a_batch_shows_is_touched(colony, update, slots):
    config = micro(colony, optimizer__rows=update, model__max_neurons=slots, data__batch_size=6, train__accumulate=2)
    batches = training_batches(prepare(config))
    for step in range(4):
        loaded = batches.load(step, slice(None))
        shown = np.concatenate([batch.neuron_rows[batch.neuron_mask] for batch in loaded.batches])
        neurons = loaded.touched.neurons
        real = neurons[neurons < batches.cutter.vocabulary.neuron_capacity]
        assert len(neurons) == batches.n_touched
        assert set(shown) <= set(real)
        assert (np.diff(real) > 0).all()
        if update == "seen":
            assert set(shown) == set(real)
        sessions = {row for batch in loaded.batches for row in batch.session_rows}
        assert set(loaded.touched.sessions) - {batches.cutter.vocabulary.session_capacity} == sessions
        # Another host, which loads other rows, has the same list.
        for a, b in zip(batches.load(step, slice(1, 2)).touched, loaded.touched, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_of_a_session_share_an_owner_and_padding_has_none():
    vocabulary = Vocabulary.of(SUMMARIES)
    found = touched(vocabulary, ["c", "a", "c"], None, 12, 4)
    capacity = vocabulary.neuron_capacity
    assert found.neurons.tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11, capacity, capacity, capacity]
    assert found.owners.tolist() == [0] * 5 + [1] * 4 + [12] * 3
    assert found.sessions.tolist() == [0, 2, vocabulary.session_capacity, vocabulary.session_capacity]
    assert found.animals.tolist() == [0, *[vocabulary.animal_capacity] * 3]


def test_how_many_rows_a_step_touches_at_most():
    sizes = {f"s{i}": {"animal": "x", "n_neurons": 3000 + i} for i in range(10)}
    vocabulary = Vocabulary.of(sizes)
    keys = list(sizes)
    assert most_rows(vocabulary, keys, 2, 512, "session") == 6 * 1024  # the two largest
    assert most_rows(vocabulary, keys, 2, 512, "seen") == 1024
    assert most_rows(vocabulary, keys, 2, 4096, "seen") == 6 * 1024
    assert most_rows(vocabulary, keys, 100, 512, "seen") == 30 * 1024  # no more than there are
