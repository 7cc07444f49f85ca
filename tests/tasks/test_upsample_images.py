"""The task that trains an upsampler: its crops, corruption and noise, and what it samples."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.diffusion.continuous import RectifiedFlow
from dalle_jax.diffusion.diffusion_training import levels_at
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling, TrainedDiffusion
from dalle_jax.images.degradation import GaussianBlur, blurred
from dalle_jax.models.decoders.upsampler import LowResolution, enlarged, reduced
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.pipelines.pixel_sampling import upsample_pixels
from dalle_jax.tasks.image_denoising import HIGH_NOISE, TrainedDenoiser
from dalle_jax.tasks.upsample_images import ImageUpsampling, UpsampleImages
from tests.small_denoisers import UPSAMPLER, random_module

FLOW = TrainedDiffusion(RectifiedFlow(), "velocity")
CONFIG = UpsampleImages(
    model=replace(UPSAMPLER, diffusion=FLOW), image_size=16, crop=8, degradation=GaussianBlur(share=1.0),
    sampling=ImageSampling(Ddim(), steps=2),
)  # fmt: skip
TASK = ImageUpsampling(CONFIG)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture(scope="module")
def module() -> TrainedDenoiser:
    return random_module(lambda: TASK.init(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def batch() -> dict:
    prepared = TASK.prepare({"image": IMAGES}, None)
    assert {name: (one.shape, one.dtype) for name, one in prepared.items()} == {
        name: (one.shape, one.dtype) for name, one in TASK.batch_spec(4).items()
    }
    return {name: jnp.asarray(one) for name, one in prepared.items()}


def test_crops_are_random_in_training_and_central_in_evaluation(batch):
    np.testing.assert_array_equal(batch["crops"][0], IMAGES[0][4:12, 4:12])
    corners = set()
    for number in range(40):
        crop = TASK.prepare({"image": IMAGES[:1]}, [(number,)])["crops"][0]
        found = [(i, j) for i in range(9) for j in range(9) if np.array_equal(IMAGES[0][i : i + 8, j : j + 8], crop)]
        assert len(found) == 1 and found[0][0] % 2 == found[0][1] % 2 == 0
        corners.add(found[0])
    assert {0, 8} <= {top for top, _ in corners} and {0, 8} <= {left for _, left in corners}
    seeded = TASK.prepare({"image": IMAGES}, [(0, row) for row in range(4)])
    np.testing.assert_array_equal(seeded["crops"][2], TASK.prepare({"image": IMAGES[2:3]}, [(0, 2)])["crops"][0])


def test_the_low_resolution_image_is_corrupted_in_training_alone(batch):
    x0, low = TASK.inputs({}, batch, None)
    np.testing.assert_allclose(x0, 2 * (batch["crops"] / 255.0) - 1, atol=1e-6)
    np.testing.assert_allclose(low.image, enlarged(reduced(x0, 2), 2), atol=1e-6)
    _, corrupted = TASK.inputs({}, batch, KEY)
    expected = enlarged(blurred(reduced(x0, 2), jnp.full((4, 2), 0.6), 3), 2)
    np.testing.assert_allclose(corrupted.image, expected, atol=1e-5)
    np.testing.assert_array_equal(corrupted.noise, 0.0)


def test_noise_of_known_strength_is_added_up_to_the_largest_time(batch):
    noisy = ImageUpsampling(
        replace(CONFIG, model=replace(CONFIG.model, sees_noise=True), noise=0.5, degradation=GaussianBlur(share=0.0))
    )
    many = {"crops": jnp.tile(batch["crops"][:1], (300, 1, 1, 1))}
    x0, low = noisy.inputs({}, many, KEY)
    assert 0 <= low.noise.min() < 0.02 and 0.48 < low.noise.max() < 0.5
    off = low.image - jnp.cos(jnp.pi / 2 * low.noise)[:, None, None, None] * enlarged(reduced(x0, 2), 2)
    strong = low.noise > 0.4
    assert np.abs(off[low.noise < 0.01]).mean() < 0.02 < 0.3 < np.abs(off[strong]).mean()


def test_the_evaluation_compares_with_the_bicubic_image(module, batch):
    sums = jax.jit(lambda batch: TASK.evaluate(module, {}, batch, KEY))(batch)
    x0, low = TASK.inputs({}, batch, None)
    np.testing.assert_allclose(sums["mse_bicubic"][0] / 4, jnp.square(low.image - x0).mean(), rtol=1e-5)
    level = FLOW.level(jnp.full(4, HIGH_NOISE))
    x = add_noise(x0, jax.random.normal(jax.random.key(0), x0.shape), level)
    found = (x - HIGH_NOISE * module.network(x, level, low).prediction).clip(-1, 1)
    np.testing.assert_allclose(sums["mse"][0] / 4, jnp.square(found - x0).mean(), rtol=1e-4)


def test_the_evaluations_loss_is_at_times_spread_over_the_rows(module, batch):
    x0, low = TASK.inputs({}, batch, None)
    level = levels_at(FLOW, jnp.array([0.125, 0.375, 0.625, 0.875])).level
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    predicted = module.network(add_noise(x0, noise, level), level, low).prediction
    total, weight = TASK.evaluation_loss(module, x0, low, batch)
    np.testing.assert_allclose(total / weight, jnp.square(predicted - (noise - x0)).mean(), rtol=1e-5)


def test_images_are_crops_then_bicubic_then_samples(module, batch):
    images = jax.jit(lambda batch: TASK.images(module, {}, batch, KEY))(batch)
    assert images.shape == (12, 8, 8, 3)
    np.testing.assert_allclose(images[:4], batch["crops"] / 255.0, atol=1e-6)
    assert images.min() >= 0 and images.max() <= 1 and np.abs(images[8:] - images[4:8]).max() > 1e-2


def test_one_tile_of_the_whole_image_upsamples_as_no_tiles(module):
    low, keys = jax.random.uniform(KEY, (1, 4, 6, 3)), jax.random.split(KEY, 1)
    whole = upsample_pixels(module.network, low, keys, CONFIG.sampling)
    assert whole.shape == (1, 8, 12, 3)
    tiles = upsample_pixels(module.network, low, keys, CONFIG.sampling, tiles=Tiles(side=16, overlap=4))
    np.testing.assert_allclose(tiles, whole, atol=1e-6)
    assert module.network(2 * whole - 1, FLOW.level(jnp.ones(1)), LowResolution(whole, jnp.zeros(1))).variance is None


def test_the_model_file_loads_as_the_network():
    file = loads(TASK.model_files()["model.gin"].decode(), ModelFile)
    assert file.model == CONFIG.model and file.prefix == "network." and file.needs == {}


def test_sizes_and_noise_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"multiples of model\.factor \(2\).* got 20 and 16"):
        replace(CONFIG, crop=20)
    with pytest.raises(ValueError, match=r"unless model\.sees_noise, got 0\.0 and 0\.3 with model\.sees_noise False"):
        replace(CONFIG, noise=0.3)
