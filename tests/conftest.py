"""Settings that must be made before jax is first imported: sharding tests always run, on eight forced CPU devices."""

import os

from tests.quick_compiling import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
