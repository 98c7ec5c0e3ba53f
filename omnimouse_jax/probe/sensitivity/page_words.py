"""What the sensitivity page says in words: definitions, intervals, censored numbers, causality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnimouse_jax.pages.marks import number

NORM_NAMES = {"l2": "l2: budget in RMS", "linf": "l-infinity: budget on every pixel"}

DEFINITIONS = (
    (
        "perturbation d",
        "A change of the screen's pixels within a budget; x + d stays a picture. Behaviour, session and whatever "
        "else the regime shows stay as recorded.",
    ),
    (
        "budget",
        "In grey levels of 255. l2: the root mean square over the pixels of a frame (or of the clip, with --clip), so that "
        "screens of different size compare; l-infinity: the largest change of a pixel.",
    ),
    (
        "z",
        "Shift of a neuron's predicted response, in model SD: the SD of its clean predictions over the reference windows, which "
        "also vary with behaviour where the regime shows it. Readout mean: responses averaged over the window; each: every sample.",
    ),
    (
        "D",
        "Root mean square of z over neurons. S: its mean over stimuli, under the strongest perturbation that was found.",
    ),
    (
        "eps*",
        "The smallest budget at which S reaches 1 model SD, interpolated between budgets in log-log. “>”: beyond the grid; "
        "such values are never averaged.",
    ),
    ("A", "Mean of S over the logarithm of the budget, on the grid shown."),
    (
        "G",
        "Local gain without any attack: of a neuron the dual norm of its gradient, of the population the largest D per unit of "
        "budget to first order. Where the clip shares one l2 budget that is the largest singular value of the "
        "Jacobian over the square "
        "root of the number of neurons; for other budgets it is a local maximum, a lower bound.",
    ),
    (
        "Q",
        "S over that of random directions of equal norm after cutting to the box. It grows with the number of pixels: compare it "
        "at equal dim only.",
    ),
    (
        "stable rank",
        "Sum of squared singular values of the Jacobian over the largest one squared; dim / Q² is the same where "
        "responses are linear and the clip shares one l2 budget.",
    ),
    (
        "low-pass",
        "The same perturbation blurred (Gaussian, SD of a sixteenth of the frame's height) and brought back to its norm. "
        "Random low-pass: noise treated so.",
    ),
    (
        "transfer",
        "(mean D of B under A's perturbations − random) / (mean D of B under its own − random), random of equal norm.",
    ),
    ("untrained", "The same architecture with parameters drawn anew, in units of its own SD."),
)


def interval(found: Mapping[str, Any], digits: int) -> str:
    """0.12 [0.10, 0.15]."""
    if found["value"] is None:
        return "–"
    ends = (
        ""
        if found["low"] is None or found["high"] is None
        else f" [{number(found['low'], digits)}, {number(found['high'], digits)}]"
    )
    return number(found["value"], digits) + ends


def star_told(star: Mapping[str, Any]) -> str:
    """eps* in grey levels, with censored ends as such."""

    def end(found: Mapping[str, Any]) -> str:
        mark = "> " if found["beyond"] else "≤ " if found["below"] else ""
        return mark + number(found["value"], 2)

    return f"{end(star['estimate'])} [{end(star['low'])}, {end(star['high'])}]"


def causality_told(found: Mapping[str, Any]) -> str:
    """One sentence that hides nothing: whether responses depend on frames that come up after them."""
    pairs = (
        f"{found['n_zero']} of {found['n_future']} pairs of a response and a later frame have a gradient of exactly 0"
    )
    if not found["n_future"]:
        return "no frame comes up after any of the responses, so nothing can be said."
    if found["ahead"] == 0:
        return f"no response depends on a later frame ({pairs}); it looks back up to {found['behind']:.2f} s."
    agree = "the same" if abs(found["ahead"] - found["ahead_forward"]) < 1e-6 else f"{found['ahead_forward']:.2f} s"
    share = "–" if found["ahead_share"] is None else f"{100 * found['ahead_share']:.0f} %"
    return (
        f"looks ahead: a response depends on frames up to {found['ahead']:.2f} s after it (replacing frames says "
        f"{agree}), which make "
        f"{share} of its squared gain; {pairs}. It looks back up to {found['behind']:.2f} s."
    )
