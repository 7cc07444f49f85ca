"""The sharding rules: the mesh axes that shard each logical axis."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """The mesh axes that shard each logical axis of ``axes.py``; an empty tuple replicates it.

    The defaults give data parallelism over ``slices``, ``data`` and ``fsdp``, fully sharded parameters over ``fsdp``,
    and tensor parallelism over ``tensor``. Of a convolution's input and output channels, the larger number is sharded
    over ``fsdp``. A mesh axis is skipped if an earlier dimension of the same array uses it, or if the mesh does not
    have it. Sampling shards prompts as ``batch``, and if their number does not divide, the ``candidates`` of each.
    """

    batch: tuple[str, ...] = ("slices", "data", "fsdp")
    candidates: tuple[str, ...] = ("slices", "data", "fsdp")
    seq: tuple[str, ...] = ()
    embed: tuple[str, ...] = ("fsdp",)
    heads: tuple[str, ...] = ("tensor",)
    head_dim: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ("tensor",)
    vocab: tuple[str, ...] = ("tensor",)
    codes: tuple[str, ...] = ("tensor",)
    positions: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    height: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("fsdp",)
    kernel: tuple[str, ...] = ()

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """Return the mesh axes of one logical axis. Raises KeyError for a name that axes.py does not have."""
        table = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if axis not in table:
            raise KeyError(f"expected a logical axis of parallel/axes.py ({', '.join(sorted(table))}), got {axis!r}")
        return table[axis]
