"""Two processes of four devices are one run of eight: the same losses, one stop, one checkpoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.train.checkpoints.checkpoints import Checkpoints, whole_steps
from dalle_jax.train.state import state_spec
from tests.command_processes import finish, start_processes
from tests.train.child import TRAINER
from tests.train.toy import Toy, layout, leaves

MANY = Path(__file__).with_name("many.py")
WAIT = 150
LOST = 9
"""Seconds without a sign of life after which a process is lost."""


def start(
    out: Path, mesh: tuple[int, int, int], processes: int, pause: float = 0.0, fails: int = -1, lost: int = 60
) -> list[subprocess.Popen]:
    """Start the processes of a run on eight devices in all."""
    process = [str(MANY), str(out), *map(str, mesh), str(pause), str(fails)]
    return start_processes([process] * processes, devices=8 // processes, DALLE_JAX_LOST=str(lost))


def wait_until_saved(out: Path, started: list[subprocess.Popen]) -> None:
    """Wait for the first checkpoint of a run."""
    while not whole_steps(out / "checkpoints"):
        assert all(process.poll() is None for process in started)
        time.sleep(0.05)


def last_lines(started: list[subprocess.Popen]) -> list[str]:
    """Wait for processes, which must succeed; return the last line of each one's output."""
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * len(started), ended
    return [out.strip().splitlines()[-1] for _, out, _ in ended]


def finish_killed(process: subprocess.Popen) -> None:
    """Kill a process, even a suspended one, and close its pipes."""
    process.kill()
    process.communicate()


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("many") / "alone"
    assert last_lines(start(out, (2, 2, 2), 1)) == ["interrupted=False step=20"]
    return out


@pytest.mark.parametrize("mesh", [pytest.param((2, 2, 2), marks=pytest.mark.slow), (1, 1, 8)], ids=str)
def test_two_processes_of_four_devices_have_the_losses_of_one_process_of_eight(alone, tmp_path, mesh):
    assert last_lines(start(tmp_path / "run", mesh, 2)) == ["interrupted=False step=20"] * 2
    ours, expected = losses(tmp_path / "run"), losses(alone)
    assert ours.keys() == expected.keys() == {4, 8, 12, 16, 20}
    np.testing.assert_allclose(list(ours.values()), list(expected.values()), rtol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["host/slowest"] for line in lines} <= {0, 1}  # one host of two, and each line has it


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, int]:
    """Return a run of two processes on (4, 2, 1) after SIGTERM to the second, and the step at which both stopped."""
    out = tmp_path_factory.mktemp("many") / "run"
    started = start(out, (4, 2, 1), 2, pause=0.5)
    wait_until_saved(out, started)
    started[1].send_signal(signal.SIGTERM)
    said = last_lines(started)
    assert said[0] == said[1]
    assert said[0].startswith("interrupted=True")
    return out, int(said[0].rpartition("=")[2])


def values(out: Path) -> dict[str, bytes]:
    """Return all values of the checkpoint of step 20."""
    target = state_spec(Toy(fixed=True), TRAINER, layout()).target()
    return leaves(Checkpoints(out, 2).restore(20, target))


@pytest.mark.slow
def test_sigterm_to_one_process_saves_one_step_and_the_resumed_run_equals_an_uninterrupted_one(stopped, tmp_path):
    out, step = stopped
    assert 5 <= step < 20
    assert whole_steps(out / "checkpoints")[-1] == step
    shutil.copytree(out, tmp_path / "run")
    assert last_lines(start(tmp_path / "run", (4, 2, 1), 2)) == ["interrupted=False step=20"] * 2
    assert last_lines(start(tmp_path / "whole", (4, 2, 1), 2)) == ["interrupted=False step=20"] * 2
    assert values(tmp_path / "run") == values(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 4))])
def test_any_number_of_processes_resumes_on_a_different_mesh_with_the_same_losses(alone, stopped, tmp_path, processes):
    shutil.copytree(stopped[0], tmp_path / "run")
    assert last_lines(start(tmp_path / "run", (2, 4, 1), processes)) == ["interrupted=False step=20"] * processes
    np.testing.assert_allclose(losses(tmp_path / "run")[20], losses(alone)[20], rtol=1e-5)


@pytest.mark.parametrize("fails", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_error_of_one_process_ends_both_with_its_code_and_its_reason(tmp_path, fails):
    started = start(tmp_path / "run", (2, 2, 2), 2, fails=fails)
    ended = finish(started)  # each waited for the other for 300 s
    assert [code for code, _, _ in ended] == [2, 2], ended
    said = [error for _, _, error in ended]
    assert "its disk is gone" in said[fails].splitlines()
    assert said[1 - fails].endswith(f"dalle-jax: error: process {fails} ended the run: its disk is gone\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda one: one.name)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_or_suspended_process_ends_the_other_with_one_line_and_code_75(tmp_path, lost, number):
    started = start(tmp_path / "run", (2, 2, 2), 2, pause=0.5, lost=LOST)
    wait_until_saved(tmp_path / "run", started)
    started[lost].send_signal(number)
    [(code, _, err)] = finish([started[1 - lost]], seconds=60)  # jax ends it after 100 s
    finish_killed(started[lost])
    assert code == 75, err
    said = err.splitlines()[-1]
    assert said.startswith(f"dalle-jax: error: process {lost} ended the run: ")
    assert re.search(rf"gave no sign of life for {LOST} s|no longer answers, so it was killed", said)
    resumed = last_lines(start(tmp_path / "run", (2, 2, 2), 2))
    assert resumed == ["interrupted=False step=20"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("held", [0, 1])
def test_the_others_wait_for_a_suspended_process_and_name_it(alone, tmp_path, held):
    started = start(tmp_path / "run", (2, 2, 2), 2, pause=0.5, lost=LOST)
    wait_until_saved(tmp_path / "run", started)
    started[held].send_signal(signal.SIGSTOP)
    time.sleep(LOST / 3 + 2.5)
    started[held].send_signal(signal.SIGCONT)
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0, 0], ended
    said = ended[1 - held][2]
    assert f"dalle-jax: process {held} (" in said
    assert f"the run waits for it, up to {LOST} s in all" in said
    assert "is back after" in said
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-5)


def test_a_process_that_never_joins_is_a_one_line_error_in_bounded_time(tmp_path):
    known = {
        "DALLE_JAX_COORDINATOR": "127.0.0.1:1",
        "DALLE_JAX_PROCESSES": "2",
        "DALLE_JAX_PROCESS": "1",
        "DALLE_JAX_WAIT": "3",
        "JAX_PLATFORMS": "cpu",
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(MANY), str(tmp_path / "run"), "1", "1", "1", "0", "-1"], env=os.environ | known, text=True,
        capture_output=True, timeout=WAIT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "not all processes of this run joined it at 127.0.0.1:1 in 3 s" in done.stderr
    assert time.monotonic() - began < 60
