"""The leakage guard: equal pixels in training and held-out tiers are found wherever they are, and can be left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.leaks import leaks, left_out
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.windows import WindowIndex
from omnimouse_jax.training.setup import prepare
from tests.micro import micro

#: What each session shows in its trials of 4 s: (clip, tier). Equal numbers are equal pixels.
SHOWN = {
    "ann-1": [(0, "train"), (1, "train"), (0, "test"), (2, "validation"), (9, "none")],
    "ann-2": [(2, "train"), (3, "train"), (4, "test"), (9, "train"), (0, "train")],
    "bob-1": [(4, "train"), (5, "train"), (5, "train"), (6, "test"), (7, "train")],
}


def recording(key: str, shown: list[tuple[int, str]]) -> Recording:
    """Names of stimuli differ from session to session; only the pixels are equal."""
    n = len(shown)
    rng = np.random.default_rng([len(key), n])
    start = np.arange(n) * 4.0
    frames = np.concatenate([np.random.default_rng([clip]).integers(0, 256, (8, 16, 32)) for clip, _ in shown])
    times = (start[:, None] + np.arange(8) * 0.5).ravel()
    screen = Screen(frames.astype(np.uint8), times, np.arange(8 * n), np.full(8 * n, 128.0), 4.0 * n)
    names = np.array([f"{key}/{clip}" for clip, _ in shown])
    tiers = np.array([tier for _, tier in shown])
    trials = Trials(start, start + 4, tiers, np.full(n, "video"), names, np.ones(n, bool))
    responses = Signal.continuous(rng.gamma(1.0, 1.0, (40 * n, 6)).astype(np.float32), 10.0, 0.0)
    return Recording(key, key.split("-")[0], responses, trials, screen=screen)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store.create(tmp_path_factory.mktemp("leaks") / "store")
    for key, shown in SHOWN.items():
        made.add(recording(key, shown))
    return made


def test_leaks_are_found_within_and_across_sessions_and_animals(store: Store) -> None:
    content = {k: store.trial_contents("ann-1")[i] for i, (k, _) in enumerate(SHOWN["ann-1"])}
    content |= {k: store.trial_contents("ann-2")[i] for i, (k, _) in enumerate(SHOWN["ann-2"])}
    found = {leak.stimulus: leak for leak in leaks(store)}
    assert set(found) == {content[0], content[2], content[4]}
    assert found[content[0]].scope == "session"
    assert found[content[0]].trained == ("ann-1", "ann-2")
    assert found[content[0]].held_out == (("ann-1", "test"),)
    assert found[content[2]].scope == "animal"
    assert found[content[2]].held_out == (("ann-1", "validation"),)
    assert found[content[4]].scope == "any"
    assert {leak.seconds for leak in found.values()} == {4.0}
    assert leaks(store, ["bob-1"]) == []
    assert store.summary("ann-1")["split_stimuli"] == 1
    assert store.summary("bob-1")["split_stimuli"] == 0


def held(store: Store, scope: str) -> dict[str, int]:
    out = left_out(store, store.keys, store.keys, {"test", "validation"}, scope)
    index = WindowIndex.of(store, store.keys, ["train"], Grid(), 2.0, leave_out=out)
    return {key: len(index.numbers_of(key)) for key in index.sessions}


def test_what_is_held_out_can_be_left_out_of_training(store: Store) -> None:
    """Windows of 2 s every 2 s: two for each training trial of 4 s that is left."""
    plain = WindowIndex.of(store, store.keys, ["train"], Grid(), 2.0)
    assert [len(plain.numbers_of(key)) for key in store.keys] == [4, 8, 8]
    assert held(store, "session") == {"ann-1": 2, "ann-2": 8, "bob-1": 8}
    assert held(store, "animal") == {"ann-1": 2, "ann-2": 4, "bob-1": 8}
    assert held(store, "any") == {"ann-1": 2, "ann-2": 4, "bob-1": 6}
    only = left_out(store, ("bob-1",), ("ann-2",), {"test"}, "any")
    assert only == {"bob-1": frozenset({store.trial_contents("ann-2")[2]})}
    with pytest.raises(UserError, match="leave_out 'all'"):
        left_out(store, store.keys, store.keys, {"test"}, "all")


def test_the_config_leaves_them_out_of_training_only(store: Store) -> None:
    config = micro(store.name, steps=2)
    config.model.screen, config.data.stride_s = (16, 32), 2.0
    config.data.leave_out = "any"
    parts = prepare(config)
    assert len(parts.training_windows()) == 2 + 4 + 6
    assert len(parts.windows(store.keys, ("test",), 2.0)) == 6
    config.data.leave_out = "nothing"
    assert len(prepare(config).training_windows()) == 20


def test_inspect_lists_them(store: Store, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", store.name]) in (0, None)
    assert "within 1 sessions (most: 1 in ann-1); --leaks lists them" in " ".join(capsys.readouterr().out.split())
    main(["inspect", store.name, "--leaks"])
    out = capsys.readouterr().out
    assert "3 stimuli are both trained on and held out (12.0 s)" in out
    assert "1 within a session, 4.0 s" in out
    assert "bob-1  |  ann-2 (test)" in out
    main(["inspect", store.name, "--leaks", "--json"])
    assert {row["scope"] for row in json.loads(capsys.readouterr().out)} == {"session", "animal", "any"}


def test_windows_never_straddle_tiers(store: Store) -> None:
    """Trials follow one another without a gap; still no window reaches from one tier into another."""
    for tier in ("train", "test", "validation"):
        index = WindowIndex.of(store, store.keys, [tier], Grid(), 0.25)
        for k in range(len(index)):
            window = index[k]
            trials = store.recording(window.session).trials
            touched = (trials.start < window.start + 2 - 1e-6) & (trials.end > window.start + 1e-6)
            assert set(trials.tier[touched]) == {tier}


def test_withheld_trials_have_no_target_and_no_score(tmp_path: Path) -> None:
    from omnimouse_jax.evaluate.evaluator import preflight

    rec = recording("cal-1", [(1, "train"), (2, "train"), (3, "validation"), (4, "test"), (5, "test")])
    values = rec.responses.values.copy()
    values[120:] = np.nan
    kept = np.isin(rec.trials.tier, ["test", "validation"])
    rec = dataclasses.replace(
        rec,
        responses=dataclasses.replace(rec.responses, values=values),
        trials=dataclasses.replace(rec.trials, withheld=kept & (rec.trials.tier == "test")),
    )
    made = Store.create(tmp_path / "store")
    zeros = dataclasses.replace(rec.responses, values=np.nan_to_num(values))
    with pytest.raises(UserError, match="values in trials that are marked as withheld"):
        made.add(dataclasses.replace(rec, responses=zeros))
    made.add(rec)
    assert made.summary("cal-1")["withheld"] == {"test": 2}
    assert made.recording("cal-1").trials.withheld.tolist() == [False] * 3 + [True] * 2
    config = micro(made.name, steps=2)
    config.model.screen = (16, 32)
    with pytest.raises(UserError, match="session cal-1: the responses of tier test are withheld"):
        preflight(config)


def cut_clips(key: str, shown: list[tuple[int, int, str]]) -> Recording:
    """Trials of (clip, frames of it that were kept, tier) at 30 Hz; clips 0 and 1 share their first 30 frames."""
    start = np.cumsum([0.0, *(n / 30 + 1 for _, n, _ in shown[:-1])])
    rng = np.random.default_rng([7])
    clips = rng.integers(0, 256, (4, 100, 16, 32)).astype(np.uint8)
    clips[1, :30] = clips[0, :30]
    times = np.concatenate([at + np.arange(n + 1) / 30 for at, (_, n, _) in zip(start, shown, strict=True)])
    frame = np.concatenate([np.append(100 * clip + np.arange(n), -1) for clip, n, _ in shown])
    end = start + np.array([n / 30 for _, n, _ in shown])
    screen = Screen(clips.reshape(400, 16, 32), times, frame, np.full(len(times), 128.0), float(times[-1]))
    tiers, n = np.array([tier for _, _, tier in shown]), len(shown)
    names = np.array([f"{key}/{k}" for k in range(n)])
    trials = Trials(start, end, tiers, np.full(n, "video"), names, np.ones(n, bool))
    responses = Signal.continuous(rng.gamma(1.0, 1.0, (int(end[-1] * 10) + 1, 6)).astype(np.float32), 10.0, 0.0)
    return Recording(key, key, responses, trials, screen=screen)


def test_a_clip_that_was_cut_is_the_same_stimulus(tmp_path: Path) -> None:
    """100 frames in one mouse, 99 or 61 in another; another clip with the same first second stays another."""
    made = Store.create(tmp_path / "store")
    made.add(cut_clips("ann", [(0, 100, "train"), (1, 100, "train"), (2, 61, "train"), (3, 100, "train")]))
    made.add(cut_clips("bob", [(0, 99, "test"), (2, 90, "test")]))
    made.add(cut_clips("cal", [(1, 40, "test")]))
    ann, bob, cal = (made.trial_contents(key).tolist() for key in ("ann", "bob", "cal"))
    assert not set(ann) & {*bob, *cal}
    found = {leak.stimulus: leak for leak in leaks(made)}
    assert set(found) == {ann[0], ann[1], bob[1]}
    assert found[bob[1]].trained == ("ann",)
    assert found[bob[1]].held_out == (("bob", "test"),)
    assert found[bob[1]].scope == "any"
    assert found[ann[0]].seconds == pytest.approx(100 / 30)
    out = left_out(made, ("ann",), ("bob",), {"test"}, "any")["ann"]
    assert out & set(ann) == {ann[0], ann[2]}
    assert left_out(made, ("ann",), ("cal",), {"test"}, "any")["ann"] & set(ann) == {ann[1]}
    assert made.unique_stimulus_hours(made.keys) == pytest.approx((100 + 100 + 90 + 100) / 30 / 3600)
    assert made.unique_stimulus_hours(["bob"]) == pytest.approx((99 + 90) / 30 / 3600)
