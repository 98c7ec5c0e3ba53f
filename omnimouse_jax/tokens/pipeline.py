"""Training batches: batch k is a pure function of (seed, k). The whole state of the pipeline is one integer.

One grain dataset runs over the windows of all sessions, shuffled anew each epoch; batch k holds its elements
[k * batch_size, (k + 1) * batch_size). A process of several reads only its own rows of each batch, so the global batch does not
depend on how many processes there are.

grain is imported where it is used: it loads jax, and whoever only asks what a batch is should not have to.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.recordings.kvstore import Damaged
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.classes import Plan, shown
from omnimouse_jax.tokens.collate import collate
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.regimes import Regime, draw, resolve
from omnimouse_jax.tokens.touched import Touched, Update, most_rows, touched
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import Sample, Window, WindowIndex, start_cut

#: Windows of a batch whose reads are under way while one is waited for.
IN_FLIGHT = 8
#: Keeps the stream of neuron choices apart from every other use of the same seed.
NEURON_STREAM = 1
#: The same for the order of the windows of a session.
SESSION_STREAM = 2


@dataclasses.dataclass(frozen=True)
class Cutter:
    """What turns windows into batches, the same in training and evaluation."""

    store: Store
    vocabulary: Vocabulary
    grid: Grid
    channels: tuple[str, ...]
    screen: tuple[int, int]
    n_slots: int

    def sample(self, window: Window, neurons: np.ndarray | None = None) -> Sample:
        return self.start(window, neurons)()

    def start(self, window: Window, neurons: np.ndarray | None = None) -> Callable[[], Sample]:
        """Begins to read a window and returns a function that waits for it."""
        return start_cut(self.store.recording(window.session), window, self.grid, self.channels, neurons)

    def batch(self, samples: Sequence[Sample | None], layout: Layout, program: Layout, n_rows: int) -> Batch:
        """Neurons in slots as `layout` says, for a program that shows all of it and perhaps more."""
        return collate(
            samples,
            self.vocabulary,
            self.grid,
            len(self.channels),
            self.n_slots,
            layout.n_visible,
            self.screen,
            self.video_dtype,
            shown(layout, program, len(self.channels)),
            n_rows,
        )

    @cached_property
    def video_dtype(self) -> np.dtype:
        """uint8 when every screen in use is stored so, float32 otherwise: one dtype means one program."""
        there = [entry.key for entry in self.vocabulary.sessions if entry.key in self.store]
        screens = [self.store.recording(key).screen for key in there]
        dtypes = {np.dtype(screen.frames.dtype) for screen in screens if screen is not None}
        return np.dtype(np.uint8) if dtypes <= {np.dtype(np.uint8)} else np.dtype(np.float32)


T = TypeVar("T", covariant=True)


@runtime_checkable
class Stream(Iterator[T], Protocol[T]):
    """What is loaded ahead by threads. Closed, they end; whoever leaves early closes it, or they end when it is collected."""

    def close(self) -> None: ...


class Step(NamedTuple):
    """What one training step is made of: its micro-batches, and the table rows that they touch together."""

    batches: tuple[Batch, ...]
    touched: Touched


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """Everything that decides what training batch k is.

    A batch may be computed in `accumulate` micro-batches, each of `batch_size // accumulate` rows. They have the regime of
    their step, or ("micro") each one of its own.
    """

    cutter: Cutter
    windows: WindowIndex
    plan: Plan
    batch_size: int
    seed: int
    weights: Float[np.ndarray, " sessions"] | None = None  # see `mixture.session_weights`
    skip_damaged: bool = False
    accumulate: int = 1
    regime_per: Literal["step", "micro"] = "step"
    update: Update = "session"

    def regime(self, step: int, micro: int = 0) -> Regime:
        """The regime of a micro-batch of batch `step`, the same on every host."""
        number = step if self.regime_per == "step" else step * self.accumulate + micro
        return draw(self.seed, number, self.plan.regimes)

    @property
    def micro_size(self) -> int:
        """Rows of a micro-batch."""
        return self.batch_size // self.accumulate

    def __getitem__(self, step: int) -> Batch:
        """The first micro-batch of batch `step`, whole."""
        return self.rows(step, slice(None))

    def load(self, step: int, rows: slice) -> Step:
        """Some rows of every micro-batch of a step. Which table rows the whole step touches is not a matter of these."""
        return Step(tuple(self.rows(step, rows, micro) for micro in range(self.accumulate)), self.touched(step))

    def rows(self, step: int, rows: slice, micro: int = 0) -> Batch:
        """Some rows of a micro-batch: a random subset of each session's neurons, in random order.

        With `skip_damaged`, a window whose chunks are damaged becomes a row that is masked as a whole.
        """
        first = step * self.batch_size + micro * self.micro_size
        numbers = range(first, first + self.micro_size)[rows]

        def start(number: int) -> Callable[[], Sample]:
            window = self.order[number]
            return self.cutter.start(window, self._neurons(number, window.session))

        samples = [_read(finish, self.skip_damaged) for finish in _begun(start, numbers)]
        regime = self.regime(step, micro)
        return self.cutter.batch(samples, self.plan.layout(regime), self.plan.program(regime), len(numbers))

    def touched(self, step: int) -> Touched:
        """Table rows of the whole batch `step`, known without reading a window."""
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        sessions, vocabulary = [self.order[number].session for number in numbers], self.cutter.vocabulary
        seen = None
        if self.update == "seen":
            chosen = zip(numbers, sessions, strict=True)
            seen = [vocabulary.neuron_rows(key)[self._neurons(number, key)] for number, key in chosen]
        return touched(vocabulary, sessions, seen, self.n_touched, self.batch_size)

    @cached_property
    def n_touched(self) -> int:
        """Neuron rows that a step touches at most: the size of its gradients."""
        cutter = self.cutter
        return most_rows(cutter.vocabulary, self.windows.sessions, self.batch_size, cutter.n_slots, self.update)

    def _neurons(self, number: int, session: str) -> Int[np.ndarray, " n"]:
        """Which neurons of its session the window of this number shows or is asked for."""
        n_neurons = self.cutter.vocabulary.entry(session).n_neurons
        rng = np.random.default_rng([self.seed, NEURON_STREAM, number])
        return rng.permutation(n_neurons)[: self.cutter.n_slots]

    @cached_property
    def order(self) -> Any:  # grain.MapDataset
        """Windows in training order, without end.

        Shuffled anew each epoch, over all sessions at once; with `weights`, each session by itself, and the sessions take
        turns so that any stretch holds them in these shares.
        """
        import grain

        if self.weights is None:
            return grain.MapDataset.source(self.windows).shuffle(seed=self.seed).repeat()
        sessions = []
        for number, key in enumerate(self.windows.sessions):
            seed = int(np.random.SeedSequence([self.seed, SESSION_STREAM, number]).generate_state(1)[0])
            numbers = grain.MapDataset.source(self.windows.numbers_of(key)).shuffle(seed=seed).repeat()
            sessions.append(numbers.map(self.windows.__getitem__))
        return grain.MapDataset.mix(sessions, list(self.weights))

    def stream(self, first: int, last: int, rows: slice, threads: int, ahead: int) -> Stream[Step]:
        """Batches [first, last) in order, read by `threads` threads, at most `ahead` of them early."""
        return _threaded(lambda step: self.load(step, rows), first, last, threads, ahead)


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Each window of an index exactly once, all neurons in the session's order. The last batch is filled up and masked."""

    cutter: Cutter
    windows: Sequence[Window] | WindowIndex
    regime: Regime
    batch_size: int
    skip_damaged: bool = False  # for validation while training; a score is of all windows

    @cached_property
    def layout(self) -> Layout:
        """What the regime shows and asks, and what its program is compiled for: exactly that."""
        return resolve(self.regime, self.cutter.grid, self.cutter.n_slots)

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def windows_of(self, number: int) -> list[Window]:
        first = number * self.batch_size
        return [self.windows[i] for i in range(first, min(first + self.batch_size, len(self.windows)))]

    def __getitem__(self, number: int) -> Batch:
        return self.rows(number, slice(None))

    def rows(self, number: int, rows: slice) -> Batch:
        """Some rows of batch `number`; those behind the last window are masked."""
        n_rows, windows = len(range(self.batch_size)[rows]), self.windows_of(number)[rows]
        samples = [_read(finish, self.skip_damaged) for finish in _begun(self.cutter.start, windows)]
        return self.cutter.batch(samples, self.layout, self.layout, n_rows)

    def stream(self, threads: int, ahead: int, rows: slice = slice(None)) -> Stream[Batch]:
        return _threaded(lambda number: self.rows(number, rows), 0, len(self), threads, ahead)


def slots_for(n_neurons: int, multiple: int = 64) -> int:
    """Slots that hold `n_neurons`, rounded up so that sessions of similar size share a program."""
    return -(-n_neurons // multiple) * multiple


def _read(finish: Callable[[], Sample], skip_damaged: bool) -> Sample | None:
    """A window that was begun; None in place of a damaged one, if that is wanted."""
    try:
        return finish()
    except Damaged:
        if not skip_damaged:
            raise
        return None


def _begun(start: Callable[[Any], Callable[[], Sample]], items: Iterable[Any]) -> Iterator[Callable[[], Sample]]:
    """What `start` returns for each item, a few of them begun before the first is waited for."""
    begun: deque[Callable[[], Sample]] = deque()
    for item in items:
        begun.append(start(item))
        if len(begun) > IN_FLIGHT:
            yield begun.popleft()
    yield from begun


def _threaded(load: Callable[[int], Any], first: int, last: int, threads: int, ahead: int) -> Stream[Any]:
    import grain

    dataset = grain.MapDataset.range(first, last).map(lambda number: load(int(number)))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))
