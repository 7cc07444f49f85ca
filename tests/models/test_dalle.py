import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import KINDS, MIX, dalle, forward

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logit_depends_only_on_earlier_tokens(kind):
    run = forward(dalle([kind]))
    before = run(TEXT, CODES)
    for position in (0, 5, 11):
        after = run(TEXT, CODES.at[:, position].add(1) % 7)
        np.testing.assert_array_equal(after.image[:, : position + 1], before.image[:, : position + 1])
        np.testing.assert_array_equal(after.text, before.text)
        if position < 11:
            assert abs(after.image[:, position + 1] - before.image[:, position + 1]).max() > 1e-3
    for position in range(4):
        after = run(TEXT.at[:, position].add(1), CODES)
        np.testing.assert_array_equal(after.text[:, : position + 1], before.text[:, : position + 1])
        assert abs(after.image - before.image).max(axis=(0, 2)).min() > 1e-5  # the whole image sees it


def test_each_position_has_its_own_padding_embedding():
    model = dalle()
    model.text_positions.table[...] = jnp.zeros_like(model.text_positions.table[...])
    embedded = model.embed_text(jnp.zeros((1, 4), jnp.int32))[0]
    np.testing.assert_allclose(embedded[1:], model.pad_embedding.table[...])
    np.testing.assert_allclose(embedded[0], model.bos[...])
    words = model.embed_text(jnp.array([[5, 0, 5, 0]]))[0]
    np.testing.assert_allclose(words[1], words[3])
    assert abs(words[2] - words[4]).max() > 1e-3


def test_a_code_position_is_the_sum_of_a_row_and_a_column_vector():
    model = dalle()
    table = model.code_positions.all()
    rows, columns = model.code_positions.rows.table[...], model.code_positions.columns.table[...]
    np.testing.assert_allclose(table[2 * 4 + 3], rows[2] + columns[3])
    np.testing.assert_allclose(model.code_positions(jnp.array(2 * 4 + 3)), table[11])


def test_scan_equals_the_unrolled_stack():
    plain, scanned = dalle(MIX, depth=6), dalle(MIX, depth=6, scan=True)
    for a, b in zip(forward(plain)(TEXT, CODES), forward(scanned)(TEXT, CODES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key_and_is_a_function_of_it():
    graph, state = nnx.split(dalle(dropout=0.5))
    run = jax.jit(lambda key: nnx.merge(graph, state)(TEXT, CODES, dropout_key=key).image)
    plain, one = run(None), run(jax.random.key(0))
    np.testing.assert_array_equal(one, run(jax.random.key(0)))
    assert abs(one - plain).max() > 1e-3
    assert abs(one - run(jax.random.key(1))).max() > 1e-3
    np.testing.assert_allclose(plain, forward(dalle())(TEXT, CODES).image, rtol=1e-5, atol=1e-5)


def test_every_parameter_is_used_and_names_its_axes():
    model = dalle()
    graph, state = nnx.split(model, nnx.Param)

    def loss(state):
        logits = nnx.merge(graph, state)(TEXT, CODES)
        return (logits.image**2).sum() + (logits.text**2).sum()

    for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(loss))(state)):
        assert abs(leaf[...]).max() > 0, path
        assert len(leaf.axes) == leaf[...].ndim, path
