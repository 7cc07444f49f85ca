"""Karlo's stages on small random networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_karlo import EMBED, WORDS, small_karlo

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.models.priors.prior import PriorOptions, read_text
from dalle_jax.pipelines.imported.karlo import Karlo, KarloFile
from dalle_jax.pipelines.imported.karlo_stages import (
    FIXED,
    FORM,
    KarloNetworks,
    StageNoise,
    decode,
    respaced,
    upsample,
)
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.request import Request, RequestOptions

PARTS = ("text", "prior", "projection", "decoder")
FILE = KarloFile(4, 8, PriorOptions(steps=2, draws=1), decoder_steps=3, upsampler_steps=3)


@pytest.fixture(scope="module")
def networks():
    return small_karlo()


@pytest.fixture(scope="module")
def pipeline(networks):
    return Karlo(networks, TextPrompts(WORDS), FILE, batch=4)


def test_an_image_depends_on_its_seed_prompt_and_guidance_and_not_on_its_neighbours(pipeline):
    requests = [
        Request(prompt, RequestOptions(candidates=1, seed=seed, guidance=scale))
        for prompt, seed, scale in (("ab", 3, 2.0), ("ab", 3, 5.0), ("ab", 4, 2.0), ("c", 3, 2.0))
    ]
    together = [one.pixels[0] for one in pipeline.draw(requests)]
    for request, image in zip(requests[:2], together, strict=False):
        alone = pipeline.draw([request] * 4)[3].pixels[0]
        assert image.shape == (FILE.side, FILE.side, 3)
        np.testing.assert_array_equal(alone, image)
    for other in together[1:]:
        assert (other != together[0]).any()


def test_the_second_upsampler_runs_the_last_step_alone(networks):
    keys = jax.random.split(jax.random.key(0), 2)
    image, noise = jnp.linspace(-1, 1, 96).reshape(2, 4, 4, 3), StageNoise.of(keys, (8, 8, 3))
    low = jax.image.resize(image, noise.start.shape, "bicubic")

    def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
        return ModelOutput(networks.upsampler(x, level.time, extra=low))

    x = FIXED.sample(denoise, respaced(3), noise.start, noise.steps, FORM)
    once = KarloNetworks(*(getattr(networks, name) for name in PARTS), networks.upsampler, networks.upsampler)
    np.testing.assert_allclose(upsample(once, image, noise, 3), (x.clip(-1, 1) + 1) / 2, atol=1e-5)
    assert np.abs(np.asarray(upsample(networks, image, noise, 3)) - upsample(once, image, noise, 3)).max() > 1e-3


def test_guidance_of_scale_1_is_no_guidance(networks):
    ids = jnp.asarray(WORDS.encode_batch(["ab", "c", ""]))
    text, empty = read_text(networks.text, ids[:2], False), read_text(networks.text, ids[2:], False)
    vectors = jax.random.normal(jax.random.key(1), (2, EMBED))
    noise = StageNoise.of(jax.random.split(jax.random.key(2), 2), (4, 4, 3))
    plain = decode(networks, text, empty, vectors, noise, 2, None)
    np.testing.assert_allclose(decode(networks, text, empty, vectors, noise, 2, jnp.ones(2)), plain, atol=1e-5)


def test_options_that_diffusion_does_not_have_are_errors(pipeline):
    with pytest.raises(UserError, match="temperature: expected its default"):
        pipeline("ab", temperature=0.5)
    with pytest.raises(UserError, match="given_image: expected none for a diffusion model"):
        pipeline("ab", given_image=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="upsampler_steps: expected at least 2 each, got 25 and 1"):
        KarloFile(4, 8, upsampler_steps=1)
