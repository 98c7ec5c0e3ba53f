"""Samples of different mice -> one padded Batch, with neurons put into slots by what the regime does with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import Sample


def neuron_slots(n_neurons: int, n_visible: int, n_slots: int) -> Int[np.ndarray, " neurons"]:
    """The slot of each of a row's neurons, in the row's order, among `n_slots` of which [0, n_visible) are shown."""
    return np.concatenate([np.arange(run.start, run.stop) for run in slot_runs(n_neurons, n_visible, n_slots)])


def slot_runs(n_neurons: int, n_visible: int, n_slots: int) -> tuple[range, ...]:
    """The slots of a row's neurons, in the row's order, as runs of neighbours.

    A regime is laid out for full rows: it shows the first slots and asks for the last ones. A row with fewer neurons keeps
    that meaning: its first neurons end where the shown slots end, the others end at the last slot, padding lies in front of
    each. When some neurons are held back, a small row shows at most half of its neurons (or the regime's own share, if that
    is larger), so it always has something to predict. A full row is left as it is.
    """
    if n_neurons > n_slots:
        raise UserError(
            f"{n_neurons} neurons do not fit into {n_slots} slots", way_out="raise --config.model.max_neurons"
        )
    if n_visible in (0, n_slots):
        return (range(n_slots - n_neurons, n_slots),)
    share = max(0.5, n_visible / n_slots)
    shown = min(n_visible, int(n_neurons * share))
    return range(n_visible - shown, n_visible), range(n_slots - (n_neurons - shown), n_slots)


def collate(
    samples: Sequence[Sample | None],
    vocabulary: Vocabulary,
    grid: Grid,
    n_channels: int,
    n_slots: int,
    n_visible: int,
    screen: tuple[int, int],
    video_dtype: np.dtype,
    context_shown: Bool[np.ndarray, " L"],
    n_rows: int | None = None,
) -> Batch:
    """Pads samples to `n_slots` neurons and `n_rows` rows (default: as many as there are samples). None: a masked row.

    `context_shown`: which of its program's context tokens the regime shows, the same in every row.
    """
    rows = n_rows or len(samples)
    batch = Batch(
        responses=np.zeros((rows, grid.n_samples, n_slots), np.float32),
        response_mask=np.zeros((rows, grid.n_samples, n_slots), bool),
        neuron_mask=np.zeros((rows, n_slots), bool),
        neuron_rows=np.zeros((rows, n_slots), np.int32),
        session_rows=np.zeros(rows, np.int32),
        animal_rows=np.zeros(rows, np.int32),
        video=np.zeros((rows, grid.n_frames, *screen), video_dtype),
        video_mask=np.zeros(rows, bool),
        behavior=np.zeros((rows, n_channels, grid.n_behavior), np.float32),
        behavior_mask=np.zeros((rows, n_channels, grid.n_behavior), bool),
        experiment_second=np.zeros(rows, np.int32),
        row_mask=np.array([row < len(samples) and samples[row] is not None for row in range(rows)]),
        context_shown=np.tile(context_shown, (rows, 1)),
    )
    for row, sample in enumerate(samples):
        if sample is None:
            continue
        key = sample.window.session
        table_rows, done = vocabulary.neuron_rows(key)[sample.neurons], 0
        for run in slot_runs(len(sample.neurons), n_visible, n_slots):
            slots, neurons = slice(run.start, run.stop), slice(done, done + len(run))
            responses = sample.responses[:, neurons]
            # Not np.isfinite(responses, out=...): numpy 2.4 leaves most of a strided column of one neuron unwritten.
            recorded = np.isfinite(responses)
            batch.response_mask[row, :, slots] = recorded
            np.copyto(batch.responses[row, :, slots], responses, where=recorded)
            batch.neuron_mask[row, slots] = True
            batch.neuron_rows[row, slots] = table_rows[neurons]
            done += len(run)
        batch.session_rows[row] = vocabulary.session_row(key)
        batch.animal_rows[row] = vocabulary.animal_row(key)
        if sample.video is not None:
            if sample.video.shape[1:] != tuple(screen):
                height, width = sample.video.shape[1:]
                raise UserError(
                    f"session {key}: screen is {height}x{width}, the model's is {screen[0]}x{screen[1]}",
                    way_out=f"set --config.model.screen='({height}, {width})' or resize the stimuli before ingesting",
                )
            batch.video[row] = sample.video
            batch.video_mask[row] = True
        seen = np.isfinite(sample.behavior)
        batch.behavior[row] = np.where(seen, sample.behavior, 0)
        batch.behavior_mask[row] = seen
        batch.experiment_second[row] = sample.experiment_second
    return batch
