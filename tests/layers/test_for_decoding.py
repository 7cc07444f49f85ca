import jax
import numpy as np
from flax import nnx

from dalle_jax.layers.linear import Linear
from dalle_jax.layers.stack import Stack, for_decoding
from dalle_jax.parallel.axes import EMBED, HEAD_DIM, HEADS


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def wide(rngs):
    return Linear((2, 3), (3, 8, 64), axes=(None, EMBED, None, HEADS, HEAD_DIM), rngs=rngs)


def test_panels_give_the_product_of_their_kernel():
    layer = wide(nnx.Rngs(0))
    layer.bias[...] = normal(3, 3, 8, 64)
    x = normal(1, 4, 2, 3)
    stepping = for_decoding(layer, 4)
    assert layer.panels is None
    assert stepping.panels.shape == (24, 6, 64)
    np.testing.assert_allclose(stepping(x), layer(x), rtol=1e-5, atol=1e-5)
    assert for_decoding(layer, 1).panels is None
    assert for_decoding(layer, 33).panels is None


def test_columns_that_do_not_fill_the_last_panel_give_the_same_product():
    layer = Linear(6, 1030, axes=(EMBED, None), rngs=nnx.Rngs(0))
    stepping, x = for_decoding(layer, 2), normal(1, 2, 1, 6)
    assert stepping.panels.shape == (17, 6, 64)
    np.testing.assert_allclose(stepping(x), layer(x), rtol=1e-5, atol=1e-5)


def test_narrow_kernels_have_panels_for_few_rows_of_a_model_that_no_cache_holds(monkeypatch):
    layer = Linear(6, 960, axes=(EMBED, None), rngs=nnx.Rngs(0))
    assert for_decoding(layer, 4).panels is None
    monkeypatch.setattr("dalle_jax.layers.stack.CACHED", 6 * 960 * 4 - 1)
    assert for_decoding(layer, 8).panels.shape == (15, 6, 64)
    assert for_decoding(layer, 9).panels is None
    assert for_decoding(Linear(60, 120, axes=(EMBED, None), rngs=nnx.Rngs(0)), 4).panels is None


def test_each_layer_of_a_scanned_stack_has_its_own_panels():
    stack = Stack(wide, (None, None), scan=True, rngs=nnx.Rngs(0))
    x, stepping = normal(1, 4, 2, 3), for_decoding(stack, 4)
    for layer in range(2):
        assert stepping.block(layer).panels is not None
        np.testing.assert_allclose(stepping.block(layer)(x), stack.block(layer)(x), rtol=1e-5, atol=1e-5)


def test_a_scanned_stack_is_unrolled_for_any_number_of_rows():
    stack = Stack(wide, (None, None), scan=True, rngs=nnx.Rngs(0))
    assert [for_decoding(stack, rows).scanned for rows in (1, 4, 33)] == [0, 0, 0]
    assert stack.scanned == 2


def test_accelerators_keep_panels_and_scans_as_they_are(monkeypatch):
    layer = wide(nnx.Rngs(0))
    monkeypatch.setattr("dalle_jax.layers.stack.platform", lambda: "gpu")
    assert for_decoding(layer, 4) is layer
