"""Ceilings: what a perfect model could score, each by a named estimator that says what it bounds."""

from omnimouse_jax.evaluate.ceilings.ceiling import LEAST_GROUPS, LEAST_REPEATS, Ceiling, ceiling_of, repeat_ceilings
from omnimouse_jax.evaluate.ceilings.estimators import AVERAGE, BY_NAME, ESTIMATORS, SHARE, SINGLE, Estimator
from omnimouse_jax.evaluate.ceilings.inputs import Inputs, inputs_of, known_law
from omnimouse_jax.evaluate.ceilings.stimuli import RepeatedStimuli

__all__ = [
    "AVERAGE",
    "BY_NAME",
    "ESTIMATORS",
    "LEAST_GROUPS",
    "LEAST_REPEATS",
    "SHARE",
    "SINGLE",
    "Ceiling",
    "Estimator",
    "Inputs",
    "RepeatedStimuli",
    "ceiling_of",
    "inputs_of",
    "known_law",
    "repeat_ceilings",
]
