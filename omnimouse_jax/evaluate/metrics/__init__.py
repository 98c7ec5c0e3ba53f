"""Scores from running sums, float64 on the host. Nothing is clipped; a score travels with its estimator and interval."""

from omnimouse_jax.evaluate.metrics.bootstrap import (
    bootstrap_interval,
    draw_blocks,
    mean_over_units,
    percentile_interval,
)
from omnimouse_jax.evaluate.metrics.conventions import sensorium2022, sensorium2023
from omnimouse_jax.evaluate.metrics.poisson import PoissonSums
from omnimouse_jax.evaluate.metrics.pooled import ESTIMATOR, BlockCorrelation, PooledCorrelation, TrialSums, pearson
from omnimouse_jax.evaluate.metrics.repeats import (
    FEV_THRESHOLD,
    RepeatMoments,
    RepeatSums,
    correlation_to_average,
    explainable_variance,
    explained_variance,
    fev,
    feve,
    single_trial_correlation,
)

__all__ = [
    "ESTIMATOR",
    "FEV_THRESHOLD",
    "BlockCorrelation",
    "PoissonSums",
    "PooledCorrelation",
    "RepeatMoments",
    "RepeatSums",
    "TrialSums",
    "bootstrap_interval",
    "correlation_to_average",
    "draw_blocks",
    "explainable_variance",
    "explained_variance",
    "fev",
    "feve",
    "mean_over_units",
    "pearson",
    "percentile_interval",
    "sensorium2022",
    "sensorium2023",
    "single_trial_correlation",
]
