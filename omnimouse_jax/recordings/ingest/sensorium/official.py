"""Trials of SENSORIUM recordings as the benchmarks' own loaders hand them out, from a recording of either origin.

Works on what the readers `sensorium2022` and `sensorium2023` return and on the same session read back from a store, where
responses and behaviour have been rounded to float32. Steps and their order are those of the official baselines: normalise
with the official statistics, behaviour as constant channels, scale, choose neurons, float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.sensorium.files import precision
from omnimouse_jax.recordings.ingest.sensorium.images import IMAGE_ON_S, RESPONSE_RATE, RESPONSE_ROW, quarter
from omnimouse_jax.recordings.sampling import screen_events
from omnimouse_jax.recordings.session import Recording, Signal

Fields = dict[str, np.ndarray]


def response_precision(rec: Recording) -> Float[np.ndarray, "neurons *frames"]:
    """What official responses are multiplied by: 1/std with the floor of 1 % of the mean; (neurons,) in 2022,
    (neurons, frames of a trial) in 2023.
    """
    if "responses/std" not in rec.extras:
        raise UserError(f"session {rec.key}: not a SENSORIUM recording", way_out="ingest it with that reader")
    return precision(rec.extras["responses/std"])


def drawn_neurons(rec: Recording, n: int, base_seed: int) -> Int[np.ndarray, " n"]:
    """The official random choice of `n` neurons (`neuron_n`, `neuron_base_seed`), as positions in drawn order."""
    units = rec.neurons["unit_id"]
    if not 0 < n <= len(units):
        raise UserError(f"session {rec.key}: {n} of {len(units)} neurons", way_out="ask for fewer")
    # The legacy generator is what the benchmark drew with.
    drawn = np.random.RandomState(base_seed * n).choice(units, size=n, replace=False)
    place = {int(unit): k for k, unit in enumerate(units)}
    return np.array([place[int(unit)] for unit in drawn], np.int64)


def window_response(predicted: Shaped[np.ndarray, "samples neurons"], rate: float = 30.0) -> np.ndarray:
    """The benchmark's one number per neuron from predictions over a static trial's 2 s window, (neurons,): their mean
    over the samples in which the response was taken (30..44 at 30 Hz).
    """
    lo, hi = (round(k / RESPONSE_RATE * rate) for k in (RESPONSE_ROW, RESPONSE_ROW + 1))
    return predicted[lo:hi].mean(axis=0)


def static_trial(
    rec: Recording,
    trial: int,
    *,
    behavior: bool = False,
    pupil: bool = False,
    behavior_as_channels: bool = True,
    normalize: bool = True,
    scale: float | None = None,
    neurons: Int[np.ndarray, " n"] | None = None,
) -> Fields:
    """A 2022 trial: images (channels, height, width), responses (n,), and if asked behavior (3,), pupil_center (2,).

    `trial` is the file's number. `scale` 0.25 of a recording that holds whole images follows the official order to the
    last bit (normalise, then scale); by default images have the size that the recording has. Withheld responses, and
    behaviour of scans without, are the zeros that their files hold.
    """
    statistics = _statistics(rec, "sensorium2022")
    stored = float(rec.provenance["scale"])
    scale = stored if scale is None else scale
    if scale not in (stored, 0.25):
        raise UserError(f"session {rec.key}: images at {stored:g} of their size", way_out="ingest it with scale=1.0")
    assert rec.screen is not None
    number = int(screen_events(rec.screen, rec.trials.start[trial : trial + 1] + IMAGE_ON_S)[0])
    image = _rows(rec.screen.frames, int(rec.screen.frame[number]), 1)
    row = int(rec.responses.segment_first[trial]) + RESPONSE_ROW
    responses = _known(_rows(rec.responses.values, row, 1)[0], bool(rec.trials.withheld[trial]))
    fields = {"images": image, "responses": responses}
    if behavior:
        fields["behavior"] = _samples(rec, "behavior", trial, 1)[:, 0]
    if pupil:
        fields["pupil_center"] = _samples(rec, "pupil_center", trial, 1)[:, 0]
    if normalize:
        _normalize(fields, statistics, response_precision(rec), 1)
    if scale != stored:
        fields["images"] = quarter(fields["images"])
    if behavior and behavior_as_channels:
        planes = np.broadcast_to(fields["behavior"][:, None, None], (3, *fields["images"].shape[1:]))
        fields["images"] = np.concatenate([fields["images"], planes])
    if neurons is not None:
        fields["responses"] = fields["responses"][neurons]
    return {name: values.astype(np.float32) for name, values in fields.items()}


def video_trial(
    rec: Recording,
    trial: int,
    *,
    behavior: bool = True,
    pupil: bool = True,
    behavior_as_channels: bool = True,
    pupil_as_channels: bool = False,
    normalize: bool = True,
) -> Fields:
    """A whole 2023 trial, uncropped: videos (channels, frames, height, width), responses (neurons, frames), and if asked
    behavior (2, frames), pupil_center (2, frames).

    It is as long as the shortest of the fields asked for, so leaving out the pupil can make it longer. `trial` is the
    file's number. Withheld responses are the zeros that their files hold.
    """
    statistics = _statistics(rec, "sensorium2023")
    screen = rec.screen
    assert screen is not None
    at = int(np.searchsorted(screen.times, rec.trials.start[trial]))
    asked = [name for name, wanted in (("behavior", behavior), ("pupil_center", pupil)) if wanted]
    lengths = [int(np.argmax(screen.frame[at:] < 0)), int(rec.responses.segment_lengths[trial])]
    for name in asked:
        lengths.append(int(_stream(rec, name).segment_lengths[trial]))
    if not rec.trials.valid[trial]:
        raise UserError(f"session {rec.key}: trial {trial} has no usable frame", way_out="leave it out")
    n = min(lengths)
    videos = _rows(screen.frames, int(screen.frame[at]), n)
    responses = _rows(rec.responses.values, int(rec.responses.segment_first[trial]), n).T
    fields = {
        "videos": np.moveaxis(videos, 0, -1),
        "responses": _known(responses, bool(rec.trials.withheld[trial])),
        **{name: _samples(rec, name, trial, n) for name in asked},
    }
    if normalize:
        _normalize(fields, statistics, response_precision(rec), n)
    channels = [np.moveaxis(fields["videos"], -1, 0)]
    for name, wanted in (("behavior", behavior_as_channels), ("pupil_center", pupil_as_channels)):
        if wanted and name in asked:
            channels += [np.broadcast_to(row[:, None, None], channels[0].shape) for row in fields[name]]
    fields["videos"] = np.stack(channels)
    return {name: values.astype(np.float32) for name, values in fields.items()}


def _normalize(fields: Fields, statistics: Mapping[str, np.ndarray], scale: np.ndarray, n: int) -> None:
    """Official normalisation in place: responses are scaled, behaviour keeps its mean, all else is z-scored.

    Statistics keep their stored type, so that the arithmetic is done in the precision in which the original does it.
    """
    for name, values in fields.items():
        if name == "responses":
            fields[name] = values * (scale if scale.ndim == 1 else scale[:, :n])
            continue
        mean, std = (statistics[f"{name}/{what}"] for what in ("mean", "std"))
        if values.ndim > 1 and mean.ndim == values.ndim:  # time is the last axis
            mean, std = mean[..., :n], std[..., :n]
        # Behaviour has no floor: a deviation of 0 gives inf or NaN, as in the original.
        with np.errstate(divide="ignore", invalid="ignore"):
            fields[name] = (values if name == "behavior" else values - mean) / std


def _statistics(rec: Recording, benchmark: str) -> Mapping[str, np.ndarray]:
    if rec.provenance.get("benchmark") != benchmark:
        raise UserError(f"session {rec.key}: not a {benchmark} recording", way_out="ingest it with that reader")
    return rec.extras


def _stream(rec: Recording, name: str) -> Signal:
    if name not in rec.behavior:
        raise UserError(f"session {rec.key}: no data/{name} in its source", way_out=f"ask for trials without {name}")
    return rec.behavior[name]


def _samples(rec: Recording, name: str, trial: int, n: int) -> Float[np.ndarray, "channels n"]:
    stream = _stream(rec, name)
    values = _rows(stream.values, int(stream.segment_first[trial]), n).T
    return _known(values, name in rec.provenance["absent"])


def _known(values: np.ndarray, blanked: bool) -> np.ndarray:
    """What the file holds: zeros where they were taken for not recorded."""
    return np.zeros_like(values) if blanked else values


def _rows(values: Any, first: int, n: int) -> np.ndarray:
    return np.asarray(values[first : first + n])
