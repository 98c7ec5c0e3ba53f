"""Where predictions come from: a trained model, a baseline, a file. Evaluation takes a `Source` and does not know which."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from omnimouse_jax.model.omnimouse import Predictions
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.setup import Parts, predictions

Answered = tuple[list[Window], Batch, Predictions]


@runtime_checkable
class Source(Protocol):
    """Something that answers every window of some batches, in order."""

    @property
    def name(self) -> str:
        """What tables and pages call it; one name per source of a page."""

    def predictions(self, parts: Parts, batches: EvaluationBatches) -> Iterator[Answered]:
        """(windows, host batch, host predictions) of each batch. Predictions are laid out as those of a model: one array
        B x S x N per target rectangle of `batches.layout`, in scaled responses; behaviour B x C x T in z-scores, or None.

        The batch has what was recorded, also where the regime hides it; a source must not look there.
        """


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """The trained model with these parameters (on the mesh of the parts that it is asked with)."""

    params: Any
    name: str = "model"

    def predictions(self, parts: Parts, batches: EvaluationBatches) -> Iterator[Answered]:
        for windows, batch, predicted, _ in predictions(parts, self.params, batches):
            yield windows, batch, predicted
