"""The verb that tells what a run will need on devices that are not here: doctor."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import time
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import CONFIG_HELP, AddVerb, config_argument, load_config


def add(verb: AddVerb) -> None:
    made = verb(doctor, "Tell what a run will need on a mesh of devices, without running it.", DOCTOR + CONFIG_HELP)
    config_argument(made)
    made.add_argument(
        "--mesh", default="", metavar="DATAxFSDPxTENSOR", help="devices, e.g. 8x4 or 2x4x2 (default: the config's)"
    )
    made.add_argument("--device-memory", default="", help="of one device, e.g. 80GB (default: the chip's)")
    made.add_argument(
        "--chip", default="", help="estimate the time of a step on it: a100-80gb, h100, h200, tpu-v5p, ..."
    )
    made.add_argument("--store", help="count tables for the sessions of this store")
    made.add_argument("--neurons", type=int, default=0, help="neurons over all sessions, where there is no store yet")
    made.add_argument("--sessions", type=int, default=1, help="sessions, where there is no store yet")
    made.add_argument("--json", action="store_true", help="print JSON instead of text")


DOCTOR = """
Compiles the heaviest program of the config for fake devices in the shape of the mesh (a minute or two for the large sizes) and
prints memory, operations and bytes of one device, how many programs there are to compile, how long a step may take, what the
loader has to deliver, and whether it fits; if not, what each knob would bring.

  omnimouse-jax doctor --config configs/released.py --mesh 8x4 --chip h100 --neurons 2300000 --sessions 323
"""
SHORT_S = 2e-3  # a step shorter than this waits for its host
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def doctor(arguments: argparse.Namespace) -> int:
    device_memory = size_of(arguments.device_memory) if arguments.device_memory else None
    config = load_config(arguments)
    of_config = (max(1, config.mesh.data), config.mesh.fsdp, config.mesh.tensor)
    axes = shape_of(arguments.mesh) if arguments.mesh else of_config
    fake_devices(math.prod(axes))

    from omnimouse_jax.training import chips, doctor

    chip = chips.chip_named(arguments.chip) if arguments.chip else None
    if device_memory is None and chip is not None:
        device_memory = chip.memory
    counts = None
    if arguments.neurons < 0 or arguments.sessions < 1:
        raise UserError("doctor: --neurons and --sessions must be positive", way_out="leave them out, or count them")
    if config.data.store and arguments.neurons:
        raise UserError("doctor: --neurons and --store both say how many there are", way_out="pass one of them")
    if not config.data.store:
        counts = (arguments.neurons, arguments.sessions, arguments.sessions)
    start = time.monotonic()
    told = doctor.examine(config, axes, device_memory, chip, counts)
    told["seconds"] = time.monotonic() - start
    print(json.dumps(told, indent=1) if arguments.json else render(told))
    return 1 if told["verdict"] == "does not fit" else 0


def shape_of(text: str) -> tuple[int, int, int]:
    """8x4 -> (8, 4, 1): data, fsdp, tensor."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?(?:x(\d+))?", text.lower())
    axes = [int(number or 1) for number in found.groups()] if found else [0]
    if min(axes) < 1:
        raise UserError(f"doctor: --mesh {text!r}", way_out="write DATAxFSDPxTENSOR, e.g. 8x4 for 32 devices")
    return axes[0], axes[1], axes[2]


def size_of(text: str) -> float:
    """80GB -> 80e9, 80GiB -> 80 * 2**30."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]i?)?b?", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise UserError(f"doctor: --device-memory {text!r} is not an amount of memory", way_out="write e.g. 80GB")
    return float(found[1]) * UNITS[(found[2] or "").upper()]


def fake_devices(n: int) -> None:
    """Lets jax think that this machine has so many CPU devices, if it has not yet looked for devices."""
    import jax

    with contextlib.suppress(RuntimeError):  # it has: then those must do
        jax.config.update("jax_num_cpu_devices", n)
        jax.config.update("jax_platforms", "cpu")


def render(told: dict[str, Any]) -> str:
    """What `doctor.examine` found, for people."""
    memory, work, programs, loader = (told[part] for part in ("memory", "work", "programs", "loader"))
    lines = [
        f"model     core {told['core']:,} parameters, tables {told['tables']:,}; {told['compute_dtype']}, remat {told['remat']}",
        f"mesh      {' x '.join(map(str, told['mesh']))} devices (data x fsdp x tensor); {told['batch_size']} windows a step",
        f"programs  {programs['regimes']} regimes -> {programs['gradients']} gradient programs "
        f"(+{100 * programs['padding_flops']:.1f} % FLOPs), {programs['validation']} for validation, 1 update",
        "memory of one device (the heaviest program)",
    ]
    names = ("parameters", "tables", "optimizer", "gradients", "batch", "activations")
    lines += [f"  {name:<12}{amount(memory[name]):>9}" for name in names]
    lines.append(
        f"  {'in all':<12}{amount(memory['most']):>9}   the compiler's plan for a CPU; at least {amount(memory['least'])}"
    )
    lines += [
        f"work      {work['flops'] / 1e9:,.1f} GFLOP, {amount(work['bytes'])} read and written: one device, the heaviest gradient",
        f"          a mean step has {100 * work['mean_share']:.0f} % of that",
    ]
    if "seconds_per_step" in told:
        likely, peak, memory_bound = (
            told["seconds_per_step"][name] for name in ("likely", "peak", "all_through_memory")
        )
        share = f"{100 * told['assumed_efficiency']:.0f} % of its peak"
        lines += [
            f"time      {milliseconds(likely)} a mean step on {told['chip']} at {share}",
            f"          ({milliseconds(peak)} at its peak, {milliseconds(memory_bound)} if every intermediate went through memory)",
            "          traffic between devices is not in it",
        ]
        if likely < SHORT_S:
            lines.append("          a step so short is decided by launches and by the host, not by the chip")
        else:
            lines.append(
                f"loader    {loader['windows_per_s']:,.0f} windows/s, {amount(loader['bytes_per_s'])}/s of batches over all hosts"
            )
    else:
        lines.append(f"loader    {amount(loader['batch_bytes'])} a batch; --chip tells how many a second")
    lines += [f"note      {note}" for note in told["notes"]]
    if told["device_memory"] is None:
        return "\n".join([*lines, "verdict   none: pass --device-memory or --chip"])
    lines.append(f"verdict   {told['verdict']}: {told['reason']}")
    lines += [
        f"  {knob['change']:<42}{amount(knob['most']):>9}  {knob['verdict']}"
        for knob in sorted(told["knobs"], key=lambda knob: knob["most"])
    ]
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def amount(n_bytes: float) -> str:
    """1.25e9 -> 1.25 GB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
