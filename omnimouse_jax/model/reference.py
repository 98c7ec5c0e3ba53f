"""The released PyTorch model, by its own names: its config and its state dict mapped to ours and back.

Linear weights there are (out, in), convolutions (out, in, *kernel); names are those of the published checkpoints. What
a checkpoint carries beside parameters (position tables and other constants) is recomputed here and left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS
from omnimouse_jax.tokens.vocabulary import Vocabulary

Params = dict[str, Any]

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
    "ffn_hidden_mult": "ffn_multiplier",
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
}
#: Fields read below, each in its own way.
SPECIAL = (
    *("d_model", "decoder_ffn_hidden_mult", "local_to_global_ratio", "use_global_nope", "behavior_channels"),
    *("always_use_animal_embeddings", "hiera_patch_kernel", "hiera_patch_stride", "hiera_patch_padding"),
)
#: What every config must say: the rest has the released default.
REQUIRED = (*GRID_FIELDS, "d_embedding", "d_model", "num_heads", "num_self_attends_per_block", "video_resolution")


def config_from_reference(fields: Mapping[str, Any], animals: Mapping[str, str] | None = None) -> ModelConfig:
    """The config of a model released under `fields` (the PyTorch original's). Every field is honoured or refused.

    `animals` (session -> animal) decides if there are animal embeddings when `always_use_animal_embeddings` is off.
    Screens are expected as grey levels: set `screen_mean=0, screen_std=1` for data that are normalised already.
    """
    unknown = sorted(set(fields) - {*GRID_FIELDS, *FIELDS, *ONLY, *SPECIAL})
    if unknown:
        _refuse(unknown[0], fields[unknown[0]], "it is not a known field", "remove it, or ask for its support")
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        _refuse(missing[0], None, "it is missing", "add it")
    for name, value in ONLY.items():
        if name in fields and fields[name] != value:
            _refuse(name, fields[name], f"only {value!r} is built", f"set it to {value!r}")
    values: dict[str, Any] = {ours: _plain(fields[name]) for name, ours in FIELDS.items() if name in fields}
    n_channels = int(fields.get("behavior_channels", len(BEHAVIOR_CHANNELS)))
    if n_channels < 1:
        _refuse("behavior_channels", n_channels, "a model without behaviour is not built", "use 1 or more")
    named = BEHAVIOR_CHANNELS[:n_channels]
    values["behavior_channels"] = (*named, *(f"channel_{i}" for i in range(len(named), n_channels)))
    values["d_model"] = fields["d_model"] or fields["d_embedding"]
    values["decoder_ffn_multiplier"] = fields.get("decoder_ffn_hidden_mult") or fields.get("ffn_hidden_mult", 4.0)
    values["local_to_global"] = tuple(int(n) for n in fields.get("local_to_global_ratio") or (1, 0))
    values["global_positions"] = not fields.get("use_global_nope", False)
    values["animal_embeddings"] = _has_animals(fields, animals)
    kernel, stride, padding = (
        _plain(fields.get(f"hiera_patch_{name}", default))
        for name, default in (("kernel", (6, 7, 7)), ("stride", (2, 2, 2)), ("padding", (2, 1, 3)))
    )
    values.update(hiera_kernel=kernel[1:], hiera_stride=stride[1:], hiera_padding=padding[1:])
    grid = {ours: int(fields[name]) for name, ours in GRID_FIELDS.items()}
    grid.update(video_kernel=kernel[0], video_stride=stride[0], video_padding=padding[0])
    return ModelConfig.of({"grid": grid, "hiera_order": "reference", **values})


def _has_animals(fields: Mapping[str, Any], animals: Mapping[str, str] | None) -> bool:
    always = fields.get("always_use_animal_embeddings", True)
    if not isinstance(always, bool):
        _refuse("always_use_animal_embeddings", always, "it must be true or false", "set it to true")
    if always:
        return True
    if animals is None:
        _refuse("always_use_animal_embeddings", False, "it depends on which animals were recorded", "name them")
    assert animals is not None
    return len(set(animals.values())) < len(animals)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _refuse(name: str, value: Any, what: str, way_out: str) -> None:
    raise UserError(f"reference config: field {name} is {value!r}: {what}", way_out=way_out)


class Entry(NamedTuple):
    """One released parameter: our path, and how its array becomes ours and back."""

    path: str
    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _turned(x: np.ndarray) -> np.ndarray:
    return x.T


def core_names(config: ModelConfig) -> dict[str, Entry]:
    """Released name -> our path under `core/`, for every shared parameter but the latents, which are two of ours."""
    names: dict[str, Entry] = {}

    def keep(theirs: str, ours: str) -> None:
        names[theirs] = Entry(ours, _same, _same)

    def linear(theirs: str, ours: str, bias: bool = False) -> None:
        names[f"{theirs}.weight"] = Entry(f"{ours}/kernel", _turned, _turned)
        if bias:
            keep(f"{theirs}.bias", f"{ours}/bias")

    def feed_forward(theirs: str, ours: str) -> None:
        for part in ("gate", "up", "down"):
            linear(f"{theirs}.{part}_proj", f"{ours}/{part}")

    def block(theirs: str, ours: str, cross: bool) -> None:
        norms = [("attn_pre_norm", "attention_norm"), ("ffn_pre_norm", "ffn_norm")] if config.pre_norm else []
        norms += [("attn_pre_norm_context", "context_norm")] if config.pre_norm and cross else []
        norms += [("attn_post_norm", "attention_post_norm"), ("ffn_post_norm", "ffn_post_norm")] * config.post_norm
        for their_norm, our_norm in norms:
            keep(f"{theirs}.{their_norm}.weight", f"{ours}/{our_norm}/scale")
        for part in ("q", "kv") if cross else ("qkv",):
            linear(f"{theirs}.attention.w{part}", f"{ours}/attention/{part}")
        linear(f"{theirs}.attention.wo", f"{ours}/attention/out")
        feed_forward(f"{theirs}.feed_forward", f"{ours}/feed_forward")

    linear("sess_to_model_proj", "identity/session", bias=True)
    linear("neuron_to_model_proj", "identity/neuron", bias=True)
    if config.animal_embeddings:
        linear("animal_to_model_proj", "identity/animal", bias=True)
    if config.experiment_time:
        linear("exp_time_to_model_proj", "identity/time", bias=True)
    keep("behavior_channel_embeddings", "identity/channel")
    keep("missing_modality_embeddings", "missing")
    names["response_featx._feature_proj.weight"] = Entry(
        "response_in/kernel", lambda x: x[:, 0].T, lambda x: x.T[:, None]
    )
    keep("response_featx._feature_proj.bias", "response_in/bias")
    linear("response_readout_proj", "response_out")
    linear("behavior_featx", "behavior_in", bias=True)
    keep("behavior_readout_proj", "behavior_out")
    _video_names(config, names, linear, keep, feed_forward)
    block("enc", "encoder", cross=True)
    for i in range(config.n_layers):
        block(f"proc.{i}", f"tower/layers/{i}", cross=False)
    block("decs.0", "decoder", cross=True)
    return names


def _video_names(config: ModelConfig, names: dict[str, Entry], linear: Any, keep: Any, feed_forward: Any) -> None:
    backbone = "hiera.backbone"
    linear("hiera.feature_proj", "video/features", bias=True)
    for theirs, ours in (("pos_embed_spatial", "position_space"), ("pos_embed_temporal", "position_time")):
        names[f"{backbone}.{theirs}"] = Entry(f"video/{ours}", lambda x: x[0], lambda x: x[None])
    names[f"{backbone}.patch_embed.proj.weight"] = Entry(
        "video/patch_kernel", lambda x: x[:, 0].transpose(1, 2, 3, 0), lambda x: x.transpose(3, 0, 1, 2)[:, None]
    )
    keep(f"{backbone}.patch_embed.proj.bias", "video/patch_bias")
    widens_at = config.hiera_stages[0] if len(config.hiera_stages) > 1 else None
    for i in range(sum(config.hiera_stages)):
        theirs, ours = f"{backbone}.blocks.{i}", f"video/blocks/{i}"
        keep(f"{theirs}.pre_norm1.weight", f"{ours}/attention_norm/scale")
        keep(f"{theirs}.pre_norm2.weight", f"{ours}/ffn_norm/scale")
        linear(f"{theirs}.attn.qkv", f"{ours}/attention/qkv", bias=True)
        linear(f"{theirs}.attn.proj", f"{ours}/attention/out", bias=True)
        feed_forward(f"{theirs}.mlp", f"{ours}/feed_forward")
        if i == widens_at:
            linear(f"{theirs}.proj", f"{ours}/widen", bias=True)


LATENTS = "response_latent_embedding._latent_embeddings.weight"  # per window first, then global
#: Constants in a checkpoint, recomputed here.
CONSTANTS = re.compile(
    r"(exp_time_embedding\.positional_embeddings|behavior_timestamps|rotary_emb\.inv_freq"
    r"|response_latent_embedding\._latent_(ids|timestamps|window_sizes))$"
)
#: The map of experiment time exists there even where it is not used.
UNUSED_TIME = re.compile(r"exp_time_to_model_proj\.(weight|bias)$")
RIGHT_ONE = "use the checkpoint of this config and size"
COMPILE_PREFIX = "_orig_mod."


class Loaded(NamedTuple):
    """Parameters {"core", "tables"} as nested dicts of float32 arrays, and released names that nothing was made of."""

    params: Params
    left_over: tuple[str, ...]


def load_state(config: ModelConfig, state: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> Loaded:
    """Maps a released state dict to parameters whose tables have the vocabulary's rows (padding rows are zero).

    Raises UserError naming the first parameter that is missing, has another shape than `config` says, or is not finite.
    """
    state = {name.replace(COMPILE_PREFIX, ""): np.asarray(value) for name, value in state.items()}
    shapes = parameter_shapes(config, vocabulary)
    flat: dict[str, np.ndarray] = {}
    used: set[str] = set()

    def take(name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        if name not in state:
            raise UserError(
                f"reference weights: {name} is missing", way_out="use the checkpoint of this config and size"
            )
        used.add(name)
        value = state[name].astype(np.float32)
        if shape is not None and value.shape != shape:
            raise UserError(
                f"reference weights: {name} has shape {value.shape}, the config asks for {shape}",
                way_out=RIGHT_ONE,
            )
        if not np.isfinite(value).all():
            raise UserError(f"reference weights: {name} has values that are not finite", way_out="fetch the file again")
        return value

    for name, entry in core_names(config).items():
        path = f"core/{entry.path}"
        flat[path] = entry.load(take(name, entry.save(np.empty(shapes[path])).shape))
    n = config.latents_per_window
    latents = take(LATENTS, (n + config.global_latents, config.d_model))
    flat["core/latent"], flat["core/latent_global"] = latents[:n], latents[n:]
    tables = {path: np.zeros(shape, np.float32) for path, shape in shapes.items() if path.startswith("tables/")}
    e = config.d_embedding
    for row, entry_of in enumerate(vocabulary.sessions):
        prefix, rows = f"sess_params.{entry_of.key}", vocabulary.neuron_rows(entry_of.key)
        tables["tables/session_embedding"][row] = take(f"{prefix}._session_embedding", (e,))
        tables["tables/neuron_embedding"][rows] = take(f"{prefix}._neuron_embeddings.weight", (len(rows), e))
        tables["tables/neuron_bias"][rows] = take(f"{prefix}._neuron_biases", (len(rows), 1))[:, 0]
    if config.animal_embeddings:
        for row, animal in enumerate(vocabulary.animals):
            tables["tables/animal_embedding"][row] = take(f"animal_params._animal_embeddings.{animal}", (e,))
    ignored = [name for name in state if CONSTANTS.search(name)]
    ignored += [name for name in state if UNUSED_TIME.search(name) and not config.experiment_time]
    return Loaded(nest(flat | tables), tuple(sorted(set(state) - used - set(ignored))))


def save_state(config: ModelConfig, params: Params, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The inverse of `load_state`: released names and layouts. Constants are not written."""
    flat = flatten(params)
    state = {name: entry.save(flat[f"core/{entry.path}"]) for name, entry in core_names(config).items()}
    state[LATENTS] = np.concatenate([flat["core/latent"], flat["core/latent_global"]])
    for row, entry_of in enumerate(vocabulary.sessions):
        prefix, rows = f"sess_params.{entry_of.key}", vocabulary.neuron_rows(entry_of.key)
        state[f"{prefix}._session_embedding"] = flat["tables/session_embedding"][row]
        state[f"{prefix}._neuron_embeddings.weight"] = flat["tables/neuron_embedding"][rows]
        state[f"{prefix}._neuron_biases"] = flat["tables/neuron_bias"][rows][:, None]
    if config.animal_embeddings:
        for row, animal in enumerate(vocabulary.animals):
            state[f"animal_params._animal_embeddings.{animal}"] = flat["tables/animal_embedding"][row]
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def parameter_shapes(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, tables with the vocabulary's rows. Nothing is allocated."""
    abstract = nnx.eval_shape(
        lambda: OmniMouse(
            config,
            n_neurons=vocabulary.neuron_capacity,
            n_sessions=vocabulary.session_capacity,
            n_animals=vocabulary.animal_capacity,
            rngs=nnx.Rngs(0),
        )
    )
    return {path: leaf.shape for path, leaf in flatten(nnx.to_pure_dict(nnx.state(abstract, nnx.Param))).items()}


def flatten(params: Params) -> dict[str, Any]:
    """{"core": {"missing": x}} to {"core/missing": x}."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in keys): leaf for keys, leaf in leaves}


def nest(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`; numbered parts of a path become integer keys, as in a state of modules."""
    nested: Params = {}
    for path, leaf in flat.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        node: dict[Any, Any] = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return nested
