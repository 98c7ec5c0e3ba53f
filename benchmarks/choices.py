"""Three choices, measured on synthetic mice: which Hiera order learns better, whether shared programs change training, and which
rows of the tables a step should update.

What: `orders` trains the same small model in both orders of the video's tokens, several seeds each, on one task that lives from the
screen; the score is the test correlation. `programs` trains on nine regimes that show different stretches and shares of neurons,
each in a program of its own, or all in as few as hold them; everything else is equal, so losses should be too. `rows` trains with
16 neurons of each mouse in a window, a third of them: all rows of a step's mice are updated, or only those in its windows.
How long: about 25 minutes on two CPU cores (`--steps 600`, three seeds). A run that is done is not repeated.
Command:
  omnimouse-jax synthesize stores/demo --preset demo
  python benchmarks/choices.py --store stores/demo --workdir runs/choices
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import demo
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.training.train import train

ORDERS = ("spatial", "reference")
#: Shares of neurons shown x stretches of samples, all asking for the last half of the neurons in the second half of the window.
SHOWN = [
    f"responses[:{share}, {start}:25] + behavior -> responses[-0.5:, 30:60]"
    for share in (0.5, 0.25, 0.1)
    for start in (0, 10, 15)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("orders", "programs", "rows"))
    asked = parser.parse_args()
    for name, part in (("orders", orders), ("programs", programs), ("rows", rows)):
        if asked.only in (None, name):
            print(part(asked))


def orders(asked: argparse.Namespace) -> str:
    """Scores of both orders, seed by seed."""

    def change(config: ConfigDict, order: str) -> None:
        config.model.hiera_order = order

    return compared(asked, "order", ORDERS, change)


def rows(asked: argparse.Namespace) -> str:
    """Scores of both kinds of update of the tables, seed by seed."""

    def change(config: ConfigDict, update: str) -> None:
        config.optimizer.rows = update
        config.model.max_neurons = 16

    return compared(asked, "rows", ("session", "seen"), change)


def compared(
    asked: argparse.Namespace, name: str, values: tuple[str, str], change: Callable[[ConfigDict, str], None]
) -> str:
    """A table of runs on the stimulus task with one or the other value of a choice, and their differences by seed."""
    lines = [f"| {name} | test correlation by seed | mean | SD | validation loss by seed |", "|---|---|---|---|---|"]
    scores: dict[str, list[float]] = {}
    for value in values:
        done = []
        for seed in range(asked.seeds):
            config = small(asked, seed)
            config.regimes = ("stimulus",)
            config.evaluation.tasks = ConfigDict({"stimulus": "stimulus"})
            change(config, value)
            done.append(finished(config, asked.workdir / f"{name}_{value}_{seed}"))
        scores[value] = [run["score"] for run in done]
        told = ", ".join(f"{score:.4f}" for score in scores[value])
        losses = ", ".join(f"{run['validation_loss']:.4f}" for run in done)
        mean, deviation = statistics.mean(scores[value]), statistics.stdev(scores[value])
        lines.append(f"| {value} | {told} | {mean:.4f} | {deviation:.4f} | {losses} |")
    differences = [a - b for a, b in zip(*(scores[value] for value in values), strict=True)]
    lines.append(f"{values[0]} - {values[1]}, seed by seed: {', '.join(f'{d:+.4f}' for d in differences)}")
    return "\n".join(lines)


def programs(asked: argparse.Namespace) -> str:
    """Scores and losses of exact and shared programs, seed by seed."""
    lines = ["| gradient programs | test correlation by seed | mean | SD |", "|---|---|---|---|"]
    runs: dict[int, list[dict[str, Any]]] = {}
    for at_most in (0, 1):
        for seed in range(asked.seeds):
            config = small(asked, seed)
            config.regimes = tuple(SHOWN)
            config.evaluation.tasks = ConfigDict({"forecast": SHOWN[0]})
            config.train.programs = at_most
            config.train.log_every = 1
            runs.setdefault(at_most, []).append(finished(config, asked.workdir / f"programs_{at_most}_{seed}"))
        scores = [run["score"] for run in runs[at_most]]
        told = ", ".join(f"{score:.4f}" for score in scores)
        lines.append(
            f"| {runs[at_most][0]['programs']} | {told} | {statistics.mean(scores):.4f} | {statistics.stdev(scores):.4f} |"
        )
    for seed, (exact, shared) in enumerate(zip(runs[0], runs[1], strict=True)):
        off = [abs(a - b) / abs(a) for a, b in zip(exact["losses"], shared["losses"], strict=True)]
        lines.append(
            f"seed {seed}: losses differ by at most {max(off[:50]):.1e} in 50 steps, {max(off):.1e} in {len(off)}"
        )
    return "\n".join(lines)


def small(asked: argparse.Namespace, seed: int) -> ConfigDict:
    """The demo's model, 48 wide, over a screen of 8 x 16 patches in eight windows."""
    config = demo.get_config()
    del config.study
    config.seed = seed
    config.data.store = asked.store
    config.model.d_model = 48
    config.model.hiera_dim = 16
    config.model.hiera_stages = (1, 1)
    config.model.hiera_q_pool = 1
    config.model.hiera_stride = (2, 2)
    config.model.hiera_kernel = (4, 4)
    config.model.hiera_padding = (1, 1)
    config.model.hiera_mask_unit = (1, 4, 4)
    config.optimizer.anneal_steps = asked.steps // 3
    config.train.steps = asked.steps
    config.train.checkpoint_every = asked.steps
    config.train.validation_windows = 96
    return config


def finished(config: ConfigDict, run: Path) -> dict[str, Any]:
    """Trains and scores a run, unless that was done; its columns, mean test score and losses."""
    if not (run / "run.json").exists():
        train(config, run)
    if not (run / "evaluation.json").exists():
        evaluate_run(run)
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    scores = [row["score"] for row in rows if row["metric"] == "response_correlation"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in metrics if "loss" in row]
    return {**json.loads((run / "run.json").read_text()), "score": statistics.mean(scores), "losses": losses}


if __name__ == "__main__":
    main()
