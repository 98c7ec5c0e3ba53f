"""One model over seven real mice, beside a ridge regression fitted to each of them.

    python benchmarks/real_mice.py --data ../shared/recordings/park_gratings

Three tasks, scored on the same samples for both: the first 48 of each held-out trial's 49 samples (3 s, the model's
window; -1 to 1.94 s around grating onset), pooled over trials, Pearson per neuron or channel, mean over those.
- stimulus_behavior: grating + pupil + running -> responses of all neurons
- population: the same + a fixed half of the neurons, all samples -> the other half
- behavior: grating + responses of all neurons -> pupil and running
Held out: the last fifth of each session's trials. Both sides may use the whole window (behaviour and other neurons
before and after a sample); neither sees another trial. A channel that never varies in the held-out part (two mice do
not run there) has no correlation and is left out of the mean.

The ridge regression gets smooth time courses per direction and lagged behaviour or responses. It is fitted to all
trials that are not held out; its penalty is chosen per neuron by cross-validation over blocks of them. The model trains
on the same trials but the last tenth, which only decides when to stop. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import park_gratings
from benchmarks.park_gratings import Session
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines import blocked_folds, by_condition, lagged, onset_basis, ridge_fit
from omnimouse_jax.evaluate.metrics import PooledCorrelation

TASKS = ("stimulus_behavior", "population", "behavior")
WINDOW = 48  # samples scored per held-out trial
SCREEN = (16, 32)  # height, width in pixels
N_FOLDS = 6
BEHAVIOR_LAGS = (-32, -24, -16, -8, -4, -2, 0, 2, 4, 8, 16, 24, 32)  # samples of 1/16 s; negative: later ones
POPULATION_LAGS = (-3, -2, -1, 0, 1, 2, 3)
DECODING_LAGS = (-16, -8, 0, 8, 16)  # of responses averaged over 7 samples

#: What the model is shown and asked; a share of neurons means each session's first (shown) and second (asked) half.
REGIMES = {
    "stimulus_behavior": "video + behavior -> responses",
    "population": "responses[:0.5] + video + behavior -> responses[-0.5:]",
    "behavior": "responses + video -> behavior",
}

Scores = dict[str, dict[str, float]]  # task -> session -> score


def features(session: Session, task: str) -> list[np.ndarray]:
    """Bands of features, each (trials * samples, features), of all samples of a session."""
    n_trials, n_samples, n_neurons = session.responses.shape
    trial = np.repeat(np.arange(n_trials), n_samples)
    basis = onset_basis(np.tile(session.time, n_trials), n_bumps=6, last=float(session.time[-1]))
    stimulus = [basis, by_condition(basis, np.repeat(session.direction, n_samples))]
    responses = session.responses.reshape(-1, n_neurons)
    if task == "behavior":
        return [*stimulus, lagged(responses, trial, DECODING_LAGS, width=7)]
    behavior = lagged(session.behavior.reshape(n_trials * n_samples, -1), trial, BEHAVIOR_LAGS)
    if task == "stimulus_behavior":
        return [*stimulus, behavior]
    return [*stimulus, behavior, lagged(responses[:, : session.n_visible], trial, POPULATION_LAGS)]


def targets(session: Session, task: str) -> np.ndarray:
    """(trials, samples, neurons or channels) that the task asks for."""
    if task == "behavior":
        return session.behavior
    return session.responses[..., session.n_visible :] if task == "population" else session.responses


def ridge_predictions(session: Session, task: str) -> np.ndarray:
    """(held-out trials, samples, targets) from a ridge regression fitted to all other trials."""
    y = targets(session, task)
    n_trials, n_samples, n_targets = y.shape
    bands = features(session, task)
    trial = np.repeat(np.arange(n_trials), n_samples)
    held_out = np.repeat(session.tier == "test", n_samples)
    folds = blocked_folds(trial[~held_out], N_FOLDS)
    fit = ridge_fit([band[~held_out] for band in bands], y.reshape(-1, n_targets)[~held_out], folds)
    return fit.predict(np.concatenate(bands, axis=1)[held_out]).reshape(-1, n_samples, n_targets)


def score(session: Session, task: str, predicted: np.ndarray) -> float:
    """Mean over targets of the correlation pooled over held-out trials and their first `WINDOW` samples.

    predicted: (held-out trials, at least WINDOW samples, targets). A constant prediction counts as 0; targets that
    never vary are left out.
    """
    y = targets(session, task)[session.tier == "test"][:, :WINDOW]
    n = y.shape[2]
    y, predicted = y.reshape(-1, n), predicted[:, :WINDOW].reshape(-1, n)
    pooled = PooledCorrelation(n)
    pooled.update(slice(None), predicted, y, np.ones(y.shape, bool))
    return float(np.nan_to_num(pooled.correlation())[np.ptp(y, axis=0) > 0].mean())


def ridge_scores(sessions: list[Session]) -> Scores:
    return {task: {s.key: score(s, task, ridge_predictions(s, task)) for s in sessions} for task in TASKS}


def model_config(store: Path, steps: int, seed: int) -> ConfigDict:
    """One small model over all sessions; a window is a trial, all three tasks are trained together."""
    from omnimouse_jax.training.defaults import base

    config = base("tiny")
    config.seed = seed
    rate = 16
    config.model.grid.update(
        response_rate=rate,
        video_rate=rate,
        behavior_rate=rate,
        n_samples=WINDOW,
        n_frames=WINDOW,
        n_behavior=WINDOW,
        response_width=8,
        response_stride=4,
        latent_width=8,
        latent_stride=8,
        interpolation_buffer=0,  # responses were not resampled, so neighbours do not leak
        skip_samples=0,
    )
    config.model.screen = SCREEN
    config.model.behavior_channels = park_gratings.CHANNELS
    config.model.response_loss = "gaussian"  # dF/F is of either sign
    config.data.store = str(store)
    config.data.stride_s = 1 / rate
    config.regimes = tuple(REGIMES.values())
    config.train.steps = steps
    config.train.checkpoint_every = max(1, steps // 8)
    config.optimizer.warmup_steps = min(100, steps // 4)
    config.optimizer.anneal_steps = steps // 2
    config.evaluation.tasks = ConfigDict(REGIMES)
    config.evaluation.stride_s = WINDOW / rate  # one window per held-out trial
    config.evaluation.bootstrap = 0
    return config


def model_scores(sessions: list[Session], workdir: Path, steps: int, seed: int) -> Scores:
    """Trains in `workdir` (or goes on there) and scores the best checkpoint by validation loss."""
    from omnimouse_jax.evaluate.evaluator import evaluate_run
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.training.train import train

    store = Store.create(workdir / "store")
    for session in sessions:
        if session.key not in store.keys:
            store.add(park_gratings.recording(session, SCREEN))
    train(model_config(workdir / "store", steps, seed), workdir / "run")
    return scores_of_rows(evaluate_run(workdir / "run", step="best")["rows"], sessions)


def scores_of_rows(rows: Sequence[Mapping[str, Any]], sessions: list[Session]) -> Scores:
    """The evaluator's rows as task -> session -> score, leaving out channels that never vary as `score` does."""
    scores: Scores = {task: {} for task in TASKS}
    for session in sessions:
        y = session.behavior[session.tier == "test"][:, :WINDOW]
        varies = {name for c, name in enumerate(park_gratings.CHANNELS) if np.ptp(y[..., c]) > 0}
        for task in TASKS:
            mine = [row for row in rows if (row["session"], row["task"]) == (session.key, task)]
            if task == "behavior":
                r = [row["score"] for row in mine if row["channel"] in varies]
            else:
                r = [row["score"] for row in mine if row["metric"] == "response_correlation"]
            scores[task][session.key] = float(np.nan_to_num(r).mean())
    return scores


def table(scores: Mapping[str, Scores]) -> str:
    """Session x task as text, one column per task and method."""
    columns = [(task, method) for task in TASKS for method in scores]
    keys = list(next(iter(scores.values()))[TASKS[0]])
    width = max(map(len, [*keys, "mean"]))
    lines = [" ".join([" " * width, *(f"{task + ' ' + method:>24}" for task, method in columns)])]
    for key in keys:
        lines.append(" ".join([f"{key:<{width}}", *(f"{scores[m][t][key]:>24.3f}" for t, m in columns)]))
    lines.append(" ".join([f"{'mean':<{width}}", *(f"{mean(scores[m][t]):>24.3f}" for t, m in columns)]))
    return "\n".join(lines)


def mean(by_session: Mapping[str, float]) -> float:
    return float(np.mean(list(by_session.values())))


def summary(scores: Mapping[str, Scores]) -> str:
    """The JSON line: task -> mean per method and sessions -> score per method."""
    keys = list(next(iter(scores.values()))[TASKS[0]])
    told = {
        task: {
            **{method: round(mean(of[task]), 4) for method, of in scores.items()},
            "sessions": {key: {method: round(of[task][key], 4) for method, of in scores.items()} for key in keys},
        }
        for task in TASKS
    }
    return json.dumps(told)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder with one <session>.npz per mouse")
    parser.add_argument("--workdir", default="runs/real_mice", help="where the store and the trained model go")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model and its data order, not of the split")
    parser.add_argument("--only", choices=("ridge",), help="leave the model out")
    args = parser.parse_args(argv)
    try:
        sessions = park_gratings.sessions(args.data)
        print(park_gratings.ASSUMED)
        scores = {}
        if args.only != "ridge":
            scores["model"] = model_scores(sessions, Path(args.workdir), args.steps, args.seed)
        scores["ridge"] = ridge_scores(sessions)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(scores))
    print(summary(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
