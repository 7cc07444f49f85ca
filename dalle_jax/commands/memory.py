"""Settings of the C library's allocator, made once before anything else runs."""

import ctypes
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of ``mallopt`` (malloc.h)."""

TUNABLES = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_max", "glibc.malloc.arena_max")
"""The names of the same parameters in the environment variable ``GLIBC_TUNABLES``."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio")


def keep_large_buffers() -> None:
    """Keep freed memory for reuse instead of returning it to the kernel, if training runs on the CPU.

    XLA allocates a step's scratch memory anew at each step. glibc maps blocks of that size and unmaps them when they
    are freed. Every page is then faulted in and zeroed again at each step; docs/architecture.md has the cost.

    Call this before the process has a second thread. It does nothing in these cases:

    - the C library is not glibc on Linux;
    - an accelerator is present and ``JAX_PLATFORMS`` is not ``cpu``;
    - the user has set ``MALLOC_`` variables, or one of ``TUNABLES`` in ``GLIBC_TUNABLES``.
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(Path(device).exists() for device in ACCELERATORS)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or any(name in tunables for name in TUNABLES)
    if sys.platform != "linux" or not on_cpu or chosen:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from other C libraries
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
