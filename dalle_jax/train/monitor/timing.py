"""How fast a run goes and what its time goes to: clock readings of the loop, made into figures at logging steps."""

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
"""Of a host's name, when processes tell each other theirs."""


class TimeSpent(NamedTuple):
    """Steps, the seconds that went into them (evaluation, images and saves left out), and waiting for batches."""

    steps: int
    seconds: float
    waited: float

    @property
    def useful(self) -> float:
        """Seconds in steps that had their batch."""
        return self.seconds - self.waited

    def since(self, before: "TimeSpent") -> "TimeSpent":
        """What was spent after ``before``."""
        return TimeSpent(self.steps - before.steps, self.seconds - before.seconds, self.waited - before.waited)


class StepTimer:
    """The clock of one process's loop. It starts when the first step has been handed over, so compiling is left out.

    The first step is therefore no step of it: on a device that runs behind the loop some of it is in the seconds of the
    others, so a rate can come out too low in the first interval but never too high.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._began: float | None = None
        self._steps = 0
        self._waited = self._paused = self._longest = 0.0

    def wait_for(self, get: Callable[[], T]) -> T:
        """What ``get`` gives, and how long it took, as waiting for a batch."""
        before = self._clock()
        got = get()
        if self._began is not None:
            took = self._clock() - before
            self._waited += took
            self._longest = max(self._longest, took)
        return got

    def stepped(self) -> None:
        """One more step was handed to the devices."""
        if self._began is None:
            self._began = self._clock()
        else:
            self._steps += 1

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is done inside is no step. The devices should be idle when it begins, or their time is counted here."""
        before = self._clock()
        try:
            yield
        finally:
            if self._began is not None:
                self._paused += self._clock() - before

    def spent(self) -> TimeSpent:
        """Since the clock started."""
        if self._began is None:
            return TimeSpent(0, 0.0, 0.0)
        return TimeSpent(self._steps, self._clock() - self._began - self._paused, self._waited)

    def longest_wait(self) -> float:
        """The longest wait for one batch since this was last asked, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest


class Hosts(NamedTuple):
    """One row for each process: seconds per step, mean and longest wait for a batch, all of one logging interval."""

    step: Float[np.ndarray, " P"]
    wait: Float[np.ndarray, " P"]
    longest: Float[np.ndarray, " P"]

    @property
    def slowest(self) -> int:
        """The process that waits the longest for its batches.

        All take their steps together, so the seconds of a step are nearly the same everywhere; what differs is whether
        a process had its batch in time or let the others wait.
        """
        return int(np.argmax(self.wait))

    def figures(self) -> dict[str, float]:
        """By name. The share of time spent waiting is the largest of all: the others wait for that process."""
        found = {
            "host/step_seconds": float(self.step.mean()),
            "host/wait_seconds": float(self.wait.mean()),
            "host/wait_seconds_max": float(self.longest.max()),
            "host/wait_share": float((self.wait / np.maximum(self.step, 1e-9)).max()),
        }
        return found | ({"host/slowest": float(self.slowest)} if len(self.step) > 1 else {})


def gathered(interval: TimeSpent, longest: float) -> Hosts:
    """The figures of every process, from each its own. Must be called by all of them at the same step."""
    steps = max(interval.steps, 1)
    own = np.array([interval.seconds / steps, interval.waited / steps, longest], np.float32)
    rows = own[None] if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(own))  # [P 3]
    return Hosts(*rows.T)


def host_names() -> tuple[str, ...]:
    """The name of every process's host, in the order of processes. Must be called by all of them."""
    name = socket.gethostname().encode()[:NAME_BYTES]
    if jax.process_count() == 1:
        return (name.decode(errors="replace"),)
    own = np.frombuffer(name.ljust(NAME_BYTES, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(own))  # [P 64]
    return tuple(row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows)


class Straggler:
    """Says which host the others wait for, once until it is another or none."""

    LEAST_SHARE = 0.1
    """Of the time of a step that a host waits for its batch before it is worth a word."""

    def __init__(self) -> None:
        self._said: int | None = None

    def line(self, hosts: Hosts, names: Sequence[str]) -> str | None:
        """The line, where there is one: a wait of a tenth of the step and of twice the others' median."""
        slowest = hosts.slowest
        others = np.delete(hosts.wait, slowest)
        wait, step = float(hosts.wait[slowest]), float(hosts.step[slowest])
        bad = len(others) > 0 and wait > self.LEAST_SHARE * step and wait > 2 * float(np.median(others))
        repeated, self._said = self._said == slowest, slowest if bad else None
        if not bad or repeated:
            return None
        return (
            f"SLOWEST HOST: process {slowest} on {names[slowest]} waits {wait:.3g} s for its batch in a step of "
            f"{step:.3g} s, the others {float(np.median(others)):.3g} s, and they wait for it. Look at its disk, its "
            "network and what else runs there."
        )
