"""The pixel decoder: its conditions, dropped ones, known pixels, and configs that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.continuous import RectifiedFlow
from dalle_jax.diffusion.guidance import ConditionedDenoiser
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder, PixelDecoderConfig
from dalle_jax.models.glide import KnownPixels
from dalle_jax.models.spaces.space import Latents
from dalle_jax.models.unet import UNetContext
from tests.small_denoisers import decoder_config, random_module

X = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
LEVEL = TrainedDiffusion().level(jnp.array([0.3, 0.8]))
CLIP = jax.random.normal(jax.random.key(2), (2, 6)) / 6**0.5
GUIDE = Guide(jnp.array([[3, 4, 5, 0, 0, 0], [7, 2, 0, 0, 0, 0]]), CLIP, jnp.ones(2, bool))
BOTH = jnp.ones(2, bool)


@pytest.fixture(scope="module")
def decoder() -> PixelDecoder:
    return random_module(lambda: decoder_config(learned_variance=True).build(nnx.Rngs(0)))


def test_the_context_is_four_tokens_of_the_embedding_then_the_caption(decoder):
    condition = decoder.condition(GUIDE)
    states, _ = decoder.text(GUIDE.text, GUIDE.text != 0)
    tokens = jnp.einsum("be,ecd->bcd", 6**0.5 * CLIP, decoder.clip_to_tokens.kernel[...])
    tokens = tokens + decoder.clip_to_tokens.bias[...]
    np.testing.assert_allclose(condition.context, jnp.concatenate([tokens, states], axis=1), atol=1e-5)
    assert condition.context.shape == (2, 4 + 6, 8)


def test_a_dropped_embedding_and_a_dropped_caption_are_not_read(decoder):
    assert isinstance(decoder.denoise, ConditionedDenoiser)
    dropped = decoder(X, LEVEL, GUIDE.without(~BOTH, BOTH))
    other = decoder(X, LEVEL, GUIDE._replace(clip=-CLIP).without(~BOTH, BOTH))
    np.testing.assert_array_equal(dropped.prediction, other.prediction)
    assert np.abs(dropped.prediction - decoder(X, LEVEL, GUIDE).prediction).max() > 1e-4
    empty = decoder(X, LEVEL, GUIDE.without(BOTH, ~BOTH))
    reworded = decoder(X, LEVEL, GUIDE._replace(text=GUIDE.text[::-1]).without(BOTH, ~BOTH))
    np.testing.assert_array_equal(empty.prediction, reworded.prediction)
    assert np.abs(empty.prediction - decoder(X, LEVEL, GUIDE).prediction).max() > 1e-4


def test_a_learned_variance_is_the_second_half_of_the_outputs(decoder):
    output = decoder(X, LEVEL, GUIDE)
    condition = decoder.condition(GUIDE)
    from_unet = decoder.unet(X, LEVEL.time, vector=condition.time, context=UNetContext(condition.context))
    np.testing.assert_array_equal(jnp.concatenate([output.prediction, output.variance], axis=-1), from_unet)


def test_a_continuous_process_has_no_learned_variance_and_no_noise_prediction():
    with pytest.raises(ValueError, match="prediction: expected x0, v or velocity for the continuous RectifiedFlow"):
        TrainedDiffusion(RectifiedFlow())
    flow = TrainedDiffusion(RectifiedFlow(), "velocity")
    with pytest.raises(ValueError, match=r"unet\.learned_variance: expected False for the continuous RectifiedFlow"):
        dataclasses.replace(decoder_config(learned_variance=True), diffusion=flow)
    assert dataclasses.replace(decoder_config(), diffusion=flow).diffusion == flow


def test_a_context_of_another_width_than_the_caption_encoder_is_refused():
    config = decoder_config()
    wide = PixelDecoderConfig(**vars(config) | {"unet": dataclasses.replace(config.unet, context_width=4)})
    with pytest.raises(ValueError, match=r"unet\.context_width: expected text\.width 8, got 4"):
        nnx.eval_shape(lambda: wide.build(nnx.Rngs(0)))


def known_of(keys: tuple[int, int]) -> KnownPixels:
    image = jax.random.normal(jax.random.key(keys[0]), (2, 8, 8, 3))
    mask = jax.random.bernoulli(jax.random.key(keys[1]), 0.5, (2, 8, 8, 1))
    return KnownPixels(image.clip(-1, 1), mask.astype(jnp.float32))


@pytest.fixture(scope="module")
def inpainter(decoder) -> PixelDecoder:
    return decoder.with_extra_channels()


@nnx.jit
def predicted(network: PixelDecoder, known: KnownPixels | None = None) -> jax.Array:
    return network(X, LEVEL, GUIDE, known=known).prediction


def test_a_decoder_with_new_channels_predicts_as_before_for_any_mask(decoder, inpainter):
    """To the last bit for any known pixels; to rounding beside the decoder, whose convolution adds fewer channels."""
    outputs = [predicted(inpainter, one) for one in (None, known_of((3, 4)), known_of((5, 6)))]
    for one in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], one)
    np.testing.assert_allclose(outputs[0], predicted(decoder), atol=1e-5)
    assert inpainter.config.inpaints and not decoder.config.inpaints


def test_known_pixels_enter_and_hidden_ones_do_not(inpainter):
    trained = nnx.clone(inpainter)
    kernel = trained.unet.input.kernel
    kernel[...] = kernel[...].at[:, :, 3:].set(jax.random.normal(jax.random.key(7), kernel[:, :, 3:].shape))
    known, other = known_of((3, 4)), known_of((5, 4))
    hidden_changed = known._replace(image=jnp.where(known.mask > 0, known.image, other.image))
    kept_changed = known._replace(image=jnp.where(known.mask > 0, other.image, known.image))
    output = predicted(trained, known)
    np.testing.assert_array_equal(output, predicted(trained, hidden_changed))
    assert np.abs(output - predicted(trained, kept_changed)).max() > 1e-3
    assert np.abs(output - predicted(trained, known._replace(mask=jnp.ones_like(known.mask)))).max() > 1e-3
    nothing = known._replace(mask=jnp.zeros_like(known.mask))
    np.testing.assert_array_equal(predicted(trained), predicted(trained, nothing))


def test_known_pixels_of_a_decoder_that_does_not_inpaint_and_other_channels_are_refused(decoder):
    with pytest.raises(ValueError, match=r"known: expected None for a decoder without unet\.extra_channels"):
        decoder.condition(GUIDE, known_of((3, 4)))
    config = decoder_config()
    three = dataclasses.replace(config.unet, extra_channels=3)
    with pytest.raises(ValueError, match=r"unet\.extra_channels: expected 0, or 4 .* got 3 for @PixelSpace"):
        dataclasses.replace(config, unet=three)
    four = dataclasses.replace(config.unet, extra_channels=4, channels=5)
    with pytest.raises(ValueError, match=r"unet\.extra_channels: expected 0, or 4 .* got 4 for @Latents"):
        dataclasses.replace(config, unet=four, space=Latents(channels=5, downsample=4))
