"""Timing of the training loop: clock readings, converted to metrics at logging steps."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dalle_jax.arrays import Float

T = TypeVar("T")

NAME_BYTES = 64
"""Largest length, in bytes, of a host's name that processes exchange."""


class TimeSpent(NamedTuple):
    """The number of steps, the seconds that they took, and the seconds in them that were spent waiting for batches.

    Evaluation, images and saves are not included.
    """

    steps: int
    seconds: float
    waited: float

    @property
    def useful(self) -> float:
        """The seconds in steps, without the waits for batches."""
        return self.seconds - self.waited

    def since(self, before: "TimeSpent") -> "TimeSpent":
        """Return the time spent since an earlier reading."""
        return TimeSpent(self.steps - before.steps, self.seconds - before.seconds, self.waited - before.waited)


class StepTimer:
    """The clock of one process's loop. It starts when the first step is dispatched, which excludes compilation.

    The first step is not counted. If the devices are still computing it when later steps are dispatched, its time is
    counted as time of those steps. The first rate can therefore be too low, but never too high.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._began: float | None = None
        self._steps = 0
        self._waited = self._paused = self._longest = 0.0

    def wait_for(self, get: Callable[[], T]) -> T:
        """Call ``get`` and record its duration as a wait for a batch."""
        before = self._clock()
        got = get()
        if self._began is not None:
            took = self._clock() - before
            self._waited += took
            self._longest = max(self._longest, took)
        return got

    def stepped(self) -> None:
        """Record that a step was dispatched to the devices."""
        if self._began is None:
            self._began = self._clock()
        else:
            self._steps += 1

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the enclosed work from the time of steps. The devices should be idle at its start."""
        before = self._clock()
        try:
            yield
        finally:
            if self._began is not None:
                self._paused += self._clock() - before

    def spent(self) -> TimeSpent:
        """Return the time spent since the clock started."""
        if self._began is None:
            return TimeSpent(0, 0.0, 0.0)
        return TimeSpent(self._steps, self._clock() - self._began - self._paused, self._waited)

    def longest_wait(self) -> float:
        """Return the longest wait for a batch since the last call, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest


class HostTimes(NamedTuple):
    """Seconds per step, and the mean and longest wait for a batch, by process, over one logging interval."""

    step: Float[np.ndarray, " P"]
    wait: Float[np.ndarray, " P"]
    longest: Float[np.ndarray, " P"]

    @property
    def slowest(self) -> int:
        """The process that waits longest for its batches.

        Processes step together, so seconds per step are nearly equal. Only the wait shows which process delays the
        others.
        """
        return int(np.argmax(self.wait))

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name.

        ``host/wait_share`` is the part of the step time for which the slowest process waits for its batches. All other
        processes wait for that process, so a mean over processes would hide the problem.
        """
        found = {
            "host/step_seconds": float(self.step.mean()),
            "host/wait_seconds": float(self.wait.mean()),
            "host/wait_seconds_max": float(self.longest.max()),
            "host/wait_share": float((self.wait / np.maximum(self.step, 1e-9)).max()),
        }
        return found | ({"host/slowest": float(self.slowest)} if len(self.step) > 1 else {})


def gathered(interval: TimeSpent, longest: float) -> HostTimes:
    """Gather the times of all processes; each must call it at the same step."""
    steps = max(interval.steps, 1)
    own = np.array([interval.seconds / steps, interval.waited / steps, longest], np.float32)
    rows = own[None] if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(own))  # [P 3]
    return HostTimes(*rows.T)


def host_names() -> tuple[str, ...]:
    """Return the host name of each process, in order; all processes must call it."""
    name = socket.gethostname().encode()[:NAME_BYTES]
    if jax.process_count() == 1:
        return (name.decode(errors="replace"),)
    own = np.frombuffer(name.ljust(NAME_BYTES, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(own))  # [P 64]
    return tuple(row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows)


class Straggler:
    """Detector of the host that all others wait for.

    It warns once, and again only after that host has recovered or a different host is the slowest.
    """

    LEAST_SHARE = 0.1
    """The smallest share of a step that a host must wait for its batch to be reported."""

    def __init__(self) -> None:
        self._reported: int | None = None

    def message(self, hosts: HostTimes, names: Sequence[str]) -> str | None:
        """Return a warning if one host is slow, else None.

        A slow host waits for its batches for more than a tenth of the step time. It also waits more than twice as long
        as the median of the other hosts.
        """
        slowest = hosts.slowest
        others = np.delete(hosts.wait, slowest)
        wait, step = float(hosts.wait[slowest]), float(hosts.step[slowest])
        bad = len(others) > 0 and wait > self.LEAST_SHARE * step and wait > 2 * float(np.median(others))
        repeated, self._reported = self._reported == slowest, slowest if bad else None
        if not bad or repeated:
            return None
        return (
            f"SLOWEST HOST: process {slowest} on {names[slowest]} waits {wait:.3g} s for its batch in a step of "
            f"{step:.3g} s; the other processes wait {float(np.median(others)):.3g} s for their batches, and then for "
            "this process. Check the disk, the network and the other programs of its host."
        )
