"""Propagation of errors between processes: an error in one process ends the whole run within seconds.

Without this module the other processes wait in a collective operation. jax notices a lost process after 100 seconds. It
never notices if the failed process waits for the others, as ``jax.distributed`` does when Python exits.

A killed process stores nothing. The first process notices that its sign of life stays the same; the others may notice
a lost connection before. If the first process itself is killed, jax aborts the others at once.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordination service's key-value store has no public name

from dalle_jax.config.errors import UserError

KEY = "dalle_jax/failure"
"""Key of the store of jax.distributed under which the first process that fails stores its failure."""

POLL_SECONDS = 1.0
"""Seconds between two reads of ``KEY``."""

SIGN = "dalle_jax/sign of life/"
"""Beginning of the keys under which each process counts up."""

SIGN_SECONDS = 5.0
"""Seconds between two signs of life of a process."""

LOST_SECONDS = 30.0
"""Seconds after which a process without a sign of life is lost. A stopped process counts too."""

NEWS_SECONDS = 5.0
"""Seconds that a process with a lost connection waits for the reason that a different process stores."""

LOST_CONNECTION = ("Gloo", "Connection reset", "Connection closed", "Socket closed", "UNAVAILABLE")
"""Words of jax's errors when a process is gone in the middle of a collective operation."""

OWN_SECONDS = 1.0
"""Seconds that a process has to report an error of its own before the error of a different process ends it."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a process that is ended by Ctrl-C, or by SIGTERM in bulk sampling; the others then end with it too."""

UNWIND_SECONDS = 5.0
"""Seconds that a process has to remove its lock and temporary files after a different process was interrupted."""

COORDINATOR_SECONDS = 8.0
"""``OWN_SECONDS`` of process 0. Its exit aborts the others with a long stack trace, so it exits last."""


class Failure(NamedTuple):
    """The error of a process and its exit code."""

    process: int
    code: int
    reason: str

    def __str__(self) -> str:
        return f"process {self.process} ended the run: {self.reason}"


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Return a context in which all processes end if its body raises an error in one of them.

    If a process is interrupted, KeyboardInterrupt is raised in the main threads of the others, so that all of them
    remove their locks and temporary files. In a run of a single process it does nothing.
    """
    client = distributed.global_state.client
    if client is None:
        yield
        return
    left = threading.Event()
    listener = threading.Thread(target=_listen, args=(client, left), name="failures", daemon=True)
    listener.start()
    try:
        yield
    except BaseException as error:
        earlier = _read(client)
        if earlier is not None and earlier.code == INTERRUPTED:
            raise KeyboardInterrupt from error
        if earlier is not None and not isinstance(error, UserError):  # such as a lost connection to the failed process
            raise UserError(str(earlier)) from error
        if isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in LOST_CONNECTION):
            raise UserError(_why_lost(client, error)) from error
        _write(client, error)
        raise
    finally:
        left.set()
        listener.join()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_delete(_sign_key())


def _why_lost(client: distributed._jax.DistributedRuntimeClient, error: Exception) -> str:
    """Return the reason of a lost connection: what a different process stores soon, or that it is gone."""
    end = time.monotonic() + NEWS_SECONDS
    while time.monotonic() < end:
        if (failure := _read(client)) is not None:
            return str(failure)
        time.sleep(POLL_SECONDS / 5)
    line = str(error).splitlines()[0][:200]
    return f"lost the connection to a process of this run, which was killed or whose machine is gone ({line})"


def _sign_key() -> str:
    return f"{SIGN}{distributed.global_state.process_id}"


class _Signs:
    """Signs of life of the processes. Each gives its own, and the first one reads all."""

    def __init__(self, client: distributed._jax.DistributedRuntimeClient) -> None:
        self._client, self._next = client, 0.0
        self._seen: dict[str, tuple[str, float]] = {}
        """The last count of each process, and when it was first read."""

    def lost(self) -> Failure | None:
        """Give a sign if it is time, and return the failure of a process that gives none any more."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + SIGN_SECONDS
        try:
            self._client.key_value_increment(_sign_key(), 1)
            counts = self._client.key_value_dir_get(SIGN) if distributed.global_state.process_id == 0 else []
        except jax.errors.JaxRuntimeError:
            return None
        before = self._seen
        self._seen = {
            key: before[key] if before.get(key, ("", 0))[0] == count else (count, now) for key, count in counts
        }
        for key, (_, since) in self._seen.items():
            if now - since > LOST_SECONDS:
                reason = f"no sign of life for {LOST_SECONDS:.0f} s; it was killed or stopped, or its machine is gone"
                return Failure(int(key.removeprefix(SIGN)), 2, reason)
        return None


def _write(client: distributed._jax.DistributedRuntimeClient, error: BaseException) -> None:
    """Store the error for the other processes, unless one of them has stored its own."""
    code, reason = 1, f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        code, reason = 2, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, reason = INTERRUPTED, "interrupted"
    _store(client, Failure(distributed.global_state.process_id, code, reason))


def _store(client: distributed._jax.DistributedRuntimeClient, failure: Failure) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(KEY, json.dumps(failure))


def _read(client: distributed._jax.DistributedRuntimeClient) -> Failure | None:
    """Return the failure of the first process that failed, or None if none failed or process 0 is unreachable."""
    try:
        return Failure(*json.loads(client.key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:
        return None


def _listen(client: distributed._jax.DistributedRuntimeClient, left: threading.Event) -> None:
    """Poll for the failure of another process; then print it and exit. After an interruption, unwind first.

    The message goes to file descriptor 2, not to ``sys.stderr``, since a hung thread may hold the lock of the latter.
    """
    signs = _Signs(client)
    while not left.wait(POLL_SECONDS):
        failure = _read(client)
        if failure is None and (failure := signs.lost()) is not None:
            _store(client, failure)
        if failure is not None:
            last = distributed.global_state.process_id == 0
            if failure.code == INTERRUPTED and _interrupt_main_thread() and left.wait(UNWIND_SECONDS):
                return
            if not left.wait(COORDINATOR_SECONDS if last else OWN_SECONDS):
                os.write(2, f"dalle-jax: error: {failure}\n".encode())
                os._exit(failure.code)


def _interrupt_main_thread() -> bool:
    """Send the main thread a signal whose handler is Python's, which raises KeyboardInterrupt; False without one.

    A real signal also ends a system call that waits.
    """
    main = threading.main_thread().ident
    for number in (signal.SIGTERM, signal.SIGINT):
        if main is not None and callable(signal.getsignal(number)):
            signal.pthread_kill(main, number)
            return True
    return False
