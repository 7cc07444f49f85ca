"""The processes of one run: how they find each other, which of them writes, and how they stop together."""

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
"""Where the first process listens (host:port), how many there are, and which this is; launch/ sets them."""

WAIT = "DALLE_JAX_WAIT"
"""Seconds to wait for the others to arrive, 300 if it is not set."""


def join() -> None:
    """Joins the other processes of the run, if there are any. Must come before any device is used.

    Given ``DALLE_JAX_COORDINATOR``, ``_PROCESSES`` and ``_PROCESS`` it takes those; else what jax.distributed finds by
    itself: a SLURM job step of several tasks, Open MPI, a TPU pod. Without any of them the process is alone. Raises
    UserError for values that cannot be; processes that do not arrive in time end this one, with one line and code 2.
    """
    seconds = _number(WAIT, os.environ.get(WAIT, "300"))
    given = {name: os.environ[name] for name in (COORDINATOR, PROCESSES, PROCESS) if os.environ.get(name)}
    if given:
        _join_given(given, seconds)
    elif _found_by_jax():
        _initialize(seconds)


def _join_given(given: dict[str, str], seconds: int) -> None:
    missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given]
    if missing:
        raise UserError(f"expected {', '.join(missing)} beside {', '.join(given)}: all three or none")
    if not re.fullmatch(r"(.+):(\d{1,5})", given[COORDINATOR]):
        raise UserError(f"{COORDINATOR}: expected host:port, such as node0:8476, got {given[COORDINATOR]!r}")
    processes, process = _number(PROCESSES, given[PROCESSES]), _number(PROCESS, given[PROCESS])
    if not 0 <= process < processes:
        raise UserError(f"{PROCESS}: expected 0 to {processes - 1}, since {PROCESSES} is {processes}, got {process}")
    if processes > 1:
        _initialize(seconds, coordinator_address=given[COORDINATOR], num_processes=processes, process_id=process)


def _initialize(seconds: int, **known: object) -> None:
    """Ends the process with one line where the others do not arrive: jax would abort it with a page of stack."""
    where = f" at {known['coordinator_address']}" if known else ""
    late = threading.Timer(seconds, _end, [f"the processes of this run did not find each other{where} in {seconds} s"])
    late.daemon = True
    late.start()
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(initialization_timeout=seconds + 60, **known)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"could not join the run{where}: {str(error).splitlines()[0][:300]}") from error
    finally:
        late.cancel()


def _end(reason: str) -> None:
    print(f"dalle-jax: error: {reason}", file=sys.stderr, flush=True)
    os._exit(2)


def _found_by_jax() -> bool:
    """Whether the environment is one of those from which jax.distributed knows the others."""
    several = (os.environ.get("SLURM_NTASKS", "1"), os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    in_step = "SLURM_STEP_NODELIST" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ
    pod = (
        len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    )
    return pod or (in_step and any(count.isdigit() and int(count) > 1 for count in several))


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise UserError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def is_first() -> bool:
    """Whether this process writes what is written once per run."""
    return jax.process_index() == 0


def process_index_and_count() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return jax.process_index(), jax.process_count()


def agree_to_stop(asked: bool, step: int) -> bool:
    """Whether the run stops before ``step``: the same answer on every process.

    Alone it is what this process was ``asked``. With others a SIGTERM to any of them is agreed upon by all, at one step
    that none of them has passed (jax's preemption service).
    """
    if jax.process_count() == 1:
        return asked
    return multihost_utils.reached_preemption_sync_point(step)


def gather(content: bytes) -> list[bytes]:
    """What each process gives, in their order; all of them call it at the same place, from their main thread."""
    if jax.process_count() == 1:
        return [content]
    sizes = multihost_utils.process_allgather(np.asarray(len(content), np.int32))
    room = 1 << max(int(sizes.max()) - 1, 1).bit_length()  # few sizes, since each is compiled anew
    padded = np.zeros(room, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def call_and_share_errors(work: Callable[[], T]) -> T:
    """What ``work`` gives this process; a UserError of any process is raised on all of them, so that none waits."""
    done: T | None = None
    try:
        done, said = work(), b""
    except UserError as error:
        said = str(error).encode()
    for process, one in enumerate(gather(said)):
        if one:
            where = f"process {process}: " if jax.process_count() > 1 else ""
            raise UserError(where + one.decode())
    return done  # type: ignore[return-value]
