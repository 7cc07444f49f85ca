"""Commands in processes of their own, alone or as the processes of one run."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.quick_compiling import QUICK

ROOT = Path(__file__).parents[1]
WAIT = 200


def start_command(arguments: Sequence[str], **variables: str) -> subprocess.Popen:
    """Start ``python -m dalle_jax`` with these arguments, on one CPU device."""
    known = {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu", "DALLE_JAX_WAIT": "60"}
    return subprocess.Popen(
        [sys.executable, "-m", "dalle_jax", *arguments],
        cwd=ROOT,
        env=os.environ | known | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_run(commands: Sequence[Sequence[str]]) -> list[subprocess.Popen]:
    """Start one run whose processes have these arguments, in order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"DALLE_JAX_COORDINATOR": f"127.0.0.1:{port}", "DALLE_JAX_PROCESSES": str(len(commands))}
    return [start_command(one, **known, DALLE_JAX_PROCESS=str(process)) for process, one in enumerate(commands)]


def ends(started: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Wait for processes; return the exit code, standard output and our lines of standard error of each."""
    try:
        said = [one.communicate(timeout=WAIT) for one in started]
    finally:
        for one in started:
            one.kill()
    return [(one.returncode, out, ours(err)) for one, (out, err) in zip(started, said, strict=True)]


def ours(err: str) -> str:
    """Leave out what jax logs."""
    return "\n".join(line for line in err.splitlines() if line.startswith("dalle-jax: ") or "Traceback" in line)
