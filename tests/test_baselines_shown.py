"""A baseline depends on what its regime shows and on nothing else; rows do not depend on what else is in the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from omnimouse_jax.evaluate.baselines import cnn, ln
from omnimouse_jax.evaluate.baselines.descent import Descent
from omnimouse_jax.evaluate.baselines.problem import BaselineSource, NotApplicable, Problem
from omnimouse_jax.evaluate.baselines.registry import BASELINES
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.training.setup import prepare, regimes_of
from tests.micro import micro

REGIMES = {
    "stimulus": "video + behavior -> responses[:, 30:60]",
    "late frames": "video[30:60] -> responses[:, 30:60]",
    "forecast": "responses[:, 0:25] + behavior -> responses[:, 30:60]",
    "population": "responses[:0.5, 30:60] + video -> responses[-0.5:, 30:60]",
    "decoding": "responses[:0.5] -> behavior",
}
QUICK = Descent(steps=4, look_every=2, patience=2)
NEED_A_MODEL = ("untrained", "untrained_readout", "shuffled_stimulus")


def quick(name: str):
    baseline = BASELINES[name]
    if isinstance(baseline, ln.LinearNonlinear | cnn.Cnn):
        return dataclasses.replace(baseline, settings=QUICK)
    return baseline


class Scrambled(EvaluationBatches):
    """The same batches with noise where `kept` says: in what is hidden (or else in what is shown)."""

    hidden = True

    def rows(self, number, rows):
        batch = super().rows(number, rows)
        rng, layout = np.random.default_rng(number), self.layout
        seen = np.zeros(batch.responses.shape[1:], bool)
        for r in layout.context:
            seen[r.first_sample : r.last_sample, r.first_neuron : r.last_neuron] = True
        frames = np.zeros(batch.video.shape[1], bool)
        if layout.video_steps[0] < layout.video_steps[1]:
            first = self.regime.n_visible_frames_start_idx or 0
            frames[first : first + (self.regime.n_visible_frames or 60)] = True
        responses, video = batch.responses.copy(), batch.video.copy()
        change = seen ^ self.hidden
        responses[:, change] += rng.normal(size=responses[:, change].shape).astype(np.float32)
        mine = frames ^ self.hidden
        video[:, mine] = rng.integers(0, 256, video[:, mine].shape).astype(video.dtype)
        behavior = batch.behavior
        if (layout.behavior == "input") ^ self.hidden:
            behavior = behavior + rng.normal(size=behavior.shape).astype(np.float32)
        return batch._replace(responses=responses, video=video, behavior=behavior)


class Changed(Scrambled):
    hidden = False


@pytest.fixture(scope="module")
def parts(colony):
    return prepare(micro(colony, evaluation__batch_size=4))


def answers(source, parts, batches):
    found = [p for _, _, p in source.predictions(parts, batches)]
    out = [np.concatenate(arrays) for arrays in zip(*(p.responses for p in found), strict=True)]
    return out + ([np.concatenate([p.behavior for p in found])] if found[0].behavior is not None else [])


CHEAP = ("mean", "psth", "last_value", "autoregression", "linear_decoder", "wiener_causal")
#: The regimes in which something is hidden that a slower baseline would look at first.
SOME = [("ridge", "forecast"), ("ridge", "late frames"), ("ln_gain", "stimulus"), ("cnn_gaussian", "late frames")]
OTHERS = [name for name in BASELINES if name not in (*NEED_A_MODEL, *CHEAP)]


@pytest.fixture(scope="module")
def problems(parts):
    key = parts.vocabulary.sessions[0].key
    return {name: Problem(parts, (key,), regimes_of([text], parts.model.grid)[0]) for name, text in REGIMES.items()}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", CHEAP)
def test_only_what_is_shown_counts(parts, problems, name, regime):
    only_what_is_shown_counts(parts, problems, name, regime)


@pytest.mark.parametrize(("name", "regime"), SOME)
def test_only_what_is_shown_counts_for_slower_baselines(parts, problems, name, regime):
    only_what_is_shown_counts(parts, problems, name, regime)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", OTHERS)
def test_only_what_is_shown_counts_everywhere(parts, problems, name, regime):
    only_what_is_shown_counts(parts, problems, name, regime)


def only_what_is_shown_counts(parts, problems, name, regime):
    key = parts.vocabulary.sessions[0].key
    problem = problems[regime]
    fits = quick(name).fit(problem)
    if isinstance(fits[key], NotApplicable):
        assert fits[key].reason
        return
    source = BaselineSource(name, fits)
    index = parts.windows((key,), ("test",), 2.0)
    made = [problem.batches([index[k] for k in range(5)])]
    fields = {field.name: getattr(made[0], field.name) for field in dataclasses.fields(made[0])}
    plain, hidden, changed = (
        answers(source, parts, kind(**fields)) for kind in (EvaluationBatches, Scrambled, Changed)
    )
    for a, b in zip(plain, hidden, strict=True):
        np.testing.assert_array_equal(a, b)
    if name not in ("mean", "psth"):  # a PSTH knows a stimulus by its trial
        assert any(not np.array_equal(a, c, equal_nan=True) for a, c in zip(plain, changed, strict=True))


def test_which_baselines_are_defined_where(parts, problems):
    key = parts.vocabulary.sessions[0].key
    cheap = ("mean", "psth", "last_value", "autoregression", "linear_decoder", "wiener", "shuffled_stimulus")
    defined = {}
    for regime, problem in problems.items():
        fits = {name: BASELINES[name].fit(problem)[key] for name in cheap}
        defined[regime] = {name for name, fitted in fits.items() if not isinstance(fitted, NotApplicable)}
    assert defined == {
        "stimulus": {"mean"},
        "late frames": {"mean"},
        "forecast": {"mean", "last_value", "autoregression"},
        "population": {"mean"},
        "decoding": {"mean", "linear_decoder", "wiener"},
    }


@pytest.mark.parametrize("name", ["ridge", "autoregression"])
def test_windows_are_answered_one_by_one_as_together(parts, name):
    keys = tuple(entry.key for entry in parts.vocabulary.sessions)
    problem = Problem(parts, keys, regimes_of([REGIMES["forecast"]], parts.model.grid)[0])
    source = BaselineSource(name, BASELINES[name].fit(problem))
    index = parts.windows(keys, ("test",), 2.0)
    windows = [index[index.numbers_of(key)[k]] for k in range(2) for key in keys]  # rows of different mice
    together = answers(source, parts, problem.batches(windows))
    alone = [answers(source, parts, problem.batches([window])) for window in windows]
    for number, one in enumerate(alone):
        for a, b in zip(one, together, strict=True):
            np.testing.assert_allclose(a[0], b[number], atol=1e-5)


def test_training_windows_are_of_the_training_tier_and_each_asked_sample_comes_once(parts):
    key = parts.vocabulary.sessions[0].key
    problem = Problem(parts, (key,), regimes_of([REGIMES["stimulus"]], parts.model.grid)[0])
    examples = problem.train(key)
    assert examples is not None
    recording = parts.store.recording(key)
    held = recording.trials.tier != "train"
    held &= recording.trials.modality != "blank"
    starts = np.array([window.start for window in examples.shown.windows])
    for start, end in zip(recording.trials.start[held], recording.trials.end[held], strict=True):
        assert ((starts + 2.0 <= start + 1e-6) | (starts >= end - 1e-6)).all()
    assert np.diff(starts).min() >= 1.0 - 1e-9  # 30 samples are asked for in each
    assert np.isnan(examples.shown.responses).all()
    assert np.isfinite(examples.truth.responses).all()
