"""One process of several, as tests start it: `python -m tests.process_run '{...}'`. Not a test itself.

Fields: coordinator, processes, process; `task` is "train" (a micro run), "sum" (steps of one collective each), "wait" (no jax: it
only meets and waits) or "cli" (the command line `argv`). At step `at` the process `victim` does `act` to itself: kill, stop (a hung
machine), term (a preemption notice), fail (a UserError) or crash (any other error). The windows that it read to train on go to
the file `read`.process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}


def act(told: dict, step: int) -> None:
    from omnimouse_jax.errors import UserError

    if step != told.get("at") or told["victim"] not in (told["process"], "all"):
        return
    print(json.dumps({"acted": told["act"], "time": time.time()}), flush=True)
    if told["act"] == "fail":
        raise UserError("the recording has teeth", way_out="call a dentist")
    if told["act"] == "crash":
        raise RuntimeError("a bug")
    os.kill(os.getpid(), SIGNALS[told["act"]])


def wait(told: dict) -> None:
    """Meets the others and makes steps that wait for nobody."""
    from omnimouse_jax.training.hub import Hub, listen
    from omnimouse_jax.training.peers import Limits, meet

    host, port = told["coordinator"].split(":")
    limits, same, hub = Limits(told.get("start_s", 20.0), told.get("silence_s", 20.0)), told.get("same", {}), None
    if told["process"] == 0:
        hub = Hub(listen(host, int(port)), told["processes"], limits, same, dict)
        hub.start()
    member, _ = meet([(host, int(port))], told["process"], told["processes"], limits, same, hub=hub)
    print(json.dumps({"met": [str(who) for who in member.all]}), flush=True)
    signalled = []
    signal.signal(signal.SIGTERM, lambda *_: signalled.append(1))
    try:
        for step in range(told["steps"]):
            time.sleep(0.02 * (1 + told["process"]))  # each at its own speed
            act(told, step)
            if member.agreed_stop(bool(signalled)):
                print(json.dumps({"stopped": step + 1}), flush=True)
                break
    except BaseException as error:
        member.fail(error, 2)
        raise
    member.goodbye()


def sums(told: dict) -> None:
    """Steps of one collective over all devices each."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from omnimouse_jax.training.processes import StopSignal, joined, say

    with joined(told["coordinator"], told["processes"], told["process"]):
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        ones = np.ones(jax.local_device_count(), np.float32)
        ones = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), ones)
        total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))
        say("all are here")
        with StopSignal() as stop:
            for step in range(told["steps"]):
                time.sleep(0.02)
                act(told, step)
                found = total(ones)
                if stop.agreed(step + 1):
                    print(json.dumps({"stopped": step + 1}), flush=True)
                    break
        print(json.dumps({"devices": float(found)}), flush=True)


def train(told: dict) -> None:
    from omnimouse_jax.tokens.pipeline import Cutter
    from omnimouse_jax.training.processes import joined
    from omnimouse_jax.training.stepper import Stepper
    from omnimouse_jax.training.train import train as train_run
    from tests.micro import micro

    start, call = Cutter.start, Stepper.__call__
    read: list[tuple[str, float]] = []

    def noted(self, window, neurons=None):
        if neurons is not None:  # of training, not of validation
            read.append((window.session, window.start))
        return start(self, window, neurons)

    def acting(self, state, number, loaded):
        act(told, number)
        return call(self, state, number, loaded)

    Cutter.start, Stepper.__call__ = noted, acting
    config = micro(told["store"], **told["settings"])
    with joined(told["coordinator"], told["processes"], told["process"]):
        try:
            train_run(config, told["workdir"])
        finally:
            if told.get("read"):
                with open(f"{told['read']}.{told['process']}", "w") as file:
                    json.dump(read, file)


def cli(told: dict) -> int:
    from omnimouse_jax.cli import main

    place = ["--coordinator", told["coordinator"], "--processes", str(told["processes"])]
    return main([*told["argv"], *place, "--process-id", str(told["process"])])


def main() -> int:
    from omnimouse_jax.errors import UserError

    told = json.loads(sys.argv[1])
    try:
        return {"train": train, "sum": sums, "wait": wait, "cli": cli}[told["task"]](told) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if hasattr(error, "status"):
            print(error, file=sys.stderr)
            return error.status
        raise


if __name__ == "__main__":
    sys.exit(main())
