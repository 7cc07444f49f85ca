"""Propagation of errors between processes: an error in one process ends the whole run within seconds.

Without this module the other processes wait in a collective operation. jax notices a lost process after 100 seconds. It
never notices if the failed process waits for the others, as ``jax.distributed`` does when Python exits.
"""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordination service's key-value store has no public name

from dalle_jax.config.errors import UserError

KEY = "dalle_jax/failure"
"""Key of the store of jax.distributed under which the first process that fails stores its failure."""

POLL_SECONDS = 1.0
"""Seconds between two reads of ``KEY``."""

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
        _write(client, error)
        raise
    finally:
        left.set()
        listener.join()


def _write(client: distributed._jax.DistributedRuntimeClient, error: BaseException) -> None:
    """Store the error for the other processes, unless one of them has stored its own."""
    code, reason = 1, f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        code, reason = 2, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, reason = INTERRUPTED, "interrupted"
    failure = Failure(distributed.global_state.process_id, code, reason)
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
    while not left.wait(POLL_SECONDS):
        failure = _read(client)
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
