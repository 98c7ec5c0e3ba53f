"""Files of released weights: every way they come, and every way they are broken."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.reference_files import plain_name, read_json, read_npz, read_source

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def session(key: str, n: int = 2) -> dict[str, np.ndarray]:
    return {
        f"sess_params.{key}._session_embedding": np.ones(3, np.float32),
        f"sess_params.{key}._neuron_embeddings.weight": np.ones((n, 3), np.float32),
        f"sess_params.{key}._neuron_biases": np.ones((n, 1), np.float32),
    }


def save(path, state, **extras):
    torch = pytest.importorskip("torch")
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": {name: torch.from_numpy(np.array(x)) for name, x in state.items()}, **extras}, path)


@pytest.mark.parametrize("name", ["_orig_mod.enc.x", "module.enc.x", "model.enc.x", "module._orig_mod.model.enc.x"])
def test_prefixes_are_stripped(name):
    assert plain_name(name) == "enc.x"
    assert plain_name("hiera._orig_mod.backbone.y") == "hiera.backbone.y"
    assert plain_name("module.other.z") == "other.z"


@pytest.mark.parametrize("key", ["", "state_dict", "model", "model_state_dict"])
def test_the_state_dict_is_found_wherever_it_is(tmp_path, key):
    torch = pytest.importorskip("torch")
    state = {"_orig_mod.enc.w": torch.from_numpy(W), "_orig_mod.decs.0.w": torch.ones(2, dtype=torch.bfloat16)}
    deep = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "step": 3, key: state} if key else state
    torch.save(deep, tmp_path / "a.pt")
    found = read_source(tmp_path / "a.pt").state
    assert set(found) == {"enc.w", "decs.0.w"}
    np.testing.assert_array_equal(found["enc.w"], W)
    assert found["decs.0.w"].dtype == np.float32


def test_two_sets_of_weights_are_ambiguous_unless_one_is_called_the_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    one, two = {"enc.w": torch.ones(2)}, {"enc.w": torch.zeros(2)}
    torch.save({"average": one, "newest": two}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="twice, under 'average' and 'newest'"):
        read_source(tmp_path / "a.pt")
    torch.save({"average": one, "state_dict": two}, tmp_path / "a.pt")
    assert not read_source(tmp_path / "a.pt").state["enc.w"].any()
    torch.save({"shared": one, "own": {"decs.0.w": torch.ones(2)}}, tmp_path / "a.pt")
    assert set(read_source(tmp_path / "a.pt").state) == {"enc.w", "decs.0.w"}


def test_safetensors_in_half_precision(tmp_path):
    pytest.importorskip("safetensors")
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"enc.w": torch.full((3,), 1.5, dtype=torch.bfloat16), "enc.v": torch.ones(2).half()}, path)
    found = read_source(path).state
    assert found["enc.w"].tolist() == [1.5] * 3
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"a\.safetensors: not a whole"):
        read_source(path)


def test_ranks_are_merged_with_or_without_shared_parameters(tmp_path):
    save(tmp_path / "rank_0.ckpt", {"enc.w": W, **session("a")}, session_map={"a": {"animal_id": "x", "n_neurons": 2}})
    save(tmp_path / "rank_1.ckpt", session("b"))
    save(tmp_path / "rank_2.ckpt", {"enc.w": W, **session("c")})
    source = read_source(tmp_path, 3)
    assert len(source.files) == 3
    assert len(source.state) == 10
    assert source.sessions == {"a": {"animal_id": "x", "n_neurons": 2}}
    with pytest.raises(UserError, match="one of 3 rank files"):
        read_source(tmp_path / "rank_1.ckpt")


def test_a_missing_rank_is_named(tmp_path):
    save(tmp_path / "rank_0.ckpt", {"enc.w": W, **session("a")})
    save(tmp_path / "rank_2.ckpt", session("c"))
    with pytest.raises(UserError, match=r"rank_1\.ckpt is missing \(2 of 3"):
        read_source(tmp_path)
    (tmp_path / "rank_2.ckpt").unlink()
    with pytest.raises(UserError, match=r"rank_1\.ckpt is missing \(1 of 2"):
        read_source(tmp_path, 2)
    save(tmp_path / "rank_0.ckpt", {"enc.w": W, **session("a")}, world_size=4)
    with pytest.raises(UserError, match="there must be 4 by the file itself"):
        read_source(tmp_path)
    told = {key: {"animal_id": "x", "n_neurons": 2} for key in ("a", "b")}
    save(tmp_path / "rank_0.ckpt", {"enc.w": W, **session("a")}, session_map=told)
    with pytest.raises(UserError, match="session b is in the checkpoint's session_map, but no file has"):
        read_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no rank_\*\.ckpt in it"):
        read_source(tmp_path / "empty")


def test_ranks_that_disagree_are_named(tmp_path):
    other = W.copy()
    other[1, 2] = np.nextafter(other[1, 2], 9, dtype=np.float32)
    save(tmp_path / "rank_0.ckpt", {"enc.w": W, **session("a")})
    save(tmp_path / "rank_1.ckpt", {"enc.w": other, **session("b")})
    with pytest.raises(
        UserError, match=r"enc\.w is not the same in .*rank_0.* and .*rank_1.*1 of 6 values, by up to 4\.77e-07"
    ):
        read_source(tmp_path)
    save(tmp_path / "rank_1.ckpt", {"enc.w": W, **session("a", 3)})
    with pytest.raises(UserError, match=r"sess_params\.a.*is not the same.*float32\[2, 3\] and float32\[3, 3\]"):
        read_source(tmp_path)
    save(tmp_path / "rank_1.ckpt", {"enc.w": W, **session("a")})
    assert len(read_source(tmp_path).state) == 4


class Anything:
    """A class that a file must not be able to make."""


def test_what_is_more_than_data_is_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"enc.w": torch.ones(2)}, "extra": Anything()}, path)
    with pytest.raises(UserError, match=r"a\.ckpt: needs tests\.test_reference_files\.Anything"):
        read_source(path)
    random = {"numpy": np.random.RandomState(0).get_state(), "count": np.int64(3), "torch": torch.get_rng_state()}
    torch.save({"state_dict": {"enc.w": torch.ones(2)}, "rng_state": random}, path)
    assert set(read_source(path).state) == {"enc.w"}
    for cut in (0, 5, 200, path.stat().st_size - 10):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError, match=r"a\.ckpt: "):
            read_source(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.bin2").write_bytes(b"")
    with pytest.raises(UserError, match="not a file of weights"):
        read_source(tmp_path / "a.bin2")
    with pytest.raises(UserError, match="no such file"):
        read_source(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", other=W)
    with pytest.raises(UserError, match=r"c\.npz: no name in it is a released parameter's \(it has 'other'\)"):
        read_source(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", W)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    for path in ("d.npz", "e.npz"):
        (tmp_path / "e.npz").write_bytes(b"PK\x03\x04")
        with pytest.raises(UserError, match=rf"{path}: not a whole \.npz"):
            read_npz(tmp_path / path)
    np.savez(tmp_path / "f.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match=r"f\.npz: not a whole \.npz"):
        read_npz(tmp_path / "f.npz")
    for text in ("{", "[1]", ""):
        (tmp_path / "g.json").write_text(text)
        with pytest.raises(UserError, match=r"g\.json: "):
            read_json(tmp_path / "g.json")
    (tmp_path / "g.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "g.json") == {"a": 1}
