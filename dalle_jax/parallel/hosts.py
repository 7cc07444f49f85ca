"""The processes of a multi-host run: joining them, exchanging results, and stopping all at one step."""

import os
import re
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dalle_jax.config.errors import UserError

T = TypeVar("T")

COORDINATOR, PROCESSES, PROCESS = "DALLE_JAX_COORDINATOR", "DALLE_JAX_PROCESSES", "DALLE_JAX_PROCESS"
"""Environment variables for the first process's address (host:port), the number of processes, and this process's index.

The scripts in launch/ set them.
"""

WAIT = "DALLE_JAX_WAIT"
"""Environment variable for the seconds to wait for the other processes; the default is 300."""


LOST = "DALLE_JAX_LOST"
"""Environment variable for the seconds without a sign of life after which a process is lost; the default is 30."""


def join() -> None:
    """Join the other processes of the run, if there are any; call it before any device is used.

    ``DALLE_JAX_COORDINATOR``, ``_PROCESSES`` and ``_PROCESS`` take precedence. Without them, jax.distributed detects a
    SLURM job step of several tasks, Open MPI or a TPU pod. Otherwise the process runs alone. Raises UserError for
    invalid values. If the others do not arrive in time, this process ends with one line and exit code 2.
    """
    seconds = _number(WAIT, os.environ.get(WAIT, "300"))
    given = {name: os.environ[name] for name in (COORDINATOR, PROCESSES, PROCESS) if os.environ.get(name)}
    if given:
        _join_given(given, seconds)
    elif _found_by_jax():
        _initialize(seconds)


def _join_given(given: dict[str, str], seconds: int) -> None:
    names = (COORDINATOR, PROCESSES, PROCESS)
    if len(given) < len(names):
        raise UserError(f"expected all three of {', '.join(names)} in the environment or none, got {', '.join(given)}")
    if not re.fullmatch(r"(.+):(\d{1,5})", given[COORDINATOR]):
        raise UserError(f"{COORDINATOR}: expected host:port, such as node0:8476, got {given[COORDINATOR]!r}")
    processes, process = _number(PROCESSES, given[PROCESSES]), _number(PROCESS, given[PROCESS])
    if not 0 <= process < processes:
        raise UserError(f"{PROCESS}: expected 0 to {processes - 1}, since {PROCESSES} is {processes}, got {process}")
    if processes > 1:
        _initialize(seconds, coordinator_address=given[COORDINATOR], num_processes=processes, process_id=process)


def _initialize(seconds: int, **known: object) -> None:
    """Start jax.distributed; if the others do not arrive in time, end the process with one line.

    JAX itself would abort it with a long stack trace.
    """
    where = f" at {known['coordinator_address']}" if known else ""
    timer = threading.Timer(
        seconds,
        _end,
        [
            f"not all processes of this run joined it{where} in {seconds} s; start them together, "
            f"or set {WAIT} to more seconds"
        ],
    )
    timer.daemon = True
    timer.start()
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=lost_seconds() + 70,  # failures.py notices a loss first, and names it
            **known,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"could not join the run{where}: {str(error).splitlines()[0][:300]}") from error
    finally:
        timer.cancel()


def lost_seconds() -> int:
    """Return the seconds without a sign of life after which a process is lost."""
    seconds = _number(LOST, os.environ.get(LOST, "30"))
    if seconds < 5:
        raise UserError(f"{LOST}: expected at least 5 seconds, got {seconds}")
    return seconds


def _end(reason: str) -> None:
    print(f"dalle-jax: error: {reason}", file=sys.stderr, flush=True)
    os._exit(2)


def _found_by_jax() -> bool:
    """Return True if jax.distributed can find other processes from the environment."""
    # A shell of `salloc` may be a step of one task, with the SLURM_NTASKS of the whole job.
    in_step = {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= os.environ.keys()
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")) if in_step else "1"
    pod = (
        len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    )
    return pod or any(one.isdecimal() and int(one) > 1 for one in (tasks, os.environ.get("OMPI_COMM_WORLD_SIZE", "1")))


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def is_first() -> bool:
    """Return True for the process that writes the run's shared files."""
    return jax.process_index() == 0


def process_index_and_count() -> tuple[int, int]:
    """Return the index of this process and the number of processes."""
    return jax.process_index(), jax.process_count()


def agree_to_stop(asked: bool, step: int) -> bool:
    """Return whether the run stops before ``step``, with the same answer on every process.

    ``asked`` is True if this process was asked to stop; a run of one process then stops. In a run of several processes,
    a SIGTERM to any of them stops all at the same step (JAX's preemption service).
    """
    if jax.process_count() == 1:
        return asked
    return multihost_utils.reached_preemption_sync_point(step)


def gather(content: bytes) -> list[bytes]:
    """Return the content of every process, by process index.

    All processes must call it at the same point, from their main thread.
    """
    if jax.process_count() == 1:
        return [content]
    sizes = multihost_utils.process_allgather(np.asarray(len(content), np.int32))
    capacity = 1 << max(int(sizes.max()) - 1, 1).bit_length()  # a power of two, since each size compiles anew
    padded = np.zeros(capacity, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def call_and_share_errors(work: Callable[[], T]) -> T:
    """Call ``work``. If it raises ``UserError`` on any process, raise that error on every process."""
    result: T | None = None
    try:
        result, message = work(), b""
    except UserError as error:
        message = str(error).encode()
    for process, text in enumerate(gather(message)):
        if text:
            prefix = f"process {process}: " if jax.process_count() > 1 else ""
            raise UserError(prefix + text.decode())
    return result  # type: ignore[return-value]
