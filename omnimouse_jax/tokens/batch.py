"""What a model sees: padded arrays, masks and table rows. Rows may come from different mice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class Batch(NamedTuple):
    """B windows with N neuron slots, S response samples, F frames, C behaviour channels of T samples, L context tokens.

    Padding and missing values are zeros under a False mask, never NaN. Responses are divided by their scale, behaviour is
    z-scored, video keeps the stored grey levels (uint8 or float32; the model normalises it on the device).
    """

    responses: Float[np.ndarray, "B S N"]
    response_mask: Bool[np.ndarray, "B S N"]  # False: padding slot, or a sample that was not recorded
    neuron_mask: Bool[np.ndarray, "B N"]  # False: padding slot
    neuron_rows: Int[np.ndarray, "B N"]  # row of the neuron tables; 0 at padding
    session_rows: Int[np.ndarray, " B"]
    animal_rows: Int[np.ndarray, " B"]
    video: Shaped[np.ndarray, "B F H W"]
    video_mask: Bool[np.ndarray, " B"]  # False: this recording has no screen (all frames missing)
    behavior: Float[np.ndarray, "B C T"]
    behavior_mask: Bool[np.ndarray, "B C T"]
    experiment_second: Int[np.ndarray, " B"]  # window start since the recording's first response, floored to 1 s
    row_mask: Bool[np.ndarray, " B"]  # False: the row only fills up the batch (evaluation's last one)
    context_shown: Bool[
        np.ndarray, "B L"
    ]  # response, then behaviour tokens of the program's layout: does the regime show them?
