"""The manifests: their pods against Kubernetes' own schema, the rest against the fields that their tools document."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from dalle_jax.commands.serving.serve import add_arguments

LAUNCH = Path(__file__).resolve().parents[2] / "launch"

JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "failurePolicy": {"maxRestarts": int},
        "network": {"enableDNSHostnames": bool, "subdomain": str},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"metadata": dict, "spec": dict}}],
    },
}
"""The part of JobSet's v1alpha2 that may be used here: its other fields are left to whoever needs them."""


def unknown(value, known, where: str = "") -> list[str]:
    """Return the paths of fields that the schema does not know or whose type differs."""
    if isinstance(known, dict):
        found = [f"{where}.{name}" for name in value if name not in known]
        return found + [
            x for name in value if name in known for x in unknown(value[name], known[name], f"{where}.{name}")
        ]
    if isinstance(known, list):
        return [x for i, one in enumerate(value) for x in unknown(one, known[0], f"{where}[{i}]")]
    return [] if isinstance(value, known) else [where]


@pytest.fixture
def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def job(jobset) -> dict:
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "worker"}, "spec": spec}


def test_the_jobset_has_only_known_fields_and_a_valid_job(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert unknown(jobset, JOBSET) == []
    kubernetes_validate.validate(job(jobset), "1.34", strict=True)


def test_the_check_finds_a_misspelled_field(jobset):
    jobset["spec"]["replicatedJobs"][0]["replica"] = 2
    assert unknown(jobset, JOBSET) == [".spec.replicatedJobs[0].replica"]
    broken = job(jobset)
    broken["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


def test_every_host_of_the_slice_has_a_pod_with_all_of_its_chips(jobset):
    spec = job(jobset)["spec"]
    pod = spec["template"]["spec"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert spec["completionMode"] == "Indexed"
    assert pod["containers"][0]["args"][1:] == ["--out", "gs://BUCKET/runs/dalle"]


def test_the_deployment_is_valid_and_finishes_requests_before_it_is_killed():
    deployment, service = yaml.safe_load_all((LAUNCH / "gke_serve.yaml").read_text())
    for one in (deployment, service):
        kubernetes_validate.validate(one, "1.34", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace = container["args"][container["args"].index("--grace") + 1]
    assert int(grace) < pod["terminationGracePeriodSeconds"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]


def test_the_arguments_of_the_deployment_and_the_dockerfile_are_those_of_the_command():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    deployment = next(yaml.safe_load_all((LAUNCH / "gke_serve.yaml").read_text()))
    lines = (LAUNCH.parent / "Dockerfile").read_text().splitlines()
    entry = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT ")).removeprefix("ENTRYPOINT "))
    assert entry[:4] == ["python", "-m", "dalle_jax", "serve"]
    args = parser.parse_args(entry[4:] + deployment["spec"]["template"]["spec"]["containers"][0]["args"])
    assert (args.host, args.port, str(args.keys)) == ("0.0.0.0", 8000, "/keys/keys.txt")


def test_skypilot_runs_one_process_per_node_with_the_address_of_the_first(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() <= {"name", "workdir", "num_nodes", "resources", "envs", "setup", "run"}
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "print(sys.argv[1:], *(os.environ['DALLE_JAX_' + x] for x in ('COORDINATOR', 'PROCESSES', 'PROCESS')))\n"
    )
    python.chmod(0o755)
    node = {"SKYPILOT_NODE_IPS": "node0\nnode1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    done = subprocess.run(
        ["bash", "-c", task["run"]], cwd=tmp_path, env=os.environ | task["envs"] | node, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    expected = ["-m", "dalle_jax", "train", task["envs"]["CONFIG"], "--out", task["envs"]["OUT"]]
    assert done.stdout == f"{expected} node0:8476 2 1\n"
