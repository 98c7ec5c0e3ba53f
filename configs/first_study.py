"""The smallest study: two model sizes x two numbers of mice, to see every step of a sweep before paying for a real one.

What: towers of 8 and 16 channels on 1 and 3 tiny synthetic mice, one task, 40 steps. Far too little to mean anything.
How long: about a minute on two CPU cores, compilation included.
Command:
  omnimouse-jax synthesize stores/tiny --preset tiny
  omnimouse-jax sweep plan --config configs/first_study.py --store stores/tiny --out studies/first
  omnimouse-jax sweep launch studies/first --wait
  omnimouse-jax report studies/first
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.regimes = ("stimulus",)
    config.evaluation.tasks = ConfigDict({"stimulus": "stimulus"})
    config.model.max_neurons = 16
    config.model.n_layers = 1
    config.model.local_to_global = (0, 1)
    config.data.stride_s = 0.5
    config.optimizer.warmup_steps = 10
    config.optimizer.anneal_steps = 10
    config.train.steps = 40
    config.train.checkpoint_every = 20
    config.train.validation_windows = 8
    config.study.name = "first"
    config.study.sizes = ConfigDict({"XS": {"d_model": 8, "n_heads": 2}, "S": {"d_model": 16, "n_heads": 2}})
    config.study.amounts = (1, 3)
    config.study.evaluation_sessions = 1
    return config
