"""A wrong field or type is an error that names the nearest valid one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnimouse_jax.configuration import fields, load
from omnimouse_jax.errors import UserError
from omnimouse_jax.training.defaults import model_config, optimizer_settings

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("[!_]*.py"))
TINY = next(path for path in CONFIGS if path.stem == "tiny")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_docstring_says_what_how_long_and_how(path):
    config = load(path)
    model_config(config.model)
    optimizer_settings(config)
    docstring = path.read_text().split('"""')[1]
    for word in ("What:", "How long:", "Command:", "omnimouse-jax"):
        assert word in docstring, f"{path.name}: no {word}"


def test_values_take_the_type_of_their_field():
    flags = [
        "train.steps=7",
        "optimizer.shared.learning_rate=1",
        "data.sessions=('a',)",
        "data.store=s3://x/y",
        "data.tiers=train",
    ]
    config = load(TINY, [f"--config.{flag}" for flag in flags])
    assert config.train.steps == 7
    assert config.optimizer.shared.learning_rate == 1.0
    assert isinstance(config.optimizer.shared.learning_rate, float)
    assert config.data.sessions == ("a",)
    assert config.data.store == "s3://x/y"
    assert config.data.tiers == ("train",)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.train.stepz=7", r"unknown field train\.stepz.*did you mean train\.steps\?"),
        ("--config.trian.steps=7", r"unknown field trian\.steps.*train\.steps|did you mean train\?"),
        ("--config.train.steps=many", r"train\.steps is int \(\d+\), got str 'many'"),
        ("--config.train.steps=1.5", r"train\.steps is int"),
        ("--config.train=7", r"train is a group of fields.*train\.steps"),
        ("--config.seed.deeper=7", r"seed has no fields"),
        ("--config.train.steps", r"write overrides as --config\.path\.to\.field=value"),
        ("--config.train.steps=None", r"train\.steps is int"),
        ("--config.mesh.data=True", r"mesh\.data is int"),
    ],
)
def test_wrong_overrides_name_the_way_out(flag, message):
    with pytest.raises(UserError, match=message):
        load(TINY, [flag])


def test_a_missing_file_lists_its_neighbours():
    with pytest.raises(UserError, match=r"nonsense\.py not found.*tiny\.py"):
        load(TINY.with_name("nonsense.py"))


def test_a_run_s_own_config_is_a_config(tmp_path):
    config = load(TINY, ["--config.data.sessions=('a',)"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    again = load(file, ["--config.train.steps=7"])
    assert {**fields(again), "train.steps": config.train.steps} == fields(config)
    assert model_config(again.model) == model_config(config.model)
    assert optimizer_settings(again)._replace(total_steps=config.train.steps) == optimizer_settings(config)
    with pytest.raises(UserError, match=r"unknown field train\.stepz"):
        load(file, ["--config.train.stepz=7"])


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "no group 'model'"), ('{"model": {}}', "'data'")]
)
def test_another_json_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.json")


def test_fields_are_flat():
    assert fields(load(TINY))["optimizer.shared.learning_rate"] == load(TINY).optimizer.shared.learning_rate
