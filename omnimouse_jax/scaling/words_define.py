"""What the page's words mean."""

from __future__ import annotations

from omnimouse_jax.scaling.analysis import HOLDOUTS, Study
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.exclude import OVERFIT_ERRORS
from omnimouse_jax.scaling.grid import MIN_DECADES, MIN_LEVELS


def definitions(study: Study) -> list[tuple[str, str]]:
    """Terms in the order in which a reader meets them."""
    if study.outside:
        return _stated(study)
    unit, noun = DATA_AXES[study.data_axis]
    holdouts = [task.holdout for task in study.tasks if task.holdout in HOLDOUTS]
    return [
        (
            "Score",
            "Correlation of prediction and recording, computed per evaluation session as the ledger's estimator column "
            "says, never clipped; the score of a run is the plain mean over evaluation sessions.",
        ),
        (
            "Data",
            f"Column {study.data_axis} of the ledger: {noun}. The evaluation sessions are the same for every run, so "
            "this axis measures what other recordings add for them (transfer to fixed sessions), not more hours of one mouse.",
        ),
        *(
            (f"Scored on {HOLDOUTS[h][0]}", HOLDOUTS[h][1][0].upper() + HOLDOUTS[h][1][1:] + ".")
            for h in dict.fromkeys(holdouts)
        ),
        (
            "Parameters",
            "Column n_params_core: parameters shared by all mice. Tables with rows per neuron, session or animal grow "
            "with the data and are not counted.",
        ),
        ("Gain per doubling", f"Slope of score against log2({unit}s) or log2(parameters) through the cell means."),
        ("These sessions", "What would change if the same cells were trained again with other seeds: run noise only."),
        (
            "New sessions",
            "What would change for other recorded sessions: a t interval over per-session gains (over animals where "
            "animals repeat), with the noise of runs added.",
        ),
        (
            "Data-limited",
            "At the largest model and amount, doubling the data gains more than doubling the parameters: the 95 % "
            "interval of the ratio lies above 1, and the three corner cells agree without any curve. Parameter-limited: "
            "below 1. A doubling of data is many sessions: what the next few are worth is told apart.",
        ),
        (
            "No verdict",
            f"Exponents need at least {MIN_LEVELS} levels on both axes, over {MIN_DECADES['data']} decades of data and "
            f"{MIN_DECADES['parameters']} of parameters. With less, cells and gains are shown and no curve is fitted.",
        ),
        (
            "Saturation",
            "Called established only if a curve with a plateau predicts the held-out largest level better than a "
            "straight line in log x does, and the interval of the plateau is closed.",
        ),
        (
            "Compute",
            "Column flops: what the model's matrix products need for the windows of training, counted from exact shapes. "
            "A compute-optimal "
            "line exists only where training compute grows as parameters x data.",
        ),
        (
            "Left to gain",
            "A N^-alpha and B D^-beta of the joint fit at the largest cell: what parameters and data without end would still add. "
            "It leans on the plateau, the least certain part of a fit; the ratio of two doublings does not.",
        ),
        (
            "Over-fit",
            f"The mean gap between last and best validation loss of a cell exceeds {OVERFIT_ERRORS:g} standard errors over seeds. "
            "Such cells are marked; they leave the fits only with --without-overfit.",
        ),
    ]


def _stated(study: Study) -> list[tuple[str, str]]:
    """Of scores that others stated: nothing is known here of how they were made."""
    unit, noun = DATA_AXES[study.data_axis]
    return [
        (
            "Score",
            "The number in the table. How it was computed, and over what it is a mean, only its source can tell.",
        ),
        ("Data", f"The table's column that --columns called {study.data_axis} ({noun})."),
        ("Parameters", "The table's column that --columns called n_params_core; sizes carry the names of the table."),
        (
            "Gain per doubling",
            f"Slope of a straight line in log2({unit}s) or log2(parameters) through all scores of a line, mean over the lines. "
            "Its bracket holds the rounding of the table and nothing else.",
        ),
        (
            "Higher, not monotone",
            "Higher: the last score of every line lies above its first by the last decimal or more, and no step on the way "
            "falls by as much. Not monotone: a step falls; the largest fall is named.",
        ),
        ("Across sources", "Scores of different sources stand on one line; how they were measured may differ."),
    ]
