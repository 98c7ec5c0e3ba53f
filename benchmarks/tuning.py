"""Direction tuning of seven real mice: predicted by one model, against held-out trials.

    python benchmarks/tuning.py --data ../shared/recordings/park_gratings --workdir runs/real_tuning

The model is that of benchmarks/real_mice.py (trained on the first four fifths of each mouse's trials); a run that is there is
used as it is. Measured: mean dF/F from 0.5 to 1.94 s after onset per direction over held-out trials (three or four of each
direction). Predicted: the model's response in the same time to a grating of each direction after a second of grey, behaviour at
its mean: nothing of a held-out trial is shown. Per neuron Pearson's correlation of both curves over the eight directions; mean
over neurons with a 95 % bootstrap interval.

Beside it:
- trials: the neuron's own curve over the trials that the model was trained on, against the held-out one: what knowing the neuron
gives
- halves: held-out trials split in two at random (mean over splits), Spearman-Brown corrected to all of them: the reliability of the
  measured curve; its square root bounds the correlation of a perfect model (mean over neurons first: per neuron it may be negative)
- permuted: directions of the predicted curve shuffled, one order for all neurons of a mouse; p over mice together
- untrained: the same model before its first step
"Tuned" are neurons whose training trials differ between directions (one-way analysis of variance, p < .01): chosen without held-out
trials. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import park_gratings, real_mice
from omnimouse_jax.errors import UserError

READ_S = (0.5, 1.95)  # after onset
SPLITS = 200
PERMUTATIONS = 2000
BOOTSTRAP = 2000


def trained(sessions: list[park_gratings.Session], workdir: Path, steps: int, seed: int) -> Path:
    """The run folder, trained if it is not there."""
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.training.train import train

    store = Store.create(workdir / "store")
    for session in sessions:
        if session.key not in store.keys:
            store.add(park_gratings.recording(session, real_mice.SCREEN))
    if not (workdir / "run" / "status.json").exists():
        train(real_mice.model_config(workdir / "store", steps, seed), workdir / "run")
    return workdir / "run"


def predicted(run: object, session: park_gratings.Session, directions: np.ndarray) -> np.ndarray:
    """(neurons of the file's order in `session`, directions): the model's mean responses to gratings."""
    from omnimouse_jax.probe.physiology.gratings import Grating, drawer
    from omnimouse_jax.probe.physiology.subject import model_subject
    from omnimouse_jax.probe.predictor import Predictor

    height, width = park_gratings.SCREEN_DEGREES
    assert height / width == real_mice.SCREEN[0] / real_mice.SCREEN[1]
    predictor = Predictor.of(run, session.key, real_mice.REGIMES["stimulus_behavior"])
    subject = model_subject(predictor, degrees=width)
    # phase 0 at onset, as the recordings' frames were drawn
    shown = [Grating(float(d), park_gratings.SPATIAL_FREQUENCY, park_gratings.TEMPORAL_FREQUENCY) for d in directions]
    onset = -float(session.time[0])
    r = subject.responses(len(shown), drawer(shown, subject.geometry, onset))
    mean = r[:, subject.read(onset + READ_S[0], onset + READ_S[1])].astype(np.float64).mean(axis=1).T
    assert np.array_equal(np.asarray(predictor.neuron_ids), session.unit_id)
    return mean


def measured(session: park_gratings.Session) -> np.ndarray:
    """(trials, neurons) mean responses in the same time."""
    seen = (session.time >= READ_S[0] - 1e-9) & (session.time < READ_S[1] - 1e-9)
    return session.responses[:, seen].mean(axis=1)


def curves(r: np.ndarray, direction: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(neurons, directions) means over trials."""
    return np.stack([r[direction == d].mean(axis=0) for d in directions], axis=1)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per row; 0 where one does not vary."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1.0), 0.0)


def halves(r: np.ndarray, direction: np.ndarray, directions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(neurons,) mean correlation of curves of random halves of the trials."""
    total = np.zeros(r.shape[1])
    for _ in range(SPLITS):
        first = np.zeros(len(r), bool)
        for d in directions:
            rows = rng.permutation(np.flatnonzero(direction == d))
            first[rows[: (len(rows) + int(rng.integers(2))) // 2]] = True
        total += correlations(
            curves(r[first], direction[first], directions), curves(r[~first], direction[~first], directions)
        )
    return total / SPLITS


def interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    again = values[rng.integers(0, len(values), (BOOTSTRAP, len(values)))].mean(axis=1)
    low, high = np.quantile(again, [0.025, 0.975])
    return float(low), float(high)


def examine(sessions: list[park_gratings.Session], folder: Path, seed: int) -> list[dict]:
    """One row per mouse, and rows of all and of tuned neurons together."""
    from omnimouse_jax.evaluate.opened import open_run

    run = open_run(folder, "latest")
    fresh = run.untrained(seed)
    rng = np.random.default_rng(seed)
    pieces: dict[str, list[np.ndarray]] = {
        k: [] for k in ("model", "untrained", "trials", "halves", "tuned", "permuted")
    }
    rows = []
    for session in sessions:
        directions = np.unique(session.direction)
        r, held = measured(session), session.tier == "test"
        truth = curves(r[held], session.direction[held], directions)
        before = [r[~held][session.direction[~held] == d] for d in directions]
        mine = predicted(run, session, directions)
        orders = [rng.permutation(len(directions)) for _ in range(PERMUTATIONS)]
        made = {
            "model": correlations(mine, truth),
            "untrained": correlations(predicted(fresh, session, directions), truth),
            "trials": correlations(curves(r[~held], session.direction[~held], directions), truth),
            "halves": halves(r[held], session.direction[held], directions, rng),
            "tuned": stats.f_oneway(*before, axis=0).pvalue < 0.01,
            "permuted": np.stack([correlations(mine[:, order], truth) for order in orders]),
        }
        for name, values in made.items():
            pieces[name].append(values)
        rows.append(_row(session.key, made, rng))
    every = {name: np.concatenate(values, axis=-1) for name, values in pieces.items()}
    rows.append(_row("all neurons", every, rng))
    chosen = every["tuned"]
    rows.append(_row("tuned neurons", {name: values[..., chosen] for name, values in every.items()}, rng))
    return rows


def _row(name: str, made: dict[str, np.ndarray], rng: np.random.Generator) -> dict:
    half = float(made["halves"].mean())
    reliability = 2 * half / (1 + half)
    permuted = made["permuted"].mean(axis=1)
    model = float(made["model"].mean())
    low, high = interval(made["model"], rng)
    return {
        "name": name,
        "neurons": len(made["model"]),
        "tuned": int(made["tuned"].sum()),
        "model": model,
        "low": low,
        "high": high,
        "trials": float(made["trials"].mean()),
        "untrained": float(made["untrained"].mean()),
        "reliability": reliability,
        "bound": float(np.sqrt(reliability)) if reliability > 0 else None,
        "permuted": float(permuted.mean()),
        "p": float((1 + (permuted >= model).sum()) / (1 + PERMUTATIONS)),
    }


def table(rows: list[dict]) -> str:
    head = ("neurons", "tuned", "model", "95 %", "trials", "untrained", "bound", "permuted", "p")
    width = max(len(row["name"]) for row in rows)
    lines = [" ".join([" " * width, *(f"{h:>16}" if h == "95 %" else f"{h:>9}" for h in head)])]
    for row in rows:
        bound = "none" if row["bound"] is None else f"{row['bound']:.3f}"
        cells = [
            f"{row['neurons']:>9}", f"{row['tuned']:>9}", f"{row['model']:>9.3f}",
            f"[{row['low']:.3f}, {row['high']:.3f}]".rjust(16),
            f"{row['trials']:>9.3f}", f"{row['untrained']:>9.3f}", f"{bound:>9}", f"{row['permuted']:>9.3f}", f"{row['p']:>9.4f}",
        ]  # fmt: skip
        lines.append(" ".join([f"{row['name']:<{width}}", *cells]))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder with one <session>.npz per mouse")
    parser.add_argument("--workdir", default="runs/real_tuning", help="where the store and the trained model go")
    parser.add_argument("--steps", type=int, default=1500, help="training steps, where there is no run yet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        sessions = park_gratings.sessions(args.data)
        print(park_gratings.ASSUMED)
        rows = examine(sessions, trained(sessions, Path(args.workdir), args.steps, args.seed), args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
