"""Who is examined: anything with `apply(params, video, context)`, the screen it looks at, and when its responses are read.

A trained model, the same model untrained, the planted law of a synthetic mouse and a neuron written for a test are all subjects:
the experiments cannot tell them apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.probe.predictor import WHITE, Context, Predictor
from omnimouse_jax.recordings.session import Recording

#: Width of a screen in visual degrees where nothing says it: that of the usual 36 x 64 pictures.
ASSUMED_DEGREES = 128.0
#: Middle grey, where a session never shows a blank.
MIDDLE = 0.5
#: Windows handed to a program at a time.
BATCH = 16

Apply = Callable[[Any, Any, Any], Any]
Levels = Mapping[str, float]


class Geometry(NamedTuple):
    """A flat screen: pixels, degrees (the same on both axes), the grey that it rests at (0 to 1), frames and their rate."""

    height: int
    width: int
    degrees: float  # of the width
    grey: float
    n_frames: int
    frame_rate: float

    @property
    def degrees_per_pixel(self) -> float:
        return self.degrees / self.width

    def pixels(self) -> tuple[Float[np.ndarray, "H W_"], Float[np.ndarray, "H W_"]]:
        """x and y of each pixel's middle in degrees from the screen's, x to the right, y up."""
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float64)
        x = (columns - (self.width - 1) / 2) * self.degrees_per_pixel
        y = ((self.height - 1) / 2 - rows) * self.degrees_per_pixel
        return x, y


@dataclasses.dataclass(frozen=True)
class Subject:
    """N neurons of one session that answer windows of frames. `context(n, levels)` is what `apply` gets for n windows, behaviour at
    `levels` (recorded units; channels that are not named: at their mean).
    """

    name: str
    apply: Apply
    params: Any
    context: Callable[[int, Levels], Any]
    geometry: Geometry
    sample_times: Float[np.ndarray, " S"]  # seconds from the window's start
    neuron_ids: Shaped[np.ndarray, " N"]
    channels: tuple[str, ...] = ()  # of behaviour that `levels` may name
    batch: int = BATCH

    @property
    def n_neurons(self) -> int:
        return len(self.neuron_ids)

    @functools.cached_property
    def program(self) -> Apply:
        """`apply`, compiled once for all experiments."""
        return jax.jit(self.apply)

    @functools.cached_property
    def gradient_program(self) -> Callable[..., Any]:
        """(params, video, context, column per window, weight per sample) -> each window's weighted response of its neuron, and its
        gradient with respect to that window's frames. Rows do not know of each other.
        """

        def total(video: Any, params: Any, context: Any, columns: Any, weights: Any) -> Any:
            r_WxSxN = self.apply(params, video, context)
            mine = jnp.take_along_axis(r_WxSxN, columns[:, None, None], axis=2)[..., 0]
            values = mine @ weights
            return values.sum(), values

        def both(params: Any, video: Any, context: Any, columns: Any, weights: Any) -> Any:
            (_, values), gradient = jax.value_and_grad(total, has_aux=True)(video, params, context, columns, weights)
            return values, gradient

        return jax.jit(both)

    def gradients(
        self,
        video: Float[np.ndarray, "n F H W_"],
        columns: Int[np.ndarray, " n"],
        read: slice,
        context: Any,
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n F H W_"]]:
        """Mean response over the samples `read` of one neuron per window, and its gradient; at most `batch` windows."""
        n = len(video)
        weights = np.zeros(len(self.sample_times), np.float32)
        weights[read] = 1 / (read.stop - read.start)
        full = np.full((self.batch, *self.frames_shape), self.geometry.grey, np.float32)
        full[:n] = video
        asked = np.zeros(self.batch, np.int32)
        asked[:n] = columns
        values, gradient = self.gradient_program(self.params, full, context, asked, weights)
        return np.asarray(values)[:n], np.asarray(gradient)[:n]

    def responses(
        self,
        n: int,
        draw: Callable[[range], Float[np.ndarray, "w F H W_"]],
        levels: Levels | None = None,
        told: Callable[[int], None] | None = None,
    ) -> Float[np.ndarray, "n S N"]:
        """To `n` windows, drawn a batch at a time by `draw(numbers)`; `told(windows)` is called after each batch.

        All batches have one size (the last one is filled up), so that one program serves every experiment.
        """
        if unknown := sorted(set(levels or {}) - set(self.channels)):
            raise UserError(f"{self.name}: no behaviour channel {unknown[0]}", way_out=f"it has {self.channels}")
        context = self.context(self.batch, levels or {})
        out = np.zeros((n, len(self.sample_times), self.n_neurons), np.float32)
        for first in range(0, n, self.batch):
            numbers = range(first, min(first + self.batch, n))
            video = np.full((self.batch, *self.frames_shape), self.geometry.grey, np.float32)
            video[: len(numbers)] = draw(numbers)
            out[numbers.start : numbers.stop] = np.asarray(self.program(self.params, video, context))[: len(numbers)]
            if told is not None:
                told(len(numbers))
        return out

    @property
    def frames_shape(self) -> tuple[int, int, int]:
        return self.geometry.n_frames, self.geometry.height, self.geometry.width

    def read(self, start_s: float, end_s: float) -> slice:
        """Samples in a stretch of the window. UserError where none is predicted there."""
        inside = np.flatnonzero((self.sample_times >= start_s - 1e-6) & (self.sample_times < end_s - 1e-6))
        if len(inside) == 0:
            first, last = self.sample_times[0], self.sample_times[-1]
            raise UserError(
                f"{self.name}: no response from {start_s:g} to {end_s:g} s of the window",
                way_out=f"the regime asks for {first:.2f} to {last:.2f} s",
            )
        return slice(int(inside[0]), int(inside[-1]) + 1)


def geometry_of(predictor: Predictor, degrees: float | None = None) -> Geometry:
    """The predictor's screen: width in degrees as given, else as the recording's provenance says, else `ASSUMED_DEGREES`; grey as
    its blanks are.
    """
    recording = predictor.run.recording(predictor.session)
    told = (recording.provenance.get("spec") or {}).get("screen_degrees")
    n_frames, height, width = predictor.frames_shape
    wide = float(degrees or told or ASSUMED_DEGREES)
    return Geometry(height, width, wide, _grey(recording), n_frames, float(predictor.layout.grid.video_rate))


def _grey(recording: Recording) -> float:
    """The median of what blanks show."""
    screen = recording.screen
    assert screen is not None
    blanks = np.asarray(screen.grey, np.float64)[np.asarray(screen.frame) < 0]
    blanks = blanks[np.isfinite(blanks)]
    return float(np.median(blanks) / WHITE) if len(blanks) else MIDDLE


def model_subject(predictor: Predictor, name: str = "model", degrees: float | None = None) -> Subject:
    """A run's session as a subject; behaviour, where the regime shows it, stands still at levels."""
    recording = predictor.run.recording(predictor.session)
    shown = predictor.layout.behavior == "input"
    every = predictor.run.model.behavior_channels
    channels = tuple(name for name in every if name in recording.channels) if shown else ()
    one = predictor.context(1)

    def context(n: int, levels: Levels) -> Context:
        behavior, mask = np.zeros_like(one.batch.behavior), np.zeros_like(one.batch.behavior_mask)
        for name in channels:
            row = every.index(name)
            mean, scale = recording.behavior_mean.get(name, 0.0), recording.behavior_scale.get(name, 1.0)
            behavior[:, row] = (levels.get(name, mean) - mean) / scale
            mask[:, row] = True
        still = one._replace(batch=one.batch._replace(behavior=behavior, behavior_mask=mask))
        return jax.tree.map(lambda x: np.repeat(x, n, axis=0), still)

    return Subject(
        name=name,
        apply=predictor.apply,
        params=predictor.params,
        context=context,
        geometry=geometry_of(predictor, degrees),
        sample_times=predictor.sample_times,
        neuron_ids=predictor.neuron_ids,
        channels=channels,
    )
