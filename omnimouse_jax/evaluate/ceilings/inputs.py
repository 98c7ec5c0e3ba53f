"""Which ceiling may bound a regime: that depends on what the regime shows besides the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.evaluate.ceilings.ceiling import Ceiling
from omnimouse_jax.evaluate.ceilings.estimators import SINGLE
from omnimouse_jax.evaluate.metrics.bootstrap import bootstrap_interval
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.tokens.layout import Layout


class Inputs(NamedTuple):
    """What a regime shows of a window."""

    screen: bool
    behavior: bool
    neurons: bool

    @property
    def only_screen(self) -> bool:
        return self.screen and not self.behavior and not self.neurons

    @property
    def remark(self) -> str:
        """Why a ceiling from repeats does not bound this regime from above; "" where it does.

        Repeats tell how much of a response the stimulus fixes. What varies between repeats is noise to them, and signal to a
        model that sees behaviour or other neurons: its scores may pass such a ceiling, and a ratio would mean nothing.
        """
        if self.only_screen:
            return ""
        shown = [name for name, there in (("behaviour", self.behavior), ("neurons", self.neurons)) if there]
        if not shown:
            return "not an upper bound: the regime does not show the screen"
        return f"not an upper bound: the regime shows {' and '.join(shown)}, which vary between repeats"


def inputs_of(layout: Layout) -> Inputs:
    """Read off a resolved regime."""
    screen = layout.video_steps[1] > layout.video_steps[0]
    return Inputs(screen, layout.behavior == "input", bool(layout.context))


#: The tier on whose samples a synthetic mouse's ceilings were computed.
LAW_TIERS = ("test",)


def known_law(
    recording: Recording,
    inputs: Inputs,
    tiers: Sequence[str],
    scored: Bool[np.ndarray, " neurons"],
    bootstrap: int,
    seed: int,
) -> Ceiling | None:
    """The correlation of single trials with their true expectation given what the regime shows, which only the maker of a
    synthetic mouse knows (docs/synthetic.md). None for other recordings, for regimes that do not show the screen,
    and on other tiers than the one that it was computed for.
    """
    name = "all_but_private_noise" if inputs.neurons else "stimulus_behavior" if inputs.behavior else "stimulus"
    truth = (recording.truth or {}).get("ceiling", {}).get(name, {}).get("per_neuron") if inputs.screen else None
    if tuple(tiers) != LAW_TIERS:
        return None
    if truth is None:
        return None
    per_unit: Float[np.ndarray, " neurons"] = np.asarray(truth, np.float64)
    low, high = bootstrap_interval(per_unit, scored, bootstrap, seed)
    nan = float("nan")
    return Ceiling(
        f"known law: {name}",
        SINGLE,
        float(per_unit[scored].mean()) if scored.any() else None,
        low,
        high,
        "95% bootstrap over neurons",
        np.where(scored, per_unit, nan),
        nan,
        0,
        0,
        "" if scored.any() else "no neuron was scored",
    )
