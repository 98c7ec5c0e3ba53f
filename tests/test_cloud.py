"""Files for machines elsewhere are what their engines take: SkyPilot parses the tasks, Kubernetes' own schemas the manifests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from launch import bucket, causes, gke, sky, status
from launch.engine import Study, engine
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.kvstore import Place
from tests.sweeps import micro_plan

PYTHON = Path(__file__).parents[1] / ".venv-sky" / "bin" / "python"
STORE = "gs://lab-mice/stores/all"
#: Options -> what is asked of the machines.
SKY = (
    {
        "accelerators": "H100:8",
        "infra": "aws/us-east-1",
        "memory": "64+",
        "cpus": "16+",
        "bucket": "s3://lab/studies/x",
    },
    {
        "accelerators": "tpu-v5litepod-16",
        "infra": "gcp",
        "runtime": "v2-alpha-tpuv5-lite",
        "bucket": "gs://lab/studies/x",
    },
    {"accelerators": "A100-80GB:1", "nodes": 2, "spot": False, "bucket": "gs://lab", "image": "docker:ghcr.io/lab/x:1"},
    {"bucket": "gs://lab/studies/x"},
)
GKE = (
    {"tpu": "tpu-v5-lite-podslice", "topology": "4x4", "chips": 4, "hosts": 4, "queue": "lab", "service_account": "x"},
    {"gpu": "nvidia-h100-80gb", "chips": 8, "cpu": "32", "memory": "256Gi", "spot": False},
    {"cpu": "4", "memory": "8Gi"},
)
#: Of the fields of a JobSet that are used, written from its API reference (v1alpha2). Its jobs are checked as Kubernetes' own.
OBJECT = {"type": "object", "additionalProperties": False}
JOBSET = {
    **OBJECT,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {
            **OBJECT,
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 45},
                "namespace": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
                "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "spec": {
            **OBJECT,
            "required": ["replicatedJobs"],
            "properties": {
                "suspend": {"type": "boolean"},
                "network": {
                    **OBJECT,
                    "properties": {
                        "enableDNSHostnames": {"type": "boolean"},
                        "subdomain": {"type": "string", "maxLength": 63},
                        "publishNotReadyAddresses": {"type": "boolean"},
                    },
                },
                "failurePolicy": {
                    **OBJECT,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "rules": {
                            "type": "array",
                            "items": {
                                **OBJECT,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "action": {
                                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                                    },
                                    "onJobFailureReasons": {"type": "array", "items": {"type": "string"}},
                                    "targetReplicatedJobs": {"type": "array", "items": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        **OBJECT,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer"},
                            "template": {**OBJECT, "properties": {"spec": {"type": "object"}}},
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def study(colony, tmp_path_factory) -> Study:
    made = micro_plan(colony, tmp_path_factory.mktemp("study"))
    return Study.open(made.folder, store=STORE)


@pytest.fixture(scope="module")
def other_python() -> Path:
    """Of the environment with SkyPilot and Kubernetes' schemas."""
    if not PYTHON.exists():
        pytest.skip("no .venv-sky with SkyPilot and kubernetes-validate: tests/install.sh makes it")
    return PYTHON


def asked(python: Path, code: str, values: object, tmp_path: Path) -> str:
    """What `code` prints there, with `values` read from a file."""
    (tmp_path / "values.json").write_text(json.dumps(values))
    program = f"import json\nvalues = json.load(open({str(tmp_path / 'values.json')!r}))\n{code}"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_skypilot_parses_its_tasks(study, other_python, tmp_path):
    run_id = study.plan.cells[0].run_id
    tasks = [engine("sky", study, options).task(run_id) for options in SKY]
    code = """
import sky
for task in values:
    made = sky.Task.from_yaml_config(task)
    (resources,) = made.resources
    print(json.dumps([made.name, made.num_nodes, str(resources.cloud), resources.accelerators, resources.use_spot, made.run,
                      resources.job_recovery]))
try:
    sky.Task.from_yaml_config({**values[0], "resources": {"acelerators": "H100"}})
except Exception as error:
    print(json.dumps(str(error)))
"""
    *told, typo = map(json.loads, asked(other_python, code, tasks, tmp_path).splitlines()[-5:])
    assert "accelerators" in typo, "it does look"
    names = [sky.short_name(options["bucket"], "micro", run_id) for options in SKY]
    assert [line[0] for line in told] == names
    assert len(set(names)) == 3, "a bucket's alone"
    assert [line[1] for line in told] == [1, 1, 2, 1]
    assert [line[3] for line in told] == [{"H100": 8}, {"tpu-v5litepod-16": 1}, {"A100-80GB": 1}, None]
    assert [line[4] for line in told] == [True, True, False, True]
    command = f"omnimouse-jax sweep cell /bucket/studies/x --run {run_id} --store /recordings/stores/all"
    assert told[0][5] == command
    assert told[2][5].splitlines()[0].startswith("export OMNIMOUSE_COORDINATOR=")
    assert told[2][5].splitlines()[-1] == command.replace("/studies/x", "")
    assert told[0][6]["recover_on_exit_codes"] == [75, 76]


def test_kubernetes_takes_the_manifests(study, other_python, tmp_path):
    run_id = study.plan.cells[0].run_id
    made = [
        engine("gke", study, {"bucket": "gs://lab/studies/x", "image": "x:1", **options}).manifest(run_id)
        for options in GKE
    ]
    code = f"""
import copy, jsonschema, kubernetes_validate
schema = json.loads({json.dumps(json.dumps(JOBSET))})
for manifest in values:
    jsonschema.Draft202012Validator(schema).validate(manifest)
    for part in manifest["spec"]["replicatedJobs"]:
        job = {{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": "x"}}, "spec": part["template"]["spec"]}}
        kubernetes_validate.validate(job, "1.33", strict=True)
wrong = copy.deepcopy(job)
wrong["spec"]["template"]["spec"]["containers"][0]["volumeMonts"] = []
try:
    kubernetes_validate.validate(wrong, "1.33", strict=True)
except kubernetes_validate.ValidationError as error:
    print("typo found")
"""
    assert "typo found" in asked(other_python, code, made, tmp_path)
    several, gpu, _ = (manifest["spec"]["replicatedJobs"][0]["template"]["spec"] for manifest in made)
    assert several["completions"] == 4
    limits = [job["template"]["spec"]["containers"][0]["resources"]["limits"] for job in (several, gpu)]
    assert limits[0] == {"google.com/tpu": "4"}
    assert limits[1]["nvidia.com/gpu"] == "8"
    assert "cloud.google.com/gke-spot" not in gpu["template"]["spec"]["nodeSelector"]
    environment = {entry["name"]: entry for entry in several["template"]["spec"]["containers"][0]["env"]}
    name = made[0]["metadata"]["name"]
    assert environment["OMNIMOUSE_COORDINATOR"]["value"] == f"{name}-cell-0-0.{name}:8476"


def test_a_dry_run_prints_what_would_be_submitted(study, capsys):
    argv = ["sweep", "launch", str(study.folder), "--dry-run", "--store", STORE, "--set", "bucket=gs://lab/x"]
    assert cli.main([*argv, "--on", "sky", "--set", "accelerators=H100:1"]) == 0
    told = capsys.readouterr().out
    assert told.count("# sky jobs launch --yes --detach-run --name micro-") == 4
    assert cli.main([*argv, "--on", "gke", "--set", "image=x:1"]) == 0
    told = capsys.readouterr().out
    assert "kubectl --namespace default apply -f -" in told
    manifests = list(yaml.safe_load_all("\n".join(line for line in told.splitlines() if not line.startswith("#"))))
    assert len({manifest["metadata"]["name"] for manifest in manifests}) == 4
    assert not list(study.folder.glob("launch/*/job.json"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sky", {}, "option bucket is ''"),
        ("gke", {"bucket": "s3://lab"}, "give gs://"),
        ("gke", {"bucket": "gs://lab"}, "no image"),
        ("gke", {"bucket": "gs://lab", "image": "x", "gpu": "h100"}, "chips is 0"),
    ],
)
def test_what_is_missing_is_named(study, name, options, message):
    with pytest.raises(UserError, match=message):
        engine(name, study, options)


def test_recordings_must_be_where_the_machines_see_them(study):
    with pytest.raises(UserError, match="machines in the cloud cannot see it - give gs://BUCKET/PATH"):
        engine("sky", Study.open(study.folder), {"bucket": "gs://lab"})


def test_small_files_come_back_from_a_bucket(study, tmp_path):
    there, run_id = Place(tmp_path / "bucket"), study.plan.cells[0].run_id
    bucket.push_plan(study, str(tmp_path / "bucket"))
    assert there.read("plan.json") == (study.folder / "plan.json").read_bytes()
    status.write(tmp_path / "bucket" / "runs" / run_id, status.Status("running", step=3, updated=status.now()))
    there.write(f"runs/{run_id}/run.json", b"{}")
    bucket.pull(study, str(tmp_path / "bucket"), [run_id])
    assert status.read(study.run_folder(run_id)).step == 3
    assert (study.run_folder(run_id) / "run.json").exists()
    status.write(study.run_folder(run_id), status.Status("failed", updated=status.now()))
    bucket.pull(study, str(tmp_path / "bucket"), [run_id])
    assert status.read(study.run_folder(run_id)).state == "failed", "what was written down here later stays"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (None, ("gone", "")),
        ({"status": "RECOVERING"}, ("queued", "")),
        ({"status": "ManagedJobStatus.RUNNING"}, ("running", "")),
        ({"status": "SUCCEEDED"}, ("gone", "")),
        ({"status": "CANCELLED"}, ("gone", causes.STOPPED)),
        ({"status": "FAILED_CONTROLLER", "failure_reason": "no\nanswer"}, ("gone", causes.LOST)),
    ],
)
def test_what_skypilot_says(row, expected):
    assert sky._state(row)[:2] == expected


def test_what_kubernetes_says():
    def pod(phase: str = "", **state: object) -> dict:
        return {"metadata": {}, "status": {"phase": phase, "containerStatuses": [{"state": state}]}}

    def jobset(*conditions: str) -> dict:
        return {"status": {"conditions": [{"type": kind, "status": "True", "message": "m"} for kind in conditions]}}

    killed = pod("Failed", terminated={"reason": "OOMKilled", "exitCode": 137})
    assert gke._state(None, [])[:2] == ("gone", "")
    assert gke._state(jobset("Completed"), [killed])[:2] == ("gone", "")
    assert gke._state(jobset("Failed"), [killed])[:2] == ("gone", causes.OUT_OF_MEMORY)
    assert gke._state(jobset("Failed"), [])[:2] == ("gone", "")
    assert gke._state(jobset(), [pod("Running")]).state == "running"
    assert gke._state(jobset(), [pod("Pending", waiting={"reason": "ImagePullBackOff"})]) == (
        "queued",
        "",
        "ImagePullBackOff",
    )
