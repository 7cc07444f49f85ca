"""Failures of a different process, as one process sees them. A service of one process holds the store."""

import json
import signal
import socket
import threading
import time

import jax
import pytest
from jax._src import distributed

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import failures
from dalle_jax.parallel.failures import INTERRUPTED, KEY, Failure
from dalle_jax.parallel.heartbeats import Heartbeat, Silences, receive, send, withdraw


@pytest.fixture
def client(monkeypatch):
    """Return a client of a coordination service, as process 1 of a run has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    service = distributed._jax.get_distributed_runtime_service(address, 1)
    made = distributed._jax.get_distributed_runtime_client(address, 0)
    made.connect()
    monkeypatch.setattr(distributed.global_state, "client", made)
    monkeypatch.setattr(distributed.global_state, "process_id", 1)
    monkeypatch.setattr(failures, "POLL_SECONDS", 0.01)
    yield made
    made.shutdown()
    service.shutdown()


def store(client, code, reason):
    """Store the failure of process 0."""
    client.key_value_set(KEY, json.dumps(Failure(0, code, reason)))


def wait_for_the_end(client, cleaned):
    """Store an interruption of process 0 and wait, as a process that samples does."""
    with failures.shared():
        try:
            threading.Timer(0.05, store, (client, INTERRUPTED, "interrupted")).start()
            time.sleep(60)
        finally:
            cleaned.append(True)


def fail(client, code, reason, error):
    """Raise an error after process 0 has failed."""
    with failures.shared():
        store(client, code, reason)
        raise error


def test_an_interruption_of_another_process_unwinds_this_one(client):
    cleaned = []
    with pytest.raises(KeyboardInterrupt):
        wait_for_the_end(client, cleaned)
    assert cleaned == [True]


def test_the_handler_of_sigterm_is_called_if_there_is_one(client):
    def handle(number, frame):
        raise KeyboardInterrupt(f"signal {number}")

    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            wait_for_the_end(client, [])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert str(caught.value.__cause__) == f"signal {int(signal.SIGTERM)}"


@pytest.mark.parametrize("error", [RuntimeError("lost connection"), UserError("a shard is missing")])
def test_errors_that_follow_an_interruption_are_the_interruption(client, error, monkeypatch):
    monkeypatch.setattr(failures, "POLL_SECONDS", 60.0)  # the error comes first
    with pytest.raises(KeyboardInterrupt):
        fail(client, INTERRUPTED, "interrupted", error)


def test_ctrl_c_is_stored_with_its_exit_code(client):
    def interrupted():
        with failures.shared():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Failure(*json.loads(client.key_value_try_get(KEY))) == (1, 130, "interrupted")


def test_process_0_stores_the_loss_of_a_process_for_the_others(client):
    silences = Silences(5)
    for _ in range(8):
        silences.update({3: Heartbeat(1, "node3")}, 1.0)
    lost = failures._lost(failures.Exchange(client, 0, "node0:1"), silences)
    assert lost.process == 3
    assert lost.code == 75
    assert Failure(*json.loads(client.key_value_try_get(KEY))) == lost


def test_process_0_sees_the_heartbeats_of_processes_that_have_not_left(client):
    for process in (0, 2, 3):
        send(client, process, 7)
    withdraw(client, 3)
    assert receive(client) == {process: Heartbeat(7, socket.gethostname()) for process in (0, 2)}


def test_an_error_of_another_process_ends_this_one_with_its_line(client, monkeypatch):
    monkeypatch.setattr(failures, "POLL_SECONDS", 60.0)
    with pytest.raises(UserError, match=r"^process 0 ended the run: a bad row$"):
        fail(client, 2, "a bad row", RuntimeError("lost connection"))


LOST = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer\nmore")


@pytest.mark.parametrize(
    ("later", "line"),
    [
        (
            None,
            r"^lost the connection to a process of this run, .* is gone; repeat the command \(UNKNOWN: Gloo .*peer\)$",
        ),
        ("its disk is gone", r"^process 0 ended the run: its disk is gone$"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in a save that failed"])
def test_a_lost_connection_is_one_line_with_the_reason_if_one_comes(client, monkeypatch, later, line, wrapped):
    monkeypatch.setattr(failures, "NEWS_SECONDS", 0.5 if later else 0.05)
    monkeypatch.setattr(failures, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(failures, "OWN_SECONDS", 60.0)

    def lose():
        with failures.shared():
            if later:
                threading.Timer(0.05, store, (client, 2, later)).start()
            if wrapped:
                raise UserError("could not save the checkpoint of step 10") from LOST
            raise LOST

    with pytest.raises(UserError, match=line):
        lose()


def test_other_errors_of_jax_stay_as_they_are(client):
    def full():
        with failures.shared():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        full()
