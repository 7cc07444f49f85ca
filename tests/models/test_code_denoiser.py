"""The network of the code denoiser: its inputs, the dropping of them, and its output over code vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.code_denoiser import CodeDenoiser, CodeDenoiserConfig, Guide, grid_sinusoids, with_neighbours

CONFIG = CodeDenoiserConfig(
    text_vocab=11, text_length=3, embed_width=6, codebook_size=7, code_width=4, grid=(2, 3), width=16, layers=1, heads=2
)
ROWS = 3


@pytest.fixture(scope="module")
def run():
    network = CodeDenoiser(CONFIG, rngs=nnx.Rngs(0))
    network.set_code_vectors(jax.random.normal(jax.random.key(3), (7, 4)))
    modulation = network.stack.block(0).modulation.kernel
    modulation[...] = jax.random.normal(jax.random.key(4), modulation.shape)  # 0 in a new network
    return nnx.jit(lambda x, time, guide: network(x, time, guide))


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(1), 2)
    guide = Guide(
        jnp.array([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), jax.random.normal(keys[0], (ROWS, 6)), jnp.ones(ROWS, bool)
    )
    return jax.random.normal(keys[1], (ROWS, 6, 4)), jnp.array([0.1, 0.5, 0.9]), guide


def test_every_input_of_a_row_changes_its_logits_and_those_of_no_other_row(run, inputs):
    x, time, guide = inputs
    plain = run(x, time, guide)
    changes = (
        (x.at[0].add(1.0), time, guide),
        (x, time.at[0].set(0.4), guide),
        (x, time, guide._replace(text=guide.text.at[0, 0].set(9))),
        (x, time, guide._replace(clip=guide.clip.at[0].multiply(-1.0))),
        (x, time, guide._replace(has_clip=guide.has_clip.at[0].set(False))),
    )
    for change in changes:
        logits = run(*change)
        assert np.abs(logits[0] - plain[0]).max() > 1e-3
        np.testing.assert_allclose(logits[1:], plain[1:], atol=1e-5)


def test_a_dropped_embedding_is_not_read_and_a_dropped_caption_is_the_empty_one(run, inputs):
    x, time, guide = inputs
    drop = jnp.array([True, True, False])
    dropped = guide.without(drop, drop)
    np.testing.assert_array_equal(dropped.text, [[0, 0, 0], [0, 0, 0], [6, 0, 0]])
    other = dropped._replace(clip=dropped.clip.at[:2].set(7.0))
    np.testing.assert_array_equal(run(x, time, dropped), run(x, time, other))
    assert not guide.nothing().has_clip.any() and not guide.nothing().text.any()


def test_a_new_network_compares_places_with_the_vectors_of_codes():
    """Two codes of one vector have equal logits, since the table of codes starts at zero."""
    network = CodeDenoiser(CONFIG, rngs=nnx.Rngs(0))
    vectors = jax.random.normal(jax.random.key(3), (7, 4)).at[2].set(jnp.ones(4)).at[5].set(jnp.ones(4))
    network.set_code_vectors(vectors)
    np.testing.assert_allclose(network.code_vectors.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(
        jnp.square(network.code_vectors).mean(), jnp.var(vectors - vectors.mean(0)) / vectors.var(), rtol=1e-5
    )
    logits = network.logits(jax.random.normal(jax.random.key(4), (1, 6, 16)))
    np.testing.assert_allclose(logits[..., 2], logits[..., 5], atol=1e-5)
    assert np.abs(logits[..., 2] - logits[..., 3]).max() > 1e-2


def test_the_neighbourhood_of_a_place_is_its_3x3_square_with_zeros_outside():
    x = jnp.arange(1.0, 7.0).reshape(1, 6, 1)  # [[1 2 3] [4 5 6]]
    around = with_neighbours(x, (2, 3))
    np.testing.assert_array_equal(around[0, 0], [0, 0, 0, 0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(around[0, 4], [1, 2, 3, 4, 5, 6, 0, 0, 0])


def test_positions_of_one_row_share_half_of_their_embedding():
    table = grid_sinusoids((2, 3), 16)
    assert table.shape == (6, 16)
    np.testing.assert_array_equal(table[0, :8], table[2, :8])
    np.testing.assert_array_equal(table[1, 8:], table[4, 8:])
    assert len(np.unique(np.asarray(table).round(5), axis=0)) == 6


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match=r"width: expected a multiple of 4 and of heads \(3\), got 16"):
        CodeDenoiser(CodeDenoiserConfig(**(vars(CONFIG) | {"heads": 3})), rngs=nnx.Rngs(0))
