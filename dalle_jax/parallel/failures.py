"""An error of one process ends all processes of the run within seconds.

Without this the others wait in a collective for a process that is gone: jax notices after 100 seconds, and not at all
while the failed process waits for them in turn, as ``jax.distributed`` does when Python exits.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordination service's key-value store has no public name

from dalle_jax.config.errors import UserError

KEY = "dalle_jax/failure"
"""Where the first process that fails leaves its failure."""

LOOK_SECONDS = 1.0
"""Time between two looks at ``KEY``."""

OWN_SECONDS = 1.0
"""Time for a process to report its own error before that of another ends it."""

COORDINATOR_SECONDS = 8.0
"""The same for process 0. Its end aborts the others with a page of stack, so it leaves last (commands/leave.py)."""


class Failure(NamedTuple):
    """The error of a process, and the exit code that it ends with."""

    process: int
    code: int
    reason: str

    def __str__(self) -> str:
        return f"process {self.process} ended the run: {self.reason}"


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """End all processes if the body raises in one of them; do nothing where the process is alone."""
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
        if earlier is not None and not isinstance(error, UserError):  # such as a connection that the failed one closed
            raise UserError(str(earlier)) from error
        _write(client, error)
        raise
    finally:
        left.set()
        listener.join()


def _write(client: distributed._jax.DistributedRuntimeClient, error: BaseException) -> None:
    """Tell the others of the error, unless one of them was first."""
    known = isinstance(error, UserError)
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    failure = Failure(distributed.global_state.process_id, 2 if known else 1, reason)
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(KEY, json.dumps(failure))


def _read(client: distributed._jax.DistributedRuntimeClient) -> Failure | None:
    """Return the failure of the process that failed first; None if none has, or process 0 is gone."""
    try:
        return Failure(*json.loads(client.key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:
        return None


def _listen(client: distributed._jax.DistributedRuntimeClient, left: threading.Event) -> None:
    """Wait for a failure and end the process, past Python's streams, whose locks a hung thread may hold."""
    while not left.wait(LOOK_SECONDS):
        failure = _read(client)
        if failure is not None:
            last = distributed.global_state.process_id == 0
            if not left.wait(COORDINATOR_SECONDS if last else OWN_SECONDS):
                os.write(2, f"dalle-jax: error: {failure}\n".encode())
                os._exit(failure.code)
