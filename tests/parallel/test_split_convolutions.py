"""Convolutions whose kernels are sharded over the devices that also share the batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.unet import UNetConfig, UNetResBlock
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules

ROWS, SIDE, CHANNELS = 32, 8, 64
CONFIG = UNetConfig(width=CHANNELS, multipliers=(1, 1), blocks=1)


def gradients(block: UNetResBlock):
    """Return a function of (state, images, times) for the gradients of a sum of squares."""
    graph, state = nnx.split(block)

    def loss(state, x, time):
        return (nnx.merge(graph, state)(x, time, None) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1)), state


@pytest.mark.parametrize("resize", ["double", "halve"])
def test_a_block_with_sharded_kernels_gathers_no_images(resize):
    layout = Layout(make_mesh(Mesh(1, 8, 1)), Rules())
    run, state = gradients(UNetResBlock(CHANNELS, CHANNELS, CONFIG, resize, rngs=nnx.Rngs(0)))
    state = jax.tree.map(
        lambda one: jnp.asarray(np.random.default_rng(one.size).normal(0, 0.05, one.shape), one.dtype), state
    )
    x = jax.random.normal(jax.random.key(0), (ROWS, SIDE, SIDE, CHANNELS))
    time = jax.random.normal(jax.random.key(1), (ROWS, CONFIG.time_width))

    def placed(one: nnx.Variable) -> nnx.Variable:
        axes = one.get_metadata()["axes"]
        return one.replace(jax.device_put(one[...], layout.sharding(axes, one.shape, "parameter")))

    sharded = jax.tree.map(placed, state, is_leaf=lambda one: isinstance(one, nnx.Variable))
    rows = layout.sharding((BATCH,), (ROWS,), "rows")
    inputs = (sharded, jax.device_put(x, rows), jax.device_put(time, rows))
    step = layout.jit(run)
    text = step.trace(*inputs).lower().compile().as_text()
    assert re.search(r"\[4,\d+,\d+,64\]", text)  # an eighth of the batch
    assert not re.search(rf"\[{ROWS},\d+,\d+,\d+\]", text)
    for got, expected in zip(jax.tree.leaves(step(*inputs)), jax.tree.leaves(run(state, x, time)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4 * float(jnp.abs(expected).max()))
