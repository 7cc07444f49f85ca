"""The task that trains a decoder of latents: its statistics, its samples, and settings that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.trained_diffusion import ImageSampling, TrainedDiffusion
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformerConfig
from dalle_jax.models.spaces.space import Latents, LatentStatistics
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_images import DenoiseImages, ImageDecoding
from tests.small_denoisers import decoder_config, random_module

TOKENIZER = VqvaeConfig(downsample=2, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
NETWORK = PatchTransformerConfig(width=16, layers=1, heads=2, patch=2, context_width=8, channels=4)
MODEL = dataclasses.replace(
    decoder_config(), unet=NETWORK, space=Latents(channels=4, downsample=2, images=6),
    diffusion=TrainedDiffusion(CosineNoise(5), "v"),
)  # fmt: skip
CONFIG = DenoiseImages(
    MODEL, Captions(file="text.model"), image_tokenizer="tokenizer", blank_clips=1.0,
    sampling=ImageSampling(Ddim(), steps=2, threshold=None),
)  # fmt: skip
BATCH = {
    "pixels": jax.random.randint(jax.random.key(1), (4, 8, 8, 3), 0, 256).astype(jnp.uint8),
    "text": jnp.array([[1, 2, 0, 0, 0, 0]] * 4),
}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def task() -> ImageDecoding:
    return ImageDecoding(CONFIG, None, None, nnx.jit(lambda: TOKENIZER.build(nnx.Rngs(3)))())


def test_training_measures_the_latents_and_denoises_them_normalised(task):
    @nnx.jit
    def run():
        module = random_module(lambda: task.init(nnx.Rngs(0)))
        measured = module.network.statistics
        module.network.statistics = LatentStatistics(measured.mean.shape[0], measured.images)
        first, _ = task.loss(module, task.frozen(), BATCH, KEY, jnp.int32(0))
        statistics = module.network.statistics
        latents = task.image_tokenizer.encode_latents(BATCH["pixels"] / 255.0)
        x0 = task.encode(module, task.frozen(), 2 * (BATCH["pixels"] / 255.0) - 1)
        evaluated = task.evaluate(module, task.frozen(), BATCH, KEY)
        images = task.images(module, task.frozen(), BATCH, KEY)
        return first, (statistics.seen[...], statistics.mean[...]), latents, x0, evaluated, images

    loss, (seen, mean), latents, x0, evaluated, images = run()
    assert np.isfinite(float(loss)) and seen == 4
    np.testing.assert_allclose(mean, latents.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(x0.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(x0.std((0, 1, 2)), 1.0, atol=1e-2)
    assert all(np.isfinite(float(total)) for total, _ in evaluated.values())
    assert images.shape == (8, 8, 8, 3) and images.min() >= 0 and images.max() <= 1


def test_a_step_in_microbatches_updates_the_statistics_once(task):
    (objective,) = task.objectives()
    assert objective.microbatches is not None
    plain = dataclasses.replace(CONFIG, model=decoder_config(), image_tokenizer=None)
    pixels = dataclasses.replace(task, config=plain, image_tokenizer=None)
    assert pixels.objectives()[0].microbatches is None


def test_settings_that_do_not_fit_are_named(task):
    with pytest.raises(ValueError, match=r"unet\.channels: expected 4, as space has, got 3"):
        dataclasses.replace(MODEL, unet=dataclasses.replace(NETWORK, channels=3))
    with pytest.raises(ValueError, match=r"unet\.learned_variance: expected False for latents"):
        dataclasses.replace(MODEL, unet=dataclasses.replace(NETWORK, learned_variance=True))
    with pytest.raises(ValueError, match=r"sampling\.threshold: expected None for latents"):
        dataclasses.replace(CONFIG, sampling=ImageSampling())
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, space=Latents(4, 4)))
    with pytest.raises(UserError, match=r"task\.model\.space: expected channels and downsample \(4, 2\)"):
        dataclasses.replace(task, config=other)
