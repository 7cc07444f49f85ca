"""The consistency decoder against diffusers: its factors, and two steps with recorded noise on latents and codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.consistency import scalings
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.sampler import RecordedNoise
from dalle_jax.models.decoders.consistency_decoder import TIMESTEPS
from tests.parity.fixtures import assert_close, fixture, imported, run


@pytest.fixture(scope="module")
def decoder():
    found = fixture("consistency_decoder")
    return found, imported("consistency-decoder", found.folder)


def test_the_factors_of_every_timestep_are_the_references(decoder):
    """The reference multiplies 1024 factors in float32; the largest difference was 3e-6."""
    (_, io, _), model = decoder
    process = DiscreteProcess.of(CosineNoise(model.config.unet.learned_times))
    for ours, name in zip(scalings(process, 0.5), ("c_skip", "c_out", "c_in"), strict=True):
        np.testing.assert_allclose(ours, io[name], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(io["timesteps"], TIMESTEPS)


def test_two_steps_give_the_references_image(decoder):
    (_, io, tolerance), model = decoder
    latents, start, noise = (np.moveaxis(io[name], 1, -1) for name in ("latents", "noise_00", "noise_01"))
    wanted = np.moveaxis(io["out_decoded"], 1, -1)

    def decode(model, latents, start, noise):
        return model.sample(latents, start, RecordedNoise(noise[None]))

    assert_close(run(decode, model, latents, start, noise), wanted, tolerance)


def test_codes_are_decoded_as_their_vectors(decoder):
    (_, io, _), model = decoder
    vectors = jnp.asarray(np.moveaxis(io["latents"], 1, -1)).reshape(-1, io["latents"].shape[1])
    codes = jnp.arange(len(vectors)).reshape(len(io["latents"]), *io["latents"].shape[2:])
    keys = jax.random.split(jax.random.key(0), len(codes))
    images = run(lambda model, codes, keys: model.decode_codes(codes, vectors, keys), model, codes, keys)
    side = tuple(model.config.factor * one for one in codes.shape[1:])
    assert images.shape == (len(codes), *side, model.config.unet.channels)
    latents = run(lambda model, keys: model.decode(vectors[codes], keys), model, keys)
    np.testing.assert_array_equal(images, latents)
    assert 0 <= images.min() < images.max() <= 1
