"""Synthetic mice from a known law: stimuli, neurons, behaviour and recording, with ceilings whose true value is known.

`docs/synthetic.md` states the law. `make_recording(spec, index)` gives one session, `synthesize(store, preset)` a
colony.
"""

from omnimouse_jax.recordings.synthetic.colony import synthesize
from omnimouse_jax.recordings.synthetic.mouse import make_recording
from omnimouse_jax.recordings.synthetic.presets import PRESETS, estimate, resolve
from omnimouse_jax.recordings.synthetic.spec import ColonySpec

__all__ = ["PRESETS", "ColonySpec", "estimate", "make_recording", "resolve", "synthesize"]
