"""One small model on a small store: a first run that ends while you watch.

What: `tiny` (a tower of two layers, 64 wide), four tasks, 400 steps of 8 windows.
How long: about two minutes on two CPU cores, compilation included.
Command:
  omnimouse-jax synthesize stores/tiny --preset tiny
  omnimouse-jax train --config configs/tiny.py --store stores/tiny --workdir runs/tiny
  omnimouse-jax evaluate runs/tiny
"""

from ml_collections import ConfigDict

from omnimouse_jax.training.defaults import base

#: One regime a task, those that fit a recording of any number of neurons (docs/regimes.md).
TASKS = {task: task for task in ("stimulus", "population", "forecast", "behavior")}


def get_config() -> ConfigDict:
    config = base("tiny")
    config.regimes = tuple(TASKS.values())
    config.evaluation.tasks = ConfigDict(TASKS)
    config.optimizer.warmup_steps = 50
    config.optimizer.anneal_steps = 100
    config.optimizer.shared.learning_rate = 2e-3
    config.train.steps = 400
    config.train.log_every = 20
    config.train.checkpoint_every = 100
    config.train.validation_windows = 32
    return config
