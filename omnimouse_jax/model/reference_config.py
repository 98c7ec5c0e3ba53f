"""The released PyTorch model's config, by its own field names, as a `ModelConfig` and back.

Every released field is honoured or refused by name. What only matters for how that model was initialised or run is
refused as well, so that nothing is ever passed over in silence.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS
from omnimouse_jax.tokens.grid import Grid

#: Released field -> ours, one to one.
GRID_FIELDS = {
    "num_samples_per_s": "response_rate",
    "num_samples_per_block": "n_samples",
    "num_frames_per_s": "video_rate",
    "num_frames_per_block": "n_frames",
    "num_behavior_samples_per_s": "behavior_rate",
    "num_behavior_samples_per_block": "n_behavior",
    "skip_n_samples": "skip_samples",
    "interpolation_buffer": "interpolation_buffer",
    "response_window_size_samples": "response_width",
    "response_stride_samples": "response_stride",
    "response_query_lookback_samples": "query_lookback",
    "response_latent_window_size_samples": "latent_width",
    "response_latent_window_stride_samples": "latent_stride",
}
FIELDS = {
    "max_population_size": "max_neurons",
    "d_embedding": "d_embedding",
    "d_model": "d_model",
    "add_meta_to_embeddings": "meta_to_embeddings",
    "add_meta_to_latents": "meta_to_latents",
    "add_meta_to_video_feats": "meta_to_video",
    "add_exp_time_embedding": "experiment_time",
    "max_recording_len_s": "max_recording_seconds",
    "num_response_latent_groups": "latents_per_window",
    "num_global_latents": "global_latents",
    "response_poisson_loss_eps": "poisson_eps",
    "response_loss_clamp_value": "response_loss_clip",
    "behavior_loss_clamp_value": "behavior_loss_clip",
    "behavior_loss_factor": "behavior_loss_weight",
    "softplus_beta": "softplus_beta",
    "per_channel_behavior_readout": "per_channel_behavior_readout",
    "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "num_self_attends_per_block": "n_layers",
    "local_to_global_ratio": "local_to_global",
    "ffn_hidden_mult": "ffn_multiplier",
    "decoder_ffn_hidden_mult": "decoder_ffn_multiplier",
    "ffn_activation": "ffn_activation",
    "use_pre_norm": "pre_norm",
    "use_post_norm": "post_norm",
    "use_qk_norm": "qk_norm",
    "norm_eps": "norm_eps",
    "hiera_num_heads": "hiera_heads",
    "hiera_embed_dim": "hiera_dim",
    "hiera_stages": "hiera_stages",
    "hiera_q_pool": "hiera_q_pool",
    "hiera_q_stride": "hiera_q_stride",
    "hiera_mask_unit_size": "hiera_mask_unit",
    "hiera_mlp_ratio": "hiera_mlp_ratio",
    "hiera_drop_path_rate": "drop_path",
    "video_resolution": "screen",
}
#: Released fields that may be empty there, and what that means.
FALLBACK = {"d_model": "d_embedding", "decoder_ffn_hidden_mult": "ffn_hidden_mult", "local_to_global_ratio": (1, 0)}
#: Released fields that select what is not built here, with the one value that is.
ONLY: dict[str, Any] = {
    "video_channels": 1,
    "num_blocks": 1,
    "norm_type": "rms",
    "rope_use_radians": True,
    "rope_base": None,
    "rotate_values": False,
    "drop_path_rate": 0.0,
    "local_global_layout": "interleaved",
    "per_modality_decoders": False,
    "response_query_lookahead_samples": None,
    "absolute_experiment_time_precision_s": 1.0,
    "behavior_as_channels": False,
    "decode_behavior": True,
    "enable_fallback_sensorium_behavior": False,
    "video_backbone": "hiera",
    "hiera_sep_pos_embed": True,
    "n_neurons_multiple_of": None,
}
#: Fields of one number per axis (frames, rows, columns), and the grid's field for the first of them.
PATCHES = {"hiera_patch_kernel": (6, 7, 7), "hiera_patch_stride": (2, 2, 2), "hiera_patch_padding": (2, 1, 3)}
#: Fields read below, each in its own way.
SPECIAL = ("use_global_nope", "behavior_channels", "always_use_animal_embeddings", *PATCHES)
#: What every config must say: the rest has the released default.
REQUIRED = (*GRID_FIELDS, "d_embedding", "d_model", "num_heads", "num_self_attends_per_block", "video_resolution")
TYPES = {field.name: str(field.type) for cls in (ModelConfig, Grid) for field in dataclasses.fields(cls)}


def config_from_reference(fields: Mapping[str, Any], animals: Mapping[str, str] | None = None) -> ModelConfig:
    """The config of a model released under `fields` (the PyTorch original's). Every field is honoured or refused.

    `animals` (session -> animal) decides if there are animal embeddings when `always_use_animal_embeddings` is off.
    Screens are expected as grey levels: set `screen_mean=0, screen_std=1` for data that are normalised already.
    """
    unknown = sorted(set(fields) - {*GRID_FIELDS, *FIELDS, *ONLY, *SPECIAL})
    if unknown:
        _refuse(unknown[0], fields[unknown[0]], "it is not a known field", "remove it if it changes no output")
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise UserError(f"reference config: field {missing[0]} is missing", way_out="add it")
    for name, value in ONLY.items():
        if name in fields and (fields[name] != value or isinstance(fields[name], bool) != isinstance(value, bool)):
            _refuse(name, fields[name], f"only {value!r} is built", f"set it to {value!r}")
    values: dict[str, Any] = {ours: _read(fields, name, ours) for name, ours in FIELDS.items() if name in fields}
    # The decoder's width follows the other blocks' where the config does not set it, as there.
    if "ffn_hidden_mult" in fields and "decoder_ffn_hidden_mult" not in fields:
        values["decoder_ffn_multiplier"] = values["ffn_multiplier"]
    n_channels = _typed("behavior_channels", fields.get("behavior_channels", len(BEHAVIOR_CHANNELS)), "int")
    if n_channels < 1:
        _refuse("behavior_channels", n_channels, "a model without behaviour is not built", "use 1 or more")
    named = BEHAVIOR_CHANNELS[:n_channels]
    values["behavior_channels"] = (*named, *(f"channel_{i}" for i in range(len(named), n_channels)))
    values["global_positions"] = not _typed("use_global_nope", fields.get("use_global_nope", False), "bool")
    values["animal_embeddings"] = _has_animals(fields, animals)
    grid = {ours: _typed(name, fields[name], TYPES[ours]) for name, ours in GRID_FIELDS.items()}
    for name, default in PATCHES.items():
        of_frames, *of_space = _typed(name, fields.get(name, default), "tuple[int, int, int]")
        which = name.removeprefix("hiera_patch_")
        grid[f"video_{which}"], values[f"hiera_{which}"] = of_frames, tuple(of_space)
    windows = math.ceil((grid["n_samples"] - grid["latent_width"]) / max(1, grid["latent_stride"])) + 1
    try:
        if Grid(**grid).n_latent_windows != windows or windows < 1:
            raise UserError(
                f"windows of latents ({grid['latent_width']} samples every {grid['latent_stride']}) do not fill "
                f"n_samples {grid['n_samples']} exactly",
                way_out="use a response_latent_window_stride_samples that divides the rest of the block",
            )
        return ModelConfig(grid=Grid(**grid), hiera_order="reference", **values)
    except UserError as error:
        raise UserError(f"reference config: {_by_released_names(error.what)}", way_out=error.way_out) from None


def reference_config(config: ModelConfig) -> dict[str, Any]:
    """The released fields of a model: the inverse of `config_from_reference`.

    How the screen is normalised and which channel is which are not in a released config. Raises UserError for a choice
    that the released model does not have.
    """
    default = ModelConfig()
    for name in ("neuron_weights", "response_loss", "ffn_multiple"):
        if getattr(config, name) != getattr(default, name):
            _cannot_say(name, getattr(config, name), f"it has {getattr(default, name)!r}")
    if config.hiera_order != "reference":
        _cannot_say("hiera_order", config.hiera_order, "it has 'reference'")
    if config.grid.behavior_width:
        _cannot_say("grid.behavior_width", config.grid.behavior_width, "it has one token per channel")
    fields = {name: getattr(config.grid, ours) for name, ours in GRID_FIELDS.items()}
    fields |= {name: getattr(config, ours) for name, ours in FIELDS.items()}
    for name in PATCHES:
        which = name.removeprefix("hiera_patch_")
        fields[name] = (getattr(config.grid, f"video_{which}"), *getattr(config, f"hiera_{which}"))
    fields["use_global_nope"] = not config.global_positions
    fields["behavior_channels"] = config.n_channels
    fields["always_use_animal_embeddings"] = config.animal_embeddings
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _read(fields: Mapping[str, Any], name: str, ours: str) -> Any:
    value = fields[name]
    if value is None and name in FALLBACK:
        fallback = FALLBACK[name]
        value = fields.get(fallback, 4.0) if isinstance(fallback, str) else fallback
    return _typed(name, value, TYPES[ours])


def _typed(name: str, value: Any, kind: str) -> Any:
    """`value` as a field's type, given as it is written in the class: whole floats for ints, lists for tuples."""
    if value is None and "None" in kind:
        return None
    kind = kind.removesuffix(" | None")
    if kind == "float" and _is_number(value):
        return float(value)
    if kind == "int" and _is_number(value) and float(value).is_integer():
        return int(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        n = None if "..." in kind else kind.count("int")
        whole = [int(x) for x in value if _is_number(x) and float(x).is_integer()]
        if len(whole) == len(value) and n in (None, len(whole)):
            return tuple(whole)
    told = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    _refuse(name, value, f"it must be {told.get(kind, 'a list of whole numbers')}", "correct it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _has_animals(fields: Mapping[str, Any], animals: Mapping[str, str] | None) -> bool:
    name = "always_use_animal_embeddings"
    if _typed(name, fields.get(name, True), "bool"):
        return True
    if animals is None:
        _refuse(name, False, "it depends on which animals were recorded", "name them")
    return len(set(animals.values())) < len(animals)


def _by_released_names(what: str) -> str:
    """A complaint about one of our fields, told by the name that its reader knows."""
    released = {ours: name for name, ours in (FIELDS | GRID_FIELDS).items()}
    released |= {f"hiera_{name.removeprefix('hiera_patch_')}": name for name in PATCHES}
    what = what.removeprefix("model config: ").removeprefix("grid: ")
    return re.sub(r"[a-z_]+", lambda word: released.get(word[0], word[0]), what)


def _refuse(name: str, value: Any, what: str, way_out: str) -> NoReturn:
    raise UserError(f"reference config: field {name} is {value!r}: {what}", way_out=way_out)


def _cannot_say(name: str, value: Any, what: str) -> NoReturn:
    raise UserError(
        f"model.{name} is {value!r}: the released model has no such choice ({what})",
        way_out="train with the released value to exchange weights with it",
    )
