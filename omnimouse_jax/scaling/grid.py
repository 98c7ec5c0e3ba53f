"""The cells of one task: sizes x data amounts x runs x evaluation sessions, and what they say without any curve."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from scipy import stats

from omnimouse_jax.scaling.forms import Array, Labels
from omnimouse_jax.scaling.uncertainty import LEVEL, Interval, across_sessions, with_run_noise

MIN_LEVELS = 4  # per axis, for an exponent
MIN_DECADES = {"parameters": 1.5, "data": 1.2}


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference of cell means with the intervals that this design can give (None where it cannot)."""

    estimate: float
    seeds: Interval | None
    sessions: Interval | None


@dataclasses.dataclass(frozen=True)
class Grid:
    """Runs of one task. `by_session` (runs, sessions) holds scores; a run's score is the plain mean over sessions."""

    parameters: Array  # (runs,) core parameters
    data: Array  # (runs,) amount of data
    by_session: Array  # (runs, sessions)
    animals: tuple[str, ...]  # of the sessions
    higher_is_better: bool = True
    orders: tuple[int, ...] = ()  # per run: which nested order of sessions its subset is a prefix of

    @cached_property
    def score(self) -> Array:
        return self.by_session.mean(axis=1)

    @cached_property
    def sizes(self) -> Array:
        return np.unique(self.parameters)

    @cached_property
    def amounts(self) -> Array:
        return np.unique(self.data)

    @cached_property
    def cell(self) -> Labels:
        """(runs, 2): which size, which amount."""
        return np.stack([np.searchsorted(self.sizes, self.parameters), np.searchsorted(self.amounts, self.data)], 1)

    @cached_property
    def cell_number(self) -> Labels:
        return self.cell[:, 0] * len(self.amounts) + self.cell[:, 1]

    @cached_property
    def clusters(self) -> Labels:
        """What a bootstrap resamples, (runs,): cells with their seeds; where several nested orders of sessions were
        trained at an amount, all runs on one order's subset together, because they share which sessions came first."""
        label = self.cell_number.copy()
        for a in self._amounts_with_orders:
            chosen = self.cell[:, 1] == a
            label[chosen] = self.count.size + a * (1 + max(self._order)) + self._order[chosen]
        return np.unique(label, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def _order(self) -> Labels:
        if not self.orders:
            return np.zeros(len(self.score), dtype=np.int64)
        return np.unique(np.array(self.orders), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def _amounts_with_orders(self) -> list[int]:
        return [a for a in range(len(self.amounts)) if len(np.unique(self._order[self.cell[:, 1] == a])) > 1]

    @cached_property
    def count(self) -> Array:
        """Runs per cell (sizes, amounts)."""
        out = np.zeros((len(self.sizes), len(self.amounts)))
        np.add.at(out, tuple(self.cell.T), 1.0)
        return out

    def _means(self, values: Array) -> Array:
        total = np.zeros_like(self.count)
        np.add.at(total, tuple(self.cell.T), values)
        return np.divide(total, self.count, out=np.full_like(total, np.nan), where=self.count > 0)

    @cached_property
    def mean(self) -> Array:
        """Cell means (sizes, amounts), NaN where no run finished."""
        return self._means(self.score)

    @cached_property
    def noise(self) -> tuple[float, int, str]:
        """Standard deviation of one run, degrees of freedom, and where it comes from.

        Repeated seeds, pooled over cells; without any, the departure of a complete grid from additivity (the
        interaction of an unreplicated two-way layout, which contains the noise and is at least as large on average).
        """
        sd, freedom = self.seed_noise
        if freedom:
            told = "noise between seeds, pooled over cells"
            orders = len(np.unique(self._order))
            return sd, freedom, told + (f"; {orders} nested orders as a random effect" if self.order_noise[1] else "")
        rows, columns = self.count.shape
        freedom = (rows - 1) * (columns - 1)
        if freedom < 2 or (self.count == 0).any():
            return float("nan"), 0, ""
        mean = self.mean
        rest = mean - mean.mean(axis=1, keepdims=True) - mean.mean(axis=0, keepdims=True) + mean.mean()
        sd = float(np.sqrt(np.sum(rest**2) / freedom))
        return sd, freedom, "one seed: noise taken from the departure of the grid from additivity"

    @cached_property
    def seed_noise(self) -> tuple[float, int]:
        """Standard deviation of runs that differ in their seed alone, pooled over cells, and its degrees of freedom.

        Without such repeats, but with several nested orders at several sizes, what sizes and orders do not explain.
        """
        group = self.cell_number * (1 + max(self._order)) + self._order
        _, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
        residual = self.score - (np.bincount(inverse, self.score) / count)[inverse]
        freedom = len(self.score) - len(count)
        squares = float(residual @ residual)
        if not freedom:
            for a in self._amounts_with_orders:
                table, _ = self._by_order(a)
                rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
                squares, freedom = squares + float(np.sum(rest**2)), freedom + (len(table) - 1) * (table.shape[1] - 1)
        return (float(np.sqrt(squares / freedom)) if freedom else float("nan")), int(freedom)

    def _by_order(self, amount: int) -> tuple[Array, Array]:
        """Mean score and runs by (size, order) at an amount, for the sizes that were trained on every order there."""
        chosen = self.cell[:, 1] == amount
        orders = np.unique(self._order[chosen])
        table, count = np.zeros((2, len(self.sizes), len(orders)))
        for s in range(len(self.sizes)):
            for j, order in enumerate(orders):
                picked = chosen & (self.cell[:, 0] == s) & (self._order == order)
                count[s, j] = picked.sum()
                if picked.any():
                    table[s, j] = self.score[picked].mean()
        complete = (count > 0).all(axis=1)
        return table[complete], count[complete]

    @cached_property
    def _order_shares(self) -> Array:
        """Which share of a cell's runs was trained on which order, (sizes, amounts, orders)."""
        runs = np.zeros((*self.count.shape, int(self._order.max()) + 1))
        np.add.at(runs, (*self.cell.T, self._order), 1.0)
        return runs / np.maximum(self.count, 1.0)[..., None]

    @cached_property
    def order_noise(self) -> tuple[float, int]:
        """Standard deviation between nested orders of sessions at one amount (a random effect that all sizes trained
        on the subset share), with the noise of seeds taken out, and its degrees of freedom; nan, 0 with one order."""
        sd, known = self.seed_noise
        squares, freedom = 0.0, 0
        for a in self._amounts_with_orders:
            table, count = self._by_order(a)
            if not len(table):
                continue
            # of an order's mean over sizes, from the runs behind it
            noise = sd**2 * float(np.mean(np.sum(1 / count, axis=0))) / len(table) ** 2 if known else 0.0
            squares += (float(np.var(table.mean(0), ddof=1)) - noise) * (table.shape[1] - 1)
            freedom += table.shape[1] - 1
        return (float(np.sqrt(max(squares / freedom, 0.0))), freedom) if freedom else (float("nan"), 0)

    def error(self, weights: Array) -> tuple[float, float]:
        """Standard error of sum(weights x cell means) from the noise of seeds and, where several were trained, of
        nested orders, and its degrees of freedom (Satterthwaite); nan, 0 where nothing tells it."""
        sd, freedom, _ = self.noise
        if not freedom:
            return float("nan"), 0.0
        used = weights != 0
        runs = sd**2 * float(np.sum(weights[used] ** 2 / self.count[used]))
        between, order_freedom = self.order_noise
        if not order_freedom:
            return float(np.sqrt(runs)), float(freedom)
        shared = np.sum(np.einsum("sa,sao->ao", weights, self._order_shares) ** 2, axis=1)
        if len(shared) > 1:
            shared[-1] = 0.0  # the largest amount is the whole set in any order
        subsets = between**2 * float(shared.sum())
        total = runs + subsets
        if total == 0:
            return 0.0, float(freedom)
        return float(np.sqrt(total)), total**2 / (runs**2 / freedom + subsets**2 / order_freedom)

    def standard_error(self) -> Array:
        """Of the cell means, (sizes, amounts); NaN where nothing tells it."""
        out = np.full_like(self.count, np.nan)
        for cell in np.argwhere(self.count > 0):
            out[tuple(cell)] = self.error(self._only(cell))[0]
        return out

    def cell_intervals(self) -> tuple[Array, Array]:
        """95 % intervals of the cell means from the pooled noise, (sizes, amounts) each."""
        half = np.full_like(self.count, np.nan)
        for cell in np.argwhere(self.count > 0):
            error, freedom = self.error(self._only(cell))
            if freedom:
                half[tuple(cell)] = error * stats.t.ppf((1 + LEVEL) / 2, freedom)
        return self.mean - half, self.mean + half

    def _only(self, cell: Labels) -> Array:
        weights = np.zeros_like(self.count)
        weights[tuple(cell)] = 1.0
        return weights

    def contrast(self, weights: Array) -> Gain:
        """sum of weights (sizes, amounts) x cell means; better is positive."""
        sign = 1.0 if self.higher_is_better else -1.0
        used = weights != 0
        value = sign * float(np.sum(weights[used] * self.mean[used]))
        error, freedom = self.error(weights)
        seeds = None
        if freedom:
            half = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
            method = f"t with {freedom:.3g} df; {self.noise[2]}"
            seeds = Interval(value - float(half), value + float(half), "these sessions", method, len(self.score))
        per_session = np.array(
            [sign * np.sum(weights[used] * self._means(column)[used]) for column in self.by_session.T]
        )
        sessions = across_sessions(per_session, self.animals)
        if seeds is not None:
            sessions = with_run_noise(sessions, seeds)
        return Gain(value, seeds, sessions)

    def step(self, axis: str, low: int, high: int, at: int) -> Array | None:
        """Weights of (level high - level low) along "data" or "parameters", at level `at` of the other axis."""
        weights = np.zeros_like(self.count)
        ends = [(at, low), (at, high)] if axis == "data" else [(low, at), (high, at)]
        if low == high or any(self.count[end] == 0 for end in ends):
            return None
        weights[ends[0]], weights[ends[1]] = -1.0, 1.0
        return weights

    def slope(self, axis: str) -> Array | None:
        """Weights of the gain per doubling along an axis: a straight line in log2 through the cell means of each level
        of the other axis, averaged over these levels. None if no level has two cells."""
        doublings = np.log2(self.amounts if axis == "data" else self.sizes)
        count = self.count if axis == "data" else self.count.T
        weights, lines = np.zeros_like(count), 0
        for i, row in enumerate(count):
            present = row > 0
            if present.sum() < 2:
                continue
            x = doublings[present] - doublings[present].mean()
            weights[i, present] = x / np.sum(x * x)
            lines += 1
        if not lines:
            return None
        return (weights if axis == "data" else weights.T) / lines

    def span(self, axis: str) -> tuple[int, float]:
        """Levels and decades of an axis."""
        levels = self.amounts if axis == "data" else self.sizes
        return len(levels), float(np.log10(levels[-1] / levels[0]))

    def too_narrow(self, axis: str) -> str:
        """Why this axis cannot carry an exponent, in words; empty if it can."""
        levels, decades = self.span(axis)
        need = MIN_DECADES[axis]
        if levels >= MIN_LEVELS and decades >= need - 1e-9:
            return ""
        if levels == 1:
            return "one amount of data only" if axis == "data" else "one model size only"
        noun = "amounts of data" if axis == "data" else "model sizes"
        return f"{levels} {noun} over {decades:.1f} decades where an exponent needs at least {MIN_LEVELS} over {need:g}"

    def reversals(self) -> tuple[int, int]:
        """Neighbouring cells where the score falls beyond 2 standard errors although an axis grows; pairs compared.

        Without any measure of noise, it is the scatter around a straight plane in the logs.
        """
        sign = 1.0 if self.higher_is_better else -1.0
        scatter = float("nan") if self.noise[1] else self._plane()[2]
        falls = pairs = 0
        for axis, (down, right) in (("parameters", (1, 0)), ("data", (0, 1))):
            for s, a in np.argwhere(self.count > 0).tolist():
                if s + down == len(self.sizes) or a + right == len(self.amounts):
                    continue
                low, at = (s, a) if down else (a, s)
                step = self.step(axis, low, low + 1, at)
                if step is None:
                    continue
                used = step != 0
                change = sign * float(np.sum(step[used] * self.mean[used]))
                error = self.error(step)[0] if self.noise[1] else scatter * np.sqrt(np.sum(1 / self.count[used]))
                falls, pairs = falls + int(-change > 2 * error), pairs + 1
        return falls, pairs

    def _plane(self) -> tuple[Array, Array, float]:
        """Least squares plane in log2 of the axes that vary: slopes, their standard errors, residual sd."""
        axes = [np.log2(v) - np.log2(v).mean() for v in (self.parameters, self.data) if np.ptp(v) > 0]
        design = np.stack([np.ones(len(self.score)), *axes], 1)
        coefficients, *_ = np.linalg.lstsq(design, self.score, rcond=None)
        residual = self.score - design @ coefficients
        freedom = max(len(self.score) - design.shape[1], 1)
        sd = float(np.sqrt(residual @ residual / freedom))
        inverse = np.linalg.pinv(design.T @ design)
        return coefficients[1:], sd * np.sqrt(np.diag(inverse)[1:]), sd

    def is_flat(self) -> bool:
        """No axis has a return that the noise allows to see: neither the plane nor the seed intervals exclude zero."""
        slopes, errors, _ = self._plane()
        freedom = len(self.score) - len(slopes) - 1
        if freedom < 1 or not len(slopes):
            return False
        corrected = 1 - (1 - LEVEL) / (2 * len(slopes))  # Bonferroni over the axes
        if np.any(np.abs(slopes) > stats.t.ppf(corrected, freedom) * errors):
            return False
        for weights in (self.slope("data"), self.slope("parameters")):
            if weights is None or not self.seed_noise[1]:
                continue
            error, seed_freedom = self.error(weights)
            if abs(self.contrast(weights).estimate) > stats.t.ppf(corrected, seed_freedom) * error:
                return False
        return True
