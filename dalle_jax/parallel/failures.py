"""Propagation of errors between processes: an error in one process, or its loss, ends the whole run.

Without this module the other processes wait in a collective operation. jax notices a lost process after 100 seconds,
and then aborts the others with a long stack trace. It never notices if the failed process waits for the others, as
``jax.distributed`` does when Python exits.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordination service's key-value store has no public name

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.parallel.heartbeats import Heartbeat, Silences, receive, send, withdraw

KEY = "dalle_jax/failure"
"""Key of the store of jax.distributed under which the first process that fails stores its failure."""

POLL_SECONDS = 1.0
"""Seconds between two reads of ``KEY``."""

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
CLOSING_SECONDS = 10.0
"""Longest time until a killed process no longer accepts connections, which close one after the other."""


class Failure(NamedTuple):
    """The error of a process and its exit code."""

    process: int
    code: int
    reason: str

    def __str__(self) -> str:
        return f"process {self.process} ended the run: {self.reason}"


class EndedByOther(UserError):
    """The end of this process because of another one, with the exit code of the other."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Return a context in which all processes end if its body raises an error in one of them.

    If a process is interrupted, KeyboardInterrupt is raised in the main threads of the others, so that all of them
    remove their locks and temporary files. A process that gives no sign of life for ``hosts.lost_seconds()`` ends the
    others with exit code 75 (EX_TEMPFAIL). In a run of a single process it does nothing.
    """
    client = distributed.global_state.client
    if client is None:
        yield
        return
    left = threading.Event()
    exchange = Exchange(client, distributed.global_state.process_id, distributed.global_state.coordinator_address or "")
    listener = threading.Thread(
        target=_listen, args=(exchange, Silences(hosts.lost_seconds()), left), name="failures", daemon=True
    )
    listener.start()
    try:
        with exchange, _lost_coordinator_named(exchange.coordinator):
            yield
    except BaseException as error:
        earlier = _read(client)
        if earlier is not None and earlier.code == INTERRUPTED:
            raise KeyboardInterrupt from error
        lost = _lost_connection(error)
        if earlier is not None and (lost is not None or not isinstance(error, UserError)):
            raise EndedByOther(str(earlier), earlier.code) from error
        if lost is not None:
            raise _why_lost(client, lost) from error
        _write(client, error)
        raise
    finally:
        left.set()
        listener.join()


def _lost_connection(error: BaseException) -> Exception | None:
    """Return the lost connection that an error is, or that it was raised from, such as while a checkpoint was saved."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, jax.errors.JaxRuntimeError) and any(word in str(cause) for word in LOST_CONNECTION):
            return cause
        cause = cause.__cause__
    return None


def _why_lost(client: distributed._jax.DistributedRuntimeClient, error: Exception) -> EndedByOther:
    """Return the reason of a lost connection: what a different process stores soon, or that it is gone."""
    end = time.monotonic() + NEWS_SECONDS
    while time.monotonic() < end:
        if (failure := _read(client)) is not None:
            return EndedByOther(str(failure), failure.code)
        time.sleep(POLL_SECONDS / 5)
    line = str(error).splitlines()[0][:200]
    why = "lost the connection to a process of this run, which was killed or whose machine is gone; repeat the command"
    return EndedByOther(f"{why} ({line})", os.EX_TEMPFAIL)


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


class Exchange:
    """A thread that sends the heartbeats of this process, and reads those of the others and ``KEY``.

    It is separate from the thread that judges them, since a call to the store hangs while process 0 is suspended.
    """

    def __init__(self, client: distributed._jax.DistributedRuntimeClient, process: int, coordinator: str):
        self.client, self.process, self.coordinator = client, process, coordinator
        self.beats: dict[int, Heartbeat] = {}
        self.failure: Failure | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def __enter__(self) -> "Exchange":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(timeout=2 * POLL_SECONDS)
        if not self._thread.is_alive():
            withdraw(self.client, self.process)

    def _run(self) -> None:
        number, host = 0, self.coordinator.rpartition(":")[0]
        while not self._left.is_set():
            number += 1
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                send(self.client, self.process, number)
                beats = receive(self.client) if self.process == 0 else {0: Heartbeat(number, host)}
                self.beats = {process: beat for process, beat in beats.items() if process != self.process}
            self.failure = _read(self.client)
            self._left.wait(POLL_SECONDS)


def _listen(exchange: Exchange, silences: Silences, left: threading.Event) -> None:
    """Poll for the failure or loss of another process; then print it and exit. After an interruption, unwind first.

    The message goes to file descriptor 2, not to ``sys.stderr``, since a hung thread may hold the lock of the latter.
    If this process itself was suspended, that time counts as two intervals at most.
    """
    before = time.monotonic()
    while not left.wait(POLL_SECONDS):
        now = time.monotonic()
        lines = silences.update(exchange.beats, min(now - before, 2 * POLL_SECONDS))
        before = now
        if exchange.process <= 1:  # process 0 watches all others, and each of them process 0
            os.write(2, "".join(f"dalle-jax: {line}\n" for line in lines).encode())
        failure = exchange.failure or _lost(exchange, silences)
        if failure is not None:
            last = exchange.process == 0
            if failure.code == INTERRUPTED and _interrupt_main_thread() and left.wait(UNWIND_SECONDS):
                return
            if not left.wait(COORDINATOR_SECONDS if last else OWN_SECONDS):
                os.write(2, f"dalle-jax: error: {failure}\n".encode())
                os._exit(failure.code)


def _lost(exchange: Exchange, silences: Silences) -> Failure | None:
    """Return the loss of a process as a failure, which process 0 stores for the others; None if all are there."""
    lost = silences.lost()
    if lost is None:
        return None
    failure = Failure(lost[0], os.EX_TEMPFAIL, lost[1])
    if exchange.process == 0:
        _store(exchange.client, failure)
    return failure


@contextlib.contextmanager
def _lost_coordinator_named(coordinator: str) -> Iterator[None]:
    """Return a context in which an abort of this process is one line and exit code 75 if process 0 is gone.

    The service of ``jax.distributed`` ends with process 0. Its client in the other processes then calls ``abort``,
    after lines of its own; jaxlib 0.10 cannot call Python there. Any other abort stays one.
    """
    host, _, port = coordinator.rpartition(":")

    def aborted(number: int) -> None:
        try:
            end = time.monotonic() + CLOSING_SECONDS
            while time.monotonic() < end:
                socket.create_connection((host.strip("[]"), int(port)), timeout=OWN_SECONDS).close()
                time.sleep(CLOSING_SECONDS / 50)
        except OSError:
            gone = Failure(0, os.EX_TEMPFAIL, f"{host} no longer answers, so it was killed; repeat the command")
            os.write(2, f"dalle-jax: error: {gone}\n".encode())
            os._exit(gone.code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)


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
