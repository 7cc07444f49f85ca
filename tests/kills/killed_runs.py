"""Commands that are killed at random moments and started again; the result is compared with an undisturbed one's."""

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from tests.quick_compiling import QUICK

ERROR = "dalle-jax: error: "
SURVIVOR_SECONDS = 60
"""Most seconds after which the other process of a killed one must have ended by itself."""


class Starter:
    """The process that forks the commands. They share its compiled programs."""

    def __init__(self, folder: Path):
        self._log = folder / "log"
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
        known = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICK,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "DALLE_JAX_WAIT": "60",
        }
        program = [sys.executable, str(Path(__file__).with_name("starter.py"))]
        self._process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | known | cache,
            start_new_session=True,
        )

    def start(self, commands: list[list[str]], joined: bool) -> list[int]:
        """Start commands at once, as processes of one run if ``joined``; return their numbers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        variables = [{} for _ in commands]
        if joined and len(commands) > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{free.getsockname()[1]}"
            known = {"DALLE_JAX_COORDINATOR": address, "DALLE_JAX_PROCESSES": str(len(commands))}
            variables = [known | {"DALLE_JAX_PROCESS": str(number)} for number in range(len(commands))]
        self._log.write_text("")
        line = [[one, each, str(self._log)] for one, each in zip(commands, variables, strict=True)]
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return [int(number) for number in self._process.stdout.readline().split()]

    def codes(self, seconds: float) -> list[int] | None:
        """Return the exit codes of the processes, or None if some still run after ``seconds``."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        return [int(code) for code in self._process.stdout.readline().split()]

    def said(self) -> str:
        """Return all output of the last commands."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End the process and all commands that still run."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@contextlib.contextmanager
def starter(folder: Path) -> Iterator[Starter]:
    """Return a starter whose programs are in ``folder``."""
    started = Starter(folder)
    try:
        yield started
    finally:
        started.close()


@dataclass
class Tally:
    """The counts of a test: kills, and runs that ended before their kill, each of which was compared."""

    kills: int = 0
    compared: int = 0
    survivors: list[float] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


@dataclass
class KilledRun:
    """One command, on one process or two, with what is checked after each kill and at the end.

    - ``pause``: the seconds that a small part of its work takes.
    - ``command(out)``: its arguments.
    - ``progress(out)``: how much of its work is begun, up to that of the undisturbed run.
    - ``check_left(out)``: assert that what a kill left is sound; return a word for it.
    - ``check_same(out)``: assert that a finished folder equals that of the undisturbed run.
    """

    starter: Starter
    folder: Path
    processes: int
    joined: bool = True
    pause: ClassVar[float]

    def command(self, out: Path) -> list[str]:
        raise NotImplementedError

    def progress(self, out: Path) -> int:
        raise NotImplementedError

    def check_left(self, out: Path) -> str:
        raise NotImplementedError

    def check_same(self, out: Path) -> None:
        raise NotImplementedError

    def finished(self, codes: list[int]) -> bool:
        """Return whether the run has done its work."""
        return codes == [0] * self.processes

    def undisturbed(self, out: Path) -> float:
        """Run the command to its end; return its seconds."""
        began = time.monotonic()
        self.starter.start([self.command(out)] * self.processes, self.joined)
        codes = self.starter.codes(600)
        assert codes is not None and self.finished(codes), (codes, self.starter.said())
        return time.monotonic() - began

    def survive(self, kills: int, seed: int, seconds: float, work: int) -> Tally:
        """Kill runs at random moments, and start each again until it ends by itself.

        A quarter of the kills come at any moment of ``seconds``, the length of a run. The others come up to ``pause``
        seconds after a random amount of the ``work`` that is left, so that few hit the imports and the compiler.
        """
        rng, tally, out = random.Random(seed), Tally(), self.folder / "run-0"
        while tally.kills < kills:
            (self.folder / "tally").write_text(f"{tally}\n")
            left = range(self.progress(out) + 1, work + 1)
            started = self.starter.start([self.command(out)] * self.processes, self.joined)
            if not left or rng.random() < 0.25:
                codes = self.starter.codes(rng.uniform(0.0, seconds))
            else:
                codes = self._codes_before(out, rng.choice(left), rng.uniform(0.0, self.pause))
            if codes is None:
                codes = self._kill(started, rng, tally)
            if -signal.SIGKILL in codes:
                tally.kills += 1
                word = self.check_left(out)
                tally.left[word] += 1
                continue
            assert self.finished(codes), (codes, self.starter.said())
            self.check_same(out)
            tally.compared += 1
            out = self.folder / f"run-{tally.compared}"
        self.undisturbed(out)
        self.check_same(out)
        tally.compared += 1
        return tally

    def _codes_before(self, out: Path, progress: int, seconds: float) -> list[int] | None:
        """Return the exit codes, or None if the run goes on ``seconds`` after it has reached ``progress``."""
        while self.progress(out) < progress:
            if (codes := self.starter.codes(self.pause / 10)) is not None:
                return codes
        return self.starter.codes(seconds)

    def _kill(self, started: list[int], rng: random.Random, tally: Tally) -> list[int]:
        """Kill all processes of a run, or at times one of two, whose other one must end by itself."""
        killed = started if rng.random() < 0.95 or not self.joined else [rng.choice(started)]
        for number in killed:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(number, signal.SIGKILL)
        began = time.monotonic()
        codes = self.starter.codes(SURVIVOR_SECONDS)
        assert codes is not None, f"process {set(started) - set(killed)} still runs: {self.starter.said()}"
        if len(killed) < len(started):
            tally.survivors.append(round(time.monotonic() - began, 1))
            word = "survivors with a line" if ERROR in self.starter.said() else "survivors without a line"
            tally.left[word] += 1
        return codes


def arrays(checkpoint: Path) -> dict[str, tuple[str, bytes]]:
    """Return all arrays of a checkpoint, by path, as dtype and bytes."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        dict(ocp.checkpointables_metadata(checkpoint).metadata),
    )
    found = jax.tree_util.tree_leaves_with_path(ocp.load_checkpointables(checkpoint, target))
    values = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}
    return {path: (str(value.dtype), value.tobytes()) for path, value in values.items()}


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return the files that match, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    }
