"""The forms on offer, by name. Families live in forms_*.py; the estimator (fit.py) treats all of them alike."""

from __future__ import annotations

import re

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.form_names import FORMS
from omnimouse_jax.scaling.forms_base import Array, Flag, Form, Labels
from omnimouse_jax.scaling.forms_bounded import Bounded
from omnimouse_jax.scaling.forms_broken import Broken
from omnimouse_jax.scaling.forms_joint import Interaction, Kaplan
from omnimouse_jax.scaling.forms_linear import LogLinear, VaporPressure
from omnimouse_jax.scaling.forms_power import PowerSum
from omnimouse_jax.scaling.forms_repeats import DataConstrained

__all__ = ["AXES", "FORMS", "SCORES", "Array", "Flag", "Form", "Labels", "LogLinear", "PowerSum", "make_form"]

AXES = {"chinchilla": 2, "score_joint": 2, "kaplan": 2, "kaplan_floor": 2, "interaction": 2, "data_constrained": 3}
SCORES = ("score1", "score_joint")  # higher is better


def make_form(
    name: str,
    *,
    axes: int | None = None,
    response: str | None = None,
    ceiling: float = 1.0,
    higher_is_better: bool = False,
) -> Form:
    """A form by name. `response` defaults to log for losses and raw for scores; `ceiling` bounds S_inf from above.

    `axes` is free for log_linear and pure_power only; `higher_is_better` turns m4 into a score that rises.
    """
    broken = re.fullmatch(r"bnsl([1-9]?)", name)
    if name == "constant":
        # signed offset, so that a raw-scale loss or score of any sign is allowed
        return PowerSum(name, 0, response or "raw")
    if name == "log_linear":
        return LogLinear(name, axes or 1, response or "raw")
    if name == "pure_power":
        return PowerSum(name, axes or 1, response or "log", has_offset=False)
    if name in ("power1", "chinchilla"):
        return PowerSum(name, AXES.get(name, 1), response or "log")
    if name in SCORES:
        if response == "log":
            raise UserError(
                f"fit: form {name} is for scores on their own scale", way_out="fit 1 - score with power1 or chinchilla"
            )
        return PowerSum(name, AXES.get(name, 1), "raw", sign=-1, ceiling=ceiling)
    if name in ("kaplan", "kaplan_floor"):
        return Kaplan(name, 2, response or "log", has_offset=name != "kaplan")
    if name == "interaction":
        return Interaction(name, 2, response or "log")
    if name == "data_constrained":
        return DataConstrained(name, 3, response or "log")
    if name == "m4":
        sign = -1 if higher_is_better else 1
        return Bounded(name, 1, response or ("raw" if higher_is_better else "log"), sign=sign, ceiling=ceiling)
    if name == "vapor_pressure":
        if response == "raw":
            raise UserError(
                "fit: vapor_pressure is fitted on the log scale", way_out="leave out the response; values must be > 0"
            )
        return VaporPressure(name, 1, "log")
    if broken:
        return Broken(name, 1, response or "log", breaks=int(broken[1] or 1))
    raise UserError(f"fit: unknown form {name!r}", way_out=f"choose one of {', '.join(FORMS)}")
