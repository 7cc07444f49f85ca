"""Training of a VQ-VAE: images to codes and back."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.layers.quantize import Assignments
from dalle_jax.losses.quantization import reconstruction
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.tasks.batches import pixel_spec
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.tasks.tokenizers.reconstruct_images import ImageReconstruction, check_size
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, UpdateOnce


@dataclass(frozen=True)
class TokenizeImages:
    """Settings of a VQ-VAE's training (van den Oord et al. 2017, arXiv 1711.00937).

    ``loss = l2 * mean (x - y)^2 + l1 * mean |x - y| + commitment``, over pixels in [0, 1].
    """

    model: VqvaeConfig
    image_size: int
    l2: float = 1.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        check_size(self.image_size, self.model.downsample)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {"pixels": pixel_spec(batch_size, self.image_size)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "VqvaeReconstruction":
        """Return the task. Raise ``UserError`` for data of precomputed codes."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        return self.open_for_plan()

    def open_for_plan(self) -> "VqvaeReconstruction":
        """Return the task, which reads no files."""
        return VqvaeReconstruction(self)


class VqvaeReconstruction(ImageReconstruction[TokenizeImages, Vqvae]):
    """The task that trains a VQ-VAE: reconstruction of images through a vector-quantised bottleneck."""

    def tokenizer_of(self, module: Vqvae) -> ImageTokenizer:
        """Return the trained module itself."""
        return module

    def init(self, rngs: nnx.Rngs) -> Vqvae:
        """Create the image tokenizer."""
        return self.config.model.build(rngs)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective, which updates the codebook once for all microbatches of a step."""
        return (Objective("reconstruct", nnx.Param, self.loss, microbatches=UpdateOnce(self.reconstruct, self.update)),)

    def loss(
        self, module: Vqvae, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the training loss, and update the moving averages of the codebook in ``module``."""
        loss, sums, assignments = self.reconstruct(module, frozen, batch, key, step)
        self.update(module, assignments, key)
        return loss, sums

    def update(self, module: Vqvae, assignments: Assignments, key: Key[Array, ""]) -> None:
        """Update the codebook from the assignments of a whole batch."""
        module.quantizer.follow(assignments, key)

    def reconstruct(
        self, module: Vqvae, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums, Assignments]:
        """Return the training loss and the code assignments of each image. The codebook is not updated."""
        del frozen, key, step
        pixels = to_float(batch["pixels"])
        out = module(pixels)
        squared = reconstruction(pixels, out.reconstruction, absolute=0.0, squared=1.0)
        loss = (
            reconstruction(pixels, out.reconstruction, absolute=self.config.l1, squared=self.config.l2) + out.commitment
        )
        one = jnp.ones(())
        sums = {
            "loss": (loss, one),
            "mse": (squared, one),
            "codebook": (out.histogram, one),
        }
        return loss, sums, out.assignments
