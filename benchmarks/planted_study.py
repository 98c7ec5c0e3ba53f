"""What a study's own design can recover: its cells, seeds and evaluation sessions, with scores that follow a law we chose.

What: no network is trained. The cells come from a plan; every run gets the score of a planted law, S = S_inf - A N^-alpha -
B D^-beta, with noise between seeds (as large as in the real study, if its ledger is named); plateau and both terms differ between
evaluation sessions, each by its own factor. The same code then fits, resamples and judges. Repeated with other noise it tells how
far estimates lie from the truth, how often a 95 % interval holds it (that of these sessions; "new": that of all there could be),
and how often the verdict is right, which no trained study can tell of itself.
How long: about a second a repetition on one CPU core.
Command:
  python benchmarks/planted_study.py --plan studies/colony --ledger studies/colony/ledger.csv --repeats 100
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np

from omnimouse_jax.progress import Progress
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.ledger import finished, read
from omnimouse_jax.scaling.plan import Plan
from omnimouse_jax.scaling.verdict import DATA, NONE, PARAMETERS, UNDECIDED, judge


@dataclasses.dataclass(frozen=True)
class Law:
    """S = plateau - a (N / N_max)^-alpha - b (D / D_max)^-beta: a and b are what is left to gain at the largest cell."""

    plateau: float = 0.45
    a: float = 0.03
    alpha: float = 0.35
    b: float = 0.06
    beta: float = 0.30

    def score(self, n: Array, d: Array, factors: Array) -> Array:
        """(runs, sessions), for factors (3, sessions) of the plateau and of both terms."""
        terms = self.a * (n / n.max()) ** -self.alpha, self.b * (d / d.max()) ** -self.beta
        return self.plateau * factors[0] - np.outer(terms[0], factors[1]) - np.outer(terms[1], factors[2])

    @property
    def rho(self) -> float:
        """Gain of a doubling of data over that of parameters, at the largest cell."""
        return self.b * -math.expm1(-self.beta * math.log(2)) / (self.a * -math.expm1(-self.alpha * math.log(2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, help="study folder, or plan.json")
    parser.add_argument("--ledger", default="", help="take the noise between seeds and sessions from this study")
    parser.add_argument("--task", default="", help="of that ledger (default: its first)")
    parser.add_argument("--noise", type=float, default=0.005, help="between seeds, where no ledger is named")
    parser.add_argument(
        "--spread", type=float, default=0.15, help="relative, between evaluation sessions, of each term"
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=400)
    for field in dataclasses.fields(Law):
        parser.add_argument(f"--{field.name}", type=float, default=field.default)
    arguments = parser.parse_args()
    law = Law(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Law)})
    cells = [cell for cell in Plan.read(arguments.plan).cells if cell.rate == 1]
    n = np.array([cell.estimate["n_params_core"] for cell in cells], dtype=np.float64)
    d = np.array([cell.amount for cell in cells], dtype=np.float64)
    orders, sessions = tuple(cell.order for cell in cells), len(cells[0].evaluation_sessions)
    noise = measured_noise(Path(arguments.ledger), arguments.task) if arguments.ledger else arguments.noise
    truth = {"S_inf": law.plateau, "alpha": law.alpha, "beta": law.beta, "rho": law.rho}
    right = DATA if law.rho > 1 else PARAMETERS
    print(f"{len(cells)} runs, {sessions} evaluation sessions; noise between seeds {noise:.4f}, planted {told(truth)}")

    truth["rho, new"] = law.rho  # the median over sessions
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in truth}
    verdicts: Counter[str] = Counter()
    progress = Progress(arguments.repeats, label="study ")
    for repeat in range(arguments.repeats):
        rng = np.random.default_rng([5, repeat])
        factors = np.exp(arguments.spread * rng.standard_normal((3, sessions)))
        plateau, a, b = factors.mean(axis=1)
        here = {**truth, "S_inf": law.plateau * plateau, "rho": law.rho * b / a}
        scores = law.score(n, d, factors) + noise * rng.standard_normal((len(n), 1))
        animals = tuple(f"mouse {i}" for i in range(sessions))
        joint = judge(Grid(n, d, scores, animals, orders=orders), resamples=arguments.resamples, seed=repeat)
        verdicts[joint.verdict.name] += 1
        progress.show(repeat + 1)
        if joint.fit is None or joint.boot is None:
            continue
        for name in ("S_inf", "alpha", "beta"):
            interval = joint.boot.interval(joint.boot.named()[name])
            found[name].append((joint.fit.parameters[name], interval.low, interval.high, here[name]))
        if joint.verdict.ratio is not None and joint.verdict.interval is not None:
            for name, interval in (("rho", joint.verdict.interval), ("rho, new", joint.verdict.new_sessions)):
                if interval is not None:
                    found[name].append((joint.verdict.ratio, interval.low, interval.high, here[name]))
    progress.close()
    print(f"{'':8} {'planted':>8} {'median':>8} {'5 %':>8} {'95 %':>8}   the 95 % interval holds it")
    for name, rows in found.items():
        if not rows:
            continue
        estimate, low, high, true = np.array(rows).T
        holds = np.mean((low <= true) & (true <= high))
        five, middle, ninety_five = np.quantile(estimate, [0.05, 0.5, 0.95])
        print(
            f"{name:8} {truth[name]:8.3f} {middle:8.3f} {five:8.3f} {ninety_five:8.3f}   {100 * holds:.0f} % of {len(rows)}"
        )
    wrong = arguments.repeats - verdicts[right] - verdicts[UNDECIDED] - verdicts[NONE]
    print(
        f"verdict: {right} (right) {verdicts[right]}, not determined {verdicts[UNDECIDED] + verdicts[NONE]}, wrong {wrong}"
    )


def measured_noise(path: Path, task: str) -> float:
    """Standard deviation between seeds of the mean score, pooled over cells, of a finished study."""
    rows = [row for row in finished(read(path)) if row["anneal_from"] is None and row["channel"] in ("", "mean")]
    task = task or rows[0]["task"]
    by_run: dict[tuple[object, ...], dict[int, list[float]]] = {}
    for row in rows:
        if row["task"] == task:
            cell = (row["size"], row["n_sessions"], row["data_order"], row["learning_rate"])
            by_run.setdefault(cell, {}).setdefault(row["seed"], []).append(row["score"])
    means = [[float(np.mean(scores)) for scores in seeds.values()] for seeds in by_run.values() if len(seeds) > 1]
    squares = sum(len(values) * np.var(values) for values in means)
    return float(np.sqrt(squares / sum(len(values) - 1 for values in means)))


def told(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


if __name__ == "__main__":
    main()
