"""The device mesh: which devices there are and along which axes work is split over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from dalle_jax.config.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

SLICES = "slices"
"""The mesh axis over slices; a mesh of one slice does not have it."""


@dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis of a slice, at most one of them -1, which stands for all that remain; and slices.

    ``data`` splits the batch; ``fsdp`` splits the batch and the parameters; ``tensor`` splits heads, hidden width and
    vocabulary. ``slices`` are groups of devices that fast links connect, with a slower network between groups (TPU
    multi-slice): they split the batch, and each holds all parameters, so that only gradients cross the slow network.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1


def mesh_shape(config: Mesh, devices: int) -> tuple[int, int, int]:
    """The sizes of the mesh axes of each slice when there are that many devices in all, with -1 filled in."""
    sizes = [config.data, config.fsdp, config.tensor]
    text = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh {text}: every axis must be a positive number, and at most one of them -1 (the rest)")
    if config.slices < 1 or devices % config.slices:
        raise UserError(
            f"mesh slices={config.slices}: {devices} devices cannot be split into so many slices; "
            f"it must be one of {_divisors(devices)}"
        )
    devices //= config.slices
    there = f"there are {devices}" + (" in each slice" if config.slices > 1 else "")
    known = math.prod(size for size in sizes if size != -1)
    if known > devices:
        raise UserError(f"mesh {text} asks for {known} devices, but {there}; give smaller sizes")
    if -1 in sizes:
        if devices % known:
            raise UserError(
                f"mesh {text}: {devices} devices cannot be split into groups of {known}; "
                f"the fixed sizes must multiply to one of {_divisors(devices)}"
            )
        sizes[sizes.index(-1)] = devices // known
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh over ``devices`` (all there are when None); sizes given outright may leave devices idle.

    Devices may be those of a topology that is only compiled for. Raises UserError for sizes that the devices do not
    give, for a number of slices that is not theirs, and for idle devices where there are several processes.
    """
    several = devices is None and jax.process_count() > 1
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    size = math.prod(shape)
    if several and size * config.slices < len(devices):
        raise UserError(
            f"mesh: expected all {len(devices)} devices of {jax.process_count()} processes to be in use, got "
            f"{size * config.slices}; give one axis as -1"
        )
    slices = [_in_one_slice(shape, one[:size]) for one in split_into_slices(devices, config.slices)]
    grid = slices[0] if config.slices == 1 else np.stack(slices)
    names = MESH_AXES if config.slices == 1 else (SLICES, *MESH_AXES)
    return jax.sharding.Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def split_into_slices(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice: by the slice that each says it is in, or else equal runs of their order."""
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if len(groups) == slices:
        return [groups[index] for index in sorted(groups)]
    if devices[0].platform == "tpu":
        found = len(groups)
        raise UserError(f"mesh slices={slices}: the devices are in {found} slices; give mesh.slices={found}")
    each = len(devices) // slices
    return [list(devices[i * each : (i + 1) * each]) for i in range(slices)]


def _in_one_slice(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices as an array of that shape, neighbours along the last axes where the hardware's links are known."""
    if len(devices) == 1:
        return np.array(devices).reshape(shape)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
