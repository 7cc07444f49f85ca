"""Heartbeats: signs of life between the processes of a run, to notice one that was killed, suspended or disconnected.

Each process counts up a key in the store of ``jax.distributed``, which process 0 serves. Process 0 reads the keys of
all others. The others watch only whether the store answers.
"""

import contextlib
import socket
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordination service's key-value store has no public name

KEYS = "dalle_jax/alive/"
"""Prefix of the keys of the store; the index of the process follows."""


class Heartbeat(NamedTuple):
    """The newest heartbeat of a process: its number, from 1, and the host."""

    number: int
    host: str


class Silences:
    """The seconds for which each process has sent no new heartbeat.

    Callers pass the elapsed time, so tests need no clock.
    """

    def __init__(self, lost_after: int):
        self._lost_after = lost_after
        self._seen: dict[int, Heartbeat] = {}
        self._seconds: dict[int, float] = {}
        self._noticed: set[int] = set()

    def update(self, beats: Mapping[int, Heartbeat], elapsed: float) -> list[str]:
        """Add the elapsed seconds, and return a line for each process that becomes silent or is heard again.

        ``beats`` are the newest heartbeats. A process that is not among them has left, and is no longer watched.
        """
        lines = []
        for process, beat in beats.items():
            before = self._seconds.get(process, 0.0)
            seconds = before + elapsed if self._seen.get(process) == beat else 0.0
            if seconds > self._lost_after / 3 and process not in self._noticed:
                self._noticed.add(process)
                lines.append(
                    f"process {process} ({beat.host}) has given no sign of life for {seconds:.0f} s; the run waits "
                    f"for it, up to {self._lost_after} s in all"
                )
            if not seconds and process in self._noticed:
                self._noticed.remove(process)
                lines.append(f"process {process} ({beat.host}) is back after {before:.0f} s")
            self._seconds[process] = seconds
        self._seen = dict(beats)
        self._noticed &= beats.keys()
        return lines

    def lost(self) -> tuple[int, str] | None:
        """Return a process that has been silent for too long, with a description, or None."""
        for process, beat in self._seen.items():
            if self._seconds[process] > self._lost_after:
                return process, (
                    f"{beat.host} gave no sign of life for {self._lost_after} s, so it was killed, suspended or "
                    "disconnected; repeat the command"
                )
        return None


def send(client: distributed._jax.DistributedRuntimeClient, process: int, number: int) -> None:
    """Store a heartbeat of this process. Raise JaxRuntimeError without a connection."""
    client.key_value_set(f"{KEYS}{process}", f"{number} {socket.gethostname()}", allow_overwrite=True)


def receive(client: distributed._jax.DistributedRuntimeClient) -> dict[int, Heartbeat]:
    """Return the newest heartbeat of each process that has not left."""
    found = {}
    for key, value in client.key_value_dir_get(KEYS):
        number, _, host = value.partition(" ")
        found[int(key.removeprefix(KEYS))] = Heartbeat(int(number), host)
    return found


def withdraw(client: distributed._jax.DistributedRuntimeClient, process: int) -> None:
    """Remove the heartbeat of this process, so that it is no longer watched."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_delete(f"{KEYS}{process}")
