"""The UNet: added channels of weight zero, hidden context tokens, and inputs that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.unet import UNet, UNetConfig, UNetContext

CONFIG = UNetConfig(32, (1, 2), 1, attention_levels=(1,), head_size=32, context_width=4)


@pytest.fixture(scope="module")
def unet() -> UNet:
    graph, state = nnx.split(nnx.eval_shape(lambda: CONFIG.build(nnx.Rngs(0))))
    draw = np.random.default_rng(0)
    values = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.1, x.shape), jnp.float32), state)
    return nnx.merge(graph, values)


@nnx.jit
def run(unet: UNet, tokens: jax.Array, mask: jax.Array | None = None, extra: jax.Array | None = None) -> jax.Array:
    return unet(IMAGE, TIME, context=UNetContext(tokens, mask), extra=extra)


IMAGE = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
TOKENS = jax.random.normal(jax.random.key(2), (1, 3, 4))
TIME = jnp.array([7])


def test_zero_initialised_channels_give_the_starting_output(unet):
    extra = jax.random.normal(jax.random.key(3), (1, 8, 8, 4))
    inpainter = unet.with_extra_channels(4)
    output = run(inpainter, TOKENS, extra=extra)
    np.testing.assert_array_equal(output, run(unet.with_extra_channels(4), TOKENS, extra=0 * extra))
    np.testing.assert_allclose(output, run(unet, TOKENS), atol=1e-5)


def test_hidden_tokens_do_not_change_the_output(unet):
    mask = jnp.array([[True, False, False]])
    hidden, other = run(unet, TOKENS, mask), run(unet, TOKENS.at[:, 1:].add(5.0), mask)
    np.testing.assert_array_equal(hidden, other)
    assert np.abs(hidden - run(unet, TOKENS)).max() > 1e-4


def test_wrong_inputs_are_named(unet):
    with pytest.raises(ValueError, match="context: expected one"):
        unet(IMAGE, TIME)
    with pytest.raises(ValueError, match="extra: expected 0 channels, got 1"):
        unet(IMAGE, TIME, context=UNetContext(TOKENS), extra=IMAGE[..., :1])
    with pytest.raises(ValueError, match="multiples of 2, got"):
        unet(IMAGE[:, :7], TIME, context=UNetContext(TOKENS))
