"""A lab's scaling study: the five released sizes x five amounts of its own sessions x seeds, and what makes curves believable.

What: towers of 1M to 300M on nested subsets from the evaluation sessions alone to the whole store, two seeds each; three
independent orders of the sessions for the small subsets; a third and three times the learning rate at two sizes; every run annealed
from three points on its way: each cell gives a whole axis of compute. Four tasks that recordings of any number of neurons can
do; for the released 120 regimes add --config.regimes="('training',)".
How long: never run as a whole. `sweep plan` prints it before anything starts, on the machine that is named.
Score: none yet. docs/study.md has the same design at a hundredth of the size, run.
Command:
  omnimouse-jax sweep plan --config configs/scaling.py --store STORE --out STUDY --machine h100x8 --price 24
  omnimouse-jax sweep launch STUDY --on slurm
"""

import dataclasses

from ml_collections import ConfigDict

from omnimouse_jax.model.config import SIZES
from omnimouse_jax.scaling.plan import LARGEST, SMALL, default_study
from omnimouse_jax.training.defaults import base

SMALLEST = "1M"
TASKS = {task: task for task in ("stimulus", "population", "forecast", "behavior")}


def differences(size: str) -> dict:
    """The fields of the model in which a released size differs from the smallest."""
    fields, least = dataclasses.asdict(SIZES[size]), dataclasses.asdict(SIZES[SMALLEST])
    return {name: value for name, value in fields.items() if value != least[name]}


def get_config() -> ConfigDict:
    config = base(SMALLEST)
    config.regimes = tuple(TASKS.values())
    config.evaluation.tasks = ConfigDict(TASKS)
    config.evaluation.checkpoint = "latest"  # the only one that is annealed
    config.model.hiera_order = "spatial"
    config.model.compute_dtype = "bfloat16"
    config.model.remat = "layer"
    config.data.batch_size = 64
    config.optimizer.warmup_steps = 1_000
    config.optimizer.anneal_steps = 10_000
    config.train.steps = 260_000
    config.train.checkpoint_every = 10_000

    config.study = default_study()
    config.study.name = "scaling"
    config.study.sizes = ConfigDict({size: differences(size) for size in SIZES if size[0].isdigit()})
    config.study.evaluation_sessions = 7
    config.study.seeds = (0, 1)
    config.study.anneal = (20_000, 60_000, 120_000)
    config.study.also.orders = ConfigDict({"sizes": ("5M", "80M"), "amounts": SMALL, "orders": (1, 2), "seeds": (0,)})
    config.study.also.rates = ConfigDict(
        {"sizes": ("5M", "80M"), "amounts": LARGEST, "rates": (1 / 3, 3.0), "seeds": (0,)}
    )
    return config
