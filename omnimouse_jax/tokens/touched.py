"""Which table rows a training step reads and may change: few, whatever the tables hold. The same list on every host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from omnimouse_jax.tokens.vocabulary import ROW_MULTIPLE, Vocabulary, padded

#: "session": all rows of the sessions of a step (as the released model is trained); "seen": only rows that are in its windows.
Update = Literal["session", "seen"]


class Touched(NamedTuple):
    """Rows of a step's tables, each once and in ascending order; behind them rows that no table has.

    Rows with the same owner are updated together: if one of them has a gradient, all of them count a step, decay and move.
    """

    neurons: Int[np.ndarray, " U"]
    owners: Int[np.ndarray, " U"]  # of each of `neurons`: a number below U; U at padding
    sessions: Int[np.ndarray, " S"]
    animals: Int[np.ndarray, " A"]


def touched(
    vocabulary: Vocabulary,
    sessions: Iterable[str],
    seen: Sequence[Int[np.ndarray, " _"]] | None,
    n_rows: int,
    n_sessions: int,
) -> Touched:
    """The rows of a step over these sessions, padded to `n_rows` neurons and `n_sessions` sessions and animals.

    `seen`: table rows of the neurons in each window, to update only those; None: every row of the sessions.
    """
    keys = sorted(set(sessions), key=vocabulary.session_row)
    rows = [vocabulary.neuron_rows(key) for key in keys]
    if seen is None:
        neurons = np.concatenate(rows)  # ascending: sessions are numbered in the order of their rows
        owners = np.repeat(np.arange(len(keys)), [len(r) for r in rows])
    else:
        neurons = np.unique(np.concatenate(seen))
        owners = np.arange(len(neurons))
    capacity, many = vocabulary.neuron_capacity, vocabulary.session_capacity
    return Touched(
        _filled(neurons, n_rows, capacity),
        _filled(owners, n_rows, n_rows),
        _filled([vocabulary.session_row(key) for key in keys], n_sessions, many),
        _filled(sorted({vocabulary.animal_row(key) for key in keys}), n_sessions, vocabulary.animal_capacity),
    )


def most_rows(vocabulary: Vocabulary, sessions: Iterable[str], batch_size: int, n_slots: int, update: Update) -> int:
    """Neuron rows that a step over `batch_size` windows of these sessions touches at most, padded."""
    sizes = sorted((vocabulary.entry(key).n_neurons for key in sessions), reverse=True)
    most = sum(sizes[:batch_size])
    if update == "seen" and sizes[0] > n_slots:  # windows of one session may show different neurons of it
        most = min(batch_size * n_slots, sum(sizes))
    return padded(most, ROW_MULTIPLE)


def _filled(values: Sequence[int] | Int[np.ndarray, " values"], n: int, filling: int) -> Int[np.ndarray, " {n}"]:
    out = np.full(n, filling, np.int32)
    out[: len(values)] = values
    return out
