"""launch/tpu_vm.sh with a gcloud of the tests' own, which notes its arguments and plays the states of a slice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "tpu_vm.sh"

GCLOUD = f"""#!{sys.executable}
import json, os, sys
here = os.environ["NOTES"]
words = sys.argv[1:]
with open(os.path.join(here, "calls"), "a") as file:
    file.write(json.dumps(words) + "\\n")

def take(name):
    path = os.path.join(here, name)
    first, *rest = open(path).read().split()
    open(path, "w").write(" ".join(rest or [first]))  # the last one stays
    return first

if "describe" in words:
    state = take("states")
    if state == "NONE":
        sys.exit(1)
    print(state)
if "ssh" in words and "-m dalle_jax train" in words[-1]:
    sys.exit(int(take("codes")))
"""


@pytest.fixture
def gcloud(tmp_path):
    """Return ``run(states, codes) -> (exit code, calls)``, with the successive states and exit codes of training."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)

    def run(states: str, codes: str, *arguments: str, **variables: str) -> tuple[int, list[list[str]], str]:
        (tmp_path / "states").write_text(states)
        (tmp_path / "codes").write_text(codes)
        known = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path), "POLL": "0.01", "NAME": "run 1",
            "ZONE": "us-east5-a", "TYPE": "v5p-128", "REPOSITORY": "https://example.org/r.git", "REVISION": "abc",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=os.environ | known | variables, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, [json.loads(line) for line in lines], done.stderr

    return run


def verbs(calls: list[list[str]]) -> list[str]:
    """Return the verbs of the calls of gcloud, without those that ask for the state."""
    named = [next(word for word in call if word in ("create", "delete", "ssh", "describe")) for call in calls]
    return [verb for verb in named if verb != "describe"]


def test_a_slice_is_created_awaited_set_up_trained_on_and_deleted(gcloud):
    code, calls, _ = gcloud("NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE", "0", "a.gin", "--set", "b=(1, 2)")
    assert code == 0
    assert verbs(calls) == ["create", "ssh", "ssh", "delete"]
    create = next(call for call in calls if "create" in call)
    assert create[:5] == ["compute", "tpus", "queued-resources", "create", "run 1"]
    assert create[create.index("--accelerator-type") + 1] == "v5p-128"
    assert create[create.index("--node-id") + 1] == "run 1"
    assert "--spot" not in create
    setup, train = [call for call in calls if "ssh" in call]
    assert train[train.index("--worker") + 1] == "all"
    assert "git clone https://example.org/r.git" in setup[-1]
    assert "git checkout -q abc" in setup[-1]
    assert train[-1] == r"cd dalle_jax && .venv/bin/python -m dalle_jax train a.gin --set b=\(1\,\ 2\)"
    assert all(call[call.index("--zone") + 1] == "us-east5-a" for call in calls)


def test_a_preempted_slice_is_created_again_and_runs_the_same_command(gcloud):
    states = "NONE ACTIVE SUSPENDED SUSPENDED NONE PROVISIONING ACTIVE"
    code, calls, said = gcloud(states, "255 0", "a.gin", SPOT="1", PROJECT="p")
    assert code == 0
    assert verbs(calls) == ["create", "ssh", "ssh", "delete", "create", "ssh", "ssh", "delete"]
    assert "preempted" in said
    assert all("--spot" in call for call in calls if "create" in call)
    assert all(call[call.index("--project") + 1] == "p" for call in calls)
    trained = [call[-1] for call in calls if "ssh" in call and "-m dalle_jax train" in call[-1]]
    assert trained[0] == trained[1]


def test_a_failed_run_on_an_intact_slice_is_not_repeated(gcloud):
    code, calls, _ = gcloud("NONE ACTIVE", "2", "a.gin")
    assert code == 2
    assert verbs(calls) == ["create", "ssh", "ssh", "delete"]


def test_an_existing_slice_is_used_and_kept_on_request(gcloud):
    code, calls, _ = gcloud("ACTIVE", "0", "a.gin", KEEP="1")
    assert code == 0
    assert verbs(calls) == ["ssh", "ssh"]


@pytest.mark.parametrize("missing", ["NAME", "ZONE", "TYPE"])
def test_the_script_without_arguments_prints_its_usage(gcloud, missing):
    code, calls, said = gcloud("NONE", "0", "a.gin", **{missing: ""})
    assert (code, calls) == (2, [])
    assert "usage" in said
