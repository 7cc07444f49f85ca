"""Settings that must be made before jax is first imported: sharding tests always run, on eight forced CPU devices."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests.quick_compiling import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"


import jax


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs() -> Iterator[None]:
    """Drop the programs that a module's tests compiled: a worker would otherwise grow to 5 GB."""
    yield
    jax.clear_caches()
    gc.collect()
