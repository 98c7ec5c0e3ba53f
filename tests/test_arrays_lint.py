"""The linter names every slip at once and agrees with ingest; the template leads to a session that both accept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest import arrays, ingest
from omnimouse_jax.recordings.ingest.arrays.lint import lint
from omnimouse_jax.recordings.ingest.arrays.marks import FILL_IN
from omnimouse_jax.recordings.ingest.arrays.template import write_template
from omnimouse_jax.recordings.store import Store
from tests.test_ingest_arrays import BROKEN, _set, minimal, write

Change = Callable[[Path, dict[str, Any]], object]


def good(folder: Path) -> dict[str, Any]:
    """Half an hour in which nothing is wrong: clips that are never in two tiers, running and pupil."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([1])
    np.save(folder / "responses.npy", rng.gamma(1, 1, (18000, 5)).astype(np.float32))
    np.save(folder / "running.npy", rng.normal(size=36000))
    np.save(folder / "eye.npy", np.abs(rng.normal(5, 1, size=(36000, 3))))
    rows = ["onset,offset,file,clip_rate,tier"]
    for k in range(5):
        np.save(folder / f"clip{k}.npy", rng.integers(0, 256, (20, 4, 6)).astype(np.uint8))
    for k in range(150):
        clip = k % 5
        rows.append(f"{10 * k},{10 * k + 10},clip{clip}.npy,2,{'test' if clip == 4 else 'train'}")
    (folder / "stimulus.csv").write_text("\n".join(rows) + "\n")
    return {
        "key": folder.name,
        "animal": "anna",
        "responses": {"file": "responses.npy", "rate": 10.0},
        "neurons": {"depth": [1, 2, 3, 4, 5]},
        "behavior": {
            "wheel": {"file": "running.npy", "rate": 20, "channels": ["running"]},
            "eye": {"file": "eye.npy", "rate": 20, "channels": ["pupil_x", "pupil_y", "pupil_size"]},
        },
        "stimulus": {"table": "stimulus.csv", "size": [4, 6]},
    }


def test_a_good_session_is_fine_and_summed_up(tmp_path: Path) -> None:
    report = lint(write(tmp_path / "anna-1", good(tmp_path / "anna-1")))
    assert report.n_errors == report.n_warnings == 0
    assert report.lines() == [
        "session anna-1",
        "  fine     responses: 18000 samples of 5 neurons",
        "  fine     behavior wheel: 36000 samples of 1 channels",
        "  fine     behavior eye: 36000 samples of 3 channels",
        "  fine     neurons depth: 5 values",
        "  fine     trials: 150, blanks included",
        "  fine     stimulus: 100 frames, 3001 events",
        "  neurons   5 at 10 Hz, 30.0 min in 1 stretch",
        "  tier      test: 30 trials, 5.0 min, 150 windows of 2 s",
        "  tier      train: 120 trials, 20.0 min, 600 windows of 2 s",
        "  behavior  wheel: running at 20 Hz",
        "  behavior  eye: pupil_x, pupil_y, pupil_size at 20 Hz",
        "  screen    4 x 6 pixels, 5 different stimuli, 100 frames",
        "1 session: 0 errors, 0 warnings, ready to ingest",
    ]


def _array(name: str, where: Any, value: Any) -> Change:
    def change(folder: Path, fields: dict[str, Any]) -> None:
        values = np.load(folder / name)
        values[where] = value
        np.save(folder / name, values)

    return change


def _csv(old: str, new: str, count: int = 1) -> Change:
    def change(folder: Path, fields: dict[str, Any]) -> None:
        path = folder / "stimulus.csv"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, count))

    return change


def _saved(name: str, values: Any) -> Change:
    return lambda folder, fields: np.save(folder / name, values)


def _milliseconds(folder: Path, fields: dict[str, Any]) -> None:
    rows = (folder / "stimulus.csv").read_text().splitlines()
    body = [",".join([f"{float(v) * 1000:g}" for v in r.split(",")[:2]] + r.split(",")[2:]) for r in rows[1:]]
    (folder / "stimulus.csv").write_text("\n".join([rows[0], *body]))


def _frames(low: float, high: float) -> Change:
    def change(folder: Path, fields: dict[str, Any]) -> None:
        np.save(folder / "frames.npy", np.random.default_rng([2]).uniform(low, high, (300, 4, 6)))
        fields["stimulus"] = {"frames": "frames.npy", "times": (np.arange(300) / 2).tolist()}

    return change


ERRORS: dict[str, Change] = {
    r"error    description: unknown field behaviour - did you mean behavior\?": _set("behaviour", {}),
    r"error    responses: unknown field rat - did you mean rate\?": _set("responses", "rat", 3),
    r"error    behavior wheel: unknown field channel - did you mean channels\?": _set(
        "behavior", "wheel", "channel", "running"
    ),
    r"error    stimulus: unknown field sizes - did you mean size\?": _set("stimulus", "sizes", 3),
    r"error    tiers: unknown field hold_out - did you mean hold_out_last\?": _set("tiers", {"hold_out": 0.2}),
    r"error    stimulus table: unknown field ofset - did you mean offset\?": _csv("offset", "ofset"),
    r"error    stimulus table offset: no column offset - add offset": _csv("offset", "ofset"),
    r"error    animal: is missing - add animal": lambda f, d: d.pop("animal"),
    r"error    animal: still FILL_IN - fill it in": _set("animal", FILL_IN),
    r"error    responses rate: is 'fast' - give a value of type float": _set("responses", "rate", "fast"),
    r"error    responses: rate 0 - give samples per second": _set("responses", "rate", 0),
    r"error    responses: missing or not a set of fields": lambda f, d: d.pop("responses"),
    r"error    responses: file .*nothing.npy: missing": _set("responses", "file", "nothing.npy"),
    r"error    responses: 2 NaN \(0.0022 %\) - pass --nan-responses mask": _array("responses.npy", ([3, 4], 1), np.nan),
    r"error    responses: 1 infinite samples - write NaN": _array("responses.npy", (3, 1), np.inf),
    r"error    responses: file responses.npy is cut into 4 trials": _saved("responses.npy", np.zeros((4, 150, 5))),
    r"error    behavior: not a set of streams": _set("behavior", [1]),
    r"error    behavior eye: channels missing - name every column": _set("behavior", "eye", "channels", None),
    r"error    behavior eye: 3 columns but 2 channel names": _set("behavior", "eye", "channels", ["a", "b"]),
    r"error    behavior wheel: file .*wheel.npy: missing": _set("behavior", "wheel", "file", "wheel.npy"),
    r"error    neurons: not a set of columns": _set("neurons", [1]),
    r"error    neurons depth: 2 values for 5 neurons": _set("neurons", "depth", [1, 2]),
    r"error    trials: given beside a stimulus table": _set("trials", {"start": [1], "end": [2]}),
    r"error    stimulus table: file .*no.csv is missing": _set("stimulus", "table", "no.csv"),
    r"error    stimulus table onset: onset of row 0 is 'late'": _csv("\n0,10,", "\nlate,10,"),
    r"error    stimulus table valid: valid of row 0 is 'train'": _csv(",tier\n", ",valid\n"),
    r"error    stimulus table: row 0 is from 20 s to 10 s - give offset > onset": _csv("\n0,10,", "\n20,10,"),
    r"error    stimulus table: row 1 begins before row 0 has ended - sort the rows": _csv("\n0,10,", "\n0,12,"),
    r"error    stimulus table: times from 0 to 1.5e\+06, but 1800 s were recorded: milliseconds\?": _milliseconds,
    r"error    stimulus table file: file .*clip9.npy: missing": _csv("clip0", "clip9"),
    r"error    stimulus table file: clip0.png is no .npy file": _csv("clip0.npy", "clip0.png"),
    r"error    stimulus table file: clip0.npy has shape \(3,\)": _saved("clip0.npy", np.zeros(3)),
    r"error    stimulus times: not increasing at entry 2": _set(
        "stimulus", {"frames": "clip0.npy", "times": [1, 2, 2]}
    ),
    r"error    stimulus frames: file .*no.npy: missing": _set("stimulus", {"frames": "no.npy", "times": [1]}),
    r"error    session: draw of row 0 is 'dots'|error    session: .*draw of row 0": _csv(
        "onset,offset,file,clip_rate,tier", "onset,offset,draw,clip_rate,tier"
    ),
    r"error    session: .*check the rate, the unit of the times": _set("responses", "rate", 60.0),
}
WARNINGS: dict[str, Change] = {
    r"stimulus table file clip0.npy: no frames": _saved("clip0.npy", np.zeros((0, 4, 6))),
    r"responses: 3 samples of 5 neurons: more neurons than samples - is the array \(neurons, time\)\?": _saved(
        "responses.npy", np.ones((3, 5))
    ),
    r"responses: 2 of 5 neurons are 0 throughout \(first: 1, 3\)": _array("responses.npy", np.s_[:, [1, 3]], 0),
    r"responses: 1 of 5 neurons never change \(first: 2\)": _array("responses.npy", np.s_[:, 2], 7),
    r"responses: values up to 3e\+05 - raw fluorescence\?": _array("responses.npy", (5, 1), 3e5),
    r"responses: 20 % of the values are negative - fine for dF/F": _array("responses.npy", np.s_[:, 1], -1),
    r"channel pupil_X is no common name - did you mean pupil_x\?": _set(
        "behavior", "eye", "channels", ["pupil_X", "pupil_y", "pupil_size"]
    ),
    r"channel runing is no common name - did you mean running\?": _set("behavior", "wheel", "channels", ["runing"]),
    r"channel pupil_size is missing in 50 % of the samples": _array("eye.npy", np.s_[::2, 2], np.nan),
    r"channel pupil_size is missing throughout - leave it out": _array("eye.npy", np.s_[:, 2], np.nan),
    r"channel running is 0 throughout": _saved("running.npy", np.zeros(36000)),
    r"channel pupil_size goes down to -1 - give a size": _array("eye.npy", (5, 2), -1),
    r"channel pupil_x stays within 0..1": _array("eye.npy", np.s_[:, 0], np.linspace(0, 1, 36000)),
    r"channel running ranges from -1e\+09 .* a mark for missing samples": _array("running.npy", 7, -1e9),
    r"behavior wheel: 36000 samples at 10 Hz last 3600.0 s, the responses 1800.0 s .*\(20 Hz would": _set(
        "behavior", "wheel", "rate", 10
    ),
    r"behavior wheel: 5000..6800 s, responses 0..1800 s - check the starts": _set("behavior", "wheel", "start", 5000),
    r"trials: 10.0 s of trials \(1 of 150 mostly\) lie outside the responses": _saved(
        "responses.npy", np.random.default_rng([3]).gamma(1, 1, (14900, 5))
    ),
    r"responses: they last until 6000 s, the last trial ends at 1500 s - is the rate right": _set(
        "responses", "rate", 3.0
    ),
    r"tiers: all trials are train - give a column tier": _csv("test", "train", -1),
    r"tiers: no train trials": _csv("train", "test", -1),
    r"tiers: 5.0 min of train - little": _csv(",train", ",validation", 90),
    r"tiers: 2 of 5 stimuli are shown in more than one tier": _csv("train", "validation", 2),
    r"tiers: hard has no window of 2 s": _csv(
        "\n0,10,clip0.npy,2,train", "\n0,1,clip0.npy,2,train\n1,2,clip3.npy,2,hard\n2,10,clip0.npy,2,train"
    ),
    r"stimulus table file clip0.npy: grey levels of 0..1 - .*multiply by 255": _saved(
        "clip0.npy", np.random.default_rng([4]).uniform(0, 1, (20, 4, 6))
    ),
    r"stimulus frames: grey levels of 0..1": _frames(0, 1),
    r"stimulus frames: grey levels of -\d+.*\.\.\d+.* - give 0 \(black\)": _frames(-3, 3),
    r"stimulus: none - without frames": lambda f, d: d.pop("stimulus"),
}


@pytest.mark.parametrize("told", ERRORS)
def test_errors_are_named_and_ingest_refuses_too(told: str, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    fields = good(folder)
    ERRORS[told](folder, fields)
    report = lint(write(folder, fields))
    assert report.n_errors
    lines = "\n".join(report.lines())
    assert _matches(told, report.lines()), lines
    assert "ready to ingest" not in lines
    assert all(f.way_out for f in report.sessions[0].findings if f.level == "error")
    if FILL_IN not in json.dumps(fields):
        with pytest.raises(UserError):
            arrays.read_session(folder)


@pytest.mark.parametrize("told", WARNINGS)
def test_slips_are_warned_of(told: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    fields = good(folder)
    WARNINGS[told](folder, fields)
    report = lint(write(folder, fields))
    assert _matches(f"warning  .*{told}", report.lines()), "\n".join(report.lines())


def _matches(pattern: str, lines: list[str]) -> bool:
    return any(re.search(pattern, line) for line in lines)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    fields = good(folder)
    for change in (
        _set("responses", "rate", FILL_IN),
        _set("behaviour", {}),
        _set("behavior", "wheel", "file", "wheel.npy"),
        _set("behavior", "eye", "channels", ["pupil_X", "y"]),
        _set("neurons", "depth", "depth.npy"),
        _array("responses.npy", (0, 0), np.nan),
        _csv("clip0.npy", "clip7.npy"),
        _csv("clip1.npy", "clip8.npy"),
        _csv("\n20,30,", "\n20,soon,"),
    ):
        change(folder, fields)
    report = lint(write(folder, fields))
    assert sorted((f.field, f.what.partition(" ")[0]) for f in report.sessions[0].findings if f.level == "error") == [
        ("behavior eye", "3"),
        ("behavior wheel", "file"),
        ("description", "unknown"),
        ("neurons depth", "file"),
        ("responses", "1"),
        ("responses rate", "still"),
        ("stimulus table file", "file"),
        ("stimulus table file", "file"),
        ("stimulus table offset", "offset"),
    ]
    assert report.lines()[-1] == f"1 session: 9 errors, {report.n_warnings} warnings"


def test_swapped_axes_are_not_taken_for_milliseconds(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    fields = good(folder)
    np.save(folder / "responses.npy", np.load(folder / "responses.npy").T)
    report = lint(write(folder, fields | {"neurons": {}}))
    told = [(f.level, f.field) for f in report.sessions[0].findings]
    assert told == [("warning", "responses"), ("error", "session")]
    assert "the order of the axes (time, neurons)" in report.lines()[1]


def test_a_folder_of_sessions(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, good(tmp_path / name) | {"key": "same"})
    (tmp_path / "three").mkdir()
    np.save(tmp_path / "three" / "responses.npy", np.zeros((3, 3)))
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "recording.json").write_text("{ no json")
    report = lint(tmp_path)
    assert [s.name for s in report.sessions] == ["four", "same", "same", "three"]
    assert _matches(r"error    recording.json: .*cannot be read", report.lines())
    assert _matches(r"error    key: same is also the key of .*one - give each session its own key", report.lines())
    assert _matches(r"warning  recording.yml: none - omnimouse-jax ingest arrays .*three --template", report.lines())
    with pytest.raises(UserError, match=r"no recording\.json"):
        lint(tmp_path / "three")


def test_what_ingest_takes_has_no_errors(tmp_path: Path) -> None:
    folder = tmp_path / "anna-1"
    assert lint(write(folder, minimal(folder))).n_errors == 0


@pytest.mark.parametrize("message", BROKEN)
def test_what_ingest_refuses_has_errors(message: str, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    fields = minimal(folder)
    BROKEN[message](folder, fields)
    report = lint(write(folder, fields))
    assert report.n_errors
    assert all("\n" not in line for line in report.lines())


def test_from_template_to_store(tmp_path: Path) -> None:
    folder = tmp_path / "anna-2"
    fields = good(folder)
    np.save(folder / "responses_time.npy", 0.5 + np.arange(18000) / 10)
    np.save(folder / "depth.npy", np.arange(5))
    np.save(folder / "notes.npy", np.zeros((2, 2, 2, 2)))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    path = write_template(folder)
    assert path == folder / "recording.yml"
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p != path} == before
    written = yaml.safe_load(path.read_text())
    assert written["responses"] == {"file": "responses.npy", "rate": 10.0, "start": 0.5}
    assert written["neurons"] == {"depth": "depth.npy"}
    assert written["behavior"]["eye"]["channels"] == ["pupil_x", "pupil_y", "pupil_size"]
    assert written["behavior"]["running"]["channels"] == ["running"]
    assert written["stimulus"] == {"table": "stimulus.csv", "size": [36, 64]}
    assert "notes.npy 2 x 2 x 2 x 2 float64" in path.read_text()
    report = lint(folder)
    assert [f.field for f in report.sessions[0].findings if f.level == "error"] == [
        "animal", "behavior eye rate", "behavior running rate",
    ]  # fmt: skip
    path.write_text(path.read_text().replace(f"rate: {FILL_IN}", "rate: 20").replace(FILL_IN, fields["animal"]))
    assert lint(folder).n_errors == 0
    ingest("arrays", folder, tmp_path / "store", say=lambda line: None)
    assert Store.open(tmp_path / "store").summary("anna-2")["channels"] == [
        "pupil_x", "pupil_y", "pupil_size", "running",
    ]  # fmt: skip
    with pytest.raises(UserError, match="already there"):
        write_template(folder)


def test_templates_for_other_folders(tmp_path: Path) -> None:
    empty = write_template(tmp_path / "new" / "session")
    written = yaml.safe_load(empty.read_text())
    assert set(written) == {"key", "animal", "responses", "behavior", "stimulus", "tiers"}
    marks = [f.field for f in lint(empty.parent).sessions[0].findings if f.what == f"still {FILL_IN}"]
    assert marks == ["animal", "responses rate", "behavior eye rate", "behavior wheel rate", "stimulus screen_deg"]
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng([5])
    np.savez(folder / "all.npz", dff=rng.normal(size=(40, 900)), movie=np.zeros((50, 4, 6), np.uint8),
             movie_times=np.arange(50) / 10, pupil=rng.normal(size=(900, 5)))  # fmt: skip
    np.save(folder / "cut.npy", rng.normal(size=(3, 4, 5)))
    (folder / "broken.npy").write_bytes(b"no")
    (folder / "trials.csv").write_text("start,end,tier\n0,5,train\n")
    text = write_template(folder).read_text()
    written = yaml.safe_load(text)
    assert written["responses"]["file"] == "all.npz:dff"
    assert "looks like (neurons, time)" in text
    assert written["stimulus"] == {"frames": "all.npz:movie", "times": "all.npz:movie_times"}
    assert written["trials"] == "trials.csv"
    assert written["behavior"]["pupil"]["channels"] == [FILL_IN] * 5
    assert "broken.npy (cannot be read)" in text
    with pytest.raises(UserError, match=r"holds sessions \(session\), which a description here would hide"):
        write_template(tmp_path / "new")
    with pytest.raises(UserError, match="cannot be made"):
        write_template(folder / "trials.csv" / "inside")
    trials = tmp_path / "trials"
    trials.mkdir()
    np.save(trials / "responses.npy", rng.normal(size=(8, 20, 30)))
    assert yaml.safe_load(write_template(trials).read_text())["responses"]["segments"] == {"start": FILL_IN}
    with pytest.raises(UserError, match="a file"):
        write_template(trials / "responses.npy")


def test_missing_responses_are_judged_as_ingest_will_take_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "anna-1"
    fields = good(folder)
    _array("responses.npy", ([3, 4], 1), np.nan)(folder, fields)
    write(folder, fields)
    assert lint(folder).n_errors == 1
    report = lint(folder, "mask")
    assert report.n_errors == report.n_warnings == 0
    assert _matches(r"fine     responses: 2 NaN .* taken as not recorded", report.lines())
    assert main(["ingest", "arrays", str(folder), "--check"]) == 1
    assert main(["ingest", "arrays", str(folder), "--check", "--nan-responses", "mask"]) == 0
    _array("responses.npy", np.s_[:9000], np.nan)(folder, fields)
    assert lint(folder, "mask").n_warnings >= 1
    assert main(["ingest", "arrays", str(folder), "--check", "--template"]) == 2
    assert "--template and --check - write the template" in capsys.readouterr().err
