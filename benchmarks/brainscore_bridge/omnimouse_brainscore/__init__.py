"""Predictions of omnimouse_jax as a BrainModel, and a mouse's recordings as a local benchmark of Brain-Score.

Importing this package keeps Brain-Score from installing anything and from reading results of earlier calls.
"""

import os

# Must be set before Brain-Score is imported: it would call pip for plugins, and would find results by identifier.
os.environ["BS_INSTALL_DEPENDENCIES"] = "no"
os.environ["RESULTCACHING_DISABLE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
