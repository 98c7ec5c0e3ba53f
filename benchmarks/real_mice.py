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
on the same trials for a fixed number of steps. Its settings were chosen with `--tier validation`, which trains both on
the first nine tenths of these trials, scores the last tenth and leaves the held-out trials alone. The last line printed
is JSON.
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
from omnimouse_jax.evaluate.baselines.ridge import blocked_folds, by_condition, lagged, onset_basis, ridge_fit
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

#: Regimes drawn from while training. Two are written in two ways, so that they are drawn twice as often as decoding.
TRAINED = (
    *REGIMES.values(),
    "behavior + video -> responses",
    "video + behavior + responses[:0.5] -> responses[-0.5:]",
)

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


def fitted(tier: str) -> tuple[str, ...]:
    """Tiers that may be used when `tier` is scored."""
    return ("train", "validation") if tier == "test" else ("train",)


def ridge_predictions(session: Session, task: str, tier: str = "test") -> np.ndarray:
    """(trials of `tier`, samples, targets) from a ridge regression fitted to the trials before them."""
    y = targets(session, task)
    n_trials, n_samples, n_targets = y.shape
    bands = features(session, task)
    trial = np.repeat(np.arange(n_trials), n_samples)
    held_out = np.repeat(session.tier == tier, n_samples)
    used = np.repeat(np.isin(session.tier, fitted(tier)), n_samples)
    folds = blocked_folds(trial[used], N_FOLDS)
    fit = ridge_fit([band[used] for band in bands], y.reshape(-1, n_targets)[used], folds)
    return fit.predict(np.concatenate(bands, axis=1)[held_out]).reshape(-1, n_samples, n_targets)


def score(session: Session, task: str, predicted: np.ndarray, tier: str = "test") -> float:
    """Mean over targets of the correlation pooled over the tier's trials and their first `WINDOW` samples.

    predicted: (trials of `tier`, at least WINDOW samples, targets). A constant prediction counts as 0; targets that
    never vary are left out.
    """
    y = targets(session, task)[session.tier == tier][:, :WINDOW]
    n = y.shape[2]
    y, predicted = y.reshape(-1, n), predicted[:, :WINDOW].reshape(-1, n)
    pooled = PooledCorrelation(n)
    pooled.update(slice(None), predicted, y, np.ones(y.shape, bool))
    return float(np.nan_to_num(pooled.correlation())[np.ptp(y, axis=0) > 0].mean())


def ridge_scores(sessions: list[Session], tier: str) -> Scores:
    return {task: {s.key: score(s, task, ridge_predictions(s, task, tier), tier) for s in sessions} for task in TASKS}


def model_config(store: Path, steps: int, seed: int, tier: str = "test") -> ConfigDict:
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
        response_width=16,
        response_stride=8,
        latent_width=8,
        latent_stride=8,
        query_lookback=8,
        behavior_width=8,  # what the animal does now matters more than how the whole trial went
        video_stride=4,
        interpolation_buffer=0,  # responses were not resampled, so neighbours do not leak
        skip_samples=0,
    )
    config.model.update(
        screen=SCREEN,
        behavior_channels=park_gratings.CHANNELS,
        response_loss="gaussian",  # dF/F is of either sign
        behavior_loss_weight=0.5,  # half the squared error, as of responses
        max_neurons=74,  # the largest mouse's: no slot is always empty
        neuron_weights=True,
        n_heads=4,
        n_layers=1,
        local_to_global=(1, 0),
        latents_per_window=12,
        global_latents=1,
        ffn_multiplier=2.0,
        decoder_ffn_multiplier=2.0,
        hiera_order="spatial",
        hiera_stride=(8, 8),
        hiera_mask_unit=(1, 2, 4),
    )
    config.data.store = str(store)
    config.data.stride_s = 1 / rate
    config.data.tiers = fitted(tier)
    config.data.batch_size = 14
    config.regimes = TRAINED
    config.train.steps = steps
    config.train.checkpoint_every = max(1, steps // 4)
    config.train.validation_windows = 0
    config.optimizer.shared.update(learning_rate=3e-3, weight_decay=0.1)
    config.optimizer.session.update(learning_rate=1e-2, weight_decay=0.01)
    config.optimizer.warmup_steps = min(100, steps // 4)
    config.optimizer.anneal_steps = 3 * steps // 4
    config.evaluation.tiers = (tier,)
    config.evaluation.tasks = ConfigDict(REGIMES)
    config.evaluation.stride_s = WINDOW / rate  # one window per held-out trial
    config.evaluation.bootstrap = 0
    return config


def model_scores(sessions: list[Session], workdir: Path, steps: int, seed: int, tier: str) -> Scores:
    """Trains in `workdir` (or goes on there) and scores the last step, at which the learning rate has reached zero."""
    from omnimouse_jax.evaluate.evaluator import evaluate_run
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.training.train import train

    store = Store.create(workdir / "store")
    for session in sessions:
        if session.key not in store.keys:
            store.add(park_gratings.recording(session, SCREEN))
    train(model_config(workdir / "store", steps, seed, tier), workdir / "run")
    return scores_of_rows(evaluate_run(workdir / "run", step="latest")["rows"], sessions, tier)


def scores_of_rows(rows: Sequence[Mapping[str, Any]], sessions: list[Session], tier: str) -> Scores:
    """The evaluator's rows as task -> session -> score, leaving out channels that never vary as `score` does."""
    scores: Scores = {task: {} for task in TASKS}
    for session in sessions:
        y = session.behavior[session.tier == tier][:, :WINDOW]
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
    parser.add_argument("--steps", type=int, default=4000, help="training steps of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model and its data order, not of the split")
    parser.add_argument(
        "--tier", choices=("test", "validation"), default="test", help="trials to score; validation: to choose settings"
    )
    parser.add_argument("--only", choices=("ridge",), help="leave the model out")
    args = parser.parse_args(argv)
    try:
        sessions = park_gratings.sessions(args.data)
        print(park_gratings.ASSUMED)
        scores = {}
        if args.only != "ridge":
            scores["model"] = model_scores(sessions, Path(args.workdir), args.steps, args.seed, args.tier)
        scores["ridge"] = ridge_scores(sessions, args.tier)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(scores))
    print(summary(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
