"""Training an image tokenizer: images to codes and back."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.images.pixels import to_float
from dalle_jax.layers.quantize import Assignments
from dalle_jax.losses.quantization import reconstruction
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.tasks.reconstruct_images import ReconstructImages, check_size
from dalle_jax.train.task import Batch, MetricSums, Objective, UpdateOnce


@dataclass(frozen=True)
class TokenizeImages(ReconstructImages):
    """Reconstruction through a vector-quantised bottleneck (van den Oord et al. 2017, arXiv 1711.00937).

    ``loss = l2 * mean (x - y)^2 + l1 * mean |x - y| + commitment``, over pixels in [0, 1].
    """

    model: VqvaeConfig
    image_size: int
    l2: float = 1.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        check_size(self.image_size, self.model.downsample)

    def init(self, rngs: nnx.Rngs) -> Vqvae:
        """A new tokenizer."""
        return self.model.build(rngs)

    def objectives(self) -> tuple[Objective, ...]:
        """One: reconstruct."""
        return (Objective("reconstruct", nnx.Param, self.loss, microbatches=UpdateOnce(self.reconstruct, self.update)),)

    def loss(
        self, module: Vqvae, frozen: None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The training loss; updates the codebook's moving averages inside ``module``."""
        loss, sums, assignments = self.reconstruct(module, frozen, batch, key, step)
        self.update(module, assignments, key)
        return loss, sums

    def update(self, module: Vqvae, assignments: Assignments, key: Key[Array, ""]) -> None:
        """Move the codebook to a whole batch."""
        module.quantizer.follow(assignments, key)

    def reconstruct(
        self, module: Vqvae, frozen: None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums, Assignments]:
        """The training loss and the codes of each image; the codebook stays as it is."""
        del frozen, key, step
        pixels = to_float(batch["pixels"])
        out = module(pixels)
        squared = reconstruction(pixels, out.reconstruction, absolute=0.0, squared=1.0)
        loss = reconstruction(pixels, out.reconstruction, absolute=self.l1, squared=self.l2) + out.commitment
        one = jnp.ones(())
        sums = {
            "loss": (loss, one),
            "mse": (squared, one),
            "codebook/perplexity": (out.perplexity, one),
            "codebook/usage": (out.usage, one),
        }
        return loss, sums, out.assignments
