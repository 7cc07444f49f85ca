"""The number of blocks in the lowered program of a scanned stack; nothing is compiled or run."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small_generators import DALLE

from dalle_jax.models.dalle import Dalle, DalleConfig

PUBLISHED = {"attention": ("row", "column", "row", "row"), "last_attention": "convolutional"}


def abstract(depth, **changes):
    config = DalleConfig(**(DALLE | PUBLISHED | {"depth": depth, "scan": True} | changes))
    return nnx.split(nnx.eval_shape(lambda: Dalle(config, rngs=nnx.Rngs(0))))


def products(depth, **changes):
    """Count the matrix products in the program of a loss's gradient, which grow with the blocks to compile."""
    graph, state = abstract(depth, **changes)
    text, codes = jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 12), jnp.int32)

    def loss(state):
        return nnx.merge(graph, state)(text, codes).image.sum()

    return jax.jit(jax.grad(loss)).lower(state).as_text().count("stablehlo.dot_general")


def step_products(depth, **changes):
    """Count the matrix products in the program of one cached step."""
    graph, state = abstract(depth, **changes)
    text = jnp.zeros((2, 4), jnp.int32)
    cache = jax.eval_shape(lambda state: nnx.merge(graph, state).prefill(text, 3)[1], state)

    def step(state, cache):
        model = nnx.merge(graph, state)
        return model.decode(jnp.zeros((2, 3), jnp.int32), jnp.int32(1), model.grow(cache, 11))

    return jax.jit(step).lower(state, cache).as_text().count("stablehlo.dot_general")


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_published_mix_compiles_the_same_number_of_blocks_at_any_depth(remat):
    shallow, middle, deep = (products(depth, remat=remat) for depth in (8, 16, 64))
    assert shallow == middle == deep


def test_a_cached_step_compiles_the_same_number_of_blocks_at_any_depth():
    shallow, deep = (step_products(depth) for depth in (8, 64))
    assert shallow == deep


def test_without_scan_every_layer_is_compiled():
    assert products(16, scan=False) > 1.5 * products(16)
    assert step_products(16, scan=False) > 1.5 * step_products(16)
