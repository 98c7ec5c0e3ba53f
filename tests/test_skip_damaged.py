"""A damaged chunk stops a run with its name, or costs one row that is counted; every other row stays as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.recordings.kvstore import Damaged
from omnimouse_jax.tokens.pipeline import TrainingBatches
from omnimouse_jax.training.train import train
from tests.micro import micro
from tests.test_mixture import batches_of


@pytest.fixture
def hurt(colony: str, tmp_path: Path) -> str:
    """A copy of the colony in which one byte of one mouse's responses is flipped."""
    store = shutil.copytree(colony, tmp_path / "hurt")
    session = sorted((store / "sessions").iterdir())[0]
    shard = next(p for p in sorted((session / "responses" / "c").rglob("*")) if p.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    return str(store)


def skipping(store: str, skip: bool) -> TrainingBatches:
    return dataclasses.replace(batches_of(store, "duration"), skip_damaged=skip)


def test_a_damaged_window_is_a_masked_row_and_the_others_are_untouched(colony: str, hurt: str) -> None:
    whole, some = batches_of(colony, "duration"), skipping(hurt, skip=True)
    lost = 0
    for step in range(30):
        a, b = whole[step], some[step]
        for row in range(whole.batch_size):
            if b.row_mask[row]:
                assert all(np.array_equal(x[row], y[row]) for x, y in zip(a, b, strict=True))
                continue
            lost += 1
            assert not b.neuron_mask[row].any()
            assert not b.response_mask[row].any()
            assert not b.behavior_mask[row].any()
            assert not b.video_mask[row]
    assert 0 < lost < 60


def test_by_default_it_stops_and_names_session_array_and_rows(hurt: str) -> None:
    batches = skipping(hurt, skip=False)
    with pytest.raises(Damaged, match=r"session m001-1: .*responses.* rows \d+ to \d+") as error:
        list(map(batches.__getitem__, range(30)))
    assert (error.value.session, error.value.array) == ("m001-1", "responses")


def test_a_run_skips_and_counts_by_config(hurt: str, tmp_path: Path) -> None:
    config = micro(hurt, train__steps=12, data__damaged="skip", train__validation_windows=0)
    run = train(config, tmp_path / "run")
    assert run["windows_skipped"] > 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["windows_skipped"] == run["windows_skipped"]
    assert np.isfinite(last["loss"])
    with pytest.raises(Damaged):
        train(micro(hurt, train__steps=12, train__validation_windows=0), tmp_path / "stopped")
