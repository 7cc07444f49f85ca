import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from small_generators import dalle_bart, forward

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)


def test_no_code_sees_itself_or_a_later_one():
    run = forward(dalle_bart())
    before = run(TEXT, CODES).image
    for position in (0, 5):
        after = run(TEXT, CODES.at[:, position].add(1) % 7).image
        np.testing.assert_array_equal(after[:, : position + 1], before[:, : position + 1])
        assert abs(after[:, position + 1] - before[:, position + 1]).max() > 1e-3


def test_pads_are_not_looked_at():
    model = dalle_bart()
    graph, _ = nnx.split(model)
    run = jax.jit(lambda state: nnx.merge(graph, state)(TEXT, CODES).image)
    before, table = run(nnx.state(model)), model.encoder.tokens.table
    table[...] = table[...].at[0].multiply(-1.0)
    np.testing.assert_allclose(run(nnx.state(model)), before, rtol=1e-5, atol=1e-5)
    table[...] = table[...].at[5].multiply(-1.0)
    assert abs(run(nnx.state(model))[0] - before[0]).max() > 1e-3


def test_the_empty_caption_gives_finite_logits_and_gradients():
    graph, state = nnx.split(dalle_bart())

    def loss(state):
        return (nnx.merge(graph, state)(jnp.zeros((2, 4), jnp.int32), CODES).image ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_scan_equals_the_unrolled_stack():
    plain, scanned = (forward(dalle_bart(decoder_layers=3, scan=scan))(TEXT, CODES).image for scan in (False, True))
    np.testing.assert_allclose(plain, scanned, rtol=1e-4, atol=1e-4)


def test_norms_before_a_matrix_have_no_scale_and_products_no_bias():
    model = dalle_bart()
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert "stack.blocks.0.attention_norm.bias" in names
    assert "stack.blocks.0.attention_norm.scale" not in names
    assert "stack.blocks.0.attention_norm_after.scale" in names
    assert not [name for name in names if name.endswith(("qkv.bias", "out.bias", "up.bias", "down.bias", "head.bias"))]
