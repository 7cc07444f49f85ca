"""The device mesh: the devices of a run, and the mesh axes over which arrays are sharded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from dalle_jax.config.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

SLICES = "slices"
"""The mesh axis over slices; a mesh with one slice has no such axis."""


@runtime_checkable
class Device(Protocol):
    """A ``jax.Device``, or a device of a topology that programs are only compiled for."""

    platform: str


@dataclass(frozen=True)
class Mesh:
    """The number of devices along each mesh axis of a slice, and the number of slices.

    At most one axis is -1, which stands for all remaining devices. ``data`` shards the batch; ``fsdp`` shards the batch
    and the parameters; ``tensor`` shards heads, hidden width and vocabulary. ``slices`` are groups of devices with fast
    links inside and a slower network between them (TPU multi-slice). Slices shard the batch, and each holds all
    parameters, so only gradients cross the slow network.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1


def mesh_shape(config: Mesh, devices: int) -> tuple[int, int, int]:
    """Return the sizes of the mesh axes of a slice, with -1 resolved, for ``devices`` devices in all slices."""
    sizes = [config.data, config.fsdp, config.tensor]
    text = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh: expected positive sizes and at most one -1 (the remaining devices), got {text}")
    if config.slices < 1 or devices % config.slices:
        raise UserError(
            f"mesh.slices: expected a number that divides {devices} devices, one of {_divisors(devices)}, "
            f"got {config.slices}"
        )
    devices //= config.slices
    place = " in each slice" if config.slices > 1 else ""
    known = math.prod(size for size in sizes if size != -1)
    if known > devices:
        raise UserError(f"mesh: expected at most {devices} devices{place}, got {text}, which needs {known}")
    if -1 in sizes:
        if devices % known:
            raise UserError(
                f"mesh: expected fixed sizes whose product divides {devices} devices{place}, one of "
                f"{_divisors(devices)}, got {text}, whose product is {known}"
            )
        sizes[sizes.index(-1)] = devices // known
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: Mesh, devices: Sequence[Device] | None = None) -> jax.sharding.Mesh:
    """Create the mesh over ``devices`` (None: all devices); fixed sizes may leave devices idle.

    The devices may belong to a topology for ahead-of-time compilation. Raises UserError for sizes or slices that do not
    fit the devices, and for idle devices if there are several processes.
    """
    several = devices is None and jax.process_count() > 1
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    size = math.prod(shape)
    if several and size * config.slices < len(devices):
        raise UserError(
            f"mesh: expected to use all {len(devices)} devices of {jax.process_count()} processes, got "
            f"{size * config.slices}; set one axis to -1"
        )
    slices = [_in_one_slice(shape, one[:size]) for one in split_into_slices(devices, config.slices)]
    grid = slices[0] if config.slices == 1 else np.stack(slices)
    names = MESH_AXES if config.slices == 1 else (SLICES, *MESH_AXES)
    return jax.sharding.Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def split_into_slices(devices: Sequence[Device], slices: int) -> list[list[Device]]:
    """Group devices into slices by their ``slice_index``.

    Devices without a ``slice_index`` (CPUs, GPUs) are divided, in their order, into groups of equal size.
    """
    groups: dict[int, list[Device]] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if len(groups) == slices:
        return [groups[index] for index in sorted(groups)]
    if devices[0].platform == "tpu":
        found = len(groups)
        raise UserError(f"mesh.slices: expected {found}, the number of slices of the devices, got {slices}")
    each = len(devices) // slices
    return [list(devices[i * each : (i + 1) * each]) for i in range(slices)]


def _in_one_slice(shape: Sequence[int], devices: Sequence[Device]) -> np.ndarray:
    """Arrange devices in an array of ``shape``.

    If the links between devices are known, neighbours along the last axes are directly linked.
    """
    if len(devices) == 1:
        return np.array(devices).reshape(shape)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
