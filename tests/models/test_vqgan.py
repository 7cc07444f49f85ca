import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.vqgan import Vqgan, VqganConfig, from_range, to_range

PIXELS = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))


def config(**changes):
    values = {
        "width": 32, "multipliers": (1, 1), "blocks": 1, "attention_levels": (1,), "latent_width": 8, "code_width": 4,
        "codebook_size": 16,
    }  # fmt: skip
    return VqganConfig(**(values | changes))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_it_is_an_image_tokenizer_that_quantises_to_the_nearest_code(distance):
    model = Vqgan(config(distance=distance), rngs=nnx.Rngs(0))
    assert isinstance(model, ImageTokenizer)
    model.codebook[...] = jax.random.normal(jax.random.key(1), (16, 4))
    latents = np.asarray(model.latents(to_range(model.config, PIXELS)))
    table = np.asarray(model.code_vectors)
    if distance == "cosine":
        np.testing.assert_allclose(np.linalg.norm(table, axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(latents, axis=-1), 1.0, rtol=1e-5)
    nearest = ((latents[..., None, :] - table) ** 2).sum(-1).argmin(-1)
    codes = model.encode(PIXELS)
    np.testing.assert_array_equal(codes, nearest)
    assert (model.downsample, codes.shape) == (2, (2, 8, 8))
    quantized = model.quantize(model.latents(to_range(model.config, PIXELS)))
    drawn = from_range(model.config, model.decoder(model.out_of_codes(quantized.vectors)))
    np.testing.assert_allclose(model.decode(codes), drawn, atol=1e-5)


def test_pixel_ranges_differ_only_by_a_linear_map():
    signed, unsigned = (Vqgan(config(pixel_range=one), rngs=nnx.Rngs(0)) for one in ("-1..1", "0..1"))
    dark = PIXELS / 2  # 2 x - 1 of the brighter half is the darker half
    np.testing.assert_array_equal(signed.encode((dark + 1) / 2), unsigned.encode(dark))
    codes = signed.encode(PIXELS)
    drawn = unsigned.decoder(unsigned.out_of_codes(unsigned.code_vectors[codes]))
    np.testing.assert_allclose(signed.decode(codes), ((drawn + 1) / 2).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(unsigned.decode(codes), drawn.clip(0, 1), atol=1e-6)


def test_gradients_pass_straight_through_to_the_inputs_and_reach_the_nearest_codes():
    model = Vqgan(config(), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(2), (1, 2, 2, 4))
    to_input = jax.grad(lambda x: (3.0 * model.quantize(x).vectors).sum())(x)
    np.testing.assert_allclose(to_input, 3.0)
    graph, state = nnx.split(model)
    table = jax.grad(lambda state: nnx.merge(graph, state).quantize(x).nearest.sum())(state)["codebook"][...]
    counts = np.bincount(np.asarray(model.quantize(x).codes).ravel(), minlength=16)
    np.testing.assert_allclose(table, np.broadcast_to(counts[:, None], (16, 4)))


@pytest.mark.parametrize(
    "changes", [{"width": 48}, {"attention_levels": (2,)}, {"multipliers": (), "attention_levels": ()}]
)
def test_invalid_sizes_of_a_vqgan_are_errors(changes):
    with pytest.raises(ValueError, match="expected width a multiple of 32, multipliers not empty"):
        Vqgan(config(**changes), rngs=nnx.Rngs(0))
