"""Cells as JobSets of a Kubernetes cluster: TPU and GPU node pools of GKE, restarted where a machine is taken away.

Study and recordings are in Google Cloud buckets, mounted by the GCS FUSE driver. One manifest per cell, for `kubectl apply`.
"""

from __future__ import annotations

import dataclasses
import json
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
from launch.sky import MOUNT, PORT, STORE_MOUNT, short_name
from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

STUDY_LABEL = "omnimouse-jax/study"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the GKE engine, for each cell."""

    bucket: str = option("", "where the study is for the machines: gs://BUCKET/PATH (needed)")
    image: str = option("", "container image with omnimouse-jax installed (needed)")
    tpu: str = option("", "TPU node pool: value of gke-tpu-accelerator, e.g. tpu-v5-lite-podslice")
    topology: str = option("", "TPU topology, e.g. 2x4")
    gpu: str = option("", "GPU node pool: value of gke-accelerator, e.g. nvidia-h100-80gb")
    chips: int = option(0, "TPU chips or GPUs of each machine")
    hosts: int = option(1, "machines that train one cell together (of a TPU slice: all of its)")
    cpu: str = option("", "CPU cores of each machine, e.g. 8")
    memory: str = option("", "memory of each machine, e.g. 64Gi")
    spot: bool = option(True, "spot machines; a preempted cell is started again")
    restarts: int = option(100, "restarts of a cell whose machine was lost")
    namespace: str = option("default", "namespace")
    context: str = option("", "kubectl's context")
    service_account: str = option("", "Kubernetes service account that may use the buckets")
    queue: str = option("", "Kueue's queue, which limits how many cells run at a time")
    grace_s: int = option(
        120, "seconds that a worker has to save when it is told to stop (spot machines of GKE grant 25)"
    )


class Gke:
    """The engine."""

    name: ClassVar[str] = "gke"
    options_type: ClassVar[type] = Options

    def __init__(self, study: Study, options: Options):
        self.study, self.options = study, options
        self.bucket = Bucket.of(options.bucket, "engine gke: option bucket", ("gs",))
        self.store = Bucket.of(study.store or str(study.plan.config["data"]["store"]), "--store", ("gs",))
        if not options.image:
            raise UserError("engine gke: no image", way_out="--set image=REGISTRY/omnimouse-jax:TAG")
        if options.tpu and options.gpu:
            raise UserError("engine gke: tpu and gpu are both given", way_out="a cell runs on one kind of machine")
        if (options.tpu or options.gpu) and not options.chips:
            raise UserError("engine gke: chips is 0", way_out="--set chips=N: of each machine")

    def preview(self, run_ids: Sequence[str]) -> str:
        lines = [
            f"# {self.study.folder}/plan.json is copied to {self.bucket.url}/plan.json",
            f"# {shlex.join([*self._kubectl(), 'apply', '-f', '-'])}",
        ]
        return "\n".join(lines) + "\n" + self._text(run_ids)

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """A JobSet of the same name that is over is replaced; one that is not is the cell's, and is left to it."""
        _require()
        push_plan(self.study, self.bucket.url)
        known = self._jobsets()
        for run_id in run_ids:
            name, text = self.job_name(run_id), self._text([run_id])
            write_atomically(self.study.job_folder(run_id) / "jobset.yaml", text)
            if name in known and _state(known[name], []).state == "gone":
                self._run(["delete", "jobset", "--ignore-not-found", name])
                del known[name]
            if name not in known:
                self._run(["apply", "-f", "-"], text)
            yield run_id, name

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        pull(self.study, self.bucket.url, list(jobs))
        _require()
        named = self._jobsets()
        pods = self._labelled("pods")
        return {run_id: _state(named.get(job), _pods_of(job, pods)) for run_id, job in jobs.items()}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        _require()
        self._run(["delete", "jobset", "--ignore-not-found", "--wait=false", *jobs.values()])

    def job_name(self, run_id: str) -> str:
        return short_name(self.bucket.url, self.study.plan.study, run_id)

    def manifest(self, run_id: str) -> dict[str, Any]:
        """The JobSet of a cell."""
        options, name = self.options, self.job_name(run_id)
        alone = options.hosts == 1
        labels = {STUDY_LABEL: self._study_label()}
        queue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
        slices = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        job = {
            "parallelism": options.hosts,
            "completions": options.hosts,
            "completionMode": "Indexed",
            "backoffLimit": options.restarts if alone else 0,  # of several machines, all are started again
            "podFailurePolicy": {"rules": _pod_rules(alone)},
            "template": {
                "metadata": {"labels": labels, "annotations": {"gke-gcsfuse/volumes": "true"}},
                "spec": self._pod(run_id, name),
            },
        }
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": name,
                "namespace": options.namespace,
                "labels": labels | queue,
                "annotations": {"omnimouse-jax/run": run_id} | (slices if options.tpu and not alone else {}),
            },
            "spec": {
                **({"suspend": True} if options.queue else {}),
                "network": {"enableDNSHostnames": True, "subdomain": name},
                "failurePolicy": {
                    "maxRestarts": 0 if alone else options.restarts,
                    "rules": [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
                },
                "replicatedJobs": [{"name": "cell", "replicas": 1, "template": {"spec": job}}],
            },
        }

    def _pod(self, run_id: str, name: str) -> dict[str, Any]:
        options = self.options
        selector = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu,
            "cloud.google.com/gke-tpu-topology": options.topology,
            "cloud.google.com/gke-accelerator": options.gpu,
            "cloud.google.com/gke-spot": "true" if options.spot else "",
        }
        chips = {"google.com/tpu" if options.tpu else "nvidia.com/gpu": str(options.chips)} if options.chips else {}
        limits = {**chips, **{k: v for k, v in (("cpu", options.cpu), ("memory", options.memory)) if v}}
        there = dataclasses.replace(self.study, store=self.store.mounted(STORE_MOUNT))
        container = {
            "name": "cell",
            "image": options.image,
            "command": there.command(run_id, folder=self.bucket.mounted(MOUNT)),
            "env": self._environment(name),
            "resources": {"limits": limits, "requests": dict(limits)},
            "volumeMounts": [
                {"name": "study", "mountPath": MOUNT},
                {"name": "recordings", "mountPath": STORE_MOUNT, "readOnly": True},
            ],
        }
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": options.grace_s,
            "serviceAccountName": options.service_account,
            "nodeSelector": {key: value for key, value in selector.items() if value},
            "tolerations": _tolerations(options),
            "containers": [container],
            "volumes": [_volume("study", self.bucket), _volume("recordings", self.store, read_only=True)],
        }
        return {key: value for key, value in pod.items() if value not in ("", {}, [])}

    def _environment(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"name": ENGINE, "value": "gke"}, {"name": JOB, "value": name}]
        if self.options.hosts > 1:
            found += [
                {"name": "OMNIMOUSE_COORDINATOR", "value": f"{name}-cell-0-0.{name}:{PORT}"},
                {"name": "OMNIMOUSE_PROCESSES", "value": str(self.options.hosts)},
                {"name": "OMNIMOUSE_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
            ]
        return found

    def _study_label(self) -> str:
        return short_name(self.bucket.url, self.study.plan.study, "", 60)

    def _jobsets(self) -> dict[str, Mapping[str, Any]]:
        """Name -> the study's JobSets, as they are."""
        return {item["metadata"]["name"]: item for item in self._labelled("jobsets")}

    def _labelled(self, kind: str) -> list[Mapping[str, Any]]:
        label = f"{STUDY_LABEL}={self._study_label()}"
        return list(json.loads(self._run(["get", kind, "-l", label, "-o", "json"]))["items"])

    def _text(self, run_ids: Sequence[str]) -> str:
        return yaml.safe_dump_all(map(self.manifest, run_ids), sort_keys=False, width=10_000)

    def _kubectl(self) -> list[str]:
        context = ["--context", self.options.context] if self.options.context else []
        return ["kubectl", *context, "--namespace", self.options.namespace]

    def _run(self, command: Sequence[str], given: str = "") -> str:
        done = subprocess.run([*self._kubectl(), *command], input=given, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"kubectl {command[0]}: {causes.last_line(done.stderr)}",
                way_out="is the cluster reachable (`kubectl get nodes`), and JobSet installed there?",
            )
        return done.stdout


def _pod_rules(alone: bool) -> list[dict[str, Any]]:
    """What the end of a worker means: failed and refused are final; a machine that was taken away does not count."""
    final = {"containerName": "cell", "operator": "In", "values": [causes.FAILED, causes.BAD_INPUT]}
    saved = {"containerName": "cell", "operator": "In", "values": [causes.SAVED]}
    rules: list[dict[str, Any]] = [{"action": "FailJob", "onExitCodes": final}]
    if alone:
        rules.append({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
        rules.append({"action": "Ignore", "onExitCodes": saved})
    return rules


def _tolerations(options: Options) -> list[dict[str, str]]:
    keys = {"google.com/tpu": options.tpu, "nvidia.com/gpu": options.gpu, "cloud.google.com/gke-spot": options.spot}
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key, used in keys.items() if used]


def _volume(name: str, bucket: Bucket, read_only: bool = False) -> dict[str, Any]:
    attributes = {"bucketName": bucket.name, "mountOptions": "implicit-dirs"}
    driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": read_only, "volumeAttributes": attributes}
    return {"name": name, "csi": driver}


def _pods_of(job: str, pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get("jobset.sigs.k8s.io/jobset-name") == job]


def _state(item: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> JobState:
    """Of a JobSet and its pods, as kubectl gives them."""
    if item is None:
        return JobState("gone")
    conditions = {c["type"]: c for c in item.get("status", {}).get("conditions", ()) if c.get("status") == "True"}
    ended = [s["state"]["terminated"] for pod in pods for s in _containers(pod) if "terminated" in s.get("state", {})]
    if "Completed" in conditions:
        return JobState("gone")
    if failed := conditions.get("Failed"):
        full = any(end.get("reason") == "OOMKilled" for end in ended)
        return JobState("gone", causes.OUT_OF_MEMORY if full else "", f"JobSet failed: {failed.get('message', '')}")
    if any(pod.get("status", {}).get("phase") == "Running" for pod in pods):
        return JobState("running")
    waits = [
        s["state"]["waiting"].get("reason", "")
        for pod in pods
        for s in _containers(pod)
        if "waiting" in s.get("state", {})
    ]
    return JobState("queued", told=", ".join(sorted(set(filter(None, waits)))))


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return pod.get("status", {}).get("containerStatuses", ()) or ()


def _require() -> None:
    if shutil.which("kubectl") is None:
        raise UserError("GKE: no `kubectl` here", way_out="install it, or apply what --dry-run prints elsewhere")
