"""Description of the machine of a run: hardware and versions, but neither the machine's name nor its user's."""

import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Machine:
    """Hardware and versions. This process may use ``cores`` of ``cores_total``; ``memory_gib`` is None if unknown."""

    cpu: str
    cores: int
    cores_total: int
    memory_gib: float | int | None
    accelerators: str | None
    system: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the fields by name."""
        return asdict(self)


def this_machine() -> Machine:
    """Describe the machine of this process. Starts a JAX backend, so call it after ``jax.distributed`` is set up."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cores_total=os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        accelerators=_accelerators(),
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **_versions()},
    )


def _cpu_model() -> str:
    """Return the model name in /proc/cpuinfo; without one, as on some ARM machines, the processor or architecture."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Return the smaller of the machine's memory and the container's limit; None if neither is known."""
    sizes = []
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            sizes.append(int(text))
    return round(min(sizes) / 2**30, 1) if sizes else None


def _accelerators() -> str | None:
    """Return the number and kind of the devices, such as "4 x TPU v5e"; None if JAX runs on the CPU."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return None
    return f"{len(devices)} x {devices[0].device_kind}"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
