"""A whole scaling study on two CPU cores: four model sizes x four numbers of synthetic mice x two seeds, and what guards it.

What: towers of 8 to 96 channels (core parameters over 1.7 decades) on 3, 8, 20 and 48 mice (1.2 decades), the same three mice
scored in every cell; two further orders of the mice for the small subsets; a third and three times the learning rate at two sizes;
each run annealed from two points on its way as well. Tasks: prediction from screen and behaviour, forecasting, decoding.
How long: docs/study.md says, with its page.
Command:
  omnimouse-jax synthesize stores/mice48 --set n_animals=48
  omnimouse-jax sweep plan --config configs/colony_study.py --store stores/mice48 --out studies/colony --machine here
  omnimouse-jax sweep launch studies/colony --parallel 2 --wait
  omnimouse-jax report studies/colony
"""

from ml_collections import ConfigDict

from configs import demo
from omnimouse_jax.scaling.plan import LARGEST, SMALL

SIZES = {
    "8ch": {"d_model": 8, "n_heads": 2, "hiera_dim": 8},
    "24ch": {"d_model": 24, "n_heads": 2, "hiera_dim": 16},
    "48ch": {"d_model": 48, "n_heads": 4, "hiera_dim": 32},
    "96ch": {"d_model": 96, "n_heads": 4, "hiera_dim": 48},
}


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.optimizer.anneal_steps = 150
    config.train.steps = 600
    config.train.checkpoint_every = 150
    config.study.name = "colony"
    config.study.sizes = ConfigDict(SIZES)
    config.study.amounts = (3, 8, 20, 48)
    config.study.seeds = (0, 1)
    config.study.anneal = (150, 300)
    config.study.also.orders = ConfigDict({"sizes": ("48ch",), "amounts": SMALL, "orders": (1, 2), "seeds": (0,)})
    config.study.also.rates = ConfigDict(
        {"sizes": ("24ch", "48ch"), "amounts": LARGEST, "rates": (1 / 3, 3.0), "seeds": (0,)}
    )
    return config
