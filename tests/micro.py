"""The smallest run that is still a run: shared by tests of training, evaluation, studies and the command line."""

from __future__ import annotations

from ml_collections import ConfigDict

from omnimouse_jax.training.defaults import base

TASKS = ("stimulus", "behavior")


def micro(store: str, **changes) -> ConfigDict:
    """A one-layer model of 16 channels on `store`; `changes` are dotted fields with dots written as double underscores."""
    config = base("tiny")
    config.data.store = store
    config.data.batch_size = 8
    config.data.stride_s = 0.5
    config.regimes = TASKS
    config.model.max_neurons = 16
    config.model.d_model = 16
    config.model.d_embedding = 8
    config.model.n_layers = 1
    config.model.local_to_global = (0, 1)
    config.model.latents_per_window = 2
    config.model.global_latents = 4
    config.model.hiera_dim = 8
    config.model.hiera_stages = (1,)
    config.model.hiera_q_pool = 0
    config.model.drop_path = 0.0
    config.optimizer.warmup_steps = 2
    config.optimizer.shared.learning_rate = 3e-3
    config.train.steps = 4
    config.train.log_every = 1
    config.train.checkpoint_every = 2
    config.train.validation_windows = 4
    config.evaluation.tasks = ConfigDict({task: task for task in TASKS})
    config.evaluation.bootstrap = 50
    config.mesh.data = 1
    for field, value in changes.items():
        *parents, name = field.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config
