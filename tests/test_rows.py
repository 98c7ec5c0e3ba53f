"""Rows by name: kept bit for bit, in any order, with their moments and counts; padding stays padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.defaults import model_config
from omnimouse_jax.training.optim import OptState
from omnimouse_jax.training.rows import Named, capacity_of, carry, carry_tables, fresh_tables, merge, moves
from omnimouse_jax.training.step import TrainState
from tests.micro import micro

MODEL = model_config(micro("none").model)
MICE = {
    "a-1": {"animal": "a", "n_neurons": 5},
    "a-2": {"animal": "a", "n_neurons": 3},
    "b-1": {"animal": "b", "n_neurons": 7},
    "c-1": {"animal": "c", "n_neurons": 2},
}
TABLES = ("neuron_embedding", "neuron_bias", "session_embedding", "animal_embedding")


def vocabulary(*keys: str) -> Vocabulary:
    return Vocabulary.of({key: MICE[key] for key in keys})


def learnt(words: Vocabulary, seed: int, core: float = 1.0) -> Named:
    """A state with a number of its own everywhere, padding too."""
    rng = np.random.default_rng(seed)
    shapes = {name: table.shape for name, table in fresh_tables(MODEL, words, 0).items()}

    def tables() -> dict[str, np.ndarray]:
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def part(tables: dict[str, np.ndarray], of_core: np.ndarray) -> dict:
        return {"core": {"kernel": of_core}, "tables": tables}

    steps = {name: rng.integers(1, 99, shape[0]).astype(np.int32) for name, shape in shapes.items()}
    opt = OptState(part(tables(), np.float32([2.0])), part(tables(), np.float32([3.0])), part(steps, np.int32(seed)))
    return Named(TrainState(part(tables(), np.float32([core])), opt, np.int32(7)), words)


def fresh(words: Vocabulary, seed: int = 5) -> dict[str, np.ndarray]:
    return fresh_tables(MODEL, words, seed)


def of(named: Named, key: str) -> dict[str, np.ndarray]:
    """All that a state knows of a session: its rows of every table, parameters, moments and counts."""
    state, words = named
    rows = {
        "neuron": words.neuron_rows(key),
        "session": np.array([words.session_row(key)]),
        "animal": np.array([words.animal_row(key)]),
    }
    parts = {"params": state.params, **state.opt._asdict()}
    return {
        f"{part}/{name}": np.asarray(table)[rows[name.split("_")[0]]]
        for part, tree in parts.items()
        for name, table in tree["tables"].items()
    }


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.mark.parametrize("keys", list(itertools.permutations(MICE)))
def test_any_order_of_sessions_gives_every_mouse_its_own_rows(keys):
    old = learnt(vocabulary(*MICE), 0)
    new = vocabulary(*keys)
    carried = Named(carry(old.state, old.vocabulary, new, fresh(new)), new)
    assert all(same(of(carried, key), of(old, key)) for key in MICE)
    back = Named(carry(carried.state, new, old.vocabulary, fresh(old.vocabulary)), old.vocabulary)
    assert all(same(of(back, key), of(old, key)) for key in MICE)


def test_added_sessions_are_fresh_and_the_others_do_not_notice():
    old = learnt(vocabulary("a-1", "b-1"), 0)
    new = old.vocabulary.extended({key: MICE[key] for key in ("a-2", "c-1")})
    begun = fresh(new)
    state = carry(old.state, old.vocabulary, new, begun)
    assert all(same(of(Named(state, new), key), of(old, key)) for key in ("a-1", "b-1"))
    rows = np.concatenate([new.neuron_rows("a-2"), new.neuron_rows("c-1")])
    np.testing.assert_array_equal(state.params["tables"]["neuron_embedding"][rows], begun["neuron_embedding"][rows])
    for part in state.opt:
        assert not part["tables"]["neuron_embedding"][rows].any()
        assert not part["tables"]["session_embedding"][[2, 3]].any()
        assert part["tables"]["animal_embedding"][0].any(), "animal a was known"
        assert not part["tables"]["animal_embedding"][2].any(), "animal c was not"
    assert state.params["core"] == old.state.params["core"]
    assert state.step == 7


def test_dropping_closes_the_gap_and_forgets_the_animal():
    old = learnt(vocabulary(*MICE), 0)
    new = old.vocabulary.dropped(["a-1", "b-1"])
    assert [entry.first_row for entry in new.sessions] == [0, 3]
    assert new.animals == ("a", "c")
    state = carry(old.state, old.vocabulary, new, fresh(new))
    assert all(same(of(Named(state, new), key), of(old, key)) for key in ("a-2", "c-1"))
    with pytest.raises(UserError, match="every session"):
        old.vocabulary.dropped(list(MICE))
    with pytest.raises(UserError, match="session z"):
        old.vocabulary.dropped(["z"])


def test_padding_of_the_old_tables_goes_nowhere():
    old = learnt(vocabulary("a-1"), 0)
    new = old.vocabulary.extended({"b-1": MICE["b-1"]})
    state = carry(old.state, old.vocabulary, new, fresh(new))
    for name in TABLES:
        used = {"neuron": new.n_neurons, "session": 2, "animal": 2}[name.split("_")[0]]
        assert not np.asarray(state.params["tables"][name])[used:].any(), "fresh padding is zeros"
        for part in state.opt:
            assert not np.asarray(part["tables"][name])[used:].any()
            assert len(part["tables"][name]) == capacity_of(new, name)
    for name in TABLES:
        assert not set(moves(old.vocabulary, new, name).old) - set(range(5))


def test_a_fresh_row_is_its_owners_wherever_it_stands():
    one, two = vocabulary(*MICE), vocabulary(*reversed(MICE))
    first, second = fresh(one), fresh(two)
    for key in MICE:
        np.testing.assert_array_equal(
            first["neuron_embedding"][one.neuron_rows(key)], second["neuron_embedding"][two.neuron_rows(key)]
        )
        np.testing.assert_array_equal(
            first["session_embedding"][one.session_row(key)], second["session_embedding"][two.session_row(key)]
        )
    assert not np.array_equal(first["neuron_embedding"][0], fresh(one, seed=6)["neuron_embedding"][0])
    spread = first["neuron_embedding"][: one.n_neurons].std() * np.sqrt(MODEL.d_embedding)
    assert 0.8 < spread < 1.2, "as wide as a new model's rows"


def test_two_models_become_one_that_has_the_rows_of_both():
    a, b = learnt(vocabulary("a-1", "a-2"), 1), learnt(vocabulary("c-1", "b-1"), 2)
    whole = a.vocabulary.merged(b.vocabulary)
    merged = merge(a, b, fresh(whole))
    assert [entry.key for entry in merged.vocabulary.sessions] == ["a-1", "a-2", "c-1", "b-1"]
    assert all(same(of(merged, key), of(a, key)) for key in ("a-1", "a-2"))
    assert all(same(of(merged, key), of(b, key)) for key in ("c-1", "b-1"))
    assert merged.state.opt.steps["core"]["kernel"] == 1, "moments of the core are the first's"


def test_rows_that_both_models_have_must_be_equal_or_preferred():
    base = learnt(vocabulary("b-1"), 0)
    one, two = (base.vocabulary.extended({key: MICE[key]}) for key in ("a-1", "c-1"))
    a, b = (Named(carry(base.state, base.vocabulary, words, fresh(words)), words) for words in (one, two))
    whole = one.merged(two)
    merged = merge(a, b, fresh(whole))
    assert same(of(merged, "b-1"), of(base, "b-1"))
    b.state.params["tables"]["neuron_bias"][two.neuron_rows("b-1")] += 1
    with pytest.raises(UserError, match=r"b-1.*--prefer first or --prefer second"):
        merge(a, b, fresh(whole))
    assert same(of(merge(a, b, fresh(whole), prefer="first"), "b-1"), of(a, "b-1"))
    assert same(of(merge(a, b, fresh(whole), prefer="second"), "b-1"), of(b, "b-1"))
    with pytest.raises(UserError, match="prefer is 'third'"):
        merge(a, b, fresh(whole), prefer="third")


def test_different_cores_are_not_merged_unless_asked():
    a, b = learnt(vocabulary("a-1"), 1), learnt(vocabulary("b-1"), 2, core=1.5)
    whole = a.vocabulary.merged(b.vocabulary)
    with pytest.raises(UserError, match=r"different cores.*kernel.*--core first"):
        merge(a, b, fresh(whole))
    assert merge(a, b, fresh(whole), core="first").state.params["core"]["kernel"] == 1.0


def test_a_session_of_another_size_or_animal_is_another_recording():
    old, new = vocabulary("a-1"), Vocabulary.of({"a-1": {"animal": "a", "n_neurons": 6}})
    with pytest.raises(UserError, match="a-1: 5 neurons in the model, 6 now"):
        carry_tables(fresh(old), old, new, fresh(new))
    with pytest.raises(UserError, match="a-1: 5 neurons of animal a in one model, 6 of a in the other"):
        old.merged(new)
    with pytest.raises(UserError, match="named twice"):
        old.ordered(["a-1", "a-1"])


def test_a_merged_model_predicts_for_each_mouse_what_its_own_model_predicted(colony, tmp_path):
    """Two mice adapted to one frozen core; nothing of either changes by a bit when the tables are put together."""
    from omnimouse_jax.evaluate import new_rows
    from omnimouse_jax.evaluate.new_mouse_runs import Before, begin_from
    from omnimouse_jax.evaluate.opened import Run
    from omnimouse_jax.training.train import train

    quick = {"train__steps": 2, "train__validation_windows": 0, "regimes": ("stimulus",)}
    train(micro(colony, data__sessions=("m001-1",), **quick), tmp_path / "base")
    base, mice = Before.of(tmp_path / "base"), ("m002-1", "m003-1")
    for key in mice:
        config = micro(colony, data__sessions=(key,), evaluation__sessions=(key,), train__trained="tables", **quick)
        begin_from(tmp_path / key, base, config, [key], "random", None)
        train(config, tmp_path / key)
    told = new_rows.write(tmp_path / "m002-1", tmp_path / "both", merge_with=tmp_path / "m003-1")
    assert "took 1 sessions over" in told[1]
    merged = Run(tmp_path / "both")
    assert merged.sessions == ("m001-1", *mice)
    for key in mice:
        alone = Run(tmp_path / key, "latest").predict(key, "stimulus", tiers=("test",))
        together = merged.predict(key, "stimulus", tiers=("test",))
        np.testing.assert_array_equal(together.responses, alone.responses)
        rows = merged.vocabulary.neuron_rows(key)
        steps = np.asarray(new_rows.Held.of(tmp_path / "both").named.state.opt.steps["tables"]["neuron_bias"])
        assert (steps[rows] == 2).all(), "counts of Adam steps came along"
    new_rows.write(tmp_path / "both", tmp_path / "one", drop=["m001-1", "m003-1"])
    again = Run(tmp_path / "one").predict("m002-1", "stimulus", tiers=("test",))
    np.testing.assert_array_equal(again.responses, merged.predict("m002-1", "stimulus", tiers=("test",)).responses)
    assert "m002-1" in new_rows.listed(tmp_path / "one")
