"""The perturbations themselves, as small grey pictures: strips of all frames, one under the other, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.pages.picture import data_url
from omnimouse_jax.probe.sensitivity.measure import Measured
from omnimouse_jax.probe.sensitivity.models import Lineup
from omnimouse_jax.probe.sensitivity.options import LEVELS, Options

#: Stimuli that are shown, of each model and norm.
STIMULI = 2
#: Frames of a clip at most, evenly chosen.
FRAMES = 60


def pictures(
    lineup: Lineup, measured: Mapping[str, Sequence[Measured]], options: Options, budget: int | None = None
) -> list[dict[str, Any]]:
    """For some stimuli: the frames, and per model and norm the perturbation at one budget (default: the middle of the grid),
    amplified around grey so that its largest pixel is black or white, and the perturbed frames. `factor` is the amplification.
    """
    e = len(options.budgets) // 2 if budget is None else budget
    subject = lineup.models[0].subject
    n_frames = subject.shape[0]
    frames = np.unique(np.linspace(0, n_frames - 1, min(n_frames, FRAMES)).round().astype(int))
    out = []
    for stimulus in range(min(STIMULI, subject.n_stimuli)):
        x = subject.video[stimulus][frames]
        rows = []
        for norm, of_models in measured.items():
            for model, found in zip(lineup.models, of_models, strict=True):
                d = found.d[e, stimulus][frames]
                factor = 0.5 / max(float(np.abs(d).max()), 1e-9)
                power = np.square(d).sum((1, 2))
                rows.append(
                    {
                        "model": model.name,
                        "norm": norm,
                        "budget": options.budgets[e],
                        "rms_levels": float(np.sqrt(np.square(found.d[e, stimulus]).mean()) * LEVELS),
                        "largest_levels": float(np.abs(d).max() * LEVELS),
                        "factor": factor,
                        "strongest": int(power.argmax()),
                        "D": float(np.sqrt(_mean(found.squares[e, stimulus], model.subject.included))),
                        "perturbation": _strip(0.5 + factor * d),
                        "perturbed": _strip(x + d),
                    }
                )
        out.append(
            {
                "stimulus": stimulus,
                "frames": frames,
                "height": int(x.shape[1]),
                "width": int(x.shape[2]),
                "clean": _strip(x),
                "rows": rows,
            }
        )
    return out


def _mean(squares: Any, included: Any) -> float:
    return float((squares * included).sum() / max(int(included.sum()), 1))


def _strip(frames: Float[np.ndarray, "F H W_"]) -> str:
    levels = np.clip(np.round(frames * LEVELS), 0, 255).astype(np.uint8)
    return data_url(levels.reshape(-1, frames.shape[-1]))
