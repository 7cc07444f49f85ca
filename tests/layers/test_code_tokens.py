import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.code_tokens import CodeTokens, CodeVectors

K, WIDTH, CODE_WIDTH = 6, 8, 3


def tokens(code_width=CODE_WIDTH, dtype="float32", bias=True) -> CodeTokens:
    made = CodeTokens(K, WIDTH, code_width=code_width, bias=bias, dtype=dtype, rngs=nnx.Rngs(0))
    if code_width:
        made.set_code_vectors(jax.random.normal(jax.random.key(1), (K, code_width)) * 3 + 5)
        made.head.kernel[...] = jax.random.normal(jax.random.key(2), (WIDTH, K))
    return made


def test_without_code_vectors_codes_are_rows_of_two_tables():
    plain, x = tokens(code_width=0), jax.random.normal(jax.random.key(3), (2, WIDTH))
    codes = jnp.array([[4, 0]])
    np.testing.assert_array_equal(plain.embed(codes)[0], plain.embedding.table[...][codes[0]])
    expected = x @ plain.head.kernel[...] + plain.head.bias[...]
    np.testing.assert_allclose(plain.predict(x), expected, atol=1e-5)
    assert not nnx.to_flat_state(nnx.state(plain, CodeVectors))


def test_code_vectors_are_standardised_and_are_not_parameters():
    known = tokens()
    vectors, raw = known.read.vectors[...], jax.random.normal(jax.random.key(1), (K, CODE_WIDTH)) * 3 + 5
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(vectors.std(), jnp.std(raw - raw.mean(axis=0)) / jnp.std(raw), atol=1e-5)
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(known, nnx.Param))]
    assert not any("vectors" in path for path in paths)


def test_the_mlps_give_equal_features_to_codes_with_equal_vectors():
    made = tokens()
    made.set_code_vectors(jnp.array([[1.0, 2, 3], [1, 2, 3], [0, 1, 0], [4, 0, 0], [0, 0, 2], [1, 1, 1]]))
    read, predicted = made.read(), made.predicted()
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(predicted[0], predicted[1])
    assert float(jnp.abs(read[0] - read[2]).max()) > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_folding_changes_neither_embeddings_nor_logits_and_leaves_plain_tables(bias):
    made = tokens(bias=bias)
    codes, x = jnp.arange(K), jax.random.normal(jax.random.key(3), (4, WIDTH))
    vectors, logits = made.embed(codes), made.predict(x)
    made.fold()
    np.testing.assert_allclose(made.embed(codes), vectors, atol=1e-6)
    np.testing.assert_allclose(made.predict(x), logits, atol=1e-5)
    assert made.read is None and made.predicted is None
    made.fold()
    np.testing.assert_allclose(made.predict(x), logits, atol=1e-5)


def test_tables_without_mlps_refuse_code_vectors():
    with pytest.raises(ValueError, match="code_width 0"):
        tokens(code_width=0).set_code_vectors(jnp.ones((K, 3)))


def test_logits_are_float32_regardless_of_dtype():
    made = tokens(dtype="bfloat16")
    assert made.predict(jnp.ones((2, WIDTH), jnp.bfloat16)).dtype == jnp.float32
    assert made.embed(jnp.array([1])).dtype == jnp.bfloat16
