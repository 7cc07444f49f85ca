"""Settings that must be made before jax is first imported: sharding tests always run, on eight forced CPU devices."""

import gc
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quick_compiling import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"

# Each worker stores what it compiles in a folder; later modules, and processes that tests start, load it from there.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dalle_jax-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax

ENOUGH = 1_200_000_000
"""Bytes of memory above which a worker drops its compiled programs. It would otherwise grow to 5 GB."""


def resident_bytes() -> int:
    """Return the memory that this process holds, or ``ENOUGH`` where the system is not Linux."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else ENOUGH


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs() -> Iterator[None]:
    """Drop the compiled programs after a module's tests if the worker has grown; else later modules reuse them."""
    yield
    if resident_bytes() >= ENOUGH:
        jax.clear_caches()
        gc.collect()


def _stay(number: int, frame: object) -> None:
    """Go on after the terminal is gone."""
    del number, frame


def pytest_configure() -> None:
    """Handle SIGINT and SIGHUP: processes that tests start inherit them as ignored from background jobs and nohup.

    A handler is not inherited, so they have the default.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _stay)


def pytest_collection_finish() -> None:
    """Collect garbage less often, and never look at what the imports made: 3 % of the CPU time instead of 9 %."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish() -> None:
    """Remove this process's folder of compiled programs."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
