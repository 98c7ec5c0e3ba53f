"""How often each session is drawn in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex

Mixture = Literal["duration", "neurons", "uniform"]


def session_weights(
    windows: WindowIndex, vocabulary: Vocabulary, mixture: str, temperature: float
) -> Float[np.ndarray, " sessions"] | None:
    """Share of the windows that each of the index's sessions gives; None where windows are drawn from all sessions alike.

    A session weighs `size ** (1 / temperature)`, its size being its windows ("duration"), its neurons ("neurons") or 1
    ("uniform"). Raises UserError for an unknown mixture or a temperature that is not positive.
    """
    if mixture not in get_args(Mixture):
        raise UserError(f"config: data.mixture is {mixture!r}", way_out=f"use {', '.join(get_args(Mixture))}")
    if not temperature > 0:
        raise UserError(f"config: data.temperature is {temperature}", way_out="use a positive number")
    if mixture == "duration" and temperature == 1.0:
        return None
    sizes: Sequence[int] = [1] * len(windows.sessions)
    if mixture == "duration":
        sizes = [len(windows.numbers_of(key)) for key in windows.sessions]
    elif mixture == "neurons":
        sizes = [vocabulary.entry(key).n_neurons for key in windows.sessions]
    logs = np.log(np.array(sizes, np.float64)) / temperature
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    if weights.min() * len(windows) < 1e-6:
        never = windows.sessions[int(weights.argmin())]
        raise UserError(
            f"config: with data.temperature {temperature:g} session {never} is practically never drawn",
            way_out="raise the temperature, or leave the session out of data.sessions",
        )
    return weights
