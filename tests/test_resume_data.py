"""A run goes on only with the recordings that it began with, and what is held out stays held out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training.train import train
from tests.micro import micro


@pytest.fixture
def store(colony: str, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(colony, tmp_path / "store"))


def in_memory(rec: Recording) -> Recording:
    """A copy that does not read from the store that it is to be written to."""
    values = np.array(rec.responses.values[0 : rec.responses.n_samples])
    return dataclasses.replace(
        rec, responses=dataclasses.replace(rec.responses, values=values), behavior={}, screen=None, truth=None
    )


def test_recordings_that_were_written_anew_are_refused(store: Store, tmp_path: Path) -> None:
    config = micro(store.name, regimes=("population",), train__steps=2, train__validation_windows=0)
    train(config, tmp_path / "run")
    config.train.steps = 4
    key = store.keys[0]
    rec = in_memory(store.recording(key))
    rec.responses.values[5, 0] += 1
    store.add(rec, overwrite=True)
    with pytest.raises(UserError, match=f"recordings have changed since it began .session {key} was written anew"):
        train(config, tmp_path / "run")


def test_scored_tiers_may_not_change_where_they_decide_what_is_trained_on(store: Store, tmp_path: Path) -> None:
    config = micro(store.name, train__steps=2, data__leave_out="any", train__validation_windows=0)
    train(config, tmp_path / "run")
    config.train.steps, config.evaluation.tiers = 4, ("validation",)
    with pytest.raises(UserError, match=r"trained with another config \(evaluation.tiers"):
        train(config, tmp_path / "run")


def test_scoring_what_was_not_left_out_is_told(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = micro(store.name, train__steps=2, data__leave_out="any", train__validation_windows=0)
    train(config, tmp_path / "run")
    evaluate_run(tmp_path / "run", tiers=("train",))
    assert "stimuli of tier train were not left out of this run's training" in capsys.readouterr().err


def test_a_validation_tier_that_is_withheld_chooses_no_checkpoint(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for key in store.keys:
        rec = in_memory(store.recording(key))
        kept = rec.trials.tier == "validation"
        rec = dataclasses.replace(rec, trials=dataclasses.replace(rec.trials, withheld=kept))
        for start, end in zip(rec.trials.start[kept], rec.trials.end[kept], strict=True):
            lo, hi = ((t - rec.responses.segment_start[0]) * rec.responses.rate for t in (start, end))
            rec.responses.values[int(lo) : int(np.ceil(hi))] = np.nan
        store.add(rec, overwrite=True)
    run = train(micro(store.name, regimes=("population",), train__steps=4), tmp_path / "run")
    assert "no validation: " in (err := capsys.readouterr().err)
    assert "withheld" in err
    assert "validation_loss" not in run
    assert "validation_loss" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert run["checkpoint_step"] == 4


def test_validation_skips_damage_too_and_much_damage_ends_a_run(store: Store, tmp_path: Path) -> None:
    for session in (Path(store.name) / "sessions").iterdir():
        shard = next(p for p in sorted((session / "behavior.eye_tracker" / "c").rglob("*")) if p.is_file())
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    run = train(micro(store.name, train__steps=2, data__damaged="skip"), tmp_path / "run")
    assert run["windows_skipped"] > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in row for row in rows) or run["checkpoint_step"] == 2
    with pytest.raises(UserError, match="windows were damaged, more than a tenth"):
        train(micro(store.name, train__steps=200, data__damaged="skip", train__validation_windows=0), tmp_path / "long")


def test_sessions_that_cannot_be_scored_are_left_out_unless_they_are_named(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    key = store.keys[0]
    rec = in_memory(store.recording(key))
    tier = np.where(rec.trials.tier == "test", "other", rec.trials.tier)
    store.add(dataclasses.replace(rec, trials=dataclasses.replace(rec.trials, tier=tier)), overwrite=True)
    config = micro(store.name, regimes=("population",), train__steps=2, train__validation_windows=0)
    config.evaluation.tasks = {"population": "population"}
    train(config, tmp_path / "run")
    capsys.readouterr()
    rows = evaluate_run(tmp_path / "run")["rows"]
    assert {row["session"] for row in rows} == set(store.keys[1:])
    assert (
        f"1 of {len(store)} sessions have nothing to score in tier test and are left out: {key}"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=f"session {key}: no window of 2 s in tier test"):
        evaluate_run(tmp_path / "run", sessions=(key, store.keys[1]))


def test_another_screen_is_told_with_the_flags_that_take_it(store: Store, tmp_path: Path) -> None:
    from omnimouse_jax.training.setup import prepare

    config = micro(store.name)
    config.model.screen, config.model.hiera_padding = (36, 64), (1, 3)
    config.model.hiera_stages, config.model.hiera_q_pool = (1, 1), 1
    with pytest.raises(
        UserError, match=r"screen is 16x32, the model's is 36x64 - pass --config.model.screen='\(16, 32\)'"
    ) as e:
        prepare(config)
    padding = str(e.value).partition("hiera_padding='(")[2].partition(")")[0]
    config.model.screen = (16, 32)
    config.model.hiera_padding = tuple(map(int, padding.split(","))) if padding else config.model.hiera_padding
    prepare(config)
    assert not (tmp_path / "run").exists()
