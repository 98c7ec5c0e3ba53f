"""Stimuli that are trained on and held out, found by what was on the screen, within and across sessions and animals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.contents import longer
from omnimouse_jax.recordings.session import UNUSED_TIERS
from omnimouse_jax.recordings.store import Store

#: How far to look: the same session, other sessions of the animal, all sessions.
Scope = Literal["session", "animal", "any"]


class Leak(NamedTuple):
    """One stimulus (by a hash of its frames) that some session trains on and some session holds out.

    `scope` is the closest such pair: in one session, in two of one animal, or only between animals.
    """

    stimulus: str
    seconds: float
    scope: Scope
    trained: tuple[str, ...]  # sessions
    held_out: tuple[tuple[str, str], ...]  # (session, tier)


def leaks(store: Store, keys: Sequence[str] = (), train_tiers: Collection[str] = ("train",)) -> list[Leak]:
    """All of them among the named sessions (default: all), longest first. Reads the trials of each session.

    A clip and a beginning of it (contents.py) are one stimulus, under the name of the longer.
    """
    chosen = store.chosen(keys)
    name_of, alike = _alike(store, chosen)
    animal = {key: store.summary(key)["animal"] for key in chosen}
    trained: dict[str, list[str]] = defaultdict(list)
    held: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in chosen:
        for stimulus, tiers in _tiers_of(store, key).items():
            if tiers & set(train_tiers):
                trained[stimulus].append(key)
            held[stimulus] += [(key, tier) for tier in sorted(tiers - {*train_tiers, *UNUSED_TIERS})]
    trained_on: dict[str, set[str]] = defaultdict(set)
    held_out: dict[str, set[tuple[str, str]]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    for stimulus, sessions in trained.items():
        same = {name for name in (stimulus, *alike[stimulus]) if held[name]}
        if same:
            whole = name_of.get(stimulus, stimulus)
            trained_on[whole].update(sessions)
            held_out[whole].update(where for name in same for where in held[name])
            names[whole].update({stimulus, *same})
    found = []
    for stimulus, on in trained_on.items():
        sessions = sorted(on)
        others = [key for key, _ in held_out[stimulus]]
        animals = {animal[key] for key in sessions}
        scope: Scope = "any"
        if set(sessions) & set(others):
            scope = "session"
        elif any(animal[key] in animals for key in others):
            scope = "animal"
        seconds = max(store.stimuli(key).get(name, 0.0) for key in {*sessions, *others} for name in names[stimulus])
        found.append(Leak(stimulus, seconds, scope, tuple(sessions), tuple(sorted(held_out[stimulus]))))
    return sorted(found, key=lambda leak: (-leak.seconds, leak.stimulus))


def left_out(
    store: Store, sessions: Sequence[str], held_sessions: Sequence[str], held_tiers: Collection[str], scope: str
) -> dict[str, frozenset[str]]:
    """For each session to train on, the stimuli that `held_tiers` of `held_sessions` show, as far as `scope` looks, with
    those that are beginnings of them or begin with them.
    """
    if scope not in get_args(Scope):
        raise UserError(f"leave_out {scope!r}", way_out=f"use nothing, {', '.join(get_args(Scope))}")
    shown: dict[str, frozenset[str]] = {}
    for key in held_sessions:
        shown[key] = frozenset(s for s, tiers in _tiers_of(store, key).items() if tiers & set(held_tiers))
    groups: Mapping[str, dict[str, str]] = {
        "session": {key: key for key in (*sessions, *held_sessions)},
        "animal": {key: store.summary(key)["animal"] for key in (*sessions, *held_sessions)},
        "any": dict.fromkeys((*sessions, *held_sessions), ""),
    }
    group = groups[scope]
    _, alike = _alike(store, {*sessions, *held_sessions})
    pooled: dict[str, set[str]] = defaultdict(set)
    for key, stimuli in shown.items():
        pooled[group[key]] |= stimuli.union(*(alike[name] for name in stimuli))
    return {key: frozenset(pooled[group[key]]) for key in sessions}


def render(found: Sequence[Leak], at_most: int = 20) -> str:
    """The leaks as text: how many of each kind, then the longest ones."""
    if not found:
        return "no stimulus is both trained on and held out"
    told = {"session": "within a session", "animal": "across sessions of an animal", "any": "across animals only"}
    lines = [f"{len(found)} stimuli are both trained on and held out ({sum(leak.seconds for leak in found):.1f} s):"]
    for scope, name in told.items():
        some = [leak for leak in found if leak.scope == scope]
        if some:
            lines.append(f"  {len(some):6d} {name}, {sum(leak.seconds for leak in some):.1f} s")
    lines.append("the longest (stimulus, seconds, trained on in, held out in):")
    for leak in found[:at_most]:
        held = [f"{key} ({tier})" for key, tier in leak.held_out]
        lines.append(f"  {leak.stimulus}  {leak.seconds:6.2f}  {_few(leak.trained)}  |  {_few(held)}")
    if len(found) > at_most:
        lines.append(f"  ... and {len(found) - at_most} more (--json lists all)")
    lines.append("leave them out of training with --config.data.leave_out=session, animal or any")
    return "\n".join(lines)


def _tiers_of(store: Store, key: str) -> dict[str, set[str]]:
    """The tiers in which a session's usable trials show each stimulus."""
    trials, contents = store.recording(key).trials, store.trial_contents(key)
    used = trials.valid & (contents != "") & (trials.modality != "invalid")
    out: dict[str, set[str]] = defaultdict(set)
    for stimulus, tier in set(zip(contents[used].tolist(), trials.tier[used].tolist(), strict=True)):
        out[stimulus].add(tier)
    return out


def _alike(store: Store, keys: Iterable[str]) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Of the cut clips in some sessions: the name of the longest that each begins, and for each the others that are alike."""
    clips: dict[str, bytes] = {}
    for key in keys:
        clips.update(store.clips(key))
    found = longer(clips)
    alike: dict[str, set[str]] = defaultdict(set)
    for short, longs in found.items():
        alike[short].update(longs)
        for name in longs:
            alike[name].add(short)
    return {short: longs[-1] for short, longs in found.items()}, alike


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
