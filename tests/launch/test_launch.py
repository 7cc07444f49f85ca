"""The launch scripts, with a Python, srun and scancel of the tests' own that write down how they were called."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
VARIABLES = ("DALLE_JAX_COORDINATOR", "DALLE_JAX_PROCESSES", "DALLE_JAX_PROCESS", "CUDA_VISIBLE_DEVICES")

FAKE = f"""#!{sys.executable}
import json, os, signal, sys, time
if sys.argv[1] == "-c":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
name = os.path.basename(sys.argv[0])
process = os.environ.get("DALLE_JAX_PROCESS", "none")
here = os.environ["NOTES"]

def note(what):
    with open(os.path.join(here, f"{{name}}.{{process}}.{{what}}"), "w") as file:
        json.dump({{"arguments": sys.argv[1:], "variables": {{k: os.environ.get(k) for k in {VARIABLES!r}}}}}, file)

def end(number, frame):
    note("told")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
note("called")
if name == "scancel":
    os.kill(int(open(os.path.join(here, "srun.pid")).read()), signal.SIGTERM)
if name == "srun":
    open(os.path.join(here, "srun.pid"), "w").write(str(os.getpid()))
if process == os.environ.get("FAILING"):
    sys.exit(7)
if name in ("python", "srun"):
    time.sleep(float(os.environ.get("SECONDS_TO_RUN", "0")))
"""


@pytest.fixture
def fakes(tmp_path) -> Path:
    """Create a folder with the fake commands, which write their notes into it."""
    for name in ("python", "srun", "scancel", "scontrol"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(fakes: Path, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
    known = {"PATH": f"{fakes}:{os.environ['PATH']}", "NOTES": str(fakes), "PYTHON": str(fakes / "python")}
    return subprocess.Popen(
        ["bash", str(LAUNCH / script), *arguments],
        env=os.environ | known | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


def notes(fakes: Path, what: str) -> dict[str, dict]:
    return {path.name.removesuffix(f".{what}"): json.loads(path.read_text()) for path in fakes.glob(f"*.{what}")}


def wait_for(fakes: Path, what: str, count: int) -> None:
    until = time.monotonic() + 30
    while len(list(fakes.glob(f"*.{what}"))) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_local_starts_each_process_with_its_index_and_the_same_coordinator(fakes):
    assert start(fakes, "local.sh", "3", "a.gin", "--set", "b=(1, 2)").wait(60) == 0
    called = notes(fakes, "called")
    assert called.keys() == {"python.0", "python.1", "python.2"}
    for name, one in called.items():
        assert one["arguments"] == ["-m", "dalle_jax", "train", "a.gin", "--set", "b=(1, 2)"]
        assert one["variables"]["DALLE_JAX_PROCESS"] == name[-1]
        assert one["variables"]["DALLE_JAX_PROCESSES"] == "3"
    coordinators = {one["variables"]["DALLE_JAX_COORDINATOR"] for one in called.values()}
    assert len(coordinators) == 1
    assert coordinators.pop().startswith("127.0.0.1:")


def test_local_starts_a_different_command(fakes):
    flags = ("--model", "m", "--mesh", "data=-1")
    assert start(fakes, "local.sh", "2", *flags, DALLE_JAX_COMMAND="sample").wait(60) == 0
    assert [one["arguments"] for one in notes(fakes, "called").values()] == [["-m", "dalle_jax", "sample", *flags]] * 2


@pytest.mark.parametrize(
    ("given", "seen"), [({"CUDA_VISIBLE_DEVICES": "4,5"}, ["4", "5"]), ({}, ["0", "1"])], ids=["given", "all"]
)
def test_local_gives_each_process_one_of_the_gpus_that_this_user_has(fakes, monkeypatch, given, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (fakes / "nvidia-smi").write_text("#!/bin/sh\nfor i in 0 1 2 3 4 5 6 7; do echo GPU $i; done\n")
    (fakes / "nvidia-smi").chmod(0o755)
    running = start(fakes, "local.sh", "2", "a.gin", **given)
    assert running.communicate(timeout=60) == (None, "") and running.returncode == 0
    assert [one["variables"]["CUDA_VISIBLE_DEVICES"] for _, one in sorted(notes(fakes, "called").items())] == seen


def test_local_with_fewer_gpus_than_processes_leaves_the_variable_alone(fakes):
    assert start(fakes, "local.sh", "2", "a.gin", CUDA_VISIBLE_DEVICES="3").wait(60) == 0
    assert {one["variables"]["CUDA_VISIBLE_DEVICES"] for one in notes(fakes, "called").values()} == {"3"}


def test_local_ends_all_processes_when_one_fails_and_returns_its_exit_code(fakes):
    began = time.monotonic()
    running = start(fakes, "local.sh", "3", "a.gin", FAILING="1", SECONDS_TO_RUN="60")
    _, said = running.communicate(timeout=30)
    assert running.returncode == 7
    assert "no such job" not in said
    assert time.monotonic() - began < 30


def test_local_forwards_signals_to_all_processes(fakes):
    running = start(fakes, "local.sh", "2", "a.gin", SECONDS_TO_RUN="60")
    wait_for(fakes, "called", 2)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    assert notes(fakes, "told").keys() == {"python.0", "python.1"}


def test_local_returns_the_code_of_processes_that_end_before_it_goes_on(fakes):
    (fakes / "slow").write_text('kill() { builtin kill "$@"; sleep 1; }')
    running = start(fakes, "local.sh", "2", "a.gin", SECONDS_TO_RUN="60", BASH_ENV=str(fakes / "slow"))
    wait_for(fakes, "called", 2)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0


@pytest.mark.parametrize("arguments", [[], ["a.gin"], ["0", "a.gin"], ["two", "a.gin"]], ids=str)
def test_local_without_arguments_prints_its_usage(fakes, arguments):
    running = start(fakes, "local.sh", *arguments)
    assert "usage" in running.communicate(timeout=30)[1]
    assert running.returncode == 2


def test_slurm_runs_the_training_in_every_task(fakes):
    assert start(fakes, "slurm.sbatch", "a.gin", "--set", "b=(1, 2)", SLURM_JOB_ID="5").wait(30) == 0
    python = str(fakes / "python")
    assert notes(fakes, "called").keys() == {"srun.none"}
    expected = ["--kill-on-bad-exit=1", python, "-m", "dalle_jax", "train", "a.gin", "--set", "b=(1, 2)"]
    assert notes(fakes, "called")["srun.none"]["arguments"] == expected


def test_slurm_forwards_the_warning_signal_and_requeues_the_job(fakes):
    running = start(fakes, "slurm.sbatch", "a.gin", SLURM_JOB_ID="5", SECONDS_TO_RUN="60")
    wait_for(fakes, "pid", 1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    called = notes(fakes, "called")
    assert called["scancel.none"]["arguments"] == ["--signal=TERM", "5"]
    assert called["scontrol.none"]["arguments"] == ["requeue", "5"]
    assert notes(fakes, "told").keys() == {"srun.none"}


def test_the_scripts_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    files = sorted(str(path) for path in LAUNCH.iterdir() if path.suffix != ".yaml")
    done = subprocess.run([str(shellcheck), *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
