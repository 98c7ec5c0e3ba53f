"""SENSORIUM 2022 (images): predictions of a run per image, the submission files, and the official scores.

A prediction is the mean of the run's predictions over the samples in which the response was taken (50-550 ms after onset; how
an image is a window: docs/sensorium.md), on the official standardised scale: raw units times 1/std with its floor. Files and
scorer: recordings.md, C.3 and C.4.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks import official
from omnimouse_jax.evaluate.benchmarks.results import Scored, score_of
from omnimouse_jax.evaluate.benchmarks.trials import (
    Asked,
    is_withheld,
    predicted_trials,
    trials_of,
    written_whole,
)
from omnimouse_jax.recordings.ingest.sensorium.official import response_precision, static_trial, window_response
from omnimouse_jax.recordings.session import Recording

BENCHMARK = "sensorium2022"
#: Track -> whether the model sees behaviour.
TRACKS = {"sensorium": False, "sensorium+": True}
#: Tier -> submission file.
FILES = {"test": "submission_file_live_test.csv", "final_test": "submission_file_final_test.csv"}
#: Tiers that are scored where their responses are public.
SCORED = ("validation", "test", "final_test")
SINGLE, AVERAGE, FEVE = "Single Trial Correlation", "Correlation to Average", "FEVE"
#: The columns of both files; the third one is `prediction` or `responses`.
COLUMNS = ("trial_indices", "image_ids", "prediction", "neuron_ids")


class Table(NamedTuple):
    """One tier of a session as its files have it: trial and image ids as text, a row per presentation, standardised values."""

    trials: Shaped[np.ndarray, " rows"]
    images: Shaped[np.ndarray, " rows"]
    values: Float[np.ndarray, "rows neurons"]
    neurons: Int[np.ndarray, " neurons"]


def without_behavior(rec: Recording) -> bool:
    """Whether the session's behaviour is missing (zeros in the files): the track with behaviour cannot be played on it."""
    return "behavior" not in rec.behavior or "behavior" in rec.provenance["absent"]


def predicted(asked: Asked, rec: Recording, tier: str) -> Table:
    """What the run predicts for every presentation of a tier, in the order of the files. UserError for a session without
    behaviour where the track shows it, and where a prediction is not finite.
    """
    if asked.behavior and without_behavior(rec):
        raise UserError(
            f"session {rec.key}: its behaviour is zero throughout, so the track sensorium+ cannot be played on it",
            way_out="choose --track sensorium, or another session",
        )
    files = trials_of(rec, tier)
    values = np.full((len(files), rec.n_neurons), np.nan, np.float32)
    row = {int(trial): k for k, trial in enumerate(files)}
    scale = response_precision(rec)
    for found in predicted_trials(asked, rec, tier, f"session {rec.key}, {tier}: "):
        values[row[found.trial]] = window_response(found.responses) * scale
    if not np.isfinite(values).all():
        trial, neuron = np.argwhere(~np.isfinite(values))[0]
        raise UserError(
            f"session {rec.key}: the prediction of trial {files[trial]}, neuron {neuron} is not finite",
            way_out="the run must be asked for samples 30 to 44 of a window; `omnimouse-jax evaluate` shows whether it is sound",
        )
    return table(rec, tier, values)


def recorded(rec: Recording, tier: str) -> Table:
    """What was recorded in a tier, as the official loader hands it out; UserError where the benchmark keeps it to itself."""
    if is_withheld(rec, tier):
        raise UserError(
            f"session {rec.key}: responses of tier {tier} are withheld (zeros in the files)",
            way_out="submit the predictions; score a tier whose responses are public",
        )
    values = [static_trial(rec, int(trial))["responses"] for trial in trials_of(rec, tier)]
    return table(rec, tier, np.array(values, np.float32).reshape(-1, rec.n_neurons))


def table(rec: Recording, tier: str, values: Float[np.ndarray, "rows neurons"]) -> Table:
    """Standardised values of a tier's presentations, in the order of the files, with the session's own ids."""
    files = trials_of(rec, tier)
    ids = [np.array([fact[i] for i in files], str) for fact in (trial_ids(rec), image_ids(rec))]
    return Table(ids[0], ids[1], values, rec.neurons["unit_id"].astype(np.int64))


def trial_ids(rec: Recording) -> list[str]:
    """What the benchmark calls each trial, by number of its file."""
    return _facts(rec, "trial_idx")


def image_ids(rec: Recording) -> list[str]:
    """What the benchmark calls the image of each trial."""
    return _facts(rec, "frame_image_id")


def _facts(rec: Recording, name: str) -> list[str]:
    if name not in rec.provenance["trials"]:
        raise UserError(
            f"session {rec.key}: no meta/trials/{name}.npy in its source, by which files of SENSORIUM 2022 name their rows",
            way_out="get the session again",
        )
    return [str(value) for value in rec.provenance["trials"][name]]


def write(path: Path, found: Table, column: str = "prediction") -> None:
    """A submission file (`column` "prediction") or a ground truth ("responses"), as the official code writes them to the byte."""
    neurons = str(found.neurons.tolist())
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([column if name == "prediction" else name for name in COLUMNS])
        for trial, image, values in zip(found.trials, found.images, found.values, strict=True):
            rows.writerow([trial, image, str(values.astype(np.float32).tolist()), neurons])


class Row(NamedTuple):
    """One line of a file as text, with its number in the file."""

    line: int
    trial: str
    image: str
    values: str
    neurons: str


def rows_of(path: Path, column: str = "prediction") -> Iterator[Row]:
    """Lines of a submission or a ground truth. UserError where the columns are not those of such a file."""
    csv.field_size_limit(2**31 - 1)  # one number for each of thousands of neurons
    wanted = [column if name == "prediction" else name for name in COLUMNS]
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if lines.fieldnames is None or set(lines.fieldnames) != set(wanted):
            raise UserError(
                f"file {path}: columns {', '.join(lines.fieldnames or ()) or '(none)'}",
                way_out=f"a file of SENSORIUM 2022 has {', '.join(wanted)}",
            )
        for line in lines:
            yield Row(lines.line_num, *(line[name] or "" for name in wanted))


def numbers(text: str) -> Float[np.ndarray, " n"]:
    """The text of a list as numbers. ValueError where it is something else."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError("not a list")
    inside = text[1:-1].strip()
    return np.array(inside.split(","), np.float64) if inside else np.zeros(0)


def read(path: Path, column: str = "prediction") -> Table:
    """A whole file. UserError for one that is not such a table (`validate` names every mistake of a submission)."""
    found = list(rows_of(path, column))
    try:
        values, neurons = [numbers(row.values) for row in found], {row.neurons for row in found}
        if len(neurons) != 1:
            raise ValueError(f"{len(neurons)} different lists of neuron_ids")
        ids = numbers(neurons.pop()).astype(np.int64)
        if any(len(row) != len(ids) for row in values):
            raise ValueError(f"lists that are not as long as neuron_ids, {len(ids)}")
    except ValueError as error:
        raise UserError(
            f"file {path}: {error}", way_out="`omnimouse-jax benchmark validate` lists what is wrong"
        ) from None
    return Table(np.array([r.trial for r in found]), np.array([r.image for r in found]), np.array(values), ids)


def in_order_of(found: Table, truth: Table, what: str = "submission") -> Table:
    """The same values with rows and neurons in the order of `truth`, by their ids, as the official scorer does before it compares.

    UserError where trials, their images or neurons are not the same.
    """
    where = {trial: k for k, trial in enumerate(found.trials)}
    column = {int(neuron): k for k, neuron in enumerate(found.neurons)}
    if set(where) != set(truth.trials) or len(where) != len(found.trials) or len(where) != len(truth.trials):
        raise UserError(f"{what}: its trials are not those that were recorded", way_out="one row for each trial")
    if set(column) != set(truth.neurons.tolist()) or len(column) != len(found.neurons):
        raise UserError(f"{what}: its neurons are not those that were recorded", way_out="list every neuron once")
    rows = [where[trial] for trial in truth.trials]
    columns = [column[int(neuron)] for neuron in truth.neurons]
    if not np.array_equal(found.images[rows], truth.images):
        raise UserError(f"{what}: its image_ids are not those that were shown", way_out="keep each trial's image")
    return Table(truth.trials, truth.images, found.values[rows][:, columns], truth.neurons)


def scores(submission: Table, truth: Table, **told: str) -> list[Scored]:
    """The three official numbers, each with its interval; `told` is what else each row says (session, tier, track).

    Without repeats of every image the last one, and with a single image the second, is NaN: there is no ceiling.
    """
    predictions, responses = in_order_of(submission, truth).values, truth.values
    explained = official.feve(responses, predictions, truth.images)
    per_neuron = {
        SINGLE: official.correlation(responses, predictions),
        AVERAGE: official.correlation_to_average(responses, predictions, truth.images),
        FEVE: explained.explained[explained.kept],
    }
    counts = {"trials": len(truth.trials), "images": len(set(truth.images.tolist()))}
    return [score_of(name, values, **told, **counts) for name, values in per_neuron.items()]


def public_tiers(rec: Recording, tiers: Sequence[str] = SCORED) -> list[str]:
    """Those of `tiers` that the session has and that can be scored."""
    return [tier for tier in tiers if len(trials_of(rec, tier)) and not is_withheld(rec, tier)]
