"""The common part of all tasks that train an image tokenizer: batch, evaluation, sample images and ``model.gin``."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.models.dvae import DvaeConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.batches import pixel_rows, summed
from dalle_jax.train.task import Batch, Frozen, MetricSums, Seed


def check_size(image_size: int, factor: int) -> None:
    """Raise ``ValueError`` if ``factor``, the downsampling of the tokenizer, does not divide the image size."""
    if image_size % factor:
        raise ValueError(f"image_size: expected a multiple of {factor}, the tokenizer's downsampling, got {image_size}")


@runtime_checkable
class ReconstructionConfig(Protocol):
    """The fields that ``ImageReconstruction`` reads from the config of a task that trains an image tokenizer."""

    @property
    def model(self) -> VqvaeConfig | DvaeConfig | VqganConfig:
        """The config of the image tokenizer."""
        ...

    @property
    def image_size(self) -> int:
        """The side of the images in pixels."""
        ...

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        ...


Config = TypeVar("Config", bound=ReconstructionConfig)
Module = TypeVar("Module")


class ImageReconstruction(ABC, Generic[Config, Module]):
    """The common part of every task whose module is an image tokenizer, or holds one under ``prefix``."""

    prefix = ""
    """The path of the tokenizer within the trained module, such as "generator."."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def tokenizer_of(self, module: Module) -> ImageTokenizer:
        """Return the image tokenizer within the trained module."""

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``pixels`` uint8 [B H W 3]."""
        del seeds
        return {"pixels": pixel_rows(examples["image"], self.config.image_size)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def frozen(self) -> Frozen:
        """Return an empty mapping: the loss needs no frozen network."""
        return {}

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``."""
        return {"model.gin": render(ModelFile(model=self.config.model, prefix=self.prefix)).encode()}

    def evaluate(self, module: Module, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the PSNR of reconstructions from codes in dB, averaged over images, and their mean squared error."""
        del frozen, key
        pixels, tokenizer = to_float(batch["pixels"]), self.tokenizer_of(module)
        squared = jnp.mean((pixels - tokenizer.decode(tokenizer.encode(pixels))) ** 2, axis=(1, 2, 3))  # [B]
        return {
            "psnr": summed(-10.0 * jnp.log10(jnp.maximum(squared, 1e-10)), batch),
            "mse": summed(squared, batch),
        }

    def images(self, module: Module, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"]:
        """Return eight images and their reconstructions."""
        del frozen, key
        pixels, tokenizer = to_float(batch["pixels"][:8]), self.tokenizer_of(module)
        return jnp.concatenate([pixels, tokenizer.decode(tokenizer.encode(pixels))])
