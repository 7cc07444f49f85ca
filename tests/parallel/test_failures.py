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


def test_an_error_of_another_process_ends_this_one_with_its_line(client, monkeypatch):
    monkeypatch.setattr(failures, "POLL_SECONDS", 60.0)
    with pytest.raises(UserError, match=r"^process 0 ended the run: a bad row$"):
        fail(client, 2, "a bad row", RuntimeError("lost connection"))


LOST = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer\nmore")


@pytest.mark.parametrize(
    ("later", "line"),
    [
        (None, r"^lost the connection to a process of this run, .* is gone \(UNKNOWN: Gloo .* closed by peer\)$"),
        ("its disk is gone", r"^process 0 ended the run: its disk is gone$"),
    ],
)
def test_a_lost_connection_is_one_line_with_the_reason_if_one_comes(client, monkeypatch, later, line):
    monkeypatch.setattr(failures, "NEWS_SECONDS", 0.5 if later else 0.05)
    monkeypatch.setattr(failures, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(failures, "OWN_SECONDS", 60.0)

    def lose():
        with failures.shared():
            if later:
                threading.Timer(0.05, store, (client, 2, later)).start()
            raise LOST

    with pytest.raises(UserError, match=line):
        lose()


def test_other_errors_of_jax_stay_as_they_are(client):
    def full():
        with failures.shared():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        full()


def test_the_first_process_notices_one_whose_sign_of_life_stays_the_same(client, monkeypatch):
    monkeypatch.setattr(distributed.global_state, "process_id", 0)
    monkeypatch.setattr(failures, "SIGN_SECONDS", 0.0)
    monkeypatch.setattr(failures, "LOST_SECONDS", 0.2)
    signs, end = failures._Signs(client), time.monotonic() + 0.3
    client.key_value_increment(f"{failures.SIGN}2", 1)
    while time.monotonic() < end:  # 2 counts up, as this process does
        client.key_value_increment(f"{failures.SIGN}2", 1)
        assert signs.lost() is None
        time.sleep(0.01)
    while (lost := signs.lost()) is None:
        time.sleep(0.01)
    assert (lost.process, lost.code) == (2, 2) and "no sign of life for 0 s; it was killed" in lost.reason
    client.key_value_delete(f"{failures.SIGN}2")
    assert signs.lost() is None


def test_a_process_that_leaves_takes_its_sign_of_life_along(client, monkeypatch):
    with failures.shared():
        while not (found := client.key_value_dir_get(failures.SIGN)):
            time.sleep(0.01)
        assert [key for key, _ in found] == [f"{failures.SIGN}1"]
    assert client.key_value_dir_get(failures.SIGN) == []
