"""Training of a CLIP for unCLIP, whose image embedding also keeps details that the caption does not mention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Int, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.heads.code_readout import CodeReadoutConfig, ReadableClip
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.align_text_images import AlignTextImages, TextImageAlignment
from dalle_jax.tasks.batches import summed
from dalle_jax.tasks.caption_tokens import loaded
from dalle_jax.tasks.frozen_networks import image_tokenizer_of
from dalle_jax.tasks.negatives.batch_arrays import Embeddings
from dalle_jax.train.task import Batch, CachedEmbeddings, Frozen, MetricSums, Objective, Seed


class ReadEmbeddings(NamedTuple):
    """The embeddings of a batch, and for each image the nats per code with which its embedding predicts its codes."""

    pair: Embeddings
    nats: Float[Array, " B"]


@dataclass(frozen=True)
class AlignReadableImages:
    """Settings of CLIP's loss plus ``weight`` times the cross-entropy of an image's codes given its embedding.

    - ``align``: the settings of CLIP's loss; its ``image_tokenizer`` also gives the codes.
    - ``readout``: the sizes of the head, which is not used after training.
    """

    align: AlignTextImages
    readout: CodeReadoutConfig
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(
                f"weight: expected more than 0, got {self.weight}; without this loss, train with @AlignTextImages"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return self.align.batch_spec(batch_size)

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "ReadableAlignment":
        """Load the text tokenizer and the image tokenizer.

        Raise ``UserError`` if the config names no image tokenizer.
        """
        if self.align.image_tokenizer is None:
            raise UserError("task.align.image_tokenizer: expected the folder of an image tokenizer, got None")
        return ReadableAlignment(self, self.align.open(layout, manifest))

    def open_for_plan(self) -> "ReadableAlignment":
        """Open the task for ``plan``: load the image tokenizer, and the text tokenizer if its file exists."""
        return ReadableAlignment(self, self.align.open_for_plan())


@dataclass(frozen=True, eq=False)
class ReadableAlignment:
    """The task that trains a CLIP and a head that predicts codes from its image embedding.

    Raise ``UserError`` if the image tokenizer does not fit the head.
    """

    config: AlignReadableImages
    align: TextImageAlignment

    def __post_init__(self) -> None:
        tokenizer = self.align.image_tokenizer
        if tokenizer is None:
            return
        side = self.config.align.model.image_size // tokenizer.downsample
        given = (tokenizer.codebook_size, tokenizer.code_vectors.shape[1], (side, side))
        readout = self.config.readout
        if given != (expected := (readout.codebook_size, readout.code_width, tuple(readout.grid))):
            raise UserError(
                f"task.readout: expected codebook_size, code_width and grid {given}, as the image tokenizer in "
                f"{self.config.align.image_tokenizer} gives, got {expected}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the same arrays as ``TextImageAlignment.prepare``."""
        return self.align.prepare(examples, seeds)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> ReadableClip:
        """Create the CLIP, and the head with the image tokenizer's code vectors."""
        module = self.config.readout.build(self.config.align.model, rngs)
        if self.align.image_tokenizer is not None:
            module.readout.set_code_vectors(self.align.image_tokenizer.code_vectors)
        return module

    def frozen(self) -> Frozen:
        """Return the image tokenizer."""
        return self.align.frozen()

    def objectives(self) -> tuple[Objective, ...]:
        """Return one objective: CLIP's, with the loss of the head added."""
        (plain,) = self.align.objectives()
        constraints = tuple(plain.constraints)
        parts = CachedEmbeddings(self.embed, self.loss_of_embeddings)
        return (Objective("align", nnx.Param, self.loss, constraints=constraints, microbatches=parts),)

    def loss(
        self, module: ReadableClip, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the loss of a batch."""
        return self.loss_of_embeddings(module, self.embed(module, frozen, batch, key, step), batch, key, step)

    def embed(
        self, module: ReadableClip, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> ReadEmbeddings:
        """Return the embeddings of images and captions, and the nats per code of each image."""
        pair = self.align.embed_part(module.clip, frozen, batch, key, step)
        return ReadEmbeddings(pair, self._nats(module, _codes(frozen, batch), pair.image))

    def _nats(self, module: ReadableClip, codes: Int[Array, "B I"], image: Float[Array, "B E"]) -> Float[Array, " B"]:
        return cross_entropy(module.readout(image), codes).mean(axis=-1)

    def loss_of_embeddings(
        self, module: ReadableClip, embeddings: ReadEmbeddings, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the contrastive loss over all pairs, plus ``weight`` times the mean nats per code."""
        contrast, sums = self.align.loss_of_embeddings(module.clip, embeddings.pair, batch, key, step)
        nats = embeddings.nats.mean()
        loss, one = contrast + self.config.weight * nats, jnp.ones(())
        uniform = math.log(self.config.readout.codebook_size)
        read: MetricSums = {"read_nll": (nats, one), "read_of_uniform": (nats / uniform, one)}
        return loss, sums | read | {"loss": (loss, one), "contrast": (contrast, one)}

    def evaluate(self, module: ReadableClip, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return CLIP's metrics, the nats per code, and the mean cosine similarity of an image and its own caption."""
        sums = self.align.evaluate(module.clip, frozen, batch, key)
        image = module.clip.encode_image(to_float(batch["pixels"]))
        cosine = (image * module.clip.encode_text(batch["text"])).sum(axis=-1)  # [B]
        nats = self._nats(module, _codes(frozen, batch), image)
        return sums | {"read_nll": summed(nats, batch), "pair_cosine": summed(cosine, batch)}

    def images(
        self, module: ReadableClip, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"]:
        """Return eight images, each decoded from its codes and from the codes that its embedding predicts."""
        del key
        first = {name: rows[:8] for name, rows in batch.items()}
        tokenizer: ImageTokenizer = image_tokenizer_of(frozen)
        codes = _codes(frozen, first)
        read = module.readout(module.clip.encode_image(to_float(first["pixels"]))).argmax(axis=-1)
        return tokenizer.decode(jnp.concatenate([codes, read]).reshape(-1, *self.config.readout.grid))

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return self.align.cut_captions()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin`` of the CLIP within the trained module, and the files of the text tokenizer."""
        file = ModelFile(model=self.config.align.model, prefix="clip.")
        return {"model.gin": render(file).encode(), **loaded(self.align.captions).files()}


def _codes(frozen: Frozen, batch: Batch) -> Int[Array, "B I"]:
    """Encode images as codes, without gradients."""
    pixels = to_float(batch["pixels"])
    return jax.lax.stop_gradient(image_tokenizer_of(frozen).encode(pixels).reshape(pixels.shape[0], -1))
