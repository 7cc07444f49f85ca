import os

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts


@pytest.fixture
def join_with(monkeypatch):
    """Set environment variables, join, and return the arguments given to jax.distributed.initialize."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **options: calls.append(options))
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    ours = (hosts.COORDINATOR, hosts.PROCESSES, hosts.PROCESS, hosts.WAIT, hosts.LOST)
    for name in (*ours, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)

    def join(**variables: str) -> list[dict]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        hosts.join()
        return calls

    return join


STEP = {"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def three(coordinator="node0:8476", processes="4", process="3"):
    return {hosts.COORDINATOR: coordinator, hosts.PROCESSES: processes, hosts.PROCESS: process}


def test_a_single_process_joins_nothing(join_with):
    assert join_with() == []
    assert join_with(**three(processes="1", process="0")) == []


def test_the_three_variables_give_address_number_and_index(join_with):
    expected = {"coordinator_address": "node0:8476", "num_processes": 4, "process_id": 3}
    assert join_with(**three(), DALLE_JAX_WAIT="20") == [
        expected | {"initialization_timeout": 80, "heartbeat_timeout_seconds": 100}
    ]


def test_a_slurm_step_of_several_tasks_is_left_to_jax(join_with):
    assert join_with(**STEP) == [{"initialization_timeout": 360, "heartbeat_timeout_seconds": 100}]


@pytest.mark.parametrize(
    "variables",
    [STEP | {"SLURM_STEP_NUM_TASKS": "1"}, {name: STEP[name] for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST")}],
    ids=["interactive step of salloc", "no index of the task"],
)
def test_a_shell_within_a_slurm_allocation_is_one_process(join_with, variables):
    assert join_with(**variables) == []


def test_a_slurm_allocation_without_a_step_is_one_process(join_with):
    assert join_with(SLURM_NTASKS="8") == []


def test_a_tpu_pod_is_left_to_jax(join_with):
    assert join_with(TPU_WORKER_HOSTNAMES="a,b") == [{"initialization_timeout": 360, "heartbeat_timeout_seconds": 100}]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({hosts.PROCESS: "0"}, "expected all three of DALLE_JAX_COORDINATOR, .* or none, got DALLE_JAX_PROCESS$"),
        (three(coordinator="node0"), "DALLE_JAX_COORDINATOR: expected host:port"),
        (three(process="4"), "DALLE_JAX_PROCESS: expected 0 to 3"),
        (three(processes="four"), "DALLE_JAX_PROCESSES: expected a whole number, got 'four'"),
        ({hosts.WAIT: "soon"}, "DALLE_JAX_WAIT: expected a whole number"),
        (three() | {hosts.LOST: "1"}, "DALLE_JAX_LOST: expected at least 5 seconds, got 1"),
    ],
)
def test_an_invalid_variable_is_named_in_the_error(join_with, variables, message):
    with pytest.raises(UserError, match=message):
        join_with(**variables)
