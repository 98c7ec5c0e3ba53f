"""The released PyTorch model's state dict, by its own names, mapped to our parameters and back.

Linear weights there are (out, in), convolutions (out, in, *kernel); names are those of the published checkpoints. What
a checkpoint carries beside parameters (position tables and other constants) is recomputed here (`constants`). The
released config is in `reference_config.py`, released files in `reference_files.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import TIME_BASE
from omnimouse_jax.model.omnimouse import OmniMouse
from omnimouse_jax.model.rotary import angular_frequencies
from omnimouse_jax.model.stacks import apart, together
from omnimouse_jax.tokens.vocabulary import Vocabulary

Params = dict[str, Any]


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
#: Constants in a checkpoint (see `constants`).
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
    shapes = {path: value.shape for path, value in apart(config, parameter_shapes(config, vocabulary)).items()}
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
    return Loaded(nest(together(config, flat | tables)), tuple(sorted(set(state) - used - set(ignored))))


def save_state(config: ModelConfig, params: Params, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The inverse of `load_state`: released names and layouts. Constants are not written."""
    flat = apart(config, flatten(params))
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


def constants(config: ModelConfig) -> dict[str, np.ndarray]:
    """What a released checkpoint holds beside parameters, as the original computes it and in its number types."""
    g, e = config.grid, config.d_embedding
    exponent = np.arange(0, e, 2, dtype=np.float32) * np.float32(-math.log(TIME_BASE) / e)
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = np.arange(math.ceil(config.max_recording_seconds), dtype=np.float32)[:, None] * frequency
    table = np.stack([np.sin(angle, dtype=np.float64), np.cos(angle, dtype=np.float64)], axis=-1)
    per_window, n_global, n_windows = config.latents_per_window, config.global_latents, g.n_latent_windows
    starts = np.arange(n_windows, dtype=np.float32) * np.float32(g.latent_stride / g.response_rate)
    lengths = [np.full(n_windows * per_window, g.latent_width / g.response_rate)]
    lengths.append(np.full(n_global, g.n_samples / g.response_rate))
    latent = "response_latent_embedding._latent"
    return {
        "exp_time_embedding.positional_embeddings": table.reshape(len(angle), -1)[:, :e].astype(np.float32),
        "behavior_timestamps": np.zeros(config.n_channels, np.float32),
        "rotary_emb.inv_freq": angular_frequencies(config.d_head, config.rotary_seconds),
        f"{latent}_ids": np.append(np.tile(np.arange(per_window), n_windows), per_window + np.arange(n_global)),
        f"{latent}_timestamps": np.append(np.repeat(starts, per_window), np.zeros(n_global, np.float32)),
        f"{latent}_window_sizes": np.concatenate(lengths).astype(np.float32),
    }


def check_constants(config: ModelConfig, state: Mapping[str, np.ndarray]) -> None:
    """UserError naming a constant of a released state dict that is not what `config` says: the config is another one's."""
    for name, ours in constants(config).items():
        if name not in state:
            continue
        theirs = np.asarray(state[name])
        off = np.inf if theirs.shape != ours.shape else np.abs(theirs - ours).max(initial=0.0)
        # A checkpoint in half precision has its constants in half precision too.
        if not off <= (1e-2 if _in_half_precision(theirs) else 1e-4) * np.abs(ours).max(initial=1.0):
            how = f"{list(theirs.shape)}, not {list(ours.shape)}" if np.isinf(off) else f"off by up to {off:.3g}"
            raise UserError(
                f"reference weights: {name} is not what this config gives ({how})",
                way_out="use the config that the model was trained with: its rates, window lengths and numbers of latents",
            )


def _in_half_precision(x: np.ndarray) -> bool:
    """Whether float16 or bfloat16 holds every value."""
    halves = (np.float16, jax.numpy.bfloat16)
    return x.dtype.kind == "f" and any(np.array_equal(x, x.astype(half).astype(x.dtype)) for half in halves)


def parameter_shapes(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """An array of every parameter's shape by path, tables with the vocabulary's rows. Their memory is one number."""
    abstract = nnx.eval_shape(
        lambda: OmniMouse(
            config,
            n_neurons=vocabulary.neuron_capacity,
            n_sessions=vocabulary.session_capacity,
            n_animals=vocabulary.animal_capacity,
            rngs=nnx.Rngs(0),
        )
    )
    leaves = flatten(nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))
    return {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in leaves.items()}


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
