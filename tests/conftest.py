"""Settings that must be made before jax is first imported.

Sharding tests always run, on eight forced CPU devices. Most of the suite's time is compiling programs that run once, so
LLVM is told not to optimise them: that takes half the time and leaves every identity to be tested as it was.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
