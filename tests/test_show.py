"""`show`: a picture of a window, or one line that says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnimouse_jax import cli
from omnimouse_jax.recordings.store import Store

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_window_is_drawn(suffix: str, colony: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / f"window.{suffix}"
    store = Store.open(colony)
    start = f"{store.recording(store.keys[0]).responses.spans()[0, 0]:.2f}"
    assert not cli.main(["show", colony, "--start", start, "--out", str(out)])
    assert out.stat().st_size > 1000
    assert f"from {start} s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--start", "nan"], "--start nan: the recording lasts from 8117.91 to"),
        (["--start", "inf"], "--start inf: the recording lasts"),
        (["--start", "-1"], "windows of 2 s start from 8117.91 to"),
        (["--start", "1e6"], "--start 1e+06: the recording lasts"),
        (["--tier", "oracle"], "no trials of tier oracle - choose one of "),
        (["--session", "m9"], "session m9: not in the store"),
        (["--out", "window.tiff"], "suffix '.tiff' - give one of .png, .svg, .pdf"),
        (["--out", "window"], "suffix ''"),
        (["--out", "file/window.png"], "file/window.png: cannot be written"),
        (["--out", "folder.png"], "folder.png: cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    argv: list[str], message: str, colony: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("-")
    (tmp_path / "folder.png").mkdir()
    assert cli.main(["show", colony, *argv]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert len(told.strip().splitlines()) == 1
    assert message in told


def test_an_empty_store_has_no_window(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Store.create(tmp_path / "store")
    assert cli.main(["show", str(tmp_path / "store")]) == 2
    assert "no sessions - omnimouse-jax ingest or synthesize adds some" in capsys.readouterr().err
