"""Training an image tokenizer: pictures to codes and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.quantization import reconstruction
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.load import ModelFile
from dalle_jax.tasks.batches import pixel_rows, pixel_spec
from dalle_jax.train.task import Batch, Objective, Seed, Sums


@dataclass(frozen=True)
class TokenizeImages:
    """Reconstruction through a vector-quantised bottleneck (van den Oord et al. 2017, arXiv 1711.00937).

    ``loss = l2 * mean (x - y)^2 + l1 * mean |x - y| + commitment``, over pixels in [0, 1].
    """

    model: VqvaeConfig
    image_size: int
    l2: float = 1.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        factor = self.model.downsample
        if self.image_size % factor:
            raise ValueError(
                f"image_size: expected a multiple of {factor}, the tokenizer's factor, got {self.image_size}"
            )

    def prepare(self, examples: dict[str, list[Any]], seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``pixels`` uint8 [B H W 3]."""
        del seeds
        return {"pixels": pixel_rows(examples["image"], self.image_size)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        return {"pixels": pixel_spec(batch_size, self.image_size)}

    def init(self, rngs: nnx.Rngs) -> Vqvae:
        """A new tokenizer."""
        return Vqvae(self.model, rngs=rngs)

    def frozen(self) -> None:
        """Nothing is read that is not trained."""
        return None

    def objectives(self) -> tuple[Objective, ...]:
        """One: reconstruct."""
        return (Objective("reconstruct", nnx.Param, self.loss),)

    def loss(
        self, module: Vqvae, frozen: None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], Sums]:
        """The training loss; updates the codebook's moving averages inside ``module``."""
        del frozen, step
        pixels = to_float(batch["pixels"])
        out = module(pixels, train=True, key=key)
        squared = reconstruction(pixels, out.reconstruction, absolute=0.0, squared=1.0)
        loss = reconstruction(pixels, out.reconstruction, absolute=self.l1, squared=self.l2) + out.commitment
        one = jnp.ones(())
        sums = {
            "loss": (loss, one),
            "mse": (squared, one),
            "codebook/perplexity": (out.perplexity, one),
            "codebook/usage": (out.usage, one),
        }
        return loss, sums

    def evaluate(self, module: Vqvae, frozen: None, batch: Batch, key: Key[Array, ""]) -> Sums:
        """PSNR in dB, the mean over pictures, through hard codes."""
        del frozen, key
        pixels = to_float(batch["pixels"])
        squared = jnp.mean((pixels - module.decode(module.encode(pixels))) ** 2, axis=(1, 2, 3))  # [B]
        count = jnp.asarray(squared.size, jnp.float32)
        return {
            "psnr": (jnp.sum(-10.0 * jnp.log10(jnp.maximum(squared, 1e-10))), count),
            "mse": (jnp.sum(squared), count),
        }

    def pictures(self, module: Vqvae, frozen: None, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"]:
        """Eight pictures and below each its reconstruction."""
        del frozen, key
        pixels = to_float(batch["pixels"][:8])
        return jnp.concatenate([pixels, module.decode(module.encode(pixels))])

    def model_files(self) -> dict[str, bytes]:
        """``model.gin``."""
        return {"model.gin": render(ModelFile(model=self.model)).encode()}
