"""How this process keeps its memory, said to the C library once, before anything else runs."""

import ctypes
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""glibc's names for what ``mallopt`` sets (malloc.h)."""

TUNABLES = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_max", "glibc.malloc.arena_max")
"""The same as ``GLIBC_TUNABLES`` calls them."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio")


def keep_large_buffers() -> None:
    """Lets freed memory be used again instead of going back to the kernel, where training runs on the CPU.

    XLA allocates a step's scratch memory anew at each step. glibc maps blocks of that size and unmaps them when they
    are freed, so every page is faulted in and zeroed again; docs/architecture.md has what that costs. It acts
    only before the process has a second thread, on Linux with glibc, and where no accelerator is to be seen or
    ``JAX_PLATFORMS`` is ``cpu``. What a user has set of these in ``MALLOC_`` variables or ``GLIBC_TUNABLES`` rules.
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(Path(device).exists() for device in ACCELERATORS)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or any(name in tunables for name in TUNABLES)
    if sys.platform != "linux" or not on_cpu or chosen:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
