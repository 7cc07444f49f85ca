import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts


@pytest.fixture
def known(monkeypatch):
    """Puts variables into the environment and notes how jax.distributed would be begun."""
    begun = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **how: begun.append(how))
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    for name in (hosts.COORDINATOR, hosts.PROCESSES, hosts.PROCESS, hosts.WAIT, "SLURM_NTASKS", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)

    def put(**variables: str) -> list[dict]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        hosts.join()
        return begun

    return put


def three(coordinator="node0:8476", processes="4", process="3"):
    return {hosts.COORDINATOR: coordinator, hosts.PROCESSES: processes, hosts.PROCESS: process}


def test_alone_nothing_is_joined(known):
    assert known() == []
    assert known(**three(processes="1", process="0")) == []


def test_the_three_variables_say_where_how_many_and_which(known):
    expected = {"coordinator_address": "node0:8476", "num_processes": 4, "process_id": 3}
    assert known(**three(), DALLE_JAX_WAIT="20") == [expected | {"initialization_timeout": 80}]


def test_a_slurm_step_of_several_tasks_is_left_to_jax(known):
    assert known(SLURM_NTASKS="8", SLURM_STEP_NODELIST="node[1-2]") == [{"initialization_timeout": 360}]


def test_a_slurm_allocation_without_a_step_is_one_process(known):
    assert known(SLURM_NTASKS="8") == []


def test_a_tpu_pod_is_left_to_jax(known):
    assert known(TPU_WORKER_HOSTNAMES="a,b") == [{"initialization_timeout": 360}]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({hosts.PROCESS: "0"}, "expected all three of DALLE_JAX_COORDINATOR, .* or none, got DALLE_JAX_PROCESS$"),
        (three(coordinator="node0"), "DALLE_JAX_COORDINATOR: expected host:port"),
        (three(process="4"), "DALLE_JAX_PROCESS: expected 0 to 3"),
        (three(processes="four"), "DALLE_JAX_PROCESSES: expected a whole number, got 'four'"),
        ({hosts.WAIT: "soon"}, "DALLE_JAX_WAIT: expected a whole number"),
    ],
)
def test_what_cannot_be_is_named(known, variables, message):
    with pytest.raises(UserError, match=message):
        known(**variables)
