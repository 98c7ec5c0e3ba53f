"""The neurons of a recorded session in front of frames that they never saw: experiments in a model instead of an animal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.sampling import MID_GREY
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials

RESPONSE_RATE = BEHAVIOR_RATE = 30.0
TIER = "imagined"


def imagined(
    recording: Recording,
    frames: Shaped[np.ndarray, "frames height width"],
    rate: float | int,
    behavior: Mapping[str, float | int] | None = None,
    grey_s: float = 2.0,
) -> Recording:
    """A recording of the same neurons in which `frames` come up one after the other, `rate` a second, from time 0 on, after
    `grey_s` seconds of grey.

    `frames` are grey levels of 0 to 255. Behaviour stands still: at what `behavior` says by channel in the recording's units,
    else at its mean over the training tier. No response is recorded: all are NaN. UserError for frames that are not of the
    session's screen, and for channels that it does not have.
    """
    key = recording.key
    frames = np.asarray(frames)
    if recording.screen is None:
        raise UserError(f"session {key}: has no screen", way_out="imagine frames for a session that has one")
    size = (recording.screen.height, recording.screen.width)
    if frames.ndim != 3 or len(frames) == 0 or frames.shape[1:] != size:
        raise UserError(
            f"session {key}: frames of shape {frames.shape}, the screen is {size[0]}x{size[1]}",
            way_out=f"give an array (frames, {size[0]}, {size[1]})",
        )
    if not np.all((frames >= 0) & (frames <= 255)):
        raise UserError(f"session {key}: frames with grey levels outside 0 to 255", way_out="scale them to 0..255")
    if not rate > 0:
        raise UserError(f"session {key}: {rate:g} frames a second", way_out="use a positive rate")
    wanted = dict(behavior or {})
    if unknown := sorted(wanted.keys() - set(recording.channels)):
        raise UserError(
            f"session {key}: no behaviour channel {unknown[0]}",
            way_out=f"it has {', '.join(recording.channels) or 'none'}",
        )
    end = len(frames) / rate
    levels = {name: wanted.get(name, recording.behavior_mean.get(name, 0.0)) for name in recording.channels}
    streams = {}
    if levels:
        still = np.array(list(levels.values()), np.float32)
        values = np.broadcast_to(still, (_samples(end + grey_s, BEHAVIOR_RATE), len(still)))
        streams["imagined"] = Signal.continuous(values, BEHAVIOR_RATE, -grey_s, channels=tuple(levels))
    unknown_responses = np.broadcast_to(
        np.float32(np.nan), (_samples(end + grey_s, RESPONSE_RATE), recording.n_neurons)
    )
    times = np.concatenate([[-grey_s], np.arange(len(frames)) / rate])
    text = {"tier": np.array([TIER]), "modality": np.array(["video"]), "stimulus": np.array([TIER])}
    return Recording(
        key=key,
        animal=recording.animal,
        responses=Signal.continuous(unknown_responses, RESPONSE_RATE, -grey_s),
        trials=Trials(np.array([0.0]), np.array([end]), valid=np.array([True]), **text),
        behavior=streams,
        screen=Screen(
            frames=frames if frames.dtype == np.uint8 else frames.astype(np.float32),
            times=times,
            frame=np.arange(-1, len(frames)),
            grey=np.full(len(times), MID_GREY),
            end_time=end,
        ),
        neurons=recording.neurons,
        response_scale=recording.response_scale,
        behavior_mean=recording.behavior_mean,
        behavior_scale=recording.behavior_scale,
    )


def _samples(seconds: float, rate: float) -> int:
    """Enough of them to reach the end."""
    return int(np.ceil(seconds * rate - 1e-6))
