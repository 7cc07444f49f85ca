"""Commands in separate processes, alone or as the processes of one run."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.quick_compiling import QUICK

ROOT = Path(__file__).parents[1]
WAIT = 200


def start_python(arguments: Sequence[str], devices: int = 1, **variables: str) -> subprocess.Popen:
    """Start this Python with these arguments, on that many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICK}"
    known = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "DALLE_JAX_WAIT": "60"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | known | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_processes(processes: Sequence[Sequence[str]], devices: int = 1, **variables: str) -> list[subprocess.Popen]:
    """Start the processes of one run with these arguments, in order, each on that many CPU devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = variables | {"DALLE_JAX_COORDINATOR": f"127.0.0.1:{port}", "DALLE_JAX_PROCESSES": str(len(processes))}
    return [
        start_python(one, devices, **known, DALLE_JAX_PROCESS=str(process)) for process, one in enumerate(processes)
    ]


def start_command(arguments: Sequence[str], **variables: str) -> subprocess.Popen:
    """Start ``python -m dalle_jax`` with these arguments."""
    return start_python(["-m", "dalle_jax", *arguments], **variables)


def start_run(commands: Sequence[Sequence[str]]) -> list[subprocess.Popen]:
    """Start one run whose processes are ``python -m dalle_jax`` with these arguments, in order."""
    return start_processes([["-m", "dalle_jax", *one] for one in commands])


def finish(started: Sequence[subprocess.Popen], seconds: float = WAIT) -> list[tuple[int, str, str]]:
    """Wait for processes; return the exit code, standard output and standard error of each."""
    try:
        texts = [one.communicate(timeout=seconds) for one in started]
    finally:
        for one in started:
            one.kill()
    return [(one.returncode, *text) for one, text in zip(started, texts, strict=True)]


def ends(started: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Wait for processes; return the exit code, standard output and our lines of standard error of each."""
    return [(code, out, ours(err)) for code, out, err in finish(started)]


def ours(err: str) -> str:
    """Leave out the lines that jax logs."""
    return "\n".join(line for line in err.splitlines() if line.startswith("dalle-jax: ") or "Traceback" in line)
