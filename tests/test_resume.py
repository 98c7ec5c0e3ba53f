"""A run goes on as the run it was: other configs are refused with a diff, sessions are known by name, damage is stepped over."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training import track
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.defaults import base
from omnimouse_jax.training.resume import comparable, config_of, start_or_resume
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.track import Metrics, read_metrics
from omnimouse_jax.training.train import train, training_batches
from tests.micro import micro


def losses(workdir: Path) -> dict[int, float]:
    return {step: row["loss"] for step, row in read_metrics(workdir).items()}


@pytest.fixture(scope="module")
def finished(colony, tmp_path_factory) -> Path:
    """Four steps, saved at 2 and 4."""
    workdir = tmp_path_factory.mktemp("run")
    train(micro(colony, train__keep=3), workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resumed(config, workdir: Path, allow_change=()):
    """What `train` does before its first step: (state, meta)."""
    parts = prepare(config)
    sessions = parts.store.chosen(config.data.sessions)
    meta = {
        "config": config.to_dict(),
        "vocabulary": parts.vocabulary.to_json(),
        "data": {
            "windows": training_batches(parts).windows.fingerprint(),
            "sessions": {key: parts.store.summary(key)["check"] for key in sessions},
        },
        "version": "later",
    }
    return start_or_resume(parts, Checkpoints(workdir), meta, workdir, allow_change)


def test_another_config_is_refused_field_by_field(colony, run, capsys):
    config = micro(colony, data__batch_size=4, seed=7, optimizer__b1=0.8)
    with pytest.raises(
        UserError, match=r"another config \(data\.batch_size: 8 -> 4; optimizer\.b1: 0\.9 -> 0\.8; seed: 0 -> 7\)"
    ) as told:
        resumed(config, run)
    assert told.value.details == ("data.batch_size: 8 -> 4", "optimizer.b1: 0.9 -> 0.8", "seed: 0 -> 7")
    many = micro(colony, seed=1)
    for name in ("learning_rate", "weight_decay"):
        many.optimizer.shared[name] = many.optimizer.session[name] = 0.5
    for name in ("b1", "b2", "eps", "clip_norm", "warmup_from"):
        many.optimizer[name] = 0.25
    many.optimizer.warmup_steps, many.data.blanks = 1, "none"
    with pytest.raises(UserError) as told:
        resumed(many, run)
    assert len(told.value.details) == 11
    assert told.value.details[-1] == "and 2 more"


def test_what_may_change_is_noted_in_the_run(colony, run):
    config = micro(colony, train__steps=6, train__log_every=2, seed=7, optimizer__b1=0.8)
    with pytest.raises(UserError, match=r"\(optimizer\.b1: 0\.9 -> 0\.8\) - .* --allow-change FIELD"):
        resumed(config, run, ["seed"])
    with pytest.raises(
        UserError, match=r"--allow-change optimiser: unknown field - the nearest valid field is optimizer\."
    ):
        resumed(config, run, ["seed", "optimiser"])
    for group in ("optimizer", "optimizer.", "optimizer.b1"):
        state, meta = resumed(config, run, ["seed", group])
        assert int(state.step) == 4
    changes = [
        {"step": 4, "field": "optimizer.b1", "before": 0.9, "after": 0.8},
        {"step": 4, "field": "seed", "before": 0, "after": 7},
        {"step": 4, "field": "train.keep", "before": 3, "after": 2},
        {"step": 4, "field": "train.log_every", "before": 1, "after": 2},
        {"step": 4, "field": "train.steps", "before": 4, "after": 6},
    ]
    assert meta["changes"] == changes
    saved = Checkpoints(run)
    saved.save(state._replace(step=state.step + 1), meta, None)
    saved.close()
    config.optimizer.b1 = 0.7
    assert resumed(config, run, ["optimizer"]).meta["changes"] == [
        *changes,
        {"step": 5, "field": "optimizer.b1", "before": 0.8, "after": 0.7},
    ]


def test_other_windows_go_on_only_where_they_may(colony, run):
    config = micro(colony, data__stride_s=0.25)
    with pytest.raises(UserError, match=r"data\.stride_s: 0\.5 -> 0\.25"):
        resumed(config, run)
    assert int(resumed(config, run, ["data.stride_s"]).state.step) == 4


def test_allow_change_on_the_command_line(colony, run, tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(f"from tests.micro import micro\ndef get_config():\n    return micro({colony!r})\n")
    command = ["train", f"--config={file}", f"--workdir={run}", "--config.seed=3", "--config.optimizer.b1=0.5"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "seed: 0 -> 3" in told
    assert "optimizer.b1: 0.9 -> 0.5" in told
    assert main([*command, "--allow-change", "seed", "--allow-change", "optimizer."]) == 0


def test_a_field_that_is_newer_than_a_run_had_its_default(colony, run, monkeypatch):
    old = Checkpoints(run, read_only=True).meta(4)
    lacking = json.loads(json.dumps(old))
    del lacking["config"]["train"]["accumulate"]
    del lacking["config"]["model"]["remat"]
    assert comparable(config_of(lacking).to_dict()) == comparable(
        {**old["config"], "model": {**old["config"]["model"], "remat": base().model.remat}}
    )
    assert set(config_of(lacking).evaluation.tasks) == {"stimulus", "behavior"}  # not the defaults' four
    monkeypatch.setattr(Checkpoints, "meta", lambda self, step: lacking)
    resumed(micro(colony), run)
    with pytest.raises(UserError, match=r"train\.accumulate: 1 -> 2"):
        resumed(micro(colony, train__accumulate=2), run)


def test_sessions_in_another_order_are_the_same_run(colony, tmp_path):
    keys = Store.open(colony).keys
    config = micro(colony, data__sessions=keys, train__steps=2, train__validation_windows=0)
    train(config, tmp_path / "run")
    whole = train(micro(colony, train__validation_windows=0), tmp_path / "whole")
    config.train.steps, config.data.sessions = 4, keys[::-1]
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    vocabulary = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert [row["key"] for row in vocabulary] == list(keys)
    assert whole["n_sessions"] == 3
    config.data.sessions = ()
    config.train.steps = 5
    train(config, tmp_path / "run")  # all of the store are the same ones
    config.data.sessions = keys[:2]
    with pytest.raises(UserError, match=r"another config \(data\.sessions: "):
        train(config, tmp_path / "run")


def spoil(run: Path, step: int) -> None:
    """A bit here and there of the core's data. Where Orbax lays what differs from run to run, so it is many places."""
    for path in (run / "checkpoints" / str(step) / "core").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[16::64] = bytes(byte ^ 1 for byte in content[16::64])
        path.write_bytes(content)


def test_the_newest_checkpoint_that_cannot_be_read_is_set_aside(colony, finished, run, capsys):
    spoil(run, 4)
    train(micro(colony, train__keep=3), run)
    told = capsys.readouterr().err
    assert re.search(r"checkpoint 4 cannot be read \(.+\): set aside as \S+/checkpoints/4\.unreadable", told)
    assert "going on from step 2" in told
    assert losses(run) == losses(finished)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4", "4.unreadable"]


def test_a_run_of_which_nothing_can_be_read_is_left_as_it_is(colony, run):
    spoil(run, 2)
    shutil.rmtree(run / "checkpoints" / "4" / "meta")
    with pytest.raises(UserError, match=r"none of its checkpoints can be read \(4: .*metadata.*; 2: .+\)"):
        train(micro(colony), run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "loss": 9', b'{"step": 2, "loss": 5}\n{"step": 4}\n', b"\0\0\xff\n\n[]\n{}\n17\n"]
)
def test_metrics_are_cut_where_a_run_goes_on(tmp_path, tail):
    rows = [{"step": step, "loss": 0.5 * step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + tail)
    Metrics(tmp_path, 9, writes=False)
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(tail)
    metrics = Metrics(tmp_path, 2)
    metrics.write(3, {"loss": 7.0})
    metrics.sync()
    with pytest.raises(ValueError, match="step 3 after step 3"):
        metrics.write(3, {"loss": 8.0})
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["loss"] == 7.0
    assert lines[1]["loss"] == (5 if b'"step": 2' in tail else 1.0)


def test_a_full_disk_is_told_by_what_a_run_writes_too(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(track.os, "replace", full)
    with pytest.raises(UserError, match=r"run\.json: cannot be written: the disk is full - free some space"):
        track.write_json(tmp_path / "run.json", {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: .*disk is full - free some space, run the same command again"
    ):
        Metrics(tmp_path, 0)


def test_a_run_goes_on_with_other_devices_and_other_axes(colony, tmp_path):
    """8 devices, then 1, then 4: the same losses as on one all along."""
    told = {"regimes": ("stimulus",), "train__validation_windows": 0, "train__steps": 6}
    train(micro(colony, **told), tmp_path / "one")
    meshes = [{"data": 8}, {"data": 1}, {"data": 2, "tensor": 2}]
    for steps, mesh in zip((2, 4, 6), meshes, strict=True):
        config = micro(colony, **{**told, "train__steps": steps}, **{f"mesh__{axis}": n for axis, n in mesh.items()})
        train(config, tmp_path / "many")
    changes = Checkpoints(tmp_path / "many", read_only=True).meta(6)["changes"]
    assert [(row["step"], row["after"]) for row in changes if row["field"] == "mesh.data"] == [(2, 1), (4, 2)]
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
