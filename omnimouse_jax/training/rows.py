"""Rows by name: what a model has learnt about each neuron, session and animal, carried from one vocabulary to another.

One operation does it all. `carry` takes every row whose owner both vocabularies name, with its moments and its count of Adam steps,
bit for bit, to where the new vocabulary has it; rows without a past come from `fresh` and have taken no step. Sessions are
added, dropped, merged and put into another order by carrying to another vocabulary. The core is never touched.

Everything happens on the host in numpy: it is done once, before a run begins.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import Tables
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.optim import OptState
from omnimouse_jax.training.step import TrainState

Arrays = Mapping[str, Shaped[np.ndarray, "_ ..."]]


class Named(NamedTuple):
    """A state and whose rows its tables hold. What is trained may be all of it or a part."""

    state: TrainState
    vocabulary: Vocabulary


class Moves(NamedTuple):
    """Row `old[i]` becomes row `new[i]`."""

    old: Int[np.ndarray, " rows"]
    new: Int[np.ndarray, " rows"]


def moves(old: Vocabulary, new: Vocabulary, table: str) -> Moves:
    """Where the rows of a table go whose session (or animal) is in both vocabularies. Padding goes nowhere."""
    shared = [entry.key for entry in new.sessions if entry.key in old]
    kind = table.partition("_")[0]
    if kind == "neuron":
        for key in shared:
            before, after = old.entry(key).n_neurons, new.entry(key).n_neurons
            if before != after:
                raise UserError(
                    f"session {key}: {before} neurons in the model, {after} now",
                    way_out="use the recording it was trained on",
                )
        pairs = [(old.neuron_rows(key), new.neuron_rows(key)) for key in shared]
    elif kind == "session":
        pairs = [(np.array([old.session_row(key)]), np.array([new.session_row(key)])) for key in shared]
    elif kind == "animal":
        both = [name for name in new.animals if name in old.animals]
        pairs = [(np.array([old.animals.index(name)]), np.array([new.animals.index(name)])) for name in both]
    else:
        raise UserError(f"table {table}: rows of what?", way_out="name it after neuron, session or animal")
    rows = [np.concatenate([np.zeros(0, np.int32), *column]).astype(np.int32) for column in zip(*pairs, strict=True)]
    return Moves(*rows) if rows else Moves(np.zeros(0, np.int32), np.zeros(0, np.int32))


def capacity_of(vocabulary: Vocabulary, table: str) -> int:
    """Rows of a table, padding included."""
    kind = table.partition("_")[0]
    return int(getattr(vocabulary, f"{kind}_capacity"))


def carry_tables(tables: Arrays, old: Vocabulary, new: Vocabulary, fresh: Arrays) -> dict[str, np.ndarray]:
    """Tables with `new`'s rows: those that `old` names too are `tables`', the others (padding too) are `fresh`'s."""
    out = {}
    for name, table in tables.items():
        move = moves(old, new, name)
        carried = np.array(fresh[name])
        carried[move.new] = np.asarray(table)[move.old]
        out[name] = carried
    return out


def carry(state: TrainState, old: Vocabulary, new: Vocabulary, fresh: Arrays) -> TrainState:
    """`state` with `new`'s rows: parameters, both moments and the counts of steps. `fresh`: tables with `new`'s rows, see
    `fresh_tables`. Moments and counts of fresh rows are 0.
    """
    host = jax.device_get(state)
    return _carry_onto(_blank(host, new, fresh), host, old, new)


def _blank(state: TrainState, new: Vocabulary, fresh: Arrays) -> TrainState:
    """The core of `state`, with its moments, and tables of rows that have taken no step."""

    def zeros(part: Any) -> Any:
        rows = {name: (capacity_of(new, name), *np.shape(table)[1:]) for name, table in part["tables"].items()}
        return {**part, "tables": {name: np.zeros(shape, part["tables"][name].dtype) for name, shape in rows.items()}}

    params = {**state.params, "tables": {name: np.asarray(fresh[name]) for name in state.params["tables"]}}
    return TrainState(params, OptState(*map(zeros, state.opt)), state.step)


def _carry_onto(base: TrainState, state: TrainState, old: Vocabulary, new: Vocabulary) -> TrainState:
    """`base`, which has `new`'s rows, with those of `state` that `new` names written over."""

    def tables(under: Any, over: Any) -> Any:
        return {**under, "tables": carry_tables(over["tables"], old, new, under["tables"])}

    opt = OptState(*map(tables, base.opt, state.opt))
    return TrainState(tables(base.params, state.params), opt, base.step)


def fresh_tables(config: ModelConfig, vocabulary: Vocabulary, seed: int) -> dict[str, np.ndarray]:
    """Random tables, as a new model has them. A row depends on its owner's name and the seed, not on where it stands."""
    tables = {
        name: np.zeros((capacity_of(vocabulary, name), *shape), np.float32)
        for name, shape in {
            "neuron_embedding": (config.d_embedding,),
            "neuron_bias": (),
            "session_embedding": (config.d_embedding,),
            "animal_embedding": (config.d_embedding,),
        }.items()
    }

    def drawn(name: str, n_neurons: int) -> Tables:
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        return Tables(config, n_neurons, 1, 1, rngs=nnx.Rngs(params=key))

    for entry in vocabulary.sessions:
        own = drawn(f"session {entry.key}", entry.n_neurons)
        tables["neuron_embedding"][vocabulary.neuron_rows(entry.key)] = np.asarray(own.neuron_embedding[...])
        tables["session_embedding"][vocabulary.session_row(entry.key)] = np.asarray(own.session_embedding[...])[0]
    for row, animal in enumerate(vocabulary.animals):
        tables["animal_embedding"][row] = np.asarray(drawn(f"animal {animal}", 1).animal_embedding[...])[0]
    return tables


def merge(first: Named, second: Named, fresh: Arrays, prefer: str = "", core: str = "") -> Named:
    """One model of the sessions of two, those of `first` in front. `fresh`: tables of the merged vocabulary.

    Both must have the same core, bit for bit (and the same adapters): rows mean nothing to another one. `core="first"` takes the
    first's all the same. Sessions and animals that both have must have equal rows, unless `prefer` ("first" or "second") says
    whose count. Moments of the core are the first's.
    """
    for name, value, known in (("prefer", prefer, ("", "first", "second")), ("core", core, ("", "first"))):
        if value not in known:
            raise UserError(f"merge: {name} is {value!r}", way_out=f"use {' or '.join(k for k in known if k)}")
    one, two = jax.device_get(first.state), jax.device_get(second.state)
    if not core and (difference := _difference(_shared(one.params), _shared(two.params))):
        raise UserError(
            f"merge: the two models have different cores ({difference}), and rows that fit one of them do not fit the other",
            way_out="merge models that were adapted from one run with a frozen core, or take the first's: --core first",
        )
    if one.opt.mean.keys() != two.opt.mean.keys():
        raise UserError(
            "merge: different parts of the two models are trained", way_out="give both the same --config.train.trained"
        )
    whole = first.vocabulary.merged(second.vocabulary)
    if not prefer:
        _require_equal_rows(first, second)
    merged = _blank(one, whole, fresh)
    order = [(two, second.vocabulary), (one, first.vocabulary)]  # who is written last counts
    for state, vocabulary in order if prefer != "second" else reversed(order):
        merged = _carry_onto(merged, state, vocabulary, whole)
    return Named(merged, whole)


def _require_equal_rows(first: Named, second: Named) -> None:
    for name, table in first.state.params["tables"].items():
        move = moves(second.vocabulary, first.vocabulary, name)
        mine, other = np.asarray(table)[move.new], np.asarray(second.state.params["tables"][name])[move.old]
        if mine.tobytes() != other.tobytes():
            shared = [e.key for e in first.vocabulary.sessions if e.key in second.vocabulary]
            animals = [a for a in first.vocabulary.animals if a in second.vocabulary.animals]
            whose = f"animal {animals[0]}" if name.startswith("animal") else f"session {shared[0]}"
            raise UserError(
                f"merge: both models have rows of the same {name.split('_')[0]}s ({whose}, ...), and they differ",
                way_out="say whose count: --prefer first or --prefer second",
            )


def _shared(params: Any) -> dict[str, Any]:
    return {part: tree for part, tree in params.items() if part != "tables"}


def _difference(one: Any, two: Any) -> str:
    """The first leaf in which two trees differ, bit for bit; "" if in none."""
    flat_one, flat_two = (
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (one, two)
    )
    for path in sorted(flat_one.keys() | flat_two.keys()):
        a, b = flat_one.get(path), flat_two.get(path)
        if a is None or b is None or a.shape != b.shape or a.tobytes() != b.tobytes():
            return path
    return ""
