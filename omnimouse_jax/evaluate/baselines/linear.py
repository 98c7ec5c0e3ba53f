"""Linear baselines of a session: ridge and reduced-rank regression on all that a regime shows, and decoders of behaviour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.evaluate.baselines import features
from omnimouse_jax.evaluate.baselines.autoregression import AutoRegression
from omnimouse_jax.evaluate.baselines.constant import mean_behavior, mean_response
from omnimouse_jax.evaluate.baselines.features import Population, Rotation
from omnimouse_jax.evaluate.baselines.problem import (
    N_FOLDS,
    Answers,
    Examples,
    Fits,
    Fitted,
    NotApplicable,
    Predictor,
    Problem,
    each,
)
from omnimouse_jax.evaluate.baselines.reduced_rank import reduced_rank_fit
from omnimouse_jax.evaluate.baselines.ridge import PENALTIES, blocked_folds, ridge_fit
from omnimouse_jax.evaluate.baselines.shown import Shown, View

#: Delays (s) of the responses that behaviour is decoded from, and the width over which each is averaged.
DECODING_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
DECODING_WIDTH_S = 0.3
#: Taps of the Wiener filter: the same on both sides, or on the causal side only.
WIENER_S = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
WIENER_WIDTH_S = 0.1
#: Ranks and penalties tried together.
REDUCED_PENALTIES = PENALTIES[::2]
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

Bands = dict[str, Float[np.ndarray, "W m _"]]
Moments = Float[np.ndarray, " m"]
TOO_FEW = NotApplicable("fewer than two training windows, so no penalty can be chosen")


@runtime_checkable
class Regression(Protocol):
    def predict(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]: ...


FitRegression = Callable[[np.ndarray, np.ndarray, np.ndarray], Regression]


class Group(NamedTuple):
    """Asked samples [first, last) whose targets share one set of weights."""

    neurons: Int[np.ndarray, " n"]
    first: int
    last: int


def groups(view: View) -> list[Group]:
    """Asked samples, cut where something begins or ends to be shown or asked. Where responses are shown that do not cover them, the
    weights differ with the distance to these: each step of the grid has its own.
    """
    edges = {edge for s in (*view.shown, *view.asked) for edge in (s.first, s.last)}
    if view.is_forecast:
        first, last = view.asked_samples
        edges |= {*range(first, last, view.grid.response_stride)}
    found, cuts = [], sorted(edges)
    for a, b in pairwise(cuts):
        asked = [s.neurons for s in view.asked if s.first <= a and b <= s.last]
        if asked:
            found.append(Group(np.unique(np.concatenate(asked)), a, b))
    return found


@dataclasses.dataclass(frozen=True)
class Linear:
    """One regression per group of samples, and one for behaviour, on bands of features.

    A forecast regresses what each neuron's own past (`autoregression`) leaves, so that it need not find the own past among all.
    """

    about: str
    label: str
    regression: FitRegression
    decodes: tuple[float, ...] = DECODING_S
    decodes_width_s: float = DECODING_WIDTH_S
    only_behavior: bool = False  # a decoder: reads behaviour from responses alone

    def fit(self, problem: Problem) -> Fits:
        return each(problem, self._fit, self.label)

    def _fit(self, key: str, examples: Examples) -> Fitted | NotApplicable:
        view = examples.shown.view
        if self.only_behavior and not (view.asks_behavior and view.shown):
            return NotApplicable("decodes behaviour from responses, and this regime does not")
        if len(examples.shown) < 2:
            return TOO_FEW
        fill = mean_response(examples)
        population = Population.of(examples.shown, fill)
        pieces = []
        own = AutoRegression().of(examples) if view.is_forecast and not self.only_behavior else None
        past = None if own is None else own.predict(examples.shown).responses
        for group in [] if self.only_behavior else groups(view):
            at_s = features.response_moments(examples.shown, group.first, group.last)
            at = (slice(None), slice(group.first, group.last))
            y = examples.truth.responses[at][:, :, group.neurons].astype(np.float64)
            before = fill[group.neurons] if past is None else past[at][:, :, group.neurons]
            bands = _encoding(examples.shown, at_s, population)
            if bands:
                pieces.append((group, self._regressed(bands, np.where(np.isnan(y), 0.0, y - before))))
        decoder = None
        if view.asks_behavior:
            y = examples.truth.behavior.swapaxes(1, 2).astype(np.float64)
            bands = self._decoding(examples.shown, population)
            if bands:
                decoder = self._regressed(bands, np.where(np.isnan(y), mean_behavior(examples), y))
        if not pieces and decoder is None:
            return NotApplicable("nothing is shown that it could regress on")
        return _Fitted(self, population, own, tuple(pieces), decoder, _chosen(pieces, decoder))

    def _decoding(self, shown: Shown, population: Population) -> Bands:
        at_s = features.behavior_moments(shown)
        bands = features.around(shown, at_s, population, self.decodes, self.decodes_width_s)
        return bands if self.only_behavior else {**features.screen(shown, at_s), **bands}

    def _regressed(self, bands: Bands, y: Float[np.ndarray, "W m targets"]) -> _Regressed:
        windows, moments, targets = y.shape
        flat = [_rows(band) for band in bands.values()]
        rotation = Rotation(flat)
        folds = blocked_folds(np.repeat(np.arange(windows), moments), min(N_FOLDS, windows))
        return _Regressed(rotation, self.regression(rotation(flat), y.reshape(-1, targets), folds))


def _encoding(shown: Shown, at_s: Moments, population: Population) -> Bands:
    return {**features.screen(shown, at_s), **features.behavior(shown, at_s), **features.past(shown, at_s, population)}


@dataclasses.dataclass(frozen=True)
class _Regressed:
    rotation: Rotation
    regression: Any

    def predict(self, bands: Bands) -> Float[np.ndarray, "W m targets"]:
        windows, moments = next(iter(bands.values())).shape[:2]
        x = self.rotation([_rows(band) for band in bands.values()])
        return self.regression.predict(x).reshape(windows, moments, -1)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    of: Linear
    population: Population
    own: Predictor | None
    pieces: tuple[tuple[Group, _Regressed], ...]
    decoder: _Regressed | None
    note: str

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("response",) * bool(self.pieces) + ("behavior",) * (self.decoder is not None)

    def predict(self, shown: Shown) -> Answers:
        responses = None
        if self.pieces:
            fill = self.population.fill
            responses = np.broadcast_to(fill, (len(shown), shown.view.grid.n_samples, len(fill))).copy()
            if self.own is not None:
                own = self.own.predict(shown).responses
                assert own is not None
                responses = own.copy()
        for group, fitted in self.pieces:
            at_s = features.response_moments(shown, group.first, group.last)
            at = np.ix_(np.arange(len(shown)), np.arange(group.first, group.last), group.neurons)
            assert responses is not None
            responses[at] += fitted.predict(_encoding(shown, at_s, self.population))
        behavior = None
        if self.decoder is not None:
            behavior = self.decoder.predict(self.of._decoding(shown, self.population)).swapaxes(1, 2)
        return Answers(responses, behavior)


def _chosen(pieces: Sequence[tuple[Group, _Regressed]], decoder: _Regressed | None) -> str:
    """Rank or penalty that cross-validation chose, over all regressions of the fit."""
    fits = [piece.regression for _, piece in pieces] + ([] if decoder is None else [decoder.regression])
    if hasattr(fits[0], "rank"):
        return f"rank {', '.join(str(fit.rank) for fit in fits)}"
    penalties = np.concatenate([np.atleast_1d(fit.penalty) for fit in fits])
    return f"median penalty {np.median(penalties):.2g}"


def _rows(band: Float[np.ndarray, "W m f"]) -> Float[np.ndarray, "rows f"]:
    return band.reshape(-1, band.shape[2])


def _ridge(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> Regression:
    return ridge_fit([x], y, folds, scale=False)  # the rotation has scaled its bands


def _reduced_rank(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> Regression:
    return reduced_rank_fit([x], y, folds, REDUCED_PENALTIES, RANKS, scale=False)


RIDGE = Linear("ridge regression on all that is shown: screen, behaviour, neurons, at some delays", "ridge", _ridge)
REDUCED_RANK = Linear(
    "the same features through few linear combinations; their number by cross-validation",
    "reduced_rank",
    _reduced_rank,
)
LINEAR_DECODER = Linear(
    "behaviour from the responses of the same moment", "linear_decoder", _ridge, (0.0,), 0.0, only_behavior=True
)
WIENER = Linear(
    "behaviour from responses up to 1 s before and after: a regularised Wiener filter",
    "wiener",
    _ridge,
    (*(-s for s in reversed(WIENER_S[1:])), *WIENER_S),
    WIENER_WIDTH_S,
    only_behavior=True,
)
WIENER_CAUSAL = Linear(
    "behaviour from responses of the same moment and up to 1 s before",
    "wiener_causal",
    _ridge,
    WIENER_S,
    0.0,
    only_behavior=True,
)
