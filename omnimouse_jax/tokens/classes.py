"""Few programs for many regimes: layouts that ask for the same share one that shows all that any of them shows.

A program is compiled for a layout. Under a *cover* of several layouts each regime hides the tokens that it does not show
(`Batch.context_shown`), which changes no prediction and costs the work on those tokens. Which layouts share a cover is chosen so
that this extra work, in expectation over the drawn regimes, is small.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from omnimouse_jax.tokens.expression import Regime
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle
from omnimouse_jax.tokens.resolve import resolve

Cost = Callable[[Layout], float]


class ProgramClass(NamedTuple):
    """Layouts of one program, by their position in the list that was given."""

    cover: Layout
    members: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which program each regime runs in. A regime's own layout says what is shown and asked, its program's what is computed."""

    regimes: tuple[Regime, ...]
    layouts: tuple[Layout, ...]
    covers: tuple[Layout, ...]

    @classmethod
    def exact(cls, regimes: Sequence[Regime], grid: Grid, n_slots: int) -> Plan:
        """Every regime in a program of exactly its shape."""
        layouts = tuple(resolve(regime, grid, n_slots) for regime in regimes)
        return cls(tuple(regimes), layouts, layouts)

    @classmethod
    def of(cls, regimes: Sequence[Regime], grid: Grid, n_slots: int, cost: Cost, at_most: int) -> Plan:
        """At most so many programs if the regimes allow it, as cheap as can be found; 0: exact shapes."""
        plan = cls.exact(regimes, grid, n_slots)
        covers = list(plan.layouts)
        for cover, members in classes(plan.layouts, [regime.weight for regime in regimes], cost, at_most):
            for member in members:
                covers[member] = cover
        return dataclasses.replace(plan, covers=tuple(covers))

    @cached_property
    def _number(self) -> dict[Regime, int]:
        return {regime: number for number, regime in enumerate(self.regimes)}

    def layout(self, regime: Regime) -> Layout:
        """What the regime shows and asks."""
        return self.layouts[self._number[regime]]

    def program(self, regime: Regime) -> Layout:
        """The layout that its program is compiled for."""
        return self.covers[self._number[regime]]

    @property
    def programs(self) -> tuple[Layout, ...]:
        """Each program once."""
        return tuple(dict.fromkeys(self.covers))

    def expected(self, cost: Cost) -> tuple[float, float]:
        """Mean cost over drawn regimes: (of exact shapes, of the programs)."""
        weights = [regime.weight for regime in self.regimes]
        exact, paid = ([cost(layout) for layout in each] for each in (self.layouts, self.covers))
        return float(np.average(exact, weights=weights)), float(np.average(paid, weights=weights))


def classes(layouts: Sequence[Layout], weights: Sequence[float], cost: Cost, at_most: int) -> tuple[ProgramClass, ...]:
    """Layouts merged into at most `at_most` programs (0: only equal layouts are), if that many can hold them.

    The pair whose merger adds the least expected cost is merged, again and again, until there are few enough and every further
    merger costs something. Layouts that ask for different things never meet, so there may be more programs left than wished.
    """
    members: dict[Layout, list[int]] = {}
    for number, layout in enumerate(layouts):
        members.setdefault(layout, []).append(number)
    found = [
        _Candidate(layout, tuple(numbers), sum(weights[i] for i in numbers)) for layout, numbers in members.items()
    ]
    costs: dict[Layout, float] = {}

    def price(c: _Candidate) -> float:
        if c.cover not in costs:
            costs[c.cover] = cost(c.cover)
        return c.weight * costs[c.cover]

    mergers: dict[tuple[int, int], tuple[float, _Candidate]] = {}

    def consider(a: int, b: int) -> None:
        one, two = found[a], found[b]
        both = one.merged(two)
        mergers[a, b] = (price(both) - price(one) - price(two), both)

    alive = {number: _family(candidate.cover) for number, candidate in enumerate(found)}
    if at_most:
        for a, b in itertools.combinations(alive, 2):
            if alive[a] == alive[b]:
                consider(a, b)
    while mergers:
        pair = min(mergers, key=lambda ab: mergers[ab][0])
        added, both = mergers[pair]
        if len(alive) <= at_most and added > 0:
            break
        for old in pair:
            del alive[old]
        mergers = {ab: merger for ab, merger in mergers.items() if not set(ab) & set(pair)}
        found.append(both)
        new, family = len(found) - 1, _family(both.cover)
        for other in [n for n, its in alive.items() if its == family]:
            consider(other, new)
        alive[new] = family
    chosen = [ProgramClass(found[n].cover, tuple(sorted(found[n].members))) for n in alive]
    return tuple(sorted(chosen, key=lambda c: c.members))


def can_share(a: Layout, b: Layout) -> bool:
    """Whether one program can serve both."""
    return a == b or _family(a) == _family(b)


def cover(layouts: Iterable[Layout]) -> Layout:
    """The smallest layout that shows all that any of these show: at each step, the largest of their numbers of neurons.

    Its `n_visible` is the largest too; where neurons of a small row go, the regime's own layout says.
    """
    distinct = list(dict.fromkeys(layouts))
    first = distinct[0]
    if len(distinct) == 1:
        return first
    if not all(can_share(first, other) for other in distinct):
        raise ValueError("layouts that ask for different things cannot share a program")
    widths: dict[int, int] = {}
    for layout in distinct:
        for start, width in context_widths(layout).items():
            widths[start] = max(width, widths.get(start, 0))
    roles = {layout.behavior for layout in distinct}
    return dataclasses.replace(
        first,
        n_visible=max(layout.n_visible for layout in distinct),
        context=_rectangles(widths, first.grid),
        behavior="input" if "input" in roles else first.behavior,
    )


@lru_cache(maxsize=1024)  # asked for every batch, and a run has few layouts
def shown(layout: Layout, program: Layout, n_channels: int) -> Bool[np.ndarray, " L"]:
    """Which context tokens of the program the layout shows: response tokens in the program's order, then behaviour's."""
    n_behavior = n_channels * layout.grid.n_behavior_steps if program.behavior == "input" else 0
    behavior = np.full(n_behavior, layout.behavior == "input")
    if layout == program:
        return np.concatenate([np.ones(len(program.response_tokens()), bool), behavior])
    if cover([layout, program]) != program:
        raise ValueError("the program does not hold the layout's tokens")
    widths = context_widths(layout)
    parts = [
        np.arange(rectangle.last_neuron) < widths.get(start, 0)
        for rectangle in program.context
        for start in _starts(rectangle, program.grid)
    ]
    return np.concatenate([*parts, behavior])


def context_widths(layout: Layout) -> dict[int, int]:
    """First sample of each step of response tokens -> how many neurons show it, from slot 0 on."""
    return {start: r.last_neuron for r in layout.context for start in _starts(r, layout.grid)}


class _Candidate(NamedTuple):
    cover: Layout
    members: tuple[int, ...]
    weight: float

    def merged(self, other: _Candidate) -> _Candidate:
        return _Candidate(cover([self.cover, other.cover]), self.members + other.members, self.weight + other.weight)


def _family(layout: Layout) -> Hashable:
    """Equal for layouts that can share a program: they ask for the same, and their steps are on one lattice.

    A layout that shows other slots than the first ones, or steps off a lattice, is alone.
    """
    offsets = {start % layout.grid.response_stride for start in context_widths(layout)}
    if len(offsets) > 1 or any(r.first_neuron for r in layout.context):
        return layout
    role = "target" if layout.behavior == "target" else "input or hidden"
    return layout.grid, layout.n_neurons, layout.targets, layout.latent_windows, layout.video_steps, role, (*offsets,)


def _starts(rectangle: Rectangle, grid: Grid) -> range:
    steps = grid.response_steps(rectangle.n_samples)
    return range(rectangle.first_sample, rectangle.first_sample + steps * grid.response_stride, grid.response_stride)


def _rectangles(widths: Mapping[int, int], grid: Grid) -> tuple[Rectangle, ...]:
    """Runs of consecutive steps of equal width. Neighbours overlap in samples, since tokens are wider than their stride."""
    runs: list[Rectangle] = []
    for start in sorted(widths):
        end, last = start + grid.response_width, runs[-1] if runs else None
        if last and last.last_neuron == widths[start] and last.last_sample + grid.response_stride == end:
            runs[-1] = dataclasses.replace(last, last_sample=end)
        else:
            runs.append(Rectangle(0, widths[start], start, end))
    return tuple(runs)
