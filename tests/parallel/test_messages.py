"""Messages through a store that is a dictionary: their order, and what the store forgets."""

import jax
import pytest

from dalle_jax.parallel import messages
from dalle_jax.parallel.messages import KEPT, KEYS, Receiver, Sender


class Store(dict):
    """The methods of the store of jax.distributed that messages use."""

    key_value_set_bytes = dict.__setitem__

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self[key] = value

    def key_value_dir_get(self, start: str) -> list[tuple[str, str]]:
        return [one for one in self.items() if one[0].startswith(start)]

    def blocking_key_value_get_bytes(self, key: str, milliseconds: int) -> bytes:
        if key not in self:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: it is gone")
        return self[key]

    def key_value_delete(self, key: str) -> None:
        del self[key]


@pytest.fixture
def store(monkeypatch) -> Store:
    found = Store()
    monkeypatch.setattr(messages, "_client", lambda: found)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    return found


def test_every_process_reads_every_message_and_read_ones_are_forgotten(store, monkeypatch):
    sender, receivers = Sender(), {number: Receiver() for number in (1, 2)}
    count = 4 * KEPT
    for number in range(count):
        sender.send(str(number).encode())
        for process, receiver in receivers.items() if number < 3 * KEPT else ():
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            assert receiver.receive() == str(number).encode()
    kept = sorted(int(one.removeprefix(KEYS)) for one in store if one.startswith(KEYS))
    assert kept == list(range(3 * KEPT, count))


def test_a_message_that_one_process_has_not_read_is_kept(store, monkeypatch):
    sender, receiver = Sender(), Receiver()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for _ in range(2 * KEPT):
        sender.send(b"a")
        receiver.receive()
    assert f"{KEYS}0" in store


def test_a_lost_connection_is_raised(store):
    with pytest.raises(jax.errors.JaxRuntimeError, match="gone"):
        Receiver().receive()
