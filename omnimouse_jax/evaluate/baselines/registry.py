"""All baselines by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.autoregression import AutoRegression
from omnimouse_jax.evaluate.baselines.cnn import CNN_FACTORISED, CNN_GAUSSIAN
from omnimouse_jax.evaluate.baselines.constant import LastValue, Mean, Psth
from omnimouse_jax.evaluate.baselines.linear import LINEAR_DECODER, REDUCED_RANK, RIDGE, WIENER, WIENER_CAUSAL
from omnimouse_jax.evaluate.baselines.ln import LN, LN_GAIN
from omnimouse_jax.evaluate.baselines.models import SHUFFLED, UNTRAINED, UNTRAINED_READOUT
from omnimouse_jax.evaluate.baselines.problem import Baseline

BASELINES: dict[str, Baseline] = {
    "mean": Mean(),
    "psth": Psth(),
    "last_value": LastValue(),
    "autoregression": AutoRegression(),
    "ridge": RIDGE,
    "reduced_rank": REDUCED_RANK,
    "ln": LN,
    "ln_gain": LN_GAIN,
    "cnn_factorised": CNN_FACTORISED,
    "cnn_gaussian": CNN_GAUSSIAN,
    "linear_decoder": LINEAR_DECODER,
    "wiener": WIENER,
    "wiener_causal": WIENER_CAUSAL,
    "untrained": UNTRAINED,
    "untrained_readout": UNTRAINED_READOUT,
    "shuffled_stimulus": SHUFFLED,
}


def get(names: Sequence[str]) -> dict[str, Baseline]:
    """Baselines of these names, in order; all of them for no name. UserError with the nearest name that exists."""
    for name in names:
        if name not in BASELINES:
            near = difflib.get_close_matches(name, BASELINES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"no baseline {name!r}", way_out=f"{hint}There are {', '.join(BASELINES)}")
    return {name: BASELINES[name] for name in names or BASELINES}
