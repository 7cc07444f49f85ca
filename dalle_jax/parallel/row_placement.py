"""Arguments of compiled functions on a mesh: their rows are split over the devices that share the batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dalle_jax.arrays import Array, PyTree
from dalle_jax.parallel.axes import BATCH, CANDIDATES
from dalle_jax.parallel.layout import Layout


def row_sharding(layout: Layout, array: Array | jax.ShapeDtypeStruct | np.ndarray) -> NamedSharding:
    """Return the sharding of an argument whose first dimension is BATCH.

    Random keys [P M] are split over candidates if the number of prompts does not divide. All other arguments are then
    replicated.
    """
    axes: tuple[str | None, ...] = (BATCH, *(None,) * (len(array.shape) - 1))
    if len(array.shape) == 2 and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        axes = (BATCH, CANDIDATES)
    axes = axes[: len(array.shape)]
    return layout.sharding(layout.divisible_axes(axes, array.shape), array.shape, "argument")


def put_rows(layout: Layout, tree: PyTree) -> PyTree:
    """Place arrays by ``row_sharding``. In a run of several processes, each passes the same whole arrays."""
    if layout.mesh.size == 1:
        return jax.device_put(tree, layout.replicated)
    shardings = jax.tree.map(lambda leaf: row_sharding(layout, leaf), tree)
    return put(layout, tree, shardings)


def put(layout: Layout, tree: PyTree, shardings: PyTree) -> PyTree:
    """Place arrays on the mesh; ``shardings`` may be a prefix of the tree. All processes pass the same whole arrays."""
    if layout.is_local:
        return jax.device_put(tree, shardings)

    def place(sharding: NamedSharding, part: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: _put_globally(leaf, sharding), part)

    return jax.tree.map(place, shardings, tree)


def _put_globally(array: Array | np.ndarray, sharding: NamedSharding) -> Array:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:  # it is on the mesh already
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        # The last axis of the words is not split.
        return jax.random.wrap_key_data(_put_globally(np.asarray(jax.random.key_data(array)), sharding))
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
