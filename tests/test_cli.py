"""The command line as a newcomer meets it: help that teaches, one-line errors, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax import cli
from omnimouse_jax.recordings.manifest import VERSION
from omnimouse_jax.recordings.session import Recording, Signal, Trials

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    *("synthesize", "ingest", "inspect", "regimes", "describe", "train", "evaluate", "sweep", "report"),
    *("anneal", "finetune", "rows", "predict", "doctor", "show"),
    *("compare", "baselines", "benchmark", "probe"),
    *("check-reference", "import-reference", "export-reference"),
)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = cli.main(list(argv))
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(capsys, verb):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_help_needs_no_jax():
    code = "import sys; from omnimouse_jax.cli import main; main([]); assert not {'jax', 'numpy'} & set(sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert all(verb in out for verb in VERBS)


def test_inspect_and_regimes_and_describe_print_tables(capsys, colony):
    status, out, _ = run(capsys, "inspect", colony)
    assert status == 0
    assert "m001-1" in out
    status, out, _ = run(capsys, "inspect", colony, "--json")
    assert len(json.loads(out)) >= 1
    status, out, _ = run(capsys, "regimes", "--training")
    assert len([line for line in out.splitlines() if "->" in line]) == 121
    status, out, _ = run(capsys, "regimes", "population", "--neurons", "100")
    assert "neurons 0-49" in out
    status, out, _ = run(capsys, "describe", "--config", "configs/tiny.py", "--store", colony, "--json")
    assert json.loads(out)["vocabulary"]["sessions"] == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspect", "/nowhere"], "/nowhere"),
        (["check-reference", "/nowhere/name"], "/nowhere/name.json: no such file"),
        (["import-reference", "/nowhere.npz", "--out", "x"], "/nowhere.npz: no such file"),
        (["export-reference", "/nowhere", "--out", "x.npz"], "run /nowhere: no checkpoints/ folder"),
        (["export-reference", "/nowhere", "--out", "x"], "x: unknown kind of file"),
        (["train", "--config", "configs/tiny.py", "--workdir", "x"], "data.store is empty"),
        (
            ["train", "--config", "configs/tiny.py", "--workdir", "x", "--config.train.stepz=3"],
            "did you mean train.steps?",
        ),
        (["train", "--config", "configs/none.py", "--workdir", "x"], "configs/none.py not found"),
        (["evaluate", "/nowhere"], "/nowhere"),
        (["evaluate", "/nowhere", "--config.seed=1"], "unknown argument --config.seed=1"),
        (["sweep", "launch", "/nowhere", "--on", "local"], "plan /nowhere"),
        (["report", "/nowhere"], "/nowhere"),
        (["regimes", "populaton"], "did you mean 'population'"),
        (["regimes", "responses -> video"], "video"),
        (["synthesize", "x", "--preset", "huge"], "huge"),
        (["ingest", "arrays", "/nowhere", "--store", "x"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert not (tmp_path / "x").exists()


def test_a_store_of_another_version_names_both_and_stays(capsys, colony, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(colony, store)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["version"] = 99
    (store / "manifest.json").write_text(json.dumps(manifest))
    before = (store / "manifest.json").read_bytes()
    status, _, err = run(
        capsys, "train", "--config", "configs/tiny.py", "--store", str(store), "--workdir", str(tmp_path / "x")
    )
    assert status == 2
    assert "99" in err
    assert f"reads version {VERSION}" in err
    assert (store / "manifest.json").read_bytes() == before
    assert not (tmp_path / "x").exists()


def test_a_session_without_the_scored_tier_is_named(capsys, colony, tmp_path):
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.training.train import train
    from tests.micro import micro

    store = tmp_path / "store"
    shutil.copytree(colony, store)
    Store.open(str(store)).add(lonely())
    train(micro(str(store), train__steps=2, train__validation_windows=0), tmp_path / "run")
    status, _, err = run(capsys, "evaluate", str(tmp_path / "run"), "--session", "lonely")
    assert status == 2
    assert "no window of 2 s in tiers test" in err
    assert "lonely" in err
    assert not (tmp_path / "run" / "evaluation.json").exists()
    status, out, err = run(capsys, "evaluate", str(tmp_path / "run"))
    assert status == 0
    assert "1 of 4 sessions have nothing to score in tier test and are left out: lonely" in err
    assert "lonely" not in out


def lonely() -> Recording:
    """Two minutes of ten neurons, nothing else: no screen, no behaviour, no test tier."""
    rng = np.random.default_rng(0)
    responses = Signal.continuous(rng.random((3600, 10)).astype(np.float32), 30.0, 0.0)
    one = np.array([""])
    trials = Trials(np.array([0.0]), np.array([120.0]), np.array(["train"]), np.array(["blank"]), one, np.array([True]))
    return Recording("lonely", "hermit", responses, trials)
