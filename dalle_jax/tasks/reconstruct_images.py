"""What all tasks that train an image tokenizer have in common: the batch, and how its copies are judged and shown."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed
from dalle_jax.train.task import Batch, MetricSums, Seed


def check_size(image_size: int, factor: int) -> None:
    """Raises ValueError for an image that the tokenizer's squares do not fill."""
    if image_size % factor:
        raise ValueError(f"image_size: expected a multiple of {factor}, the tokenizer's factor, got {image_size}")


class ReconstructImages:
    """What is the same in every Task whose module is an image tokenizer, or holds one under ``prefix``."""

    model: Any
    image_size: int
    prefix = ""
    """Where the tokenizer sits in the module that is trained, such as "generator."."""

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``pixels`` uint8 [B H W 3]."""
        del seeds
        return {"pixels": pixel_rows(examples["image"], self.image_size)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        return {"pixels": pixel_spec(batch_size, self.image_size)}

    def tokenizer_of(self, module: Any) -> ImageTokenizer:
        """The tokenizer in what is trained."""
        return module

    def frozen(self) -> Any:
        """Nothing is read that is not trained."""
        return None

    def model_files(self) -> dict[str, bytes]:
        """``model.gin``."""
        return {"model.gin": render(ModelFile(model=self.model, prefix=self.prefix)).encode()}

    def evaluate(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """PSNR in dB, the mean over images, through hard codes."""
        del frozen, key
        pixels, copies = to_float(batch["pixels"]), self.tokenizer_of(module)
        squared = jnp.mean((pixels - copies.decode(copies.encode(pixels))) ** 2, axis=(1, 2, 3))  # [B]
        return {
            "psnr": summed(-10.0 * jnp.log10(jnp.maximum(squared, 1e-10)), batch),
            "mse": summed(squared, batch),
        }

    def images(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"]:
        """Eight images and below each its reconstruction."""
        del frozen, key
        pixels, copies = to_float(batch["pixels"][:8]), self.tokenizer_of(module)
        return jnp.concatenate([pixels, copies.decode(copies.encode(pixels))])
