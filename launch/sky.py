"""Cells as managed jobs of SkyPilot: any GPU or TPU of any cloud it knows, spot machines with recovery.

Study and recordings are in buckets, which the machines mount. One task file per cell; `sky jobs launch` submits it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import yaml

from launch import causes
from launch.bucket import Bucket, pull, push_plan
from launch.cell import ENGINE, JOB
from launch.engine import JobState, Study, option
from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

MOUNT, STORE_MOUNT, PORT = "/bucket", "/recordings", 8476
WAITING = ("PENDING", "SUBMITTED", "STARTING", "RECOVERING", "DEPRECATED_SUBMITTED")
BUSY = ("RUNNING", "WINDING_DOWN", "CANCELLING")
CAUSES = {
    "CANCELLED": causes.STOPPED,
    "FAILED_NO_RESOURCE": causes.LOST,
    "FAILED_CONTROLLER": causes.LOST,
    "FAILED_PRECHECKS": causes.REFUSED,
    "FAILED_SETUP": causes.REFUSED,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the SkyPilot engine, for each cell."""

    bucket: str = option("", "where the study is for the machines: gs://BUCKET/PATH or s3://BUCKET/PATH (needed)")
    accelerators: str = option("", "e.g. H100:1, A100-80GB:8, tpu-v5litepod-8; empty: CPUs only")
    infra: str = option("", "where: gcp, aws/us-east-1, k8s/CONTEXT, ...; empty: the cheapest that has it")
    cpus: str = option("", "CPU cores, e.g. 8+")
    memory: str = option("", "GB of memory, e.g. 64+")
    disk: int = option(100, "GB of disk")
    nodes: int = option(1, "machines that train one cell together")
    spot: bool = option(True, "spot machines; a preempted cell goes on elsewhere")
    recovery: str = option("EAGER_NEXT_REGION", "SkyPilot's recovery strategy, or FAILOVER")
    restarts: int = option(3, "restarts after a failure of a whole worker")
    runtime: str = option("", "TPU software version, e.g. v2-alpha-tpuv5-lite")
    image: str = option("", "image of the machine, e.g. docker:ghcr.io/lab/omnimouse")
    workdir: str = option(".", "folder that is copied to the machine: a checkout of the project")
    setup: str = option("", "shell commands that install it (default: pip, with the extras for the accelerators)")


class Sky:
    """The engine."""

    name: ClassVar[str] = "sky"
    options_type: ClassVar[type] = Options

    def __init__(self, study: Study, options: Options):
        self.study, self.options = study, options
        self.bucket = Bucket.of(options.bucket, "engine sky: option bucket")
        self.store = Bucket.of(study.store or str(study.plan.config["data"]["store"]), "--store")

    def preview(self, run_ids: Sequence[str]) -> str:
        lines = [f"# {self.study.folder}/plan.json is copied to {self.bucket.url}/plan.json"]
        for run_id in run_ids:
            lines += [f"# {shlex.join(self._launch(run_id))}", _text(self.task(run_id))]
        return "\n".join(lines)

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        _require()
        push_plan(self.study, self.bucket.url)
        for run_id in run_ids:
            write_atomically(self.study.job_folder(run_id) / "sky.yaml", _text(self.task(run_id)))
            _run(self._launch(run_id))
            yield run_id, self.job_name(run_id)

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        pull(self.study, self.bucket.url, list(jobs))
        _require()
        told = _run(["sky", "jobs", "queue", "--all", "--output", "json"])
        try:
            rows = json.loads(told[told.index("[") :])
        except ValueError:
            raise UserError(
                "sky jobs queue: answered without JSON", way_out="SkyPilot 0.14 or newer is needed"
            ) from None
        newest: dict[str, Mapping[str, Any]] = {}
        for row in sorted(rows, key=lambda row: row.get("job_id") or 0):
            newest[str(row.get("job_name"))] = row
        return {run_id: _state(newest.get(job)) for run_id, job in jobs.items()}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        _require()
        for job in jobs.values():
            _run(["sky", "jobs", "cancel", "--yes", "--graceful", "--name", job])

    def job_name(self, run_id: str) -> str:
        return short_name(self.bucket.url, self.study.plan.study, run_id)

    def task(self, run_id: str) -> dict[str, Any]:
        """The task file of a cell."""
        options = self.options
        resources: dict[str, Any] = {
            "infra": options.infra,
            "accelerators": options.accelerators,
            "cpus": options.cpus,
            "memory": options.memory,
            "image_id": options.image,
            "disk_size": options.disk,
            "use_spot": options.spot,
            "job_recovery": {
                "strategy": options.recovery,
                "max_restarts_on_errors": options.restarts,
                "recover_on_exit_codes": [causes.SAVED, causes.PEER_LOST],
            },
        }
        if options.runtime:
            resources["accelerator_args"] = {"runtime_version": options.runtime, "tpu_vm": True}
        return {
            "name": self.job_name(run_id),
            "resources": {name: value for name, value in resources.items() if value != ""},
            "num_nodes": options.nodes,
            "workdir": options.workdir,
            "envs": {ENGINE: "sky", JOB: self.job_name(run_id)},
            "file_mounts": {
                MOUNT: {"source": self.bucket.root, "mode": "MOUNT_CACHED"},
                STORE_MOUNT: {"source": self.store.root, "mode": "MOUNT"},
            },
            "setup": options.setup or f"python3 -m pip install -e '.[{self._extras()}]'",
            "run": self._run_script(run_id),
        }

    def _extras(self) -> str:
        kind = self.options.accelerators.lower()
        return "tpu,cloud" if kind.startswith("tpu") else "cuda,cloud" if kind else "cloud"

    def _run_script(self, run_id: str) -> str:
        there = dataclasses.replace(self.study, store=self.store.mounted(STORE_MOUNT))
        lines = [shlex.join(there.command(run_id, folder=self.bucket.mounted(MOUNT)))]
        if self.options.nodes > 1:
            lines = [
                f'export OMNIMOUSE_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"',
                "export OMNIMOUSE_PROCESSES=$SKYPILOT_NUM_NODES OMNIMOUSE_PROCESS_ID=$SKYPILOT_NODE_RANK",
                *lines,
            ]
        return "\n".join(lines)

    def _launch(self, run_id: str) -> list[str]:
        file = str(self.study.job_folder(run_id) / "sky.yaml")
        return ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", self.job_name(run_id), file]


def short_name(bucket: str, study: str, run_id: str, most: int = 40) -> str:
    """A name of lower-case letters, digits and dashes that begins with a letter and is a cell's alone.

    bucket: the study's URL there; others may have studies and cells of the same names.
    """
    digest = hashlib.sha256(f"{bucket} {study}/{run_id}".encode()).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{study}-{run_id}".lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"s-{slug}"
    return f"{slug[: most - 9].rstrip('-')}-{digest}"


def _state(row: Mapping[str, Any] | None) -> JobState:
    if row is None:
        return JobState("gone")
    word = str(row.get("status", "")).rpartition(".")[2].upper()
    reason = causes.last_line(str(row.get("failure_reason") or row.get("details") or ""))
    if word in WAITING:
        return JobState("queued", told=word.lower())
    if word in BUSY:
        return JobState("running")
    return JobState("gone", CAUSES.get(word, ""), f"SkyPilot says {word}{f': {reason}' if reason else ''}")


def _text(task: Mapping[str, Any]) -> str:
    return yaml.safe_dump(task, sort_keys=False, width=10_000)


def _require() -> None:
    if shutil.which("sky") is None:
        raise UserError(
            "SkyPilot is not installed (no `sky` here)",
            way_out="pip install 'omnimouse-jax[sky]' and `sky check`, or take the files from --dry-run elsewhere",
        )


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = causes.last_line(done.stderr) or causes.last_line(done.stdout)
        raise UserError(f"{shlex.join(command[:3])}: {told}", way_out="`sky check` tells which clouds can be used")
    return done.stdout
