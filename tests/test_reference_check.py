"""check-reference: says FAIL when something is off, one line when files are broken, and honours every option of the blocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax import cli
from omnimouse_jax.evaluate.reference_check import check_case, open_triple
from tests.shared import shared

#: Everything small; rates and lengths that are unlike the released ones.
SMALL = {
    **{"num_samples_per_s": 30, "num_samples_per_block": 30, "num_frames_per_s": 30, "num_frames_per_block": 32},
    **{"num_behavior_samples_per_s": 20, "num_behavior_samples_per_block": 20, "behavior_channels": 5},
    **{
        "skip_n_samples": 5,
        "interpolation_buffer": 5,
        "response_window_size_samples": 10,
        "response_stride_samples": 5,
    },
    **{"response_query_lookback_samples": 0, "response_latent_window_size_samples": 10},
    **{"response_latent_window_stride_samples": 10, "num_response_latent_groups": 3, "num_global_latents": 2},
    **{"max_population_size": None, "d_embedding": 6, "d_model": 16, "num_heads": 4, "num_kv_heads": None},
    **{"num_self_attends_per_block": 3, "local_to_global_ratio": [1, 1], "use_global_nope": False},
    **{"ffn_hidden_mult": 2.67, "decoder_ffn_hidden_mult": 4, "ffn_activation": "silu", "norm_eps": 1e-5},
    **{"use_pre_norm": True, "use_post_norm": False, "use_qk_norm": True, "per_channel_behavior_readout": True},
    **{"always_use_animal_embeddings": True, "add_meta_to_embeddings": True, "add_meta_to_latents": True},
    **{"add_meta_to_video_feats": False, "add_exp_time_embedding": False, "max_recording_len_s": 200},
    **{"softplus_beta": 0.1, "response_poisson_loss_eps": 1e-5, "response_loss_clamp_value": 100.0},
    **{"behavior_loss_clamp_value": 10.0, "behavior_loss_factor": 0.1, "video_resolution": [16, 16]},
    **{"hiera_num_heads": 2, "hiera_embed_dim": 4, "hiera_stages": [1, 1], "hiera_mask_unit_size": [1, 4, 4]},
}
OPTIONS = {
    "plain": {},
    "grouped heads, norms after": {"num_kv_heads": 2, "use_post_norm": True, "ffn_activation": "gelu"},
    "time, no q/k norm, no global positions, one readout": {
        "add_exp_time_embedding": True,
        "use_qk_norm": False,
        "use_global_nope": True,
        "per_channel_behavior_readout": False,
        "max_population_size": 7,
        "num_kv_heads": 1,
    },
    "norms after only, look-back, no meta, no clips": {
        "use_pre_norm": False,
        "use_post_norm": True,
        "norm_eps": 1e-3,
        "response_query_lookback_samples": 7,
        "add_meta_to_embeddings": False,
        "add_meta_to_latents": False,
        "always_use_animal_embeddings": False,
        "response_loss_clamp_value": None,
        "behavior_loss_clamp_value": None,
        "behavior_loss_factor": 2,
        "softplus_beta": 1,
        "local_to_global_ratio": None,
        "decoder_ffn_hidden_mult": None,
        "behavior_channels": 3,
    },
    "other rates and widths": {
        "num_samples_per_s": 8,
        "num_samples_per_block": 16,
        "num_frames_per_s": 15,
        "num_frames_per_block": 30,
        "num_behavior_samples_per_s": 10,
        "response_window_size_samples": 4,
        "response_stride_samples": 2,
        "response_latent_window_size_samples": 6,
        "response_latent_window_stride_samples": 5,
        "skip_n_samples": 1,
        "interpolation_buffer": 2,
        "local_to_global_ratio": [0, 1],
        "response_loss_clamp_value": 0.5,
        "behavior_loss_clamp_value": 1,
        "d_model": 24,
        "num_heads": 3.0,
    },
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_agree_with_a_restatement(options, tmp_path, capsys):
    pytest.importorskip("torch")
    from tests.restated import SESSIONS, write_triple

    fields = {**SMALL, **OPTIONS[options]}
    stride, samples = fields["response_stride_samples"], fields["num_samples_per_block"]
    half = (samples // 2) // stride * stride
    whole = {"prefix_len": samples, "max_response_context_samples": samples}
    regimes = {
        "population": {**whole, "suffix_start_idx": half, "suffix_len": samples - half},
        "behavior": {
            **{"prefix_len": half, "max_response_context_samples": half, "n_visible_neurons": 3},
            **{"suffix_start_idx": half + stride, "suffix_len": samples - half - stride},
            **{"behavior_encoded": False, "behavior_reconstructed": True},
        },
    }
    written = {**fields, "num_heads": int(fields["num_heads"])}
    sessions = dict(list(SESSIONS.items())[:2]) if fields["always_use_animal_embeddings"] else SESSIONS
    path = write_triple(tmp_path, "small", written, sessions, regimes)
    told = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**told, "config": fields}))
    triple = open_triple(path)
    for case in regimes:
        result = check_case(triple, case)
        assert result.ok, result


def test_sessions_of_different_animals_have_no_animal_embeddings_unless_asked_for(tmp_path):
    pytest.importorskip("torch")
    from tests.restated import SESSIONS, write_triple

    apart = {key: SESSIONS[key] for key in ("a-1", "b-1")}
    regimes = {
        "population": {"prefix_len": 30, "max_response_context_samples": 30, "suffix_start_idx": 15, "suffix_len": 15}
    }
    path = write_triple(tmp_path, "apart", {**SMALL, "always_use_animal_embeddings": False}, apart, regimes)
    triple = open_triple(path)
    assert triple.config.animal_embeddings is False
    assert check_case(triple, "population").ok


def test_meta_is_added_to_video_features_if_asked_for():
    import dataclasses

    from flax import nnx

    from omnimouse_jax.evaluate.reference_check import batch_of, layout_of

    triple = open_triple(shared("reference/dyadic_rates.json"))
    from omnimouse_jax.training.step import Capacity, abstract_model

    made = {}
    for added in (False, True):
        config = dataclasses.replace(triple.config, meta_to_video=added)
        model = nnx.merge(abstract_model(config, Capacity.of(triple.vocabulary))[0], triple.params)
        batch, layout = batch_of(triple, "forecast_video"), layout_of(triple, "forecast_video")
        meta = jnp.arange(2 * config.d_model, dtype=jnp.float32).reshape(2, -1)
        made[added] = np.asarray(model.core.watch(meta, batch, layout).vectors)
    np.testing.assert_allclose(made[True] - made[False], np.broadcast_to(meta[:, None], made[True].shape), atol=1e-4)


@pytest.fixture
def copied(tmp_path):
    """A triple of one quick case, free to be broken."""
    for ending in ("json", "npz", "weights.npz"):
        shutil.copy(shared(f"reference/dyadic_rates.{ending}"), tmp_path / f"x.{ending}")
        (tmp_path / f"x.{ending}").chmod(0o644)
    return tmp_path / "x"


def change(path: Path, **changes) -> None:
    """Replaces or (None) removes entries of one of the files."""
    if path.suffix == ".json":
        told = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    else:
        arrays = {**dict(np.load(path)), **changes}
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def test_a_case_passes_and_a_changed_one_fails(copied, capsys):
    case = "behavior_only"
    assert cli.main(["check-reference", str(copied), "--case", case]) == 0
    out = capsys.readouterr().out
    assert case in out
    assert "PASS: all of x agrees" in out
    arrays = dict(np.load(f"{copied}.npz"))
    hidden = arrays[f"{case}/hidden"].copy()
    hidden[0, 0, 0] += 1e-3
    mask = arrays[f"{case}/mask_dec"].copy()
    mask[0, 0] ^= 128
    change(Path(f"{copied}.npz"), **{f"{case}/hidden": hidden})
    assert cli.main(["check-reference", str(copied), "--case", case]) == 1
    assert f"FAIL: {case}" in capsys.readouterr().out
    change(Path(f"{copied}.npz"), **{f"{case}/hidden": arrays[f"{case}/hidden"], f"{case}/mask_dec": mask})
    assert cli.main(["check-reference", str(copied), "--case", case]) == 1
    assert "DIFFER" in capsys.readouterr().out


BROKEN = {
    "file": ("x.npz: no such file", lambda path: Path(f"{path}.npz").unlink()),
    "weights file": ("x.weights.npz: no such file", lambda path: Path(f"{path}.weights.npz").unlink()),
    "json": ("x.json: not JSON", lambda path: Path(f"{path}.json").write_text("{")),
    "entry": ("x.json: no entry 'cases'", lambda path: change(Path(f"{path}.json"), cases=None)),
    "session": ("session 'q' is not in sessions (m-1, n-1)", lambda path: change(Path(f"{path}.json"), session="q")),
    "array": (
        "x.npz: no array behavior_only/hidden",
        lambda path: change(Path(f"{path}.npz"), **{"behavior_only/hidden": None}),
    ),
    "input": ("x.npz: no array inputs/screen", lambda path: change(Path(f"{path}.npz"), **{"inputs/screen": None})),
    "shape": (
        "inputs behavior have shape (2, 5, 3)",
        lambda path: change(Path(f"{path}.npz"), **{"inputs/behavior": np.zeros((2, 5, 3), np.float32)}),
    ),
    "weight": (
        "x.weights.npz: reference weights: behavior_featx.bias is missing",
        lambda path: change(Path(f"{path}.weights.npz"), **{"behavior_featx.bias": None}),
    ),
    "size": (
        "behavior_featx.bias has shape (7,)",
        lambda path: change(Path(f"{path}.weights.npz"), **{"behavior_featx.bias": np.zeros(7, np.float32)}),
    ),
    "config": (
        "field wings is 2: it is not a known field",
        lambda path: change(
            Path(f"{path}.json"), config={**json.loads(Path(f"{path}.json").read_text())["config"], "wings": 2}
        ),
    ),
    "other config": (
        "is not what this config gives",
        lambda path: change(
            Path(f"{path}.json"),
            config={**json.loads(Path(f"{path}.json").read_text())["config"], "num_response_latent_groups": 7},
        ),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_triple_is_told_in_one_line(what, copied, capsys):
    message, break_it = BROKEN[what]
    break_it(copied)
    assert cli.main(["check-reference", str(copied), "--case", "behavior_only"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in told if line.startswith("error: ")]
    assert len(errors) == 1, told
    assert message in errors[0]


def test_an_unknown_case_lists_those_there_are(copied, capsys):
    assert cli.main(["check-reference", str(copied), "--case", "nothing"]) == 2
    assert "no case 'nothing' - there are: population, " in capsys.readouterr().err
