"""May this recording be given to this model, and was any of it seen before? Told in lines; what cannot work is a UserError."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.starts import training_windows
from omnimouse_jax.recordings.contents import longer
from omnimouse_jax.recordings.session import UNUSED_TIERS
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import few
from omnimouse_jax.training.setup import Parts

#: Share of negative responses above which a Poisson model is warned about.
NEGATIVE = 0.05
#: Windows that are read to see in what units responses are.
LOOK_AT = 20


def require_new(keys: Sequence[str], known: Vocabulary, run: str) -> None:
    """UserError for a session that the model was trained on: its scores would be of training, whatever the tier."""
    for key in keys:
        if key in known:
            raise UserError(
                f"session {key}: among the {len(known.sessions)} sessions that {run} was trained on",
                way_out=f"score it with `omnimouse-jax evaluate {run}`; if it is another recording of that name, ingest it under "
                "another key",
            )


def compatibility(parts: Parts, keys: Sequence[str]) -> list[str]:
    """What the recordings have of what the model takes, session by session. UserError where the model cannot take one."""
    config, model, store = parts.config, parts.model, parts.store
    grid, told = model.grid, []
    for key in keys:
        summary = store.summary(key)
        _require_tiers(key, summary["trials"], config.data.tiers, config.evaluation.tiers)
        hours = {tier: 60 * h for tier, h in summary["tier_hours"].items() if h}
        minutes = ", ".join(f"{tier} {m:.1f} min" for tier, m in sorted(hours.items()))
        told.append(f"{key}: {summary['n_neurons']} neurons of animal {summary['animal']}; {minutes}")
        rate = summary["original_rate"] or summary["response_rate"]
        if abs(summary["response_rate"] - grid.response_rate) > 1e-6:
            told.append(
                f"  responses at {summary['response_rate']:g} Hz are resampled to the model's {grid.response_rate} Hz by "
                "holding the previous sample"
            )
        elif abs(rate - grid.response_rate) > 1e-6:
            told.append(f"  responses at {grid.response_rate} Hz, resampled from {rate:g} Hz when they were ingested")
        lacks = [name for name in model.behavior_channels if name not in summary["channels"]]
        more = [name for name in summary["channels"] if name not in model.behavior_channels]
        if summary["screen_size"] is None:
            told.append("  no screen: the model is shown none")
        if lacks:
            told.append(f"  behaviour channels that the recording lacks, hidden from the model: {', '.join(lacks)}")
        if more:
            told.append(f"  behaviour channels that the model does not know, not used: {', '.join(more)}")
        if summary["n_neurons"] > model.max_neurons:
            told.append(
                f"  a training window takes {model.max_neurons} of the {summary['n_neurons']} neurons, drawn anew each time"
            )
        told += _units(parts, key)
    return told


def leakage(
    parts: Parts, keys: Sequence[str], known: Vocabulary, trained_on: Store | None, train_tiers: Collection[str]
) -> list[str]:
    """Whether the animals and the held-out stimuli were there when the model was trained.

    `trained_on`: the store of the sessions of `known`, None where it is not at hand.
    """
    told = []
    for key in keys:
        animal = parts.vocabulary.entry(key).animal
        before = [entry.key for entry in known.sessions if entry.animal == animal]
        told.append(
            f"{key}: animal {animal} is known from {few(before, 3)}: not a new mouse to the model"
            if before
            else f"{key}: animal {animal} is new to the model"
        )
    held_tiers = {*parts.config.train.validation_tiers, *parts.config.evaluation.tiers}
    if trained_on is None:
        told.append("leakage of stimuli could not be checked: the recordings of the pre-training are not at hand")
        return told
    there = [entry.key for entry in known.sessions if entry.key in trained_on]
    if len(there) < len(known.sessions):
        told.append(
            f"leakage was checked against {len(there)} of {len(known.sessions)} sessions: the others are not in their store"
        )
    for key in keys:
        seen, of = seen_stimuli(trained_on, there, train_tiers, parts.store, key, held_tiers)
        if seen:
            told.append(
                f"{key}: LEAK: {len(seen)} of its {of} held-out stimuli ({sum(seen.values()):.1f} s) were trained on in other "
                "sessions; scores are of responses to pictures that the model knows"
            )
        elif of:
            told.append(f"{key}: none of its {of} held-out stimuli was trained on")
    return told


def seen_stimuli(
    trained_on: Store,
    sessions: Sequence[str],
    train_tiers: Collection[str],
    store: Store,
    key: str,
    held_tiers: Collection[str],
) -> tuple[dict[str, float], int]:
    """Seconds of each stimulus in `held_tiers` of a session that some session trains on, and how many it holds out in all.

    Stimuli are compared by content, also between stores; a clip and a beginning of it are alike (recordings.contents).
    """
    held = _contents(store, key, held_tiers)
    clips = {name: marks for name, marks in store.clips(key).items() if name in held}
    trained: set[str] = set()
    for session in sessions:
        trained |= (mine := _contents(trained_on, session, train_tiers))
        clips |= {name: marks for name, marks in trained_on.clips(session).items() if name in mine}
    alike: dict[str, set[str]] = {}
    for short, longs in longer(clips).items():
        for name in longs:
            alike.setdefault(short, set()).add(name)
            alike.setdefault(name, set()).add(short)
    seconds = store.stimuli(key)
    seen = {name for name in held if ({name} | alike.get(name, set())) & trained}
    return {name: seconds.get(name, 0.0) for name in sorted(seen)}, len(held)


def _contents(store: Store, key: str, tiers: Collection[str]) -> set[str]:
    trials, contents = store.recording(key).trials, store.trial_contents(key)
    used = trials.valid & (contents != "") & (trials.modality != "invalid") & np.isin(trials.tier, list(tiers))
    return set(contents[used].tolist())


def require_screen(key: str, screen: Sequence[int] | None, wanted: Sequence[int]) -> None:
    """UserError for another screen than the model's, which cannot change any more."""
    if screen is not None and tuple(screen) != tuple(wanted):
        raise UserError(
            f"session {key}: screen is {screen[0]}x{screen[1]}, the trained model's is {wanted[0]}x{wanted[1]}",
            way_out=f"resize the stimuli to {wanted[0]}x{wanted[1]} and ingest the session again",
        )


def _require_tiers(key: str, trials: dict[str, int], training: Sequence[str], scored: Sequence[str]) -> None:
    names = ", ".join(sorted(tier for tier in trials if tier not in UNUSED_TIERS)) or "none"
    for tiers, what in ((training, "to adapt to"), (scored, "to score")):
        if not any(trials.get(tier) for tier in tiers):
            raise UserError(
                f"session {key}: nothing {what}: no trial of tier {', '.join(tiers)} (it has: {names})",
                way_out="ingest it with held-out trials (--hold-out), or name its tiers with --tier",
            )


def _units(parts: Parts, key: str) -> list[str]:
    """Whether scaled responses look like those that the loss is for."""
    cutter = parts.cutter([key])
    values = np.concatenate(
        [cutter.sample(window).responses.ravel() for window in training_windows(parts, key, LOOK_AT)]
    )
    values = values[np.isfinite(values)]
    if not len(values):
        raise UserError(
            f"session {key}: no response was recorded in its training tier", way_out="look at it with `inspect`"
        )
    negative = float((values < 0).mean())
    told = [
        f"  responses after scaling: mean {values.mean():.2f}, deviation {values.std():.2f}, {100 * negative:.0f} % negative"
    ]
    if parts.model.response_loss == "poisson" and negative > NEGATIVE:
        told.append("  WARNING: the model predicts rates, which are never negative; give it deconvolved responses")
    return told
