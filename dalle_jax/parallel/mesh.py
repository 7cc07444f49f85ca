"""The device mesh: which devices there are and along which axes work is split over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from dalle_jax.config.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis; at most one of them -1, which stands for all that remain.

    ``data`` splits the batch; ``fsdp`` splits the batch and the parameters; ``tensor`` splits heads, hidden width and
    vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def mesh_shape(config: Mesh, devices: int) -> tuple[int, int, int]:
    """The sizes of the mesh axes on that many devices, with -1 filled in."""
    sizes = [config.data, config.fsdp, config.tensor]
    text = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh {text}: every axis must be a positive number, and at most one of them -1 (the rest)")
    known = math.prod(size for size in sizes if size != -1)
    if known > devices:
        raise UserError(f"mesh {text} asks for {known} devices, but there are {devices}; give smaller sizes")
    if -1 in sizes:
        if devices % known:
            legal = [n for n in range(1, devices + 1) if devices % n == 0]
            raise UserError(
                f"mesh {text}: {devices} devices cannot be split into groups of {known}; "
                f"the fixed sizes must multiply to one of {legal}"
            )
        sizes[sizes.index(-1)] = devices // known
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over ``devices`` (all there are when None); sizes given outright may leave devices idle.

    An axis may take a part of one axis of a TPU slice's torus. Of several slices each holds whole groups of ``fsdp``
    and ``tensor``, so that only sums of gradients cross the network between them.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    used = list(devices)[: math.prod(shape)]
    return jax.sharding.Mesh(_arranged(shape, used), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _arranged(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """The devices in the mesh's shape, neighbours in the mesh near each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if len(devices) == 1:
        return np.array(devices).reshape(shape)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if devices[0].platform != "tpu":  # their devices come host by host
        return np.array(devices).reshape(shape)
    if shape[0] % slices:
        raise UserError(f"mesh data={shape[0]}: expected a multiple of {slices}, the number of slices")
    within = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)
