"""What a run will need: bytes that can be counted by hand, bounds that hold, a verdict that turns where it must."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.flops import train_flops
from omnimouse_jax.training import doctor
from omnimouse_jax.training.chips import chip_named
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import init_state
from omnimouse_jax.training.stepper import Stepper
from omnimouse_jax.training.train import training_batches
from omnimouse_jax.verbs.doctor import render, shape_of, size_of
from tests.micro import micro

DEEP = {"model__n_layers": 6, "model__local_to_global": (2, 1)}


@pytest.fixture(scope="module")
def told():
    return doctor.examine(micro("", **DEEP), (4, 1, 2), 1e9, chip_named("h100"), (5000, 3, 2))


def test_state_is_what_arithmetic_says(told):
    memory = told["memory"]
    neurons, embedding = (
        5120,
        8,
    )  # padded rows, split over all eight devices; 64 rows of sessions and of animals on each
    assert memory["tables"] == 4 * (neurons * (embedding + 1) / 8 + 2 * 64 * embedding)
    counts = 4 * (neurons * 2 / 8 + 2 * 64)  # of steps: one per row of a table
    of_core = memory["optimizer"] - 2 * (memory["parameters"] + memory["tables"]) - counts
    assert 0 < of_core < 4 * 200, "and one per parameter of the core"
    touched, windows = 5120, 8  # all rows of the three sessions, on every device
    rows = 4 * (touched * (embedding + 1) + 2 * windows * embedding)
    assert memory["gradients"] == memory["parameters"] + rows
    assert memory["parameters"] < 4 * told["core"], "matrices are split over the tensor axis"
    assert 0 < memory["least"] <= memory["most"] < 1e9
    assert told["verdict"] == "fits"
    assert told["knobs"] == []


def test_the_verdict_turns_with_the_memory(told):
    most = told["memory"]["most"]
    again = doctor.examine(micro("", **DEEP), (4, 1, 2), 0.5 * most, None, (5000, 3, 2))
    assert again["verdict"] in ("tight", "does not fit")
    assert [knob["change"].split("=")[0] for knob in again["knobs"]] == [
        "--config.model.remat",
        "--config.model.remat",
        "--config.model.compute_dtype",
        "--config.train.accumulate",
    ]
    assert min(knob["most"] for knob in again["knobs"]) < most
    text = render(again)
    assert again["verdict"] in text
    assert "--config.model.remat=layer" in text
    assert render(told).splitlines()[-1].startswith("verdict   fits")


def test_counted_operations_are_the_models(told):
    """The compiler's count of the program without loops, against three forward passes of visible pairs."""
    config = micro("", **DEEP)
    shape = doctor.model_config(config.model)
    mesh = make_mesh(1, 1)
    plan = doctor.plan_of(shape, doctor.regimes_of(config.regimes, shape.grid), 16, 32)
    layout = doctor.heaviest(shape, plan)
    touched = doctor.abstract_touched(1024, 8, mesh)
    counted = doctor.work(shape, doctor.Capacity(1024, 64, 64), layout, 8, touched, mesh)
    assert 1.0 < counted["flops"] / (8 * train_flops(shape, layout)) < 2.0  # small layers: much beside matrix products
    seconds = doctor.step_seconds(counted, chip_named("H100"), "float32")
    assert seconds["peak"] < seconds["likely"]
    assert told["seconds_per_step"]["likely"] > 0


def test_memory_is_what_a_real_program_takes(colony):
    config = micro(colony, **DEEP)
    parts = prepare(config)
    layout = doctor.heaviest(
        parts.model, doctor.plan_of(parts.model, doctor.regimes_of(config.regimes, parts.model.grid), 16, 32)
    )
    touched = doctor.abstract_touched(1024, 8, parts.mesh)
    found = doctor.memory(parts.model, parts.capacity, layout, 8, touched, parts.mesh, platform="cpu")
    stepper = Stepper(parts, training_batches(parts))
    jobs = list(
        stepper.jobs(init_state(parts.model, parts.capacity, 0, parts.mesh), stepper.batches.load(0, slice(None)))
    )
    plans = [program.executable(*args).memory_analysis() for program, args in jobs]
    assert found.activations == pytest.approx(max(plan.temp_size_in_bytes for plan in plans), rel=0.2)
    assert found.gradients == pytest.approx(plans[0].output_size_in_bytes, rel=0.01)


def test_a_mesh_that_is_not_here(tmp_path):
    code = "import sys; from omnimouse_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["doctor", "--config", "configs/first_study.py", "--mesh", "16x2", "--chip", "tpu-v5e", "--json"]
    arguments += ["--config.data.batch_size=32", "--neurons", "3000"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, timeout=300, env=_plain()
    )
    told = json.loads(done.stdout)
    assert told["mesh"] == [16, 2, 1]
    assert told["verdict"] == "fits"


def _plain() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shape_of("8by4"), "DATAxFSDPxTENSOR"),
        (lambda: shape_of("0x4"), "DATAxFSDPxTENSOR"),
        (lambda: shape_of("00x4"), "DATAxFSDPxTENSOR"),
        (lambda: size_of("much"), "80GB"),
        (lambda: size_of("1.2.3GB"), "80GB"),
        (lambda: size_of("0GB"), "80GB"),
        (lambda: doctor.examine(micro("", data__batch_size=0), (4, 1, 2), None, None, (100, 1, 1)), "does not divide"),
        (lambda: chip_named("gpu"), "h100"),
        (lambda: doctor.examine(micro("", data__batch_size=6), (4, 1, 2), None, None, (100, 1, 1)), "does not divide"),
        (lambda: doctor.examine(micro("/nowhere"), (1, 1, 1), None, None, None), "/nowhere"),
    ],
)
def test_what_cannot_be_is_told(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_amounts_and_meshes_are_read():
    assert size_of("80GB") == size_of("80 g") == 80e9
    assert size_of("16GiB") == 16 * 2**30
    assert shape_of("2x4x3") == (2, 4, 3)
    assert (shape_of("8x4"), shape_of("3")) == ((8, 4, 1), (3, 1, 1))
