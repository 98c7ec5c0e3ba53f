"""Predictions of whole sessions: the numbers of evaluation, in the recording's units, times and order; whole files or none."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore as ts

import omnimouse_jax
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate import predict, prediction_file
from omnimouse_jax.evaluate.evaluator import scored_windows, session_scores
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.timeline import Asked, Timeline
from omnimouse_jax.recordings.kvstore import Place, context
from omnimouse_jax.recordings.session import Recording, Signal
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.regimes import get, resolve
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.setup import predictions, prepare, regimes_of
from omnimouse_jax.training.step import init_state
from tests.micro import micro

KEY = "m001-1"
HALF = "responses[:0.5] + video -> responses[-0.5:, 30:60]"


@pytest.fixture(scope="module")
def folder(colony, tmp_path_factory) -> Path:
    """A run whose parameters are as they were drawn: predicting does not care."""
    config = micro(colony, seed=3, evaluation__batch_size=4)
    parts = prepare(config)
    state = init_state(parts.model, parts.capacity, 0, parts.mesh, parts.trained)
    # Readouts as large as those of a trained model, so that predictions vary.
    core = {**state.params["core"]}
    core["response_out"] = jax.tree.map(lambda x: 30 * x, core["response_out"])
    state = state._replace(params={**state.params, "core": core}, step=jax.numpy.int32(7))
    path = tmp_path_factory.mktemp("predict") / "run"
    saved = Checkpoints(path)
    meta = {"config": json.loads(config.to_json()), "vocabulary": parts.vocabulary.to_json()}
    saved.save(state, meta, None)
    saved.close()
    return path


@pytest.fixture(scope="module")
def run(folder) -> Run:
    return omnimouse_jax.open_run(folder)


def in_memory(recording: Recording) -> Recording:
    """All responses in an array of their own, to be changed."""
    values = np.array(recording.responses.values[0 : recording.responses.n_samples], np.float32)
    return dataclasses.replace(recording, responses=dataclasses.replace(recording.responses, values=values))


def read(place: Path | str, name: str) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": Place(place).under(f"{name}/").full_spec()}
    return np.asarray(ts.open(spec, context=context()).result().read().result())


@pytest.mark.parametrize("regime", ["stimulus", HALF, "behavior"])
def test_numbers_are_those_of_evaluation(run, regime):
    """Bit by bit, window by window; and so are the scores, up to windows that evaluation does not visit."""
    prediction = run.predict(KEY, regime, tiers=run.config.evaluation.tiers)
    parts = run.parts(run.store)
    chosen = regimes_of([regime], parts.model.grid)[0]
    asks_behavior = regime == "behavior"
    windows = scored_windows(parts, [KEY], 2.0 if asks_behavior else 1.0)
    batches = EvaluationBatches(parts.cutter([KEY]), windows, chosen, 4)
    recording, checked = run.recording(KEY), 0
    for found, batch, predicted, _ in predictions(parts, run.params, batches):
        for row, window in enumerate(found):
            if asks_behavior:
                at = int(np.searchsorted(prediction.behavior_time, window.start - 1e-6))
                scale = np.array([recording.behavior_scale[c] for c in prediction.channels], np.float32)
                mean = np.array([recording.behavior_mean[c] for c in prediction.channels], np.float32)
                expected = predicted.behavior[row].T * scale + mean
                np.testing.assert_array_equal(prediction.behavior[at : at + 40], expected)
            else:
                at = int(np.searchsorted(prediction.time, window.start + 1 - 1e-6))
                slots = batch.neuron_mask[row] & (np.arange(64) >= batches.layout.targets[0].first_neuron)
                neurons = batch.neuron_rows[row, slots] - parts.vocabulary.entry(KEY).first_row
                scale = recording.response_scale[neurons].astype(np.float32)
                expected = predicted.responses[0][row][:, slots[batches.layout.targets[0].first_neuron :]] * scale
                np.testing.assert_array_equal(prediction.responses[at : at + 30][:, neurons], expected)
            checked += 1
    assert checked == len(windows) > 5
    scores = session_scores(parts, run.params, batches, [KEY])[KEY]
    if asks_behavior:
        np.testing.assert_allclose(prediction.behavior_correlation(), scores.behavior.correlation(), atol=0.05)
    else:
        np.testing.assert_allclose(prediction.correlation(), scores.responses.correlation(), atol=0.05)


def by_itself(run: Run, regime: str, starts: list[float]) -> list[np.ndarray]:
    """(30, neurons) of each window, predicted without the others."""
    parts = run.parts(run.store)
    windows = [Window(KEY, start) for start in starts]
    batches = EvaluationBatches(parts.cutter([KEY]), windows, regimes_of([regime], parts.model.grid)[0], 4)
    n = parts.vocabulary.entry(KEY).n_neurons
    scale = run.recording(KEY).response_scale.astype(np.float32)
    return [
        predicted.responses[0][row][:, -n:] * scale
        for found, _, predicted, _ in predictions(parts, run.params, batches)
        for row in range(len(found))
    ]


def test_each_sample_is_of_the_window_with_most_past(run):
    """At a stride at which five windows are asked for most samples; the last window does not start at a multiple of it."""
    start = float(run.recording(KEY).responses.segment_start[0])
    found = run.predict(KEY, "stimulus", start=start, seconds=4.1, stride_s=0.2)
    assert len(found.time) == 123
    starts = [*range(0, 61, 6), 63]
    alone = by_itself(run, "stimulus", [start + at / 30 for at in starts])
    assert np.isnan(found.responses[:30]).all()
    for row in range(30, 123):
        first = next(i for i, at in enumerate(starts) if at + 30 <= row < at + 60)
        expected = alone[first][row - starts[first] - 30]
        np.testing.assert_allclose(found.responses[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride_s", [None, 0.3, 1.5])
@pytest.mark.parametrize("regime", ["stimulus", HALF, "behavior", "responses[:0.5] -> responses + behavior"])
def test_streamed_in_blocks_equals_all_at_once(run, monkeypatch, regime, stride_s):
    at_once = run.predict(KEY, regime, stride_s=stride_s)
    monkeypatch.setattr(predict, "BLOCK_BYTES", 4 * 16 * 17)  # 17 rows
    blocks = run.predict(KEY, regime, stride_s=stride_s)
    np.testing.assert_array_equal(blocks.responses, at_once.responses)
    np.testing.assert_array_equal(blocks.behavior, at_once.behavior)
    job = run.job(KEY, regime, stride_s=stride_s)
    for name, values in (("responses", at_once.responses), ("behavior", at_once.behavior)):
        if name in job.arrays:  # what is told of NaN is what is there
            found = job.timeline.coverage(job.arrays[name][0])
            assert found.samples == len(values)
            assert found.predicted == np.isfinite(values).any(axis=1).sum()
            assert found.samples == sum(found[1:])


def test_part_of_a_recording_is_a_part_of_the_whole(run):
    whole = run.predict(KEY, "stimulus")
    part = run.predict(KEY, "stimulus", start=float(whole.time[300]), seconds=5)
    assert np.isfinite(part.responses).all()  # windows reach back
    np.testing.assert_allclose(part.time, whole.time[300:450])
    np.testing.assert_array_equal(part.responses, whole.responses[300:450])  # windows start a second apart, both times
    short = run.predict(KEY, "behavior", start=float(whole.time[300]), seconds=0.5)
    assert short.behavior.shape[0] == 10
    assert np.isfinite(short.behavior).all()


def test_units_are_the_recordings(run):
    """The same screen in front of a recording with other scales: numbers change by these, and by nothing else."""
    recording = in_memory(run.recording(KEY))
    factor = np.linspace(0.5, 3, recording.n_neurons)
    other = dataclasses.replace(
        recording,
        response_scale=recording.response_scale * factor,
        behavior_mean={name: mean + 3 for name, mean in recording.behavior_mean.items()},
        behavior_scale={name: 2 * scale for name, scale in recording.behavior_scale.items()},
    )
    regime = "video -> responses[:, 30:60] + behavior"
    one, two = run.predict(recording, regime), run.predict(other, regime)
    np.testing.assert_allclose(two.responses, one.responses * factor, rtol=1e-5)
    mean = np.array([recording.behavior_mean[name] for name in one.channels])
    np.testing.assert_allclose(two.behavior, 2 * (one.behavior - mean) + mean + 3, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(run.predict(KEY, regime).responses, one.responses)  # in memory or in the store
    np.testing.assert_array_equal(one.recorded, two.recorded)


def test_ids_times_trials_and_recorded_are_the_stores(run):
    found, recording = run.predict(KEY, "video -> responses[:, 30:60] + behavior"), run.recording(KEY)
    np.testing.assert_array_equal(found.neuron_ids, recording.neurons["unit_id"])
    start = float(recording.responses.segment_start[0])
    np.testing.assert_allclose(found.time, start + np.arange(len(found.time)) / 30)
    np.testing.assert_allclose(found.behavior_time, start + np.arange(len(found.behavior_time)) / 20)
    row = int(np.flatnonzero(recording.trials.tier == "test")[0])
    inside = (found.time >= recording.trials.start[row]) & (found.time < recording.trials.end[row])
    assert set(found.tier[inside]) == {"test"}
    assert set(found.trial[inside]) == {row}
    assert "train" in found.tier[~inside]
    # A recording at 30 Hz with the model's grid on its samples: what is beside a prediction is what the store holds.
    held = np.array(recording.responses.values[0 : recording.responses.n_samples], np.float32)
    at = np.floor((found.time - start) * recording.responses.rate + 1e-3).astype(int)
    np.testing.assert_array_equal(found.recorded, held[at])
    assert found.score("test") == pytest.approx(np.nan_to_num(found.correlation("test")).mean(), abs=1e-9)


def with_gap(recording: Recording) -> Recording:
    """20 s, half an hour of nothing, 1 s, and another 10.5 s; a neuron is missing for a while in the first stretch."""
    rate, start = recording.responses.rate, float(recording.responses.segment_start[0])
    lengths = [int(20 * rate), int(rate), int(10.5 * rate)]
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    starts = start + np.array([0.0, 1820.0, 1830.0])
    values = np.array(recording.responses.values[0 : sum(lengths)], np.float32)
    values[: int(5 * rate), 2] = np.nan
    return dataclasses.replace(recording, responses=Signal(values, rate, starts, first))


def test_gaps_have_no_samples_and_short_stretches_are_nan(run):
    recording = with_gap(run.recording(KEY))
    found = run.predict(recording, "stimulus")
    start = float(recording.responses.segment_start[0])
    seconds = np.floor(recording.responses.segment_lengths / recording.responses.rate * 30 + 1e-6).astype(int)
    assert len(found.time) == seconds.sum()
    jumps = np.flatnonzero(np.diff(found.time) > 0.5) + 1
    np.testing.assert_array_equal(jumps, np.cumsum(seconds)[:-1])
    np.testing.assert_allclose(found.time[jumps] - start, [1820, 1830])
    there = np.isfinite(found.responses).all(axis=1)
    expected = np.ones(len(found.time), bool)
    expected[:30] = expected[jumps[1] : jumps[1] + 30] = False  # a second of past is needed
    expected[jumps[0] : jumps[1]] = False
    np.testing.assert_array_equal(there, expected)
    assert np.isnan(found.recorded[:100, 2]).all()
    assert np.isfinite(found.responses[40:100, 2]).all()
    coverage = run.job(recording, "stimulus").timeline.coverage(Asked(30, 30, 60))
    assert coverage == (len(expected), expected.sum(), 60, seconds[1], 0, 0)


def test_frames_that_were_never_shown(run):
    """What a model is for: the same neurons in front of something else, running or not."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (75, 16, 32), dtype=np.uint8)
    imagined = run.imagine(KEY, frames, rate=15, behavior={"running": 30.0})
    found = run.predict(imagined, "stimulus", start=0)
    assert len(found.time) == 150
    assert np.isfinite(found.responses).all()
    assert np.isnan(found.recorded).all()
    np.testing.assert_array_equal(found.neuron_ids, run.recording(KEY).neurons["unit_id"])
    still = run.predict(run.imagine(KEY, frames, rate=15), "stimulus", start=0)
    assert np.abs(found.responses - still.responses).max() > 1e-4
    other = run.predict(run.imagine(KEY, 255 - frames, rate=15, behavior={"running": 30.0}), "stimulus", start=0)
    assert np.abs(found.responses - other.responses).max() > 1e-4
    with pytest.raises(UserError, match=r"frames of shape \(75, 8, 32\), the screen is 16x32"):
        run.imagine(KEY, frames[:, :8])
    with pytest.raises(UserError, match="no behaviour channel licking"):
        run.imagine(KEY, frames, behavior={"licking": 1.0})


def test_the_file_holds_what_the_notebook_has(run, folder, tmp_path, capsys):
    """Read back by TensorStore; the metadata of everything is in the outermost zarr.json too."""
    out, regime = tmp_path / "p.zarr", "responses[:0.5] -> responses[-0.5:] + behavior"
    command = ["predict", "--from", str(folder), "--session", KEY, "--session", "m002-1", "--regime", regime]
    assert cli.main([*command, "--out", str(out), "--recorded"]) == 0
    told = capsys.readouterr().out
    assert "8 of 16 neurons" in told
    found = run.predict(KEY, regime)
    for name, expected in (
        ("responses", found.responses),
        ("recorded", found.recorded),
        ("behavior", found.behavior),
        ("recorded_behavior", found.recorded_behavior),
        ("time", found.time),
        ("behavior_time", found.behavior_time),
        ("trial", found.trial),
        ("neuron_id", found.neuron_ids),
    ):
        np.testing.assert_array_equal(read(out, f"{KEY}/{name}"), expected, err_msg=name)
    about = json.loads((out / "zarr.json").read_text())
    assert about["attributes"]["checkpoint"] == 7
    assert about["attributes"]["regime"] == regime
    below = about["consolidated_metadata"]["metadata"]
    written = json.loads((out / KEY / "responses" / "zarr.json").read_text())
    for field in ("shape", "data_type", "chunk_grid", "codecs", "dimension_names", "attributes"):
        assert below[f"{KEY}/responses"][field] == written[field]
    assert below[f"{KEY}/responses"]["dimension_names"] == ["time", "neuron"]
    flags = below[f"{KEY}/tier"]["attributes"]
    names = np.array(flags["flag_meanings"].split())[read(out, f"{KEY}/tier")]
    np.testing.assert_array_equal(names, np.where(found.tier == "", "none", found.tier))
    raw = (out / KEY / "channel" / "c" / "0").read_bytes()
    assert all(name.encode() in raw for name in found.channels)
    assert os.listdir(tmp_path) == ["p.zarr"]


def test_xarray_opens_it(run, tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    prediction_file.write(run, [KEY], "video -> responses[:, 30:60] + behavior", tmp_path / "p.zarr", recorded=True)
    opened = xarray.open_zarr(str(tmp_path / "p.zarr"), group=KEY)
    assert opened.responses.dims == ("time", "neuron")
    assert opened.channel.values.tolist() == list(run.model.behavior_channels)
    assert {"neuron_id", "tier", "time"} <= set(opened.coords)


def test_a_bucket_works_like_a_folder(run):
    place = "memory://predictions/p.zarr"
    prediction_file.write(run, [KEY], "stimulus", place)
    np.testing.assert_array_equal(read(place, f"{KEY}/responses"), run.predict(KEY, "stimulus").responses)
    with pytest.raises(UserError, match="exists already"):
        prediction_file.write(run, [KEY], "stimulus", place)
    prediction_file.write(run, ["m002-1"], "stimulus", place, overwrite=True)
    assert Place(place).read(f"{KEY}/zarr.json") is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--session", "nobody"], "session nobody: not among the 3 sessions this model was trained on"),
        (["--session", KEY, "--session", KEY], "a session is named twice"),
        (["--regime", "responses -> video"], "video"),
        (["--regime", "test"], "is 21 regimes"),
        (["--stride", "0.25"], "use a multiple of 1/30 s"),
        (["--stride", "-1"], "use a multiple of 1/30 s"),
        (["--tier", "final"], "no stretch of tier final"),
        (["--checkpoint", "5"], "no checkpoint '5' (there are: 7)"),
        (["--store", "/nowhere"], "/nowhere"),
        (["--out", "predictions"], "let it end with .zarr"),
        (["--out", "there.zarr"], "exists already"),
        (["--out", "other.zarr", "--overwrite"], "holds something else than predictions"),
        (["--out", "plain.zarr", "--overwrite"], "is no zarr group"),
        (["--out", "file/x.zarr"], "choose a folder"),
        (["--from", "/nowhere"], "run /nowhere: no checkpoints/ folder"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(folder, capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "there.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"format": prediction_file.FORMAT}}))
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "plain.zarr").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    given = ["--from", str(folder), "--regime", "stimulus", "--out", "new.zarr"]
    given += [] if "--session" in flags else ["--session", KEY]
    assert cli.main(["predict", *given, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_recordings_that_do_not_fit_are_refused(run):
    recording = run.recording(KEY)
    for changes, message in (
        ({"response_scale": None}, "has no response_scale"),
        ({"behavior_mean": {}}, "has no behavior_mean"),
        ({"key": "m002-1"}, "16 neurons, the model knows 15 of it"),
        ({"screen": dataclasses.replace(recording.screen, frames=np.zeros((5, 8, 8), np.uint8))}, "screen is 8x8"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict(dataclasses.replace(recording, **changes), "stimulus")
    with pytest.raises(UserError, match="asks for behaviour, of which this session has none"):
        run.predict(dataclasses.replace(recording, behavior={}), "behavior")
    with pytest.raises(UserError, match="it was recorded from"):
        run.predict(KEY, "stimulus", start=0, seconds=5)


def test_a_failure_leaves_nothing_and_what_was_there(run, tmp_path, monkeypatch):
    out = tmp_path / "p.zarr"
    prediction_file.write(run, [KEY], "stimulus", out)
    before = read(out, f"{KEY}/responses")
    stream = predict.Job.stream

    def broken(self, params, progress=None):
        yield from stream(self, params, progress)
        raise OSError("no space left on device")

    monkeypatch.setattr(predict.Job, "stream", broken)
    with pytest.raises(OSError, match="no space"):
        prediction_file.write(run, ["m002-1"], "stimulus", out, overwrite=True)
    with pytest.raises(OSError, match="no space"):
        prediction_file.write(run, [KEY], "stimulus", tmp_path / "new.zarr")
    with pytest.raises(OSError, match="no space"):
        prediction_file.write(run, [KEY], "stimulus", "memory://broken/p.zarr")
    assert os.listdir(tmp_path) == ["p.zarr"]
    np.testing.assert_array_equal(read(out, f"{KEY}/responses"), before)
    place = Place("memory://broken/p.zarr")
    assert place.settle("", lambda: place.kv.list()) == []


KILLED = """
import sys, time
from omnimouse_jax import open_run
from omnimouse_jax.evaluate import predict, prediction_file
stream = predict.Job.stream
def slow(self, params, progress=None):
    for rows in stream(self, params, progress):
        yield rows
        print("written", flush=True)
        time.sleep(60)
predict.Job.stream = slow
prediction_file.write(open_run(sys.argv[1]), [sys.argv[2]], "stimulus", sys.argv[3])
"""


def test_what_a_killed_process_left_is_removed_by_the_next(run, folder, tmp_path):
    out = tmp_path / "p.zarr"
    command = [sys.executable, "-c", KILLED, str(folder), KEY, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout.readline() == "written\n"
        left = os.listdir(tmp_path)
        prediction_file.write(run, [KEY], "stimulus", tmp_path / "other.zarr")  # does not touch what is being written
        assert set(os.listdir(tmp_path)) == {*left, "other.zarr"}
        process.send_signal(signal.SIGKILL)
    assert len(left) == 1
    assert not out.exists()
    prediction_file.write(run, [KEY], "stimulus", out)
    assert set(os.listdir(tmp_path)) == {"p.zarr", "other.zarr"}


def test_a_store_with_the_new_session_alone_is_enough(run, colony, tmp_path):
    """Others that the model knows may be elsewhere."""
    alone = Store.create(str(tmp_path / "store"))
    alone.add(in_memory(Store.open(colony).recording(KEY)))
    moved = omnimouse_jax.open_run(run.folder, store=str(tmp_path / "store"))
    np.testing.assert_array_equal(moved.predict(KEY, "stimulus").responses, run.predict(KEY, "stimulus").responses)


@pytest.mark.parametrize("stride", [1, 7, 30, 45])
def test_rows_of_windows_are_their_times(stride):
    """Whatever the stretches: a window's first sample has its time, windows never go back beyond the last one of a stretch."""
    grid, rng = Grid(), np.random.default_rng(stride)
    starts = 1.7e9 + np.cumsum(rng.uniform(5, 30, 20))
    stretches = np.stack([starts, starts + rng.uniform(0.5, 5, 20)], axis=1)
    layout = resolve(get("stimulus"), grid, 64)
    timeline = Timeline("x", stretches, layout, stride / 30)
    windows = [timeline.windows[i] for i in range(len(timeline.windows))]
    rows = [timeline.row(i, 30) for i in range(len(windows))]
    n = int(timeline.first_rows(30)[-1])
    np.testing.assert_allclose(timeline.times(30, 0, n)[rows], [w.start for w in windows], atol=1e-6)
    assert rows == sorted(rows)
    ends = np.array([w.start for w in windows]) + grid.seconds
    stretch = np.searchsorted(stretches[:, 0], ends, side="right") - 1
    assert np.all(ends <= stretches[stretch, 1] + 1e-6)
    filled = np.zeros(n, bool)
    for row in rows:
        filled[row + 30 : row + 60] = True
    assert timeline.coverage(timeline.responses).predicted == filled.sum()


def test_importing_the_package_stays_light():
    code = "import omnimouse_jax, sys; assert not {'jax', 'numpy', 'tensorstore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="open_rum"):
        getattr(omnimouse_jax, "open_rum")  # noqa: B009
