"""`probe similarity` from run folders to files: which sessions, the result with its provenance, the table that is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.probe.settings import plain, provenance, write_probe
from omnimouse_jax.probe.similarity.measure import measure
from omnimouse_jax.probe.similarity.page import told, write_page
from omnimouse_jax.probe.similarity.settings import RECORDED, Settings

NAME = "similarity"
#: Sessions that are compared unless some are named.
SESSIONS = 6


def probe_similarity(
    runs: Sequence[Run], sessions: Sequence[str], settings: Settings, out: Path | str, smoke: bool = False
) -> tuple[dict[str, Any], list[Path]]:
    """Measures, writes OUT/similarity.json and OUT/index.html, and returns the result and these paths.

    `sessions`: empty for those that the first run is scored on and all runs know, at most 6 (`smoke`: 2). UserError for a run that
    is named twice, runs of different stores, or without a session in common.
    """
    named = _named(runs)
    keys = tuple(sessions) or _common(runs)[: 2 if smoke else SESSIONS]
    made = {**provenance(runs[0], **dataclasses.asdict(settings)), "sessions": list(keys)}
    found = measure(named, keys, settings)
    of_runs = [
        {"name": name, **{k: v for k, v in provenance(run).items() if k != "settings"}} for name, run in named.items()
    ]
    result = plain({"provenance": {**made, "runs": of_runs}, **found})
    path = write_probe(Path(out), NAME, result["provenance"], {k: v for k, v in result.items() if k != "provenance"})
    return result, [path, write_page(result, Path(out))]


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What the command prints."""
    compare = result["provenance"]["settings"]["compare"]
    width = max(len(row["source"]) for row in result["rsa summary"])
    yield f"RDMs against the recorded one ({compare}, mean of {len(result['sessions'])} sessions)"
    yield f"{'':13}{'':{width}} {'raw':>8} {'corrected':>10} {'partial':>8}   reliability"
    for row in result["rsa summary"]:
        values = f"{told(row['score']):>8} {told(row['corrected']):>10} {told(row['partial']):>8}"
        yield f"{row['distance']:13}{row['source']:{width}} {values}   {told(row['reliability'], 2)}"
    yield "CKA, debiased (recorded with itself: odd with even showings)"
    for row in (row for row in result["cka summary"] if row["a"] == RECORDED):
        yield f"  {row['a']} - {row['b']}: {told(row['debiased'])}"
    for row in result["procrustes"]:
        if "values" in row:
            terciles = " ".join(told(v) for v in row["predictivity by tercile"])
            median, chance = told(row["median"], 2), told(row["chance median"], 2)
            yield f"dispersion of models, {row['session']}: {median} (chance {chance}); predictivity by tercile {terciles}"
    between = result["between mice"]
    for row in between.get("rsa", []):
        yield f"between mice, {row['source']}: {told(row['score'])} ({row['pairs']} pairs)"
    patterns = between["alignment"]
    if not patterns["applicable"]:
        yield f"alignment patterns across areas: {patterns['reason']}"
        return
    for name, model in patterns["models"].items():
        profile, wrong = told(model["scores"]["profile"]), told(model["wrong-area profile"])
        yield f"alignment patterns, {name}: {profile} (wrong areas {wrong}, p {told(model['label permutation p'])})"


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """By the shortest end of their paths that tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    else:
        raise UserError("probe similarity: a run is named twice", way_out="name each once")
    if stores := {run.store.name for run in runs[1:]} - {runs[0].store.name}:
        raise UserError(
            f"probe similarity: runs of different recordings ({runs[0].store.name}, {min(stores)})",
            way_out="pass --store to read all from one",
        )
    return dict(zip(names, runs, strict=True))


def _common(runs: Sequence[Run]) -> tuple[str, ...]:
    first = runs[0]
    wanted = tuple(first.config.evaluation.sessions) or first.sessions
    known = [key for key in wanted if all(key in run.sessions for run in runs) and key in first.store]
    if not known:
        raise UserError("probe similarity: the runs have no session in common", way_out="name one with --session")
    return tuple(known)
