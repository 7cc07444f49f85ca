"""Measurements of the training data before the first step, for tasks whose module holds statistics of it."""

import jax
import numpy as np

from dalle_jax.arrays import Array
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.state import Arrays, ModuleSpec
from dalle_jax.train.task import Batch, Batches, Frozen, MeasuresData, Task


def measured(task: Task, data: Batches, layout: Layout) -> Task:
    """Return the task with its measurements of the first training examples, or as it is if it makes none.

    The examples are those of steps 0, 1, … without augmentation, so they depend on the data's seed alone. All hosts
    get the rows of all examples, and the statistics are computed from these rows in one order on any mesh.
    """
    if not isinstance(task, MeasuresData):
        return task
    frozen = task.frozen()
    spec = ModuleSpec.of(frozen)
    arrays = put_frozen(frozen, spec, layout)

    def measure(arrays: Arrays, batch: Batch) -> dict[str, Array]:
        return task.measurements(spec.merge(arrays), batch)

    compiled = layout.jit(measure, out_shardings=layout.replicated)
    local, size, count = layout.local_rows(data.batch_size).tolist(), data.batch_size, task.measured_examples
    found: list[dict[str, np.ndarray]] = []
    for step in range(-(-count // size)):
        batch = layout.put_batch(task.prepare(data.batch(step, local), None), size)
        found.append({name: np.asarray(rows, np.float32) for name, rows in compiled(arrays, batch).items()})
    return task.with_measurements({name: np.concatenate([one[name] for one in found])[:count] for name in found[0]})


def put_frozen(frozen: Frozen, module_spec: ModuleSpec[Frozen], layout: Layout) -> Arrays:
    """Place the arrays of frozen networks by the layout."""
    params, non_params = module_spec.split(frozen)
    arrays = params | non_params
    shardings = module_spec.shardings(layout)
    if jax.process_count() > 1:  # each process holds all of it on its own device
        arrays = jax.device_get(arrays)
    return {name: jax.device_put(value, shardings[name]) for name, value in arrays.items()}
