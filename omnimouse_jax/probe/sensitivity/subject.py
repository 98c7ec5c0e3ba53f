"""A model in front of some stimuli, as the probe sees it: z(d) = (f(x + d) - f(x)) / sigma, in batches that fit into memory.

f is anything that has `apply(params, video, context) -> (W, S, N)`; behaviour and whatever else is in `context` stays as it is, and
only the screen is perturbed. What of the S samples counts is the readout: `mean` over the window (one number per neuron), or
`each`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from omnimouse_jax.errors import UserError

Apply = Callable[[Any, Any, Any], Any]
READOUTS = ("mean", "each")


class Batch(NamedTuple):
    """Arguments of a compiled program beside what it is asked: the same model on the same stimuli has the same rows."""

    params: Any
    inverse: Any  # (N,) 1 / sigma, 0 for neurons that are left out
    video: Any  # (B, F, H, W_)
    context: Any
    clean: Any  # (B, R, N)


class Function(NamedTuple):
    """What decides a compiled program. Models that share `apply` share programs: parameters and units are arguments."""

    apply: Apply
    readout: str
    frames: tuple[int, int] | None

    def perturbed(self, video: Any, d: Any) -> Array:
        """The stimuli with `d` added to the frames that may be perturbed."""
        first, last = self.frames or (0, video.shape[1])
        return jnp.asarray(video).at[:, first:last].add(d)

    def visible(self, video: Any) -> Any:
        """Of the stimuli, the frames that may be perturbed."""
        first, last = self.frames or (0, video.shape[1])
        return video[:, first:last]

    def z(self, batch: Batch, d: Any) -> Float[Array, "B R N"]:
        """(f(x + d) - f(x)) / sigma; 0 for neurons that are left out."""
        values = self.apply(batch.params, self.perturbed(batch.video, d), batch.context)
        return (read(values, self.readout) - batch.clean) * batch.inverse[None, None]


def read(responses: Float[Array | np.ndarray, "W S N"], readout: str) -> Any:
    """(W, R, N): R is 1 for `mean`, S for `each`."""
    return responses.mean(1, keepdims=True) if readout == "mean" else responses


def population(z: Any, inverse: Any) -> Any:
    """D squared, (B,): the mean of z (B, R, N) squared over samples and the neurons that are included."""
    return (z**2).sum((1, 2)) / ((inverse > 0).astype(np.float32).sum().clip(1) * z.shape[1])


@lru_cache(maxsize=32)
def forward(f: Function) -> Any:
    """(params, video, context, d) -> all samples of the responses to x + d, (B, S, N)."""
    return jax.jit(lambda params, video, context, d: f.apply(params, f.perturbed(video, d), context))


@lru_cache(maxsize=32)
def gradient(f: Function) -> Any:
    """(params, video, context, weights (B, S, N)) -> gradient at x of the weighted sum of responses, (B, F, H, W_)."""

    def program(params: Any, video: Any, context: Any, weights: Any) -> Array:
        def value(d: Any) -> Array:
            return (f.apply(params, f.perturbed(video, d), context) * weights).sum()

        return jax.grad(value)(jnp.zeros_like(f.visible(jnp.asarray(video))))

    return jax.jit(program)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """`sigma` (N,) is the unit of each neuron, in units of f; neurons where it is not finite or not above `floor` are left out."""

    name: str
    apply: Apply
    params: Any
    video: Float[np.ndarray, "W F H W_"]  # in [0, 1]
    context: Any  # a tree of arrays with W rows, or None
    sigma: Float[np.ndarray, " N"]
    readout: str = "mean"
    floor: float | int = 0.0
    frames: tuple[int, int] | None = None  # [first, last) that may be perturbed; None: all
    rows: int = 32  # of a batch on the device

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise UserError(f"readout {self.readout!r} is not known", way_out=f"use one of {', '.join(READOUTS)}")

    @property
    def n_stimuli(self) -> int:
        return len(self.video)

    @property
    def n_neurons(self) -> int:
        return len(self.sigma)

    @property
    def function(self) -> Function:
        return Function(self.apply, self.readout, self.frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a perturbation: frames, height, width."""
        first, last = self.frames or (0, self.video.shape[1])
        return (last - first, *self.video.shape[2:])

    @property
    def dim(self) -> int:
        return int(np.prod(self.shape))

    @cached_property
    def included(self) -> Bool[np.ndarray, " N"]:
        return np.isfinite(self.sigma) & (self.sigma > self.floor)

    @cached_property
    def inverse(self) -> Float[np.ndarray, " N"]:
        """1 / sigma, 0 for neurons that are left out."""
        return np.where(self.included, 1.0 / np.where(self.included, self.sigma, 1.0), 0.0).astype(np.float32)

    @cached_property
    def clean_samples(self) -> Float[np.ndarray, "W S N"]:
        """What it says of the stimuli as they are."""
        nothing = np.zeros((self.n_stimuli, *self.shape), np.float32)
        return self.responses(nothing, np.arange(self.n_stimuli))

    @cached_property
    def clean(self) -> Float[np.ndarray, "W R N"]:
        return read(self.clean_samples, self.readout)

    def context_of(self, at: Int[np.ndarray, " B"]) -> Any:
        return jax.tree.map(lambda x: np.asarray(x)[at], self.context)

    def batch(self, at: Int[np.ndarray, " B"]) -> Batch:
        """The stimuli `at`."""
        return Batch(self.params, self.inverse, self.video[at], self.context_of(at), self.clean[at])

    def shift(self, d: Float[np.ndarray, "B F H W_"], at: Int[np.ndarray, " B"] | None = None) -> Any:
        """z (B, R, N) of perturbations of the stimuli `at` (default: one of each)."""
        at = np.arange(self.n_stimuli) if at is None else at
        return (read(self.responses(d, at), self.readout) - self.clean[at]) * self.inverse

    def distance(self, d: Float[np.ndarray, "B F H W_"], at: Int[np.ndarray, " B"] | None = None) -> Any:
        """D (B,) of perturbations."""
        return np.sqrt(population(self.shift(d, at), self.inverse))

    def gradients(self, weights: Float[np.ndarray, "B S N"], at: Int[np.ndarray, " B"]) -> Any:
        """Of weighted sums of responses with respect to the perturbation, (B, F, H, W_)."""
        return self._chunked(gradient(self.function), weights, at)

    def chunks(self, n: int) -> Iterator[tuple[Int[np.ndarray, " C"], int]]:
        """(which of `n` things, how many of them are real): chunks of `rows`, the last one filled up, so that one program is
        enough."""
        for first in range(0, n, self.rows):
            yield np.minimum(np.arange(first, first + self.rows), n - 1), min(self.rows, n - first)

    def responses(self, d: Any, at: Any) -> Any:
        """f(x + d), all samples (B, S, N), of the stimuli `at`."""
        return self._chunked(forward(self.function), d, at)

    def _chunked(self, program: Any, argument: Any, at: Any) -> Any:
        out = []
        for some, real in self.chunks(len(at)):
            found = program(self.params, self.video[at[some]], self.context_of(at[some]), argument[some])
            out.append(np.asarray(found)[:real])
        return np.concatenate(out)


def spread(values: Float[np.ndarray, "W R N"]) -> Float[np.ndarray, " N"]:
    """The model SD: of a neuron's clean predictions over stimuli and samples, float64."""
    return values.astype(np.float64).std((0, 1))
