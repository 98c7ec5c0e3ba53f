"""Released weights become run folders and come back bit by bit; what is wrong is one line, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.model.config import SIZES
from omnimouse_jax.model.reference_config import config_from_reference
from omnimouse_jax.model.reference_files import PER_SESSION
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training.reference_run import IMPORTED, export_run, import_run
from omnimouse_jax.training.train import train
from tests.micro import TASKS, micro
from tests.shared import shared

NAMES = ("real_rates", "dyadic_rates")
#: A micro model that the released config can describe.
RELEASABLE = {"model__hiera_order": "reference", "model__ffn_multiple": 128}


def weights(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared(f"reference/{name}.weights.npz")))


def triple(name: str) -> Path:
    return shared(f"reference/{name}.json")


def rank_files(
    folder: Path, state: dict[str, np.ndarray], repeated: bool, prefix: str = "_orig_mod.", **extras
) -> Path:
    """One checkpoint per session, as the original writes them (shared parameters only in the first), or with all repeated."""
    torch = pytest.importorskip("torch")
    folder.mkdir()
    sessions = sorted({match[1] for name in state if (match := PER_SESSION.match(name))})
    for rank, key in enumerate(sessions):
        own = {
            name: torch.from_numpy(value.copy())
            for name, value in state.items()
            if name.startswith(f"sess_params.{key}.") or ("sess_params" not in name and (repeated or rank == 0))
        }
        named = {f"{prefix}{name}": value for name, value in own.items()}
        random = {"numpy": np.random.default_rng(0).bytes(3), "numpy_rng_state": np.random.RandomState(0).get_state()}
        torch.save({"epoch": 1, "state_dict": named, "rng_state": random, **extras}, folder / f"rank_{rank}.ckpt")
    return folder


def same(path: Path, state: dict[str, np.ndarray]) -> None:
    back = dict(np.load(path))
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype, name
        np.testing.assert_array_equal(back[name], value, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_comes_back_bit_by_bit(name, tmp_path):
    report = import_run(shared(f"reference/{name}.weights.npz"), tmp_path / "run", fields_file=triple(name))
    assert any("mapped: core" in line for line in report)
    assert any("left over (kept too): none" in line for line in report)
    export_run(tmp_path / "run", tmp_path / "back.npz")
    same(tmp_path / "back.npz", weights(name))
    told = json.loads((tmp_path / "back.json").read_text())
    original = json.loads(triple(name).read_text())
    assert {k: v for k, v in told["config"].items() if k in original["config"]} == {
        k: v for k, v in original["config"].items() if k != "video_channels"
    }


@pytest.mark.parametrize("repeated", [False, True])
def test_rank_files_come_back_bit_by_bit(tmp_path, repeated):
    state = weights("real_rates")
    folder = rank_files(tmp_path / "ranks", {**state, "something.new": np.arange(3)}, repeated)
    report = import_run(folder, tmp_path / "run", fields_file=triple("real_rates"), ranks=3)
    assert any("3 file(s)" in line for line in report)
    assert any("left over (kept too): something.new" in line for line in report)
    export_run(tmp_path / "run", tmp_path / "back.npz")
    same(tmp_path / "back.npz", {**state, "something.new": np.arange(3)})
    pytest.importorskip("safetensors")
    for suffix in (".safetensors", ".ckpt"):
        export_run(tmp_path / "run", tmp_path / f"again{suffix[1:]}{suffix}")
        again = tmp_path / f"run{suffix[1:]}"
        import_run(tmp_path / f"again{suffix[1:]}{suffix}", again, fields_file=triple("real_rates"))
        export_run(again, tmp_path / f"twice{suffix[1:]}.npz")
        same(tmp_path / f"twice{suffix[1:]}.npz", {**state, "something.new": np.arange(3)})


def test_a_trained_run_goes_out_and_comes_in_with_equal_scores(colony, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "weights.npz"
    train(micro(colony, **RELEASABLE), run)
    assert cli.main(["export-reference", str(run), "--out", str(out), "--checkpoint", "latest"]) == 0
    assert "written as zeros: exp_time_to_model_proj" in capsys.readouterr().out
    back = tmp_path / "back"
    config = out.with_suffix(".json")
    assert cli.main(["import-reference", str(out), "--out", str(back), "--config", str(config), "--store", colony]) == 0
    assert "3 sessions" in capsys.readouterr().out
    tasks = {task: task for task in TASKS}
    first = evaluate_run(run, tasks, step="latest")["rows"]
    second = evaluate_run(back, tasks)["rows"]
    assert first
    assert [(r["session"], r["metric"], r["score"]) for r in first] == [
        (r["session"], r["metric"], r["score"]) for r in second
    ]
    assert evaluate_run(back, tasks, store=colony)["rows"] == second
    # the exported constants are the original's, where a triple can tell
    exported = dict(np.load(out))
    assert exported["rotary_emb.inv_freq"].dtype == np.float64
    assert exported["response_latent_embedding._latent_ids"].dtype == np.int64


def test_what_the_released_model_cannot_be_is_not_exported(colony, tmp_path):
    train(micro(colony, train__validation_windows=0, train__steps=2), tmp_path / "run")
    with pytest.raises(UserError, match=r"model\.ffn_multiple is 16.*no such choice"):
        export_run(tmp_path / "run", tmp_path / "weights.npz")
    assert not list(tmp_path.glob("weights*"))


BROKEN = {
    "nan": r"enc\.attention\.wq\.weight has values that are not finite",
    "shape": r"behavior_featx\.bias has shape \(3,\)",
    "missing": r"proc\.1\.attention\.wqkv\.weight is missing",
    "names": r"no name in it is a released parameter's",
    "cut": r"not a whole \.npz",
    "session": r"sess_params\.mouse1-1\._neuron_biases is missing",
    "rates": r"rotary_emb\.inv_freq .*is not what this config gives",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named_and_nothing_written(what, tmp_path, capsys):
    state, file, fields = weights("real_rates"), tmp_path / "weights.npz", json.loads(triple("real_rates").read_text())
    if what == "nan":
        state["enc.attention.wq.weight"] = state["enc.attention.wq.weight"] * np.nan
    if what == "shape":
        state["behavior_featx.bias"] = np.zeros(3, np.float32)
    if what == "missing":
        del state["proc.1.attention.wqkv.weight"]
    if what == "session":
        del state["sess_params.mouse1-1._neuron_biases"]
    if what == "rates":
        fields["config"]["num_frames_per_s"] = 15
    np.savez(file, **({"layer.weight": np.zeros(3)} if what == "names" else state))
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-2000])
    config = tmp_path / "config.json"
    config.write_text(json.dumps(fields))
    before = sorted(path.name for path in tmp_path.iterdir())
    told = one_line(capsys, str(file), "--out", str(tmp_path / "run"), "--config", str(config))
    assert str(file) in told
    assert re.search(BROKEN[what], told), told
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    file = shared("reference/real_rates.weights.npz")
    assert "exists already" in one_line(capsys, str(file), "--out", str(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


def test_sizes_are_recognised(tmp_path, capsys):
    state = weights("real_rates")
    file = tmp_path / "weights.npz"
    np.savez(file, **state)
    told = one_line(capsys, str(file), "--out", str(tmp_path / "run"))
    assert "of no released size: it has d_model 48, d_embedding 24, 2 heads, 3 layers, Hiera 16 x 1+1" in told
    assert "--config FILE.json" in told
    state["sess_to_model_proj.weight"] = np.zeros((512, 256), np.float32)
    state["rotary_emb.inv_freq"] = np.zeros(32)
    state["hiera.backbone.patch_embed.proj.bias"] = np.zeros(128, np.float32)
    state |= {f"proc.{i}.x": np.zeros(1) for i in range(6)}
    state |= {f"hiera.backbone.blocks.{i}.x": np.zeros(1) for i in range(10)}
    state["hiera.backbone.blocks.2.proj.weight"] = np.zeros((2, 2))
    del state["hiera.backbone.blocks.1.proj.weight"]
    np.savez(file, **state)
    told = one_line(capsys, str(file), "--out", str(tmp_path / "run"), "--size", "80M")
    assert "not of size 80M: it looks like the released 20M" in told
    assert "--size 3M: there is no such size" in one_line(
        capsys, str(file), "--out", str(tmp_path / "run"), "--size", "3M"
    )


def test_released_sizes_are_what_their_fields_say():
    from omnimouse_jax.model.reference_config import reference_config

    for name, config in SIZES.items():
        if config.hiera_order == "reference":
            assert config_from_reference(reference_config(config)) == config, name


def test_animals_are_told_named_or_asked_for(tmp_path, capsys):
    state = weights("dyadic_rates")
    file, config = tmp_path / "weights.npz", tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(triple("dyadic_rates").read_text())["config"]))

    def renamed(key: str) -> None:
        np.savez(file, **{name.replace("sess_params.m-1.", f"sess_params.{key}."): x for name, x in state.items()})

    arguments = (str(file), "--out", str(tmp_path / "run"), "--config", str(config))
    renamed("xyz")
    told = one_line(capsys, *arguments)
    assert "session xyz: nothing tells its animal (animals: m, n)" in told
    assert "--sessions" in told
    (tmp_path / "animals.json").write_text('{"xyz": "q"}')
    told = one_line(capsys, *arguments, "--sessions", str(tmp_path / "animals.json"))
    assert "session xyz: its animal q has no embedding" in told
    (tmp_path / "animals.json").write_text('{"zyx": "m"}')
    told = one_line(capsys, *arguments, "--sessions", str(tmp_path / "animals.json"))
    assert "session zyx is not in" in told
    (tmp_path / "animals.json").write_text('{"xyz": "m"}')
    import_run(file, tmp_path / "asked", config, sessions_file=tmp_path / "animals.json")
    rows = json.loads((tmp_path / "asked" / "vocabulary.json").read_text())
    assert {row["key"]: row["animal"] for row in rows} == {"xyz": "m", "n-1": "n"}
    renamed("m-1")
    import_run(file, tmp_path / "named", config)
    rows = json.loads((tmp_path / "named" / "vocabulary.json").read_text())
    assert {row["key"]: row["animal"] for row in rows} == {"m-1": "m", "n-1": "n"}
    assert (tmp_path / "named" / IMPORTED).exists()


def one_line(capsys, *argv: str) -> str:
    assert cli.main(["import-reference", *argv]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("error: ")
    return told[0]


def test_a_released_size_needs_no_config(tmp_path, capsys):
    """Three rank files of the 1M model: size by shapes, animals by the checkpoint's table."""
    from omnimouse_jax.model.reference import constants, flatten, nest, save_state
    from omnimouse_jax.tokens.vocabulary import Vocabulary
    from omnimouse_jax.training.step import Capacity, abstract_model

    vocabulary = Vocabulary.of({f"s{i}": {"animal": f"a{i % 2}", "n_neurons": 5 + i} for i in range(3)})
    shapes = flatten(abstract_model(SIZES["1M"], Capacity.of(vocabulary))[1])
    params = nest({path: np.full(leaf.shape, 0.01, np.float32) for path, leaf in shapes.items()})
    state = save_state(SIZES["1M"], params, vocabulary) | constants(SIZES["1M"])
    table = {e.key: {"n_neurons": e.n_neurons, "animal_id": e.animal, "on_rank": True} for e in vocabulary.sessions}
    folder = rank_files(tmp_path / "ranks", state, repeated=False, session_map=table)
    assert cli.main(["import-reference", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert "the released 1M" in capsys.readouterr().out
    rows = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert {row["key"]: row["animal"] for row in rows} == {"s0": "a0", "s1": "a1", "s2": "a0"}
    (folder / "rank_2.ckpt").unlink()
    told = one_line(capsys, str(folder), "--out", str(tmp_path / "other"))
    assert "session s2 is in the checkpoint's session_map, but no file has its parameters" in told


@pytest.mark.slow
def test_imported_weights_are_fine_tuned_on_some_of_their_sessions(colony, tmp_path):
    train(micro(colony, **RELEASABLE, train__validation_windows=0, train__steps=2), tmp_path / "first")
    export_run(tmp_path / "first", tmp_path / "before.npz", "latest")
    run, (here, *others) = tmp_path / "run", Store.open(colony).keys
    import_run(tmp_path / "before.npz", run, tmp_path / "before.json", store=colony)
    flags = [
        *("train.steps=3", "optimizer.warmup_steps=1", "train.validation_windows=0", "mesh.data=1"),
        *("regimes=('stimulus',)", "data.stride_s=0.5", f"data.sessions=('{here}',)"),
    ]
    command = ["train", "--config", str(run / "config.json"), "--workdir", str(run), "--store", colony]
    assert cli.main([*command, *(f"--config.{flag}" for flag in flags)]) == 0
    told = json.loads((run / "run.json").read_text())
    assert (told["n_sessions"], told["n_animals"]) == (1, 1)
    assert len(json.loads((run / "vocabulary.json").read_text())) == 3
    assert "trained with another config" in failed(
        [*command, *(f"--config.{flag}" for flag in flags), "--config.model.norm_eps=1e-3"]
    )
    export_run(run, tmp_path / "after.npz", "latest")
    before, after = np.load(tmp_path / "before.npz"), np.load(tmp_path / "after.npz")
    assert set(before.files) == set(after.files)
    changed = {name for name in before.files if not np.array_equal(before[name], after[name])}
    assert {"enc.attention.wq.weight", f"sess_params.{here}._neuron_embeddings.weight"} <= changed
    assert not any(name.startswith(f"sess_params.{key}.") for name in changed for key in others)
    assert "behavior_readout_proj" not in changed  # no step asked for behaviour


def failed(command: list[str]) -> str:
    """What a command that cannot go on says."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        assert cli.main(command) == 2
    return told.getvalue()
