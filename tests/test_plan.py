"""Cells of a study: nested subsets by every measure, unions of products without copies, a file that survives."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from omnimouse_jax.configuration import load
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.plan import Plan, cell_config, cells, default_study, subset
from omnimouse_jax.training.defaults import base

ROOT = Path(__file__).resolve().parents[1]
#: Eight sessions of five animals, of 10 to 80 neurons.
SUMMARIES = {
    f"s{i}": {"animal": f"a{animal}", "n_neurons": 10 * (i + 1), "minutes": 5.0}
    for i, animal in enumerate((0, 1, 2, 2, 3, 3, 3, 4))
}


def study(**changes) -> ConfigDict:
    config = base("tiny")
    config.train.steps = 1000
    config.optimizer.warmup_steps, config.optimizer.anneal_steps = 10, 100
    config.study = default_study()
    config.study.sizes = ConfigDict(
        {"S": {"d_model": 8}, "M": {"d_model": 16, "optimizer": {"shared": {"weight_decay": 0.0}}}}
    )
    config.study.amounts = (2, 4, 8)
    config.study.evaluation_sessions = 2
    config.study.orders = (0, 1)
    config.study.seeds = (0, 1)
    for name, value in changes.items():
        config.study[name] = value
    return config


def test_subsets_are_nested_and_hold_the_evaluation_sessions():
    planned = cells(study(), SUMMARIES)
    assert len(planned) == 2 * 2 * (1 + 2 + 1)  # the evaluation sessions alone, and the whole store, have one order
    assert len({(cell.sessions, cell.size, cell.seed) for cell in planned}) == len(planned), "no run twice"
    assert len({cell.run_id for cell in planned}) == len(planned)
    for cell in planned:
        assert cell.evaluation_sessions == ("s0", "s1")
        assert cell.sessions[:2] == ("s0", "s1")
        assert len(cell.sessions) == cell.amount
    for order in range(2):
        chain = [set(subset(SUMMARIES, ("s0", "s1"), "sessions", amount, order)) for amount in (2, 3, 5, 8)]
        assert all(a < b for a, b in itertools.pairwise(chain))
    three = [subset(SUMMARIES, ("s0",), "sessions", 4, order) for order in (0, 1, 2)]
    assert len({frozenset(s) for s in three}) > 1, "orders differ"
    assert three == [subset(SUMMARIES, ("s0",), "sessions", 4, order) for order in (0, 1, 2)], "and are what they were"


def test_amounts_can_count_animals_neurons_or_minutes():
    assert subset(SUMMARIES, ("s2",), "animals", 2, 0) == ("s2", "s3", "s0"), "animals come with all their sessions"
    assert subset(SUMMARIES, ("s0",), "neurons", 60, 0) == ("s0", "s1", "s2")
    assert subset(SUMMARIES, ("s0",), "neurons", 55, 0) == ("s0", "s1", "s2"), "whole sessions, until there are enough"
    planned = cells(study(by="minutes", amounts=(0.5, 2), orders=(0,)), SUMMARIES)
    assert {cell.changes["data.minutes"] for cell in planned} == {0.5, 2.0}
    assert all(cell.sessions == tuple(SUMMARIES) for cell in planned)


def test_further_products_are_joined_without_copies():
    config = study(orders=(0,))
    config.study.also = ConfigDict(
        {
            "orders": {"sizes": ("S",), "amounts": (4,), "orders": (0, 1, 2), "seeds": (0,)},
            "rates": {"amounts": "largest", "rates": (0.5, 1.0), "seeds": (0,)},
        }
    )
    main = cells(study(orders=(0,)), SUMMARIES)
    planned = cells(config, SUMMARIES)
    added = {cell.run_id for cell in planned} - {cell.run_id for cell in main}
    others = {f"S-4sessions-order{order}-seed0" for order in (1, 2)}
    assert added == others | {f"{size}-8sessions-order0-seed0-rate0.5" for size in "SM"}
    slow = next(cell for cell in planned if cell.rate == 0.5)
    for group in ("shared", "session"):
        halved = slow.changes[f"optimizer.{group}.learning_rate"]
        assert halved == pytest.approx(0.5 * config.optimizer[group].learning_rate)


def test_amounts_by_name_leave_out_the_largest_two():
    config = study(orders=(0,), amounts=(2, 3, 4, 8))
    config.study.also = ConfigDict({"orders": {"sizes": ("S",), "amounts": "small", "orders": (1, 2), "seeds": (0,)}})
    others = [cell for cell in cells(config, SUMMARIES) if cell.order]
    assert {(cell.amount, cell.order) for cell in others} == {(3, 1), (3, 2)}


def test_no_amounts_mean_a_ladder_to_the_whole_store():
    planned = cells(study(amounts=(), levels=3, orders=(0,)), SUMMARIES)
    assert sorted({cell.amount for cell in planned}) == [2, 4, 8]


def test_branches_have_the_schedule_of_their_run():
    planned = cells(study(anneal=(200, 500)), SUMMARIES)
    assert {(cell.anneal, cell.anneal_steps) for cell in planned} == {((200, 500), 100)}
    train = cell_config(study(anneal=(200, 500)), planned[0]).train
    assert (train.keep_every, train.checkpoint_every) == (100, 100), "the points are saved, and kept"
    often = study(anneal=(200, 500))
    often.train.checkpoint_every = 30
    assert cell_config(often, cells(often, SUMMARIES)[0]).train.checkpoint_every == 25
    for wrong in (5, 900):
        with pytest.raises(UserError, match="constant rate"):
            cells(study(anneal=(wrong,)), SUMMARIES)


def test_a_cell_s_config_is_the_study_s_but_for_its_changes():
    config = study()
    cell = next(c for c in cells(config, SUMMARIES) if c.size == "M" and c.seed == 1)
    made = cell_config(config, cell)
    assert "study" not in made
    assert (made.model.d_model, made.seed, made.optimizer.shared.weight_decay) == (16, 1, 0.0)
    assert made.data.sessions == cell.sessions
    assert made.evaluation.sessions == ("s0", "s1")
    assert made.train.to_dict() == config.train.to_dict()


def test_a_plan_survives_its_file(tmp_path):
    config = study(anneal=(200,))
    plan = Plan("x", config.to_dict(), tuple(cells(config, SUMMARIES)), command="sweep plan", totals={"cells": 20})
    plan.write(tmp_path)
    again = Plan.read(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    for cell in plan.cells:
        assert again.config_of(again.cell(cell.run_id)).to_dict() == cell_config(config, cell).to_dict()
    assert dataclasses.replace(again, config={}, cells=()) == dataclasses.replace(plan, config={}, cells=())
    with pytest.raises(UserError, match="no cell nobody"):
        again.cell("nobody")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"version": 7, "cells": []}', '{"version": 1, "cells": [{"size": "S"}]}']
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json"):
        Plan.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amounts": (1, 4)}, "data amounts"),
        ({"amounts": (2, 9)}, "data amounts"),
        ({"evaluated": ("s0", "nobody")}, "nobody"),
        ({"evaluation_sessions": 9}, "evaluation_sessions"),
        ({"by": "mice"}, r"study\.by"),
        ({"seeds": ()}, "seeds is empty"),
        ({"by": "minutes", "amounts": (-1,)}, "positive"),
        ({"by": "minutes", "amounts": (6.0,)}, "no session has more than 5"),
        ({"rates": (0.0, 1.0)}, "above 0"),
        ({"amounts": (2, 8), "also": ConfigDict({"x": {"amounts": "small"}})}, "there are 2"),
        ({"also": ConfigDict({"x": {"mice": 3}})}, "no axis 'mice'"),
        ({"also": ConfigDict({"x": {"sizes": ("XXL",)}})}, "no size 'XXL'"),
        ({"also": ConfigDict({"x": {"amounts": "few"}})}, "numbers, or small"),
    ],
)
def test_impossible_studies_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        cells(study(**change), SUMMARIES)


@pytest.mark.parametrize("name", ["demo", "first_study", "scaling", "colony_study"])
def test_our_own_studies_plan_no_run_twice(name):
    config = load(ROOT / "configs" / f"{name}.py")
    many = {f"s{i}": {"animal": f"a{i // 2}", "n_neurons": 40, "minutes": 5.0} for i in range(48)}
    if name == "demo":
        many = dict(list(many.items())[:16])
    if name == "first_study":
        many = dict(list(many.items())[:3])
    planned = cells(config, many)
    runs = {(frozenset(cell.sessions), cell.size, cell.seed, cell.rate) for cell in planned}
    assert len(runs) == len(planned)
    for cell in planned:
        assert cell_config(config, cell).model.d_model > 0
    if name == "scaling":
        assert {cell.order for cell in planned} == {0, 1, 2}
        assert len({cell.rate for cell in planned}) == 3
