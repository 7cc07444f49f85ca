"""Training of an upsampler: noised crops and their low-resolution versions to crops (arXiv 2204.06125, section 2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.diffusion.diffusion_training import DiffusionTraining
from dalle_jax.diffusion.levels import NoiseLevel, add_noise
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.trained_diffusion import ImageSampling, from_pixels, to_pixels
from dalle_jax.images.degradation import Degradation, GaussianBlur
from dalle_jax.images.pixels import to_float
from dalle_jax.models.decoders.upsampler import (
    LowResolution,
    Upsampler,
    UpsamplerConfig,
    enlarged,
    low_noise_level,
    reduced,
)
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.pipelines.pixel_sampling import upsample_pixels
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed
from dalle_jax.tasks.image_denoising import PREFIX, ImageDenoising, TrainedDenoiser
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.train.task import Batch, Frozen, MetricSums, Seed

IMAGES = 6
"""Number of crops that are upsampled during training."""


@dataclass(frozen=True)
class UpsampleImages:
    """Settings of p(image | low-resolution image), by diffusion on crops of pixels.

    - ``image_size``, ``crop``: the sides of the images, and of the random crops that are trained on (a quarter in
      arXiv 2204.06125, table 3). A crop starts at a pixel of the low-resolution image.
    - ``degradation``: the corruption of the low-resolution image.
    - ``noise``: the largest time of the noise that is added to it; 0 unless ``model.sees_noise``.
    - ``sampling``, ``sampled_noise``: the sampling of the images during training, and the noise added there.
    """

    model: UpsamplerConfig
    image_size: int
    crop: int
    degradation: Degradation = field(default_factory=GaussianBlur)
    noise: float = 0.0
    training: DiffusionTraining = field(default_factory=DiffusionTraining)
    sampling: ImageSampling = field(default_factory=ImageSampling)
    sampled_noise: float = 0.0

    def __post_init__(self) -> None:
        factor = self.model.factor
        if not factor <= self.crop <= self.image_size or self.crop % factor or self.image_size % factor:
            raise ValueError(
                f"crop, image_size: expected multiples of model.factor ({factor}), the crop at most the image, got "
                f"{self.crop} and {self.image_size}"
            )
        if not 0 <= self.sampled_noise <= self.noise < 1 or bool(self.noise) != self.model.sees_noise:
            raise ValueError(
                "sampled_noise, noise: expected 0 <= sampled_noise <= noise < 1, and noise 0 unless model.sees_noise, "
                f"got {self.sampled_noise} and {self.noise} with model.sees_noise {self.model.sees_noise}"
            )
        self.training.check(self.model.diffusion)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {"crops": pixel_spec(batch_size, self.crop)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "ImageUpsampling":
        """Return the task. Raise ``UserError`` for data of precomputed codes."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        return self.open_for_plan()

    def open_for_plan(self) -> "ImageUpsampling":
        """Return the task, which reads no files."""
        return ImageUpsampling(self)


@dataclass(frozen=True, eq=False)
class ImageUpsampling(ImageDenoising[Upsampler, LowResolution]):
    """The task that trains an upsampler."""

    config: UpsampleImages

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``crops`` uint8 [B H W 3]: random ones, or those of the middle for evaluation."""
        images, factor = pixel_rows(examples["image"], self.config.image_size), self.config.model.factor
        places = (self.config.image_size - self.config.crop) // factor
        if seeds is None:
            corners = np.full((len(images), 2), factor * (places // 2))
        else:
            drawn = [np.random.default_rng(seed).integers(0, places, 2, endpoint=True) for seed in seeds]
            corners = factor * np.stack(drawn)
        side = self.config.crop
        crops = [one[top : top + side, left : left + side] for one, (top, left) in zip(images, corners, strict=True)]
        return {"crops": np.stack(crops)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def frozen(self) -> Frozen:
        """Return no networks."""
        return {}

    def build(self, rngs: nnx.Rngs) -> Upsampler:
        """Create the upsampler."""
        return self.config.model.build(rngs)

    def inputs(
        self, frozen: Frozen, batch: Batch, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "B H W 3"], LowResolution]:
        """Return the crops and their low-resolution versions, corrupted if ``key`` is given."""
        del frozen
        x0 = from_pixels(to_float(batch["crops"]))
        low, noise = reduced(x0, self.config.model.factor), jnp.zeros(x0.shape[0])
        if key is not None:
            degrade_key, noise_key, time_key = jax.random.split(key, 3)
            low = self.config.degradation.apply(low, degrade_key)
            noise = jax.random.uniform(time_key, noise.shape, maxval=self.config.noise)
            low = add_noise(low, jax.random.normal(noise_key, low.shape), low_noise_level(noise))
        return x0, LowResolution(enlarged(low, self.config.model.factor), noise)

    def predict(
        self,
        network: Upsampler,
        x: Float[Array, "B H W 3"],
        level: NoiseLevel,
        condition: LowResolution,
        key: Key[Array, ""] | None,
    ) -> ModelOutput:
        """Return the upsampler's prediction."""
        return network(x, level, condition, key)

    def evaluate(
        self, module: TrainedDenoiser[Upsampler], frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> MetricSums:
        """Return the loss, the error of x0 at high noise, and that of the bicubically enlarged image."""
        del key
        x0, low = self.inputs(frozen, batch, None)
        return {
            "loss": self.evaluation_loss(module, x0, low, batch),
            "mse": self.errors(module, x0, low, batch),
            "mse_bicubic": summed(jnp.square(low.image - x0).mean(axis=(1, 2, 3)), batch),
        }

    def images(
        self, module: TrainedDenoiser[Upsampler], frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"]:
        """Return the first crops, their bicubically enlarged versions, and a sample of each."""
        x0, low = self.inputs(frozen, {name: rows[:IMAGES] for name, rows in batch.items()}, None)
        keys, small = jax.random.split(key, x0.shape[0]), to_pixels(reduced(x0, self.config.model.factor))
        drawn = upsample_pixels(module.network, small, keys, self.config.sampling, self.config.sampled_noise)
        return jnp.concatenate([to_pixels(x0), to_pixels(low.image), drawn])

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``."""
        return {"model.gin": render(ModelFile(model=self.config.model, prefix=PREFIX)).encode()}
