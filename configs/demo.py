"""The demo study: three model sizes x three numbers of mice, on synthetic mice, in minutes on two CPU cores.

What: towers of 16, 32 and 64 channels, each trained on 3, 7 and 16 sessions (nested; the same three sessions are scored in every
cell), three tasks: prediction from screen and behaviour, forecasting, and decoding of behaviour.
How long: 6 to 7 minutes on two CPU cores (docs/performance.md); `make demo` prints what it took.
Score: the page at the end says, with intervals. Three levels over less than a decade carry no exponent, and it says that too.
Command:
  omnimouse-jax synthesize stores/demo --preset demo
  omnimouse-jax sweep plan --config configs/demo.py --store stores/demo --out studies/demo
  omnimouse-jax sweep launch studies/demo --wait
  omnimouse-jax report studies/demo
"""

from ml_collections import ConfigDict

from omnimouse_jax.scaling.plan import default_study
from omnimouse_jax.training.defaults import base

#: Prediction from screen and behaviour, forecasting, decoding (docs/regimes.md).
TASKS = {task: task for task in ("stimulus", "forecast", "behavior")}

SIZES = {
    "S": {"d_model": 16, "n_heads": 2},
    "M": {"d_model": 32, "n_heads": 2},
    "L": {"d_model": 64, "n_heads": 4},
}


def get_config() -> ConfigDict:
    config = base("tiny")
    config.regimes = tuple(TASKS.values())
    config.model.max_neurons = 64
    config.model.latents_per_window = 16  # few tokens: this is for two CPU cores
    config.model.global_latents = 8
    config.model.grid.video_stride = 4
    config.model.hiera_stages = (1,)
    config.model.hiera_q_pool = 0
    config.model.hiera_kernel = (8, 8)
    config.model.hiera_stride = (8, 8)
    config.model.hiera_padding = (0, 0)
    config.model.hiera_mask_unit = (1, 2, 4)
    config.model.softplus_beta = 1.0  # quicker to learn than the released 0.1
    config.model.drop_path = 0.0
    config.data.batch_size = 8
    config.optimizer.shared.learning_rate = 3e-3
    config.optimizer.session.learning_rate = 1e-2
    config.optimizer.warmup_steps = 30
    config.optimizer.anneal_steps = 200
    config.train.steps = 500
    config.train.log_every = 20
    config.train.checkpoint_every = 125
    config.train.validation_windows = 48
    config.evaluation.checkpoint = "latest"  # annealed; the validation tier of 45 s a mouse is too small to choose by
    config.evaluation.batch_size = 16
    config.evaluation.tasks = ConfigDict(TASKS)

    config.study = default_study()
    config.study.name = "demo"
    config.study.sizes = ConfigDict(SIZES)
    config.study.amounts = (3, 7, 16)
    config.study.evaluation_sessions = 3
    return config
