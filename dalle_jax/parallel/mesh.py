"""The device mesh: which devices there are and along which axes work is split over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
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
    """The mesh over ``devices`` (all there are when None); sizes given outright may leave devices idle."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    used = list(devices)[: math.prod(shape)]
    types = (AxisType.Auto,) * len(MESH_AXES)
    if len(used) == 1:
        return jax.sharding.Mesh(np.array(used).reshape(shape), MESH_AXES, axis_types=types)
    return jax.make_mesh(shape, MESH_AXES, axis_types=types, devices=used)
