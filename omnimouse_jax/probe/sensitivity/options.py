"""The settings of the sensitivity probe, with a smoke configuration."""

from __future__ import annotations

import dataclasses

from omnimouse_jax.probe.sensitivity.attacks import Effort

#: Budgets are told in grey levels of 255.
LEVELS = 255.0


@dataclasses.dataclass(frozen=True)
class Options:
    """All that decides the numbers. `budgets`: RMS (l2) or largest (linf) change of a pixel, in grey levels of 255."""

    session: str = ""
    regime: str = "stimulus"
    stimuli: int = 16
    reference: int = 64  # windows that give the model SD and the prediction score
    neurons: int = 32
    neuron_stimuli: int = 2
    neuron_budgets: tuple[float, ...] = (1.0, 4.0)
    norms: tuple[str, ...] = ("l2",)
    framewise: bool = True
    budgets: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    steps: int = 40
    full_steps: int = 20
    pairs: int = 2
    neuron_pairs: int = 1
    directions: int = 20
    smooth_directions: int = 5
    power_steps: int = 40
    readout: str = "mean"
    before_output: bool = False
    floor: float = 1e-3  # of sigma, in units of the response scale
    least_reliability: float = 0.05
    causality_stimuli: int = 4
    subspace: int = 8
    untrained: bool = True
    seed: int = 0
    bootstrap: int = 1000
    rows: int = 32

    @property
    def effort(self) -> Effort:
        return Effort(self.steps, self.full_steps, self.pairs)

    @property
    def neuron_effort(self) -> Effort:
        return Effort(self.steps, self.full_steps, self.neuron_pairs)

    def smoke(self) -> Options:
        """Everything once, small: 4 stimuli, 3 budgets, K = 6, one antipodal pair. Too coarse to read figures from."""
        return dataclasses.replace(
            self,
            stimuli=min(self.stimuli, 4),
            reference=min(self.reference, 8),
            neurons=min(self.neurons, 2),
            neuron_stimuli=1,
            neuron_budgets=(1.0,),
            budgets=(0.5, 2.0, 8.0),
            steps=6,
            full_steps=3,
            pairs=1,
            directions=8,
            smooth_directions=1,
            power_steps=6,
            causality_stimuli=1,
            subspace=4,
            bootstrap=200,
            rows=min(self.rows, 8),
        )
