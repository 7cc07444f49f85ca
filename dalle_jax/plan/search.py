"""What would fit where a plan does not: the largest batch, and the smallest slice of the family."""

from dataclasses import dataclass, replace

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.plan.compile import Planned, Say
from dalle_jax.plan.topologies import Topology
from dalle_jax.train.task import Task
from dalle_jax.train.trainer import Trainer

MOST_COMPILATIONS = 6
"""Of one search; each takes up to minutes for a large model."""


@dataclass(frozen=True)
class Batch:
    """The largest batch that was found to fit and the smallest that was found not to (None where none was)."""

    fits: int | None
    does_not: int | None


@dataclass(frozen=True)
class Slice:
    """A slice on which the batch fits, and the mesh for it."""

    topology: Topology
    mesh: Mesh
    peak: int


def largest_batch(planned: Planned, too_large: int, room: int, say: Say) -> Batch:
    """The largest batch below ``too_large`` whose step stays within ``room`` bytes, by bisection.

    Batches are multiples of what the mesh and the microbatches divide; after ``MOST_COMPILATIONS`` the bracket that is
    left is given.
    """
    unit = planned.rows
    low, high = 0, too_large // unit  # in units: low fits (0 is no batch), high does not
    if planned.state_bytes > room:
        return Batch(None, unit)
    for _ in range(MOST_COMPILATIONS):
        if high - low < 2:
            break
        middle = (low + high) // 2
        peak = planned.step(middle * unit).peak
        say(f"batch {middle * unit}: {peak / 2**30:.2f} GiB of {room / 2**30:.2f} on a device")
        low, high = (middle, high) if peak <= room else (low, middle)
    return Batch(low * unit or None, high * unit)


def smallest_slice(
    task: Task, trainer: Trainer, mesh: Mesh, rules: Rules, topology: Topology, batch: int, room: int, say: Say
) -> Slice | None:
    """The smallest larger slice of the family on which the step fits, found by bisection; None where none does.

    On each the parameters are split as far as they can be (the largest ``fsdp`` that divides them and the batch), with
    ``tensor`` as it is.
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
        say(f"{larger}, {_words(wide)}: {peak / 2**30:.2f} GiB of {room / 2**30:.2f} on a device")
        if peak <= room:
            fitting, high = Slice(larger, wide, peak), middle
        else:
            low = middle + 1
    return fitting


def _widest(
    task: Task, trainer: Trainer, mesh: Mesh, rules: Rules, topology: Topology, batch: int
) -> tuple[Mesh, Planned] | None:
    """The mesh with the largest ``fsdp`` that divides everything, and the plan on it."""
    devices = topology.devices()
    tensor = max(mesh.tensor, 1)
    if len(devices) // topology.slices % tensor:
        return None
    rest = len(devices) // topology.slices // tensor
    for fsdp in (n for n in range(rest, 0, -1) if rest % n == 0):
        wide = replace(mesh, data=rest // fsdp, fsdp=fsdp, tensor=tensor)
        try:
            planned = Planned(task, trainer, Layout(make_mesh(wide, devices), rules))
            planned.layout.batch_shardings(task.batch_spec(batch // trainer.accumulate))
        except UserError:  # it does not divide: the next
            continue
        return wide, planned
    return None


def _words(mesh: Mesh) -> str:
    return f"mesh data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}"
