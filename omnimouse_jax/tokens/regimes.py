"""The regimes of the OmniMouse model (arXiv 2604.18827): 120 for training, and those of its tests by name.

What a regime is: `expression.py`; what it means for a window: `resolve.py`; how to look at one: `picture.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.expression import EXAMPLE, Count, Regime, expression, parse
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.resolve import on_grid, resolve

__all__ = [
    "EVALUATION",
    "SUITES",
    "TASKS",
    "TRAINING",
    "Regime",
    "as_fractions",
    "draw",
    "expression",
    "get",
    "on_grid",
    "parse",
    "resolve",
    "select",
    "task_of",
]

#: Neurons in play at most in the released model; its regimes count on it.
BLOCK = 4096
#: Keeps the stream of drawn regimes apart from every other use of the same seed.
REGIME_STREAM = 2

Stretch = tuple[int, int]  # (start, length) in samples or frames


def _regime(
    name: str,
    visible: int | float | None,
    shown: Stretch,
    latents: Stretch,
    frames: Stretch,
    behavior: str,
    asked: int | float | None = 3072,
    full: int = 0,
) -> Regime:
    """The last `asked` neurons are asked for in samples 30 to 59, the second half of the window."""
    return Regime(
        n_visible_neurons=visible,
        prefix_start_idx=shown[0],
        prefix_len=shown[1],
        full_population_prefix_len=full,
        response_context_start_idx=latents[0],
        max_response_context_samples=latents[1],
        max_n_reconstructed_neurons=asked,
        suffix_start_idx=0 if asked == 0 else 30,
        suffix_len=0 if asked == 0 else 30,
        n_visible_frames_start_idx=frames[0],
        n_visible_frames=frames[1],
        behavior_encoded=behavior == "input",
        behavior_reconstructed=behavior == "target",
        name=name,
    )


COUNTS = (1024, 256, 64)
PASTS = ((15, 10), (10, 15), (0, 25))  # what is shown of the first half, before the buffer
NONE, HALF, WHOLE = (0, 0), (30, 30), (0, 60)
VIDEO = (("", NONE), ("_video", WHOLE))
#: Video frames at the end of the window; then what is shown and which latents there are: (population, its latents are
#: the same), (pasts, their latents), (pasts of all neurons before a population, their latents).
MIXTURES = (
    (0, WHOLE, PASTS, WHOLE, PASTS, WHOLE),
    (10, (10, 50), PASTS, (0, 50), PASTS[:2], (10, 50)),
    (20, (20, 40), PASTS, (0, 40), PASTS[:2], (10, 40)),
    (30, (30, 30), PASTS, (0, 30), PASTS[:2], (10, 30)),
    (40, (30, 20), PASTS[:2], (10, 20), (), NONE),
    (50, (30, 10), ((10, 10),), (10, 10), (), NONE),
)


def _training() -> Iterator[Regime]:
    for video, population, pasts, past_latents, firsts, first_latents in MIXTURES:
        frames = (60 - video, video) if video else NONE
        for role in ("input", "target") if video == 0 else ("input",):
            prefix = f"train_video{video}" + ("_decode" if role == "target" else "")
            for n in COUNTS:
                yield _regime(f"{prefix}_population_{n}", n, population, population, frames, role)
            for n, (start, length) in itertools.product(COUNTS, firsts):
                shown = (start, sum(first_latents) - start)
                name = f"{prefix}_all_{start}to{start + length}_population_{n}"
                yield _regime(name, n, shown, first_latents, frames, role, full=length)
            if role == "target":
                yield _regime(f"{prefix}_all", BLOCK, population, population, frames, role, asked=0)
                continue
            for n, past in itertools.product((BLOCK, *COUNTS), pasts):
                name = f"{prefix}_causal_{past[0]}to{sum(past)}" + ("" if n == BLOCK else f"_population_{n}")
                yield _regime(name, n, past, past_latents, frames, role)
    yield _regime("train_video60_behavior", 0, NONE, NONE, WHOLE, "input")
    yield _regime("train_video60_only", 0, NONE, NONE, WHOLE, "hidden")


def _test() -> Iterator[Regime]:
    yield _regime("video_behavior", 0, NONE, NONE, WHOLE, "input", None)
    yield _regime("video_only", 0, NONE, NONE, WHOLE, "target", None)
    yield _regime("responses_from_behavior", 0, NONE, NONE, NONE, "input", None)
    for suffix, frames in (("only", NONE), ("video", WHOLE)):
        yield _regime(f"all_response_{suffix}", None, WHOLE, WHOLE, frames, "target", asked=0)
    for (video, frames), (behavior, role) in itertools.product(VIDEO, (("", "target"), ("_behavior", "input"))):
        for n in (64, 1024):
            yield _regime(f"population_{n}_response{video}{behavior}", n, HALF, HALF, frames, role)
        for length in (25, 10):
            name, latents = f"causal_response_{length}{video}{behavior}", (0, 30) if video else WHOLE
            yield _regime(name, None, (0, length), latents, frames, role, None)


def _test_additional() -> Iterator[Regime]:
    yield _regime("video_behavior", 0, NONE, NONE, WHOLE, "input", None)
    for video, frames in VIDEO:
        for n in (16, 32, 64, 128, 256, 512, 1024, 2048):
            yield _regime(f"population_{n}_response{video}_behavior", n, HALF, HALF, frames, "input")
        for length in (25, 20, 15, 10):
            shown = (25 - length, length)
            yield _regime(f"causal_response_{length}{video}_behavior", None, shown, WHOLE, frames, "input", None)


def _validation() -> Iterator[Regime]:
    yield _regime("video_behavior", 0, NONE, NONE, WHOLE, "input", BLOCK)
    yield _regime("stimulus_driven", 0, NONE, NONE, WHOLE, "hidden", BLOCK)
    yield _regime("causal_response_behavior", BLOCK, (0, 25), WHOLE, NONE, "input", BLOCK)
    yield _regime("causal_response_video_behavior", BLOCK, (0, 25), (0, 30), HALF, "input", BLOCK)
    yield _regime("all_response_only", BLOCK, WHOLE, WHOLE, NONE, "target", asked=0)
    yield _regime("population_1024_response_behavior", 1024, WHOLE, WHOLE, NONE, "input")
    yield _regime("population_1024_response_video_behavior", 1024, HALF, HALF, HALF, "input")
    yield _regime("invpopcaus_response_video_behavior", 1024, (10, 40), (10, 40), (40, 20), "input", full=15)


def _any_size() -> Iterator[Regime]:
    """One regime per task that fits a recording of any number of neurons."""
    yield _regime("stimulus", 0, NONE, NONE, WHOLE, "input", None)
    yield _regime("population", 0.5, HALF, HALF, WHOLE, "input", 0.5)
    yield _regime("forecast", None, (0, 25), WHOLE, NONE, "input", None)
    yield _regime("behavior", None, WHOLE, WHOLE, WHOLE, "target", asked=0)


def _named(suite: str, regimes: Iterable[Regime]) -> tuple[Regime, ...]:
    return tuple(dataclasses.replace(regime, name=f"{suite}/{regime.name}") for regime in regimes)


TRAINING: tuple[Regime, ...] = tuple(_training())

#: Groups of regimes. `tasks`: one per task, for recordings of any size. The others are the released ones; the same name
#: means different things in `test`, `test_additional` and `validation`: the last two put their name in front.
SUITES: dict[str, tuple[Regime, ...]] = {
    "tasks": tuple(_any_size()),
    "test": tuple(_test()),
    "test_additional": _named("test_additional", _test_additional()),
    "validation": _named("validation", _validation()),
    "training": TRAINING,
}

EVALUATION: dict[str, Regime] = {
    regime.name: regime for suite, regimes in SUITES.items() if suite != "training" for regime in regimes
}


def task_of(regime: Regime) -> str:
    """What a regime tests, read off its fields: one of `TASKS`.

    "behavior": only behaviour is asked for. Otherwise neurons are, from: "stimulus" the screen (perhaps with
    behaviour), "state" behaviour alone, "forecast" the past of neurons, "population" other neurons at the same time,
    "mixed" both.
    """
    if regime.max_n_reconstructed_neurons == 0 or regime.suffix_len == 0:
        return "behavior"
    if regime.n_visible_neurons == 0:
        return "state" if regime.n_visible_frames == 0 else "stimulus"
    first = regime.response_context_start_idx if regime.prefix_start_idx is None else regime.prefix_start_idx
    if regime.prefix_len is not None and (first or 0) + regime.prefix_len <= (regime.suffix_start_idx or 0):
        return "forecast"
    return "mixed" if regime.full_population_prefix_len and regime.n_visible_neurons is not None else "population"


#: Evaluation regimes by what they test.
TASKS: dict[str, tuple[Regime, ...]] = {
    task: tuple(regime for regime in EVALUATION.values() if task_of(regime) == task)
    for task in ("stimulus", "population", "forecast", "behavior", "state", "mixed")
}


def get(text: str, grid: Grid | None = None) -> Regime:
    """The regime of a name or of an expression (which counts on `grid`, by default the released one).

    The suite before a name may be left out where only one suite has it. Raises UserError with the nearest valid name.
    """
    if any(mark in text for mark in ("->", "[", "+")):
        return parse(text, grid)
    name = text.strip()
    known = EVALUATION | {regime.name: regime for regime in TRAINING}
    if name in known:
        return known[name]
    short = [full for full in known if full.endswith(f"/{name}")]
    if len(short) == 1:
        return known[short[0]]
    near = difflib.get_close_matches(name, [*known, *(full.split("/")[-1] for full in known)], 1)
    some = ", ".join(regime.name for regime in SUITES["tasks"])
    hint = f"did you mean {near[0]!r}?" if near else f"some that are: {some}."
    raise UserError(f"regime {name!r} is not known", way_out=f"{hint} Or write one: {EXAMPLE}")


def select(texts: Iterable[str], grid: Grid | None = None) -> tuple[Regime, ...]:
    """The regimes of names, expressions and suites ("tasks", "test", ...), in order, each once."""
    found: dict[Regime, None] = {}
    for text in texts:
        found |= dict.fromkeys(SUITES[text] if text in SUITES else (get(text, grid),))
    return tuple(found)


def as_fractions(regime: Regime, block: int = BLOCK) -> Regime:
    """The same regime with neuron counts as shares of `block`, for recordings with fewer neurons."""

    def share(count: Count) -> Count:
        if count is None or count == 0 or isinstance(count, float):
            return count
        return None if count >= block else count / block

    return dataclasses.replace(
        regime,
        n_visible_neurons=share(regime.n_visible_neurons),
        max_n_reconstructed_neurons=share(regime.max_n_reconstructed_neurons),
    )


def draw(seed: int, step: int, regimes: Sequence[Regime]) -> Regime:
    """The regime of a step, by weight: a pure function of its arguments, equal on all hosts."""
    edges = np.cumsum([regime.weight for regime in regimes], dtype=np.float64)
    u = np.random.default_rng([seed, step, REGIME_STREAM]).random() * edges[-1]
    return regimes[min(int(np.searchsorted(edges, u, side="right")), len(regimes) - 1)]
