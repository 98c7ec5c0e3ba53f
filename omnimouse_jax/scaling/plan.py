"""The cells of a study: sizes x nested session subsets x orders x seeds, as products of a few tuples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One run of a study. `sessions` are trained on; `evaluation_sessions`, always among them, are scored."""

    run_id: str
    size: str
    model: Mapping[str, Any]  # changes to the model's fields
    sessions: tuple[str, ...]
    evaluation_sessions: tuple[str, ...]
    order: int
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)


def nested_order(sessions: Sequence[str], evaluation: Sequence[str], order: int) -> tuple[str, ...]:
    """All sessions with the evaluation ones first; order 0 keeps the store's order, others are seeded permutations."""
    rest = [key for key in sessions if key not in set(evaluation)]
    if order:
        rest = [rest[i] for i in np.random.default_rng([order]).permutation(len(rest))]
    return (*evaluation, *rest)


def cells(study: Mapping[str, Any], sessions: Sequence[str]) -> list[Cell]:
    """Every cell of a config's `study` group, smallest data amount first.

    A larger subset of one order contains each smaller one, and all contain the evaluation sessions: `study.evaluation_sessions`
    is a count (the first ones of the store) or a tuple of keys.
    """
    wanted = study["evaluation_sessions"]
    evaluation = tuple(sessions[:wanted]) if isinstance(wanted, int) else tuple(wanted)
    unknown = [key for key in evaluation if key not in sessions]
    if unknown:
        raise UserError(
            f"study: evaluation session {unknown[0]} is not in the store", way_out="`omnimouse-jax inspect STORE`"
        )
    amounts = sorted(set(study["sessions"]))
    if not amounts or amounts[0] < len(evaluation) or amounts[-1] > len(sessions):
        raise UserError(
            f"study: data amounts {tuple(amounts)} with {len(evaluation)} evaluation sessions and {len(sessions)} in the store",
            way_out="study.sessions must lie between the two",
        )
    made = []
    for amount, order, (size, changes), seed in itertools.product(
        amounts, range(study["orders"]), study["sizes"].items(), study["seeds"]
    ):
        if order and amount == len(sessions):
            continue  # every order holds the same sessions
        made.append(
            Cell(
                run_id=f"{size}-{amount:03d}sessions-order{order}-seed{seed}",
                size=size,
                model=dict(changes),
                sessions=nested_order(sessions, evaluation, order)[:amount],
                evaluation_sessions=evaluation,
                order=order,
                seed=seed,
                labels={"study": study["name"], "size": size, "data_order": order},
            )
        )
    return made
