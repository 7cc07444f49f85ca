"""Which mesh axes each logical axis is laid over: sharding, said once."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """One field per logical axis of ``axes.py``: the mesh axes that it is split over, none of them for a whole copy.

    The defaults give data parallelism over ``slices``, ``data`` and ``fsdp``, fully sharded parameters over ``fsdp``
    and tensor parallelism over ``tensor``; of a convolution, the wider side is split over ``fsdp``. A mesh axis that an
    earlier dimension of the same array has taken, or that the mesh does not have, is left out.
    """

    batch: tuple[str, ...] = ("slices", "data", "fsdp")
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
        """The mesh axes of one logical axis; a name that is not in the vocabulary is an error of the programmer."""
        table = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if axis not in table:
            raise KeyError(f"{axis!r} is no logical axis; parallel/axes.py has {', '.join(sorted(table))}")
        return table[axis]
