"""Agreement with the released model, case by case, on a triple of files made with it: NAME.json, .npz and .weights.npz.

A triple holds a config and weights by their released names, inputs, and what the original makes of them under several
regimes: predictions, losses, intermediates, windows and gradients. Errors are relative to the largest absolute value of
the reference array. Gradients are compared by 2-norm, array by array: where two patches tie within rounding in a max
pooling, each side may send the gradient to another one, and single elements then differ although both are right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.omnimouse import Predictions
from omnimouse_jax.model.reference import check_constants, load_state, save_state
from omnimouse_jax.model.reference_config import config_from_reference
from omnimouse_jax.model.reference_files import State, read_json, read_npz
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import shown
from omnimouse_jax.tokens.layout import Layout, visible_pairs
from omnimouse_jax.tokens.regimes import Regime, resolve
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.objective import loss_sums
from omnimouse_jax.training.step import Capacity, abstract_model

#: Largest relative errors of a case that passes.
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
#: Norms of gradients below this are compared absolutely.
SMALL_NORM = 1e-3
#: One call each: compiling quickly matters more than running quickly.
COMPILER = {"xla_backend_optimization_level": 0}
TIMING_TOLERANCE_S = 1e-3


class Triple(NamedTuple):
    """The files of one check, read and checked against each other."""

    path: Path  # without the endings
    cases: dict[str, dict[str, Any]]
    session: str
    arrays: State
    config: ModelConfig
    vocabulary: Vocabulary
    params: Any
    left_over: tuple[str, ...]  # weights by names that this config has no place for


class CaseResult(NamedTuple):
    """Largest relative errors by what was compared, and what else is wrong."""

    case: str
    outputs: dict[str, float]
    gradients: float | None  # None: the files have none
    windows_equal: bool
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        fine = all(error <= OUTPUT_TOLERANCE for error in self.outputs.values())
        return fine and (self.gradients or 0.0) <= GRADIENT_TOLERANCE and self.windows_equal and not self.wrong


def open_triple(path: Path) -> Triple:
    """Reads a triple named by its path without endings. UserError, naming file and entry, for whatever does not fit."""
    path = _stem(path)
    file = path.with_name(f"{path.name}.json")
    told = read_json(file)
    missing = [name for name in ("config", "sessions", "session", "cases") if name not in told]
    if missing:
        raise UserError(f"{file}: no entry {missing[0]!r}", way_out="write the triple again")
    for name in ("config", "sessions", "cases"):
        if not isinstance(told[name], dict) or (name != "config" and not told[name]):
            raise UserError(f"{file}: {name} must be an object with entries", way_out="write the triple again")
    if broken := [case for case, value in told["cases"].items() if not isinstance(value, dict)]:
        raise UserError(f"{file}: case {broken[0]} is not an object", way_out="write the triple again")
    if told["session"] not in told["sessions"]:
        some = ", ".join(told["sessions"])
        raise UserError(f"{file}: session {told['session']!r} is not in sessions ({some})", way_out="name one of them")
    arrays = read_npz(path.with_name(f"{path.name}.npz"))
    weights = read_npz(path.with_name(f"{path.name}.weights.npz"))
    vocabulary = vocabulary_of(file, told["sessions"])
    animals = {entry.key: entry.animal for entry in vocabulary.sessions}
    # Screens in the files are normalised already.
    config = dataclasses.replace(config_from_reference(told["config"], animals), screen_mean=0.0, screen_std=1.0)
    try:
        check_constants(config, weights)
        loaded = load_state(config, weights, vocabulary)
    except UserError as error:
        raise UserError(f"{path.name}.weights.npz: {error.what}", way_out=error.way_out) from None
    params = jax.tree.map(jnp.asarray, loaded.params)
    return Triple(path, told["cases"], told["session"], arrays, config, vocabulary, params, loaded.left_over)


def vocabulary_of(file: Path, sessions: Mapping[str, Any]) -> Vocabulary:
    """Rows for a triple's table of sessions {key: {"animal_id", "n_neurons"}}."""
    summaries = {}
    for key, entry in sessions.items():
        animal, n = (entry.get("animal_id"), entry.get("n_neurons")) if isinstance(entry, dict) else (None, None)
        if animal is None or not isinstance(n, int) or n < 1:
            raise UserError(f"{file}: session {key} has no animal_id or no n_neurons", way_out="add them")
        summaries[key] = {"animal": str(animal), "n_neurons": n}
    return Vocabulary.of(summaries)


def check_case(triple: Triple, case: str) -> CaseResult:
    """Runs one case and compares all that the files hold of it."""
    batch, layout, config = batch_of(triple, case), layout_of(triple, case), triple.config
    wrong = _targets_wrong(triple, case, layout, batch)
    loss, seen, grads = _run(triple, batch, layout)
    outputs = {name: _relative(ours, array(triple, f"{case}/{name}")) for name, ours in (loss | seen).items()}
    for name in ("response_preds", "behavior_preds", "video_features"):
        if f"{case}/{name}" in triple.arrays and name not in seen:
            wrong.append(f"the reference has {name}, this model none")
    for name, ours in seen.items():
        theirs = array(triple, f"{case}/{name}")
        if theirs.shape != ours.shape:
            wrong.append(f"{name} has shape {theirs.shape} in the files, {ours.shape} here")
        elif not np.isfinite(theirs).all():
            wrong.append(f"{name} is not finite in the files")
    windows_equal = all(
        np.array_equal(visible_pairs(*pair, config.touching), _told_mask(triple, case, which, pair))
        for which, pair in windows_of(layout, config).items()
    )
    gradients, more = _gradient_error(triple, case, grads)
    return CaseResult(case, outputs, gradients, windows_equal, (*wrong, *more))


def array(triple: Triple, name: str) -> np.ndarray:
    """One of the triple's arrays. UserError if it is missing."""
    if name not in triple.arrays:
        raise UserError(f"{triple.path}.npz: no array {name}", way_out="write the triple again")
    return triple.arrays[name]


def batch_of(triple: Triple, case: str) -> Batch:
    """The triple's inputs with its permutation of neurons."""
    inputs = {name: array(triple, f"inputs/{name}") for name in ("responses", "screen", "behavior", "neuron_ids")}
    times = {name: array(triple, f"inputs/{name}") for name in ("response_timestamps", "screen_timestamps")}
    return make_batch(triple, triple.session, inputs | times, layout_of(triple, case))


def make_batch(triple: Triple, session: str, inputs: Mapping[str, np.ndarray], layout: Layout) -> Batch:
    """A batch of whole windows of one session. UserError for arrays that do not fit the config."""
    config, g, vocabulary = triple.config, triple.config.grid, triple.vocabulary
    ids, n_neurons = inputs["neuron_ids"], vocabulary.entry(session).n_neurons
    b = len(ids)
    _must_fit(triple, "responses", inputs["responses"], (b, g.n_samples, n_neurons))
    _must_fit(triple, "screen", inputs["screen"], (b, 1, g.n_frames, *config.screen))
    _must_fit(triple, "behavior", inputs["behavior"], (b, config.n_channels, g.n_behavior))
    if ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.min(initial=0) < 0 or ids.max(initial=0) >= n_neurons:
        raise UserError(
            f"{triple.path}.npz: neuron_ids must be rows of numbers below {n_neurons}", way_out="write the triple again"
        )
    for name, n, rate in (
        ("response_timestamps", g.n_samples, g.response_rate),
        ("screen_timestamps", g.n_frames, g.video_rate),
    ):
        _must_fit(triple, name, inputs[name], (b, n))
        since = inputs[name] - inputs["response_timestamps"][:, :1]
        if np.abs(since - np.arange(n)[None] / rate).max() > TIMING_TOLERANCE_S:
            raise UserError(
                f"{triple.path}.npz: {name} is not on a grid of {rate} Hz", way_out="check the config's rates"
            )
    second = np.floor(inputs["response_timestamps"][:, 0]).astype(np.int32)
    if config.experiment_time and not 0 <= second.min() <= second.max() < math.ceil(config.max_recording_seconds):
        raise UserError(
            f"{triple.path}.npz: second {second.max()} is beyond max_recording_len_s {config.max_recording_seconds:g}",
            way_out="check the config",
        )
    if config.max_neurons is not None and ids.shape[1] > config.max_neurons:
        raise UserError(
            f"{triple.path}.npz: {ids.shape[1]} neurons are in play, max_population_size is {config.max_neurons}",
            way_out="use the arrays of this config",
        )
    responses = np.take_along_axis(inputs["responses"], ids[:, None], axis=2).astype(np.float32)
    behavior = inputs["behavior"].astype(np.float32)
    return Batch(
        responses=responses,
        response_mask=np.ones(responses.shape, bool),
        neuron_mask=np.ones(ids.shape, bool),
        neuron_rows=vocabulary.neuron_rows(session)[ids],
        session_rows=np.full(b, vocabulary.session_row(session), np.int32),
        animal_rows=np.full(b, vocabulary.animal_row(session), np.int32),
        video=inputs["screen"][:, 0].astype(np.float32),
        video_mask=np.ones(b, bool),
        behavior=behavior,
        behavior_mask=np.ones(behavior.shape, bool),
        experiment_second=second,
        row_mask=np.ones(b, bool),
        context_shown=np.tile(shown(layout, layout, config.n_channels), (b, 1)),
    )


def layout_of(triple: Triple, case: str, n_neurons: int | None = None) -> Layout:
    """The case's regime on the model's grid, for the neurons in play."""
    if case not in triple.cases:
        raise UserError(f"{triple.path}.json: no case {case!r}", way_out=f"there are: {', '.join(triple.cases)}")
    fields = {field: value for field, value in triple.cases[case].items() if field != "grad_norms"}
    unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(Regime)})
    if unknown:
        raise UserError(f"{triple.path}.json: case {case}: no field {unknown[0]} in a regime", way_out="remove it")
    n = array(triple, "inputs/neuron_ids").shape[1] if n_neurons is None else n_neurons
    if fields.get("suffix_start_idx") is None:  # as the original reads it; here it would be the first answerable sample
        hidden = (fields.get("n_visible_neurons") or n) < n or fields.get("n_visible_neurons") == 0
        fields["suffix_start_idx"] = fields.get("full_population_prefix_len" if hidden else "prefix_len") or 0
    try:
        return resolve(Regime(**fields), triple.config.grid, n)
    except TypeError as error:
        raise UserError(f"{triple.path}.json: case {case}: {error}", way_out="write whole numbers or null") from None


def windows_of(layout: Layout, config: ModelConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals of queries and keys of encoder, tower and decoder, by the names of their masks in the files."""
    latents = layout.latents(config.latents_per_window, config.global_latents)
    hidden = np.concatenate([latents, layout.video(config.features_per_step)])
    context = np.concatenate([layout.response_tokens(), _behavior(layout, config, "input")])
    queries = np.concatenate([layout.queries(), _behavior(layout, config, "target")])
    return {"mask_enc": (latents, context), "mask_latent": (hidden, hidden), "mask_dec": (queries, hidden)}


def _run(triple: Triple, batch: Batch, layout: Layout) -> tuple[dict[str, Any], dict[str, Any], State]:
    """Losses, outputs and intermediates, and gradients by released name, from one compiled program."""
    config = triple.config
    graph = abstract_model(config, Capacity.of(triple.vocabulary))[0]

    def everything(params: Any, batch: Batch) -> Any:
        model = nnx.merge(graph, params)
        core, rows = model.core, model.tables.gather(batch)
        meta, neurons, channels = core.identify(rows, batch)
        latents = core.encode(meta, neurons, channels, batch, layout)
        features = core.watch(meta, batch, layout)
        hidden = core.process(latents, features)
        predictions = core.decode(hidden, neurons, channels, rows, layout)
        seen = {"latents_after_encoder": latents.vectors, "hidden": hidden.vectors}
        if features is not None:
            seen["video_features"] = features.vectors
        means = loss_sums(predictions, batch, layout, config).means(config)
        return means["loss"], (means, predictions, seen)

    step = jax.jit(jax.value_and_grad(everything, has_aux=True), compiler_options=COMPILER)
    (_, (means, predictions, seen)), grads = step(triple.params, batch)
    losses = {"loss": means["loss"]}
    if layout.targets:
        losses["response_loss"] = means["loss/responses"]
        seen["response_preds"] = flattened(predictions, config.grid.response_stride)
    if predictions.behavior is not None:
        losses["behavior_loss"] = means["loss/behavior"]
        seen["behavior_preds"] = predictions.behavior
    return losses, seen, save_state(config, jax.tree.map(np.asarray, grads), triple.vocabulary)


def flattened(predictions: Predictions, stride: int) -> np.ndarray:
    """Responses in the reference's order: step, neuron, sample in step."""
    return np.concatenate([_in_order(x, stride) for x in predictions.responses], axis=1)


def _in_order(x_BxSxN: Any, stride: int) -> np.ndarray:
    b, s, n = x_BxSxN.shape
    return np.asarray(x_BxSxN).reshape(b, s // stride, stride, n).swapaxes(2, 3).reshape(b, -1)


def _behavior(layout: Layout, config: ModelConfig, role: str) -> np.ndarray:
    return layout.behavior_tokens(config.n_channels if layout.behavior == role else 0)


def _targets_wrong(triple: Triple, case: str, layout: Layout, batch: Batch) -> list[str]:
    """Labels, sample numbers and neuron ids of the targets that are not in the reference's order, if it tells them."""
    if not layout.targets:
        return []
    ids = np.broadcast_to(array(triple, "inputs/neuron_ids")[:, None], batch.responses.shape)
    position = np.broadcast_to(np.arange(batch.responses.shape[1])[None, :, None], batch.responses.shape)
    wrong = []
    for name, values in (
        ("response_labels", batch.responses),
        ("response_positions", position),
        ("response_neuron_ids", ids),
    ):
        parts = [
            _in_order(
                values[:, r.first_sample : r.last_sample, r.first_neuron : r.last_neuron],
                triple.config.grid.response_stride,
            )
            for r in layout.targets
        ]
        if f"{case}/{name}" in triple.arrays and not np.array_equal(
            np.concatenate(parts, axis=1), array(triple, f"{case}/{name}")
        ):
            wrong.append(f"{name} differ")
    return wrong


def _told_mask(triple: Triple, case: str, which: str, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The file's mask. Where nothing can be seen it has none."""
    if f"{case}/{which}" not in triple.arrays and not len(pair[1]):
        return np.zeros((len(pair[0]), 0), bool)
    shape = array(triple, f"{case}/{which}_shape")
    bits = np.unpackbits(array(triple, f"{case}/{which}"), axis=-1)
    return bits[..., : shape[-1]].astype(bool).reshape(shape)


def _gradient_error(triple: Triple, case: str, grads: State) -> tuple[float | None, list[str]]:
    """The largest error of gradients and of their norms, and names that should have none, or are not ours."""
    prefix, norms = f"{case}/grad/", triple.cases[case].get("grad_norms", {})
    told = {name.removeprefix(prefix): x for name, x in triple.arrays.items() if name.startswith(prefix)}
    wrong = [f"no parameter {name} here" for name in sorted({*told, *norms} - set(grads))]
    errors = []
    for name in told.keys() & grads.keys():
        if grads[name].shape != told[name].shape:
            wrong.append(f"gradient of {name} has another shape")
            continue
        norm = np.linalg.norm(told[name])
        errors.append(float(np.linalg.norm(grads[name] - told[name]) / max(norm, np.finfo(np.float32).tiny)))
    for name in norms.keys() & grads.keys():
        errors.append(abs(float(np.linalg.norm(grads[name])) - norms[name]) / max(norms[name], SMALL_NORM))
    if norms:
        stray = [name for name in grads if name not in norms and np.any(grads[name])]
        wrong += [f"{name} has a gradient only here" for name in stray]
    return (worst(errors) if errors else None), wrong


def worst(errors: list[float]) -> float:
    """The largest; infinite if any is not a number."""
    return max((math.inf if math.isnan(error) else error for error in errors), default=0.0)


def _relative(ours: Any, theirs: np.ndarray) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return math.inf
    error = np.abs(ours - theirs).max(initial=0.0) / max(np.abs(theirs).max(initial=0.0), np.finfo(np.float32).tiny)
    return math.inf if math.isnan(error) else float(error)


def _must_fit(triple: Triple, name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise UserError(
            f"{triple.path}.npz: inputs {name} have shape {value.shape}, the config asks for {shape}",
            way_out="use the arrays of this config and session",
        )
    if not np.isfinite(value).all():
        raise UserError(f"{triple.path}.npz: inputs {name} are not finite", way_out="write the triple again")


def _stem(path: Path) -> Path:
    for ending in (".weights.npz", ".train.json", ".train.npz", ".json", ".npz"):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending))
    return path
