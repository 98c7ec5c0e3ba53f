"""SENSORIUM 2023 (videos): predictions of a run per frame, the submission files, and the official score.

Frame k of a trial (30 Hz, from its beginning) is sample k of the run's predictions of it. The first 50 frames are neither scored
nor submitted. Targets and predictions are raw units times the official factor of each neuron and frame, 1/std with its floor.
Files and scorer: recordings.md, D.3 and D.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks.parquet import TableWriter, TrialRow, pack
from omnimouse_jax.evaluate.benchmarks.trials import (
    RATE,
    Asked,
    TrialPrediction,
    is_withheld,
    predicted_trials,
    trials_of,
)
from omnimouse_jax.evaluate.metrics.conventions import SKIPPED_FRAMES
from omnimouse_jax.recordings.ingest.sensorium.official import response_precision
from omnimouse_jax.recordings.session import Recording

BENCHMARK = "sensorium2023"
#: Tier -> the table of a submission.
FILES = {
    "live_test_main": "predictions_live_main.parquet.brotli",
    "final_test_main": "predictions_final_main.parquet.brotli",
    "live_test_bonus": "predictions_live_test_bonus_ood.parquet.brotli",
    "final_test_bonus": "predictions_final_test_bonus_ood.parquet.brotli",
}
#: What is uploaded -> the tiers whose tables are in it. The names of the zips are free.
ZIPS = {
    "submission_main.zip": ("live_test_main", "final_test_main"),
    "submission_bonus_live.zip": ("live_test_bonus",),
    "submission_bonus_final.zip": ("final_test_bonus",),
}
#: Tiers that are scored where their responses are public.
SCORED = ("oracle", *FILES)
SINGLE = "Single Trial Correlation"

Frames = Float[np.ndarray, "frames neurons"]


def mouse(rec: Recording) -> str:
    """What a submission calls the session: the name of its folder."""
    return str(rec.provenance["name"])


def n_frames(rec: Recording, trial: int) -> int:
    """Usable frames of a trial: up to the first NaN of any of its fields."""
    return round(float(rec.trials.end[trial] - rec.trials.start[trial]) * RATE)


def target(rec: Recording, trial: int) -> Frames:
    """Frames 51..T of what was recorded, in official units. UserError where it is withheld."""
    if rec.trials.withheld[trial]:
        raise UserError(
            f"session {rec.key}: the responses of trial {trial} are withheld (zeros in the file)",
            way_out="submit the predictions; score a tier whose responses are public",
        )
    first = int(rec.responses.segment_first[trial])
    rows = np.asarray(rec.responses.values[first : first + n_frames(rec, trial)])
    return standardised(rec, rows)[SKIPPED_FRAMES:]


def standardised(rec: Recording, raw: Frames) -> Frames:
    """Raw values of a trial, from its first frame on, times the official factor of every neuron and frame; float32."""
    factor = response_precision(rec)
    return (raw * factor[:, : len(raw)].T).astype(np.float32)


def predicted(asked: Asked, rec: Recording, tier: str) -> Iterator[TrialPrediction]:
    """Frames 51..T of every trial of a tier in official units, in the order of the files. UserError where one is not finite."""
    for found in predicted_trials(asked, rec, tier, f"session {rec.key}, {tier}: "):
        length = n_frames(rec, found.trial)
        values = standardised(rec, found.responses[:length])[SKIPPED_FRAMES:]
        if len(found.responses) < length or not np.isfinite(values).all():
            raise UserError(
                f"session {rec.key}: trial {found.trial} ({length} frames) is not predicted at every frame from the "
                f"{SKIPPED_FRAMES + 1}st on",
                way_out=f"a window of the model is {asked.run.model.grid.seconds:g} s, a trial must not be shorter",
            )
        yield TrialPrediction(found.trial, values)


def row(rec: Recording, found: TrialPrediction) -> TrialRow:
    """A trial of `predicted` as the submission has it."""
    return TrialRow(mouse(rec), found.trial, found.responses.T, rec.neurons["unit_id"].astype(np.int64))


class Submission:
    """The tables of one submission, open until all mice are through; tables without a trial are not written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._open = ExitStack()
        self._tables: dict[str, TableWriter] = {}

    def __enter__(self) -> Submission:
        self._open.__enter__()
        return self

    def add(self, tier: str, trial: TrialRow) -> None:
        """One trial; mice and trials come in the order in which the tables are to have them."""
        if tier not in self._tables:
            self._tables[tier] = self._open.enter_context(TableWriter(self.folder / FILES[tier]))
        self._tables[tier].add(trial)

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def zips(self) -> dict[str, list[str]]:
        """Packs what was written, once the block has ended: zip -> its tables. A zip of which a table is missing is not made."""
        made = {}
        for name, tiers in ZIPS.items():
            if all(tier in self._tables for tier in tiers):
                pack(self.folder / name, [self.folder / FILES[tier] for tier in tiers])
                made[name] = [FILES[tier] for tier in tiers]
        return made

    def tables(self) -> dict[str, int]:
        """Table -> trials in it."""
        return {FILES[tier]: writer.rows for tier, writer in self._tables.items()}


def public_tiers(rec: Recording) -> list[str]:
    """The tiers that can be scored."""
    return [tier for tier in SCORED if len(trials_of(rec, tier)) and not is_withheld(rec, tier)]
