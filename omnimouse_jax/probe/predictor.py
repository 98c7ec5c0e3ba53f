"""A trained model as a differentiable function of what is on the screen: r = f(x; b, s), everything else held.

    predictor = Predictor.of(run, "mouse7-1", "video -> responses")
    shown = predictor.load(predictor.windows(8, seed=0))
    responses_WxSxN = predictor.apply(predictor.params, shown.video, shown.context)

x are grey levels divided by 255, in [0, 1]; the model's own normalisation is inside f. Behaviour b and other neurons, where the
regime shows them, are as recorded; session s is fixed; no stochastic depth; float32 whatever the run was computed in. Anything that
has `apply(params, video, context)` can be probed: the probes know this signature, not the model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import Rows, gather
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.collate import neuron_slots
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import Cutter, slots_for
from omnimouse_jax.tokens.regimes import resolve
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.setup import regimes_of
from omnimouse_jax.training.step import core_of

#: Grey levels of a stored screen.
WHITE = 255.0


class Context(NamedTuple):
    """What a window shows beside its frames (the batch's own are empty), and the table rows of who is recorded."""

    batch: Batch
    rows: Rows


class Shown(NamedTuple):
    """Windows of one session as a predictor takes them. `recorded` is on the samples and neurons that are predicted."""

    windows: tuple[Window, ...]
    video: Float[np.ndarray, "W F H W_"]
    context: Context
    recorded: Float[np.ndarray, "W S N"]  # divided by the response scale, as predictions are; NaN: not recorded


@dataclasses.dataclass(frozen=True)
class Predictor:
    """One session of a run under one regime that shows frames and asks for responses."""

    run: Run
    session: str
    regime: str
    layout: Layout
    cutter: Cutter
    params: Any
    neurons: Shaped[np.ndarray, " N"]  # which of the session's neurons are asked for, in order

    @classmethod
    def of(cls, run: Run, session: str, regime: str = "video -> responses") -> Predictor:
        """UserError for a session without screen, and for a regime that shows no frames, asks for no responses, or asks for some
        neurons at other times than for the rest.
        """
        entry, grid = run.vocabulary.entry(session), run.model.grid
        parts = run.parts(run.store)
        if run.recording(session).screen is None:
            raise UserError(f"session {session}: has no screen", way_out="probe a session that has one")
        found = regimes_of([regime], grid)
        if len(found) > 1:
            raise UserError(f"regime {regime!r} is {len(found)} regimes", way_out="name one of them")
        cutter = parts.cutter((session,))
        layout = resolve(found[0], grid, slots_for(entry.n_neurons))
        if layout.video_steps[0] >= layout.video_steps[1]:
            raise UserError(f"regime {regime!r} shows no frames", way_out="use one such as 'video -> responses'")
        if len(layout.targets) != 1:
            raise UserError(
                f"regime {regime!r} asks for responses in {len(layout.targets)} rectangles, a probe takes one",
                way_out="use one such as 'video -> responses' or 'video + behavior -> responses'",
            )
        asked = range(layout.targets[0].first_neuron, layout.targets[0].last_neuron)
        slots = neuron_slots(entry.n_neurons, layout.n_visible, layout.n_neurons)
        neurons = np.flatnonzero(np.isin(slots, np.arange(asked.start, asked.stop)))
        params = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x)), {k: v for k, v in run.params.items() if k != "tables"}
        )
        return cls(run, session, regime, layout, cutter, params, neurons)

    @property
    def n_neurons(self) -> int:
        return len(self.neurons)

    @property
    def frames_shape(self) -> tuple[int, int, int]:
        """Frames of a window, height, width."""
        return (self.layout.grid.n_frames, *self.run.model.screen)

    @property
    def frame_times(self) -> Float[np.ndarray, " F"]:
        """When each frame comes up, in seconds since the window's start."""
        grid = self.layout.grid
        return np.arange(grid.n_frames) / grid.video_rate

    @property
    def sample_times(self) -> Float[np.ndarray, " S"]:
        """Of each predicted sample, in seconds since the window's start."""
        target = self.layout.targets[0]
        return np.arange(target.first_sample, target.last_sample) / self.layout.grid.response_rate

    @property
    def neuron_ids(self) -> Shaped[np.ndarray, " N"]:
        """As the store has them, else the number of each neuron in its session."""
        ids = self.run.recording(self.session).neurons.get("unit_id")
        return self.neurons if ids is None else np.asarray(ids)[self.neurons]

    def windows(self, n: int, seed: int, tiers: Sequence[str] = ()) -> list[Window]:
        """`n` different windows of some tiers (default: those that the run is scored on) drawn by `seed`, or all there are.

        Windows of one showing of a stimulus do not overlap; further showings come last, so that few windows are of many stimuli.
        """
        parts, tiers = self.run.parts(self.run.store), tuple(tiers) or tuple(self.run.config.evaluation.tiers)
        index = parts.windows((self.session,), tiers, self.layout.grid.seconds)
        trials = self.run.recording(self.session).trials
        contents = np.asarray(self.run.store.trial_contents(self.session))
        windows = [index[number] for number in range(len(index))]
        np.random.default_rng(seed).shuffle(windows)
        times = np.array([window.start + self.layout.grid.seconds / 2 for window in windows])
        of = contents[np.maximum(np.searchsorted(trials.start, times, side="right") - 1, 0)]
        showing = [int((of[:number] == content).sum()) for number, content in enumerate(of)]
        return [windows[number] for number in np.argsort(showing, kind="stable")[:n]]

    def load(self, windows: Sequence[Window]) -> Shown:
        """Reads windows. UserError if one is of another session."""
        if others := {window.session for window in windows} - {self.session}:
            raise UserError(f"a window of session {min(others)}, the predictor's is {self.session}")
        samples = [self.cutter.sample(window) for window in windows]
        batch = self.cutter.batch(samples, self.layout, self.layout, len(samples))
        slots = neuron_slots(
            self.run.vocabulary.entry(self.session).n_neurons, self.layout.n_visible, self.layout.n_neurons
        )
        target = self.layout.targets[0]
        at = np.ix_(range(len(samples)), range(target.first_sample, target.last_sample), slots[self.neurons])
        recorded = np.where(batch.response_mask[at], batch.responses[at], np.nan).astype(np.float32)
        video = batch.video.astype(np.float32) / np.float32(WHITE)
        return Shown(tuple(windows), video, self._context(batch), recorded)

    def context(self, n: int, window: Window | None = None) -> Context:
        """The context of `n` windows in front of which anything may be shown: each as `window` (default: the first of the scored
        tiers), so that behaviour and the time in the session are recorded ones.
        """
        first = self.windows(1, 0)[0] if window is None else window
        return jax.tree.map(lambda x: np.repeat(x, n, axis=0), self.load([first]).context)

    def _context(self, batch: Batch) -> Context:
        rows = gather(self.run.params["tables"], batch)
        empty = np.zeros((len(batch.row_mask), 0, *self.run.model.screen), np.float32)
        rows = jax.tree.map(np.asarray, rows)
        return Context(batch._replace(video=empty, video_mask=np.ones(len(batch.row_mask), bool)), rows)

    @functools.cached_property
    def _columns(self) -> Any:
        """Where the asked neurons are among the target's slots."""
        slots = neuron_slots(
            self.run.vocabulary.entry(self.session).n_neurons, self.layout.n_visible, self.layout.n_neurons
        )
        return slots[self.neurons] - self.layout.targets[0].first_neuron

    def apply(
        self, params: Any, video_WxFxHxW: Float[Array | np.ndarray, "W F H W_"], context: Context
    ) -> Float[Array, "W S N"]:
        """Expected responses, divided by their scale. Pure and differentiable: call it within jax.jit, `params` an argument.

        Not clipped to [0, 1]: the caller keeps stimuli in the box.
        """
        return _responses(self._config, self.layout, params, video_WxFxHxW, context)[:, :, self._columns]

    @property
    def _config(self) -> ModelConfig:
        return dataclasses.replace(self.run.model, compute_dtype="float32")

    def before_output(self, responses: Float[Array | np.ndarray, "W S N"]) -> Float[Array, "W S N"]:
        """The model's values before its softplus, where it has one: a silent neuron still says which way it would go."""
        model = self.run.model
        if model.response_loss != "poisson":
            return jnp.asarray(responses)
        scaled = model.softplus_beta * responses
        inverse = jnp.where(scaled > 20.0, scaled, jnp.log(jnp.expm1(jnp.minimum(jnp.maximum(scaled, 1e-30), 20.0))))
        return inverse / model.softplus_beta


def _responses(config: ModelConfig, layout: Layout, params: Any, video: Any, context: Context) -> Array:
    batch = context.batch._replace(video=video.astype(jnp.float32) * WHITE)
    rows = jax.tree.map(jnp.asarray, context.rows)
    return core_of(params, config, make_mesh(1))(rows, batch, layout).responses[0]
