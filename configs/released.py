"""The released 80M recipe (arXiv 2604.18827): the 120 training regimes, a million steps, in bfloat16.

What: a tower of 12 layers, 768 wide, in the true order of patches; ask `omnimouse-jax describe --config configs/released.py`.
How long: never run. What it takes: omnimouse-jax doctor --config configs/released.py --mesh 8x1 --chip h100 --neurons 2300000
Score: none yet.
Command:
  omnimouse-jax train --config configs/released.py --store STORE --workdir RUN
"""

from ml_collections import ConfigDict

from omnimouse_jax.training.defaults import base


def get_config() -> ConfigDict:
    config = base("80M")
    config.model.hiera_order = "spatial"  # "reference" is for released weights
    config.model.compute_dtype = "bfloat16"
    config.model.remat = "layer"
    config.data.batch_size = 64
    config.optimizer.anneal_steps = 10_000
    return config
