"""Search for a plan that fits: the largest batch on the slice, and the smallest slice for the batch."""

from dataclasses import dataclass, replace

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.plan.compile import Planned, Say
from dalle_jax.plan.topologies import Topology
from dalle_jax.train.task import Task, step_spec
from dalle_jax.train.trainer import Trainer

MOST_COMPILATIONS = 6
"""Largest number of compilations in one search. For a large model each takes minutes."""


@dataclass(frozen=True)
class Batch:
    """The largest batch that is known to fit, or None, and the smallest that is known not to fit."""

    fits: int | None
    does_not: int | None


@dataclass(frozen=True)
class Slice:
    """A TPU slice on which the batch fits, with its mesh and its peak memory in bytes per device."""

    topology: Topology
    mesh: Mesh
    peak: int


def largest_batch(planned: Planned, too_large: int, room: int, say: Say) -> Batch:
    """Bisect for the largest batch below ``too_large`` whose step needs at most ``room`` bytes per device.

    Only batch sizes that the mesh and the microbatches divide are tried, and at most ``MOST_COMPILATIONS`` of these.
    """
    unit = planned.rows
    low, high = 0, too_large // unit  # multiples of unit: low fits (0 stands for None), high does not fit
    if planned.state_bytes > room:
        return Batch(None, unit)
    for _ in range(MOST_COMPILATIONS):
        if high - low < 2:
            break
        middle = (low + high) // 2
        peak = planned.step(middle * unit).peak
        say(f"batch {middle * unit}: needs {peak / 2**30:.2f} of {room / 2**30:.2f} GiB on a device")
        low, high = (middle, high) if peak <= room else (low, middle)
    return Batch(low * unit or None, high * unit)


def smallest_slice(
    task: Task, trainer: Trainer, mesh: Mesh, rules: Rules, topology: Topology, batch: int, room: int, say: Say
) -> Slice | None:
    """Bisect for the smallest slice on which the step fits, among larger slices of the family. None if it fits on none.

    Each slice gets the largest ``fsdp`` that divides the parameters and the batch; ``tensor`` stays as it is.
    """
    candidates = []
    for larger in topology.larger():
        found = _widest(task, trainer, mesh, rules, larger, batch)
        if found is not None and found[1].state_bytes <= room:
            candidates.append((larger, *found))
    fitting: Slice | None = None
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        larger, wide, planned = candidates[middle]
        peak = planned.step(batch).peak
        say(f"{larger}, {_mesh_text(wide)}: needs {peak / 2**30:.2f} of {room / 2**30:.2f} GiB on a device")
        if peak <= room:
            fitting, high = Slice(larger, wide, peak), middle
        else:
            low = middle + 1
    return fitting


def _widest(
    task: Task, trainer: Trainer, mesh: Mesh, rules: Rules, topology: Topology, batch: int
) -> tuple[Mesh, Planned] | None:
    """Return the mesh with the largest ``fsdp`` that divides parameters and batch, and the plan on that mesh.

    Return None if there is no such mesh.
    """
    devices = topology.devices()
    tensor = max(mesh.tensor, 1)
    if len(devices) // topology.slices % tensor:
        return None
    rest = len(devices) // topology.slices // tensor
    for fsdp in (n for n in range(rest, 0, -1) if rest % n == 0):
        wide = replace(mesh, data=rest // fsdp, fsdp=fsdp, tensor=tensor)
        try:
            planned = Planned(task, trainer, Layout(make_mesh(wide, devices), rules))
            planned.layout.batch_shardings(step_spec(task, batch // trainer.accumulate))
        except UserError:  # this fsdp does not divide them
            continue
        return wide, planned
    return None


def _mesh_text(mesh: Mesh) -> str:
    return f"mesh data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}"
