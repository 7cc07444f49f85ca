import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.dvae import Dvae, DvaeConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer

PIXELS = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))


def config(**changes):
    values = {"width": 8, "codebook_size": 32, "code_width": 8, "groups": 3, "blocks": 1}
    return DvaeConfig(**(values | changes))


def test_it_is_an_image_tokenizer_whose_downsampling_follows_from_its_groups():
    model = Dvae(config(), rngs=nnx.Rngs(0))
    assert isinstance(model, ImageTokenizer)
    codes, logits = jax.jit(lambda: (model.encode(PIXELS), model.logits(PIXELS)))()
    assert (model.downsample, codes.shape, model.code_vectors.shape) == (4, (2, 4, 4), (32, 8))
    np.testing.assert_array_equal(codes, np.asarray(logits).argmax(-1))
    assert jax.eval_shape(model.decode, jnp.zeros((1, 3, 4), jnp.int32)).shape == (1, 12, 16, 3)


def test_decoding_codes_equals_decoding_their_one_hot_probabilities():
    model = Dvae(config(), rngs=nnx.Rngs(0))
    model.decoder.input.bias[...] = jnp.arange(8.0)
    codes = jnp.arange(32).reshape(2, 4, 4)
    hard, soft = jax.jit(lambda: (model.decoder.hard(codes), model.decoder.soft(jax.nn.one_hot(codes, 32))))()
    np.testing.assert_allclose(hard.mean, soft.mean, atol=1e-5)
    np.testing.assert_allclose(hard.log_scale, soft.log_scale, atol=1e-5)


def test_remat_does_not_change_gradients():
    plain, spared = (Dvae(config(remat=remat), rngs=nnx.Rngs(0)) for remat in ("none", "full"))

    def gradients(model):
        graph, state = nnx.split(model)

        def loss(state):
            model = nnx.merge(graph, state)
            return model.decoder.soft(jax.nn.softmax(model.logits(PIXELS))).mean.sum()

        return jax.jit(jax.grad(loss))(state)

    for one, other in zip(*(jax.tree.leaves(gradients(model)) for model in (plain, spared)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * max(1e-3, float(jnp.abs(one).max())))


@pytest.mark.parametrize("changes", [{"width": 6}, {"groups": 1}, {"blocks": 0}])
def test_invalid_sizes_of_a_dvae_are_errors(changes):
    with pytest.raises(ValueError, match="expected width a multiple of 4, groups at least 2 and blocks at least 1"):
        Dvae(config(**changes), rngs=nnx.Rngs(0))
