"""Training CLIP: an image and its caption end up at the same place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import CANDIDATE, COUNTED, Array, Bool, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.contrastive import contrastive, retrieval_hits, same_caption_group, sigmoid
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.models.clip_resnet import ResNetConfig
from dalle_jax.pipelines.load.models import ModelFile, load_image_tokenizer
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, check_vocabulary
from dalle_jax.train.task import (
    Batch,
    CachedEmbeddings,
    Constraint,
    MetricSums,
    Microbatches,
    Objective,
    Seed,
    WholeBatchOnly,
)

LARGEST_SCALE = 100.0
"""Bound on the logit scale (arXiv 2103.00020, section 2.5)."""


def at_most_100(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Clip the logarithm of the logit scale to ln 100.

    The parameter is clipped after its update and not in the loss, whose gradient above a bound would be 0.
    """
    return jnp.minimum(log_scale, math.log(LARGEST_SCALE))


class Embeddings(NamedTuple):
    """Unit vectors of the images and of the captions of a batch."""

    image: Float[Array, "B E"]
    text: Float[Array, "B E"]


@dataclass(frozen=True)
class AlignTextImages:
    """The contrastive loss over the global batch (CLIP, arXiv 2103.00020, section 2.3).

    With ``image_tokenizer`` (the folder of a trained one) the share ``reconstructed`` of the images is seen through
    it, so that the CLIP ranks what a decoder paints as well as what a camera saw. ``contrast`` is CLIP's softmax over
    the batch, or SigLIP's sigmoid for each pair (arXiv 2303.15343), which needs ``model.initial_bias``.
    """

    model: ClipConfig
    captions: Captions
    image_tokenizer: str | None = None
    reconstructed: float = 0.5
    contrast: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        if (self.contrast == "sigmoid") == (self.model.initial_bias is None):
            bias = self.model.initial_bias
            raise ValueError(
                f"contrast = {self.contrast!r} with model.initial_bias = {bias}: "
                "a sigmoid needs one (SigLIP's is -10), a softmax has no use for one"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``pixels`` uint8 [B H W 3], ``text`` int32 [B T] and ``caption_group`` int32 [B]: see data/loader.py."""
        text = self.captions.rows(examples["caption"], self.model.text_length, seeds)
        caption_group = np.array(examples["caption_group"], np.int32)
        return {
            "pixels": pixel_rows(examples["image"], self.model.image_size),
            "text": text,
            "caption_group": caption_group,
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        return {
            "pixels": pixel_spec(batch_size, self.model.image_size),
            "text": text_spec(batch_size, self.model.text_length),
            "caption_group": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def init(self, rngs: nnx.Rngs) -> Clip:
        """A new CLIP."""
        check_vocabulary(self.captions, self.model.vocab_size, self.model.text_length, "task.model.vocab_size")
        return Clip(self.model, rngs=rngs)

    @cached_property
    def _tokenizer(self) -> nnx.Module | None:
        return None if self.image_tokenizer is None else load_image_tokenizer(storage.place(self.image_tokenizer))

    def frozen(self) -> nnx.Module | None:
        """The image tokenizer, where there is one."""
        return self._tokenizer

    def objectives(self) -> tuple[Objective, ...]:
        """One: align. The softmax loss keeps its logit scale at 100 or below, as published."""
        bounded = (Constraint(nnx.PathContains("log_scale"), at_most_100),) if self.contrast == "softmax" else ()
        parts: Microbatches = CachedEmbeddings(self.embed_part, self.loss_of_embeddings)
        if isinstance(self.model.vision, ResNetConfig):
            parts = WholeBatchOnly(
                "the batch normalisation of task.model.vision = @ResNetConfig takes its statistics from the whole batch"
            )
        return (Objective("align", nnx.Param, self.loss, constraints=bounded, microbatches=parts),)

    def loss(
        self, module: Clip, frozen: Any, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The contrastive loss of a batch, the first of its images seen through the tokenizer."""
        return self.loss_of_embeddings(module, self.embed(module, frozen, batch, key, step), batch, key, step)

    def embed(self, module: Clip, frozen: Any, batch: Batch, key: Key[Array, ""], step: Array) -> Embeddings:
        """The embeddings of images and captions, the first images seen through the tokenizer."""
        del key, step
        pixels = to_float(batch["pixels"])
        through = 0 if frozen is None else round(self.reconstructed * pixels.shape[0])
        if through:  # batches are shuffled, so the first are as good as any
            painted = jax.lax.stop_gradient(frozen.decode(frozen.encode(pixels[:through])))
            pixels = jnp.concatenate([painted, pixels[through:]])
        return Embeddings(module.encode_image(pixels, train=True), module.encode_text(batch["text"]))

    def embed_part(self, module: Clip, frozen: Any, batch: Batch, key: Key[Array, ""], step: Array) -> Embeddings:
        """``embed`` of a microbatch. The first images of all microbatches are the first images of the batch.

        Raises UserError where their number would be rounded, since that is then another share of the batch.
        """
        rows = batch["pixels"].shape[0]
        through = self.reconstructed * rows
        if frozen is not None and abs(through - round(through)) > 1e-6:
            raise UserError(
                f"trainer.accumulate: expected microbatches of which task.reconstructed = {self.reconstructed} is a "
                f"whole number of images, got microbatches of {rows}"
            )
        return self.embed(module, frozen, batch, key, step)

    def loss_of_embeddings(
        self, module: Clip, embeddings: Embeddings, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The contrastive loss over all pairs of a batch.

        ``loss_of_uniform`` is the softmax loss as a share of what guessing within the batch gives, the logarithm of
        its size.
        """
        del key, step
        image, text = embeddings
        loss = self._contrast(module, image, text, same_caption_group(batch["text"], batch["caption_group"]))
        one = jnp.ones(())
        sums = {"loss": (loss, one), "logit_scale": (module.logit_scale, one)}
        if self.contrast == "softmax":
            sums["loss_of_uniform"] = (loss / math.log(max(image.shape[0], 2)), one)
        return loss, sums

    def _contrast(
        self,
        module: Clip,
        image: Float[Array, "B E"],
        text: Float[Array, "B E"],
        same: Bool[Array, "B B"],
        counted: Bool[Array, " B"] | None = None,
        candidates: Bool[Array, " B"] | None = None,
    ) -> Float[Array, ""]:
        if module.bias is None:
            return contrastive(image, text, module.logit_scale, same, counted, candidates)
        return sigmoid(image, text, module.logit_scale, module.bias[...], same, counted, candidates)

    def evaluate(self, module: Clip, frozen: Any, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Retrieval within the batch, through the tokenizer where there is one: is the caption found for the image?

        A caption that says the same as the right one counts as right. In a batch that was filled up, the rows that are
        not counted are still what the others are told apart from, each example once.
        """
        del key
        pixels = to_float(batch["pixels"])
        if frozen is not None:
            pixels = frozen.decode(frozen.encode(pixels))
        image, text = module.encode_image(pixels), module.encode_text(batch["text"])
        same = same_caption_group(batch["text"], batch["caption_group"])  # [B B]
        counted, candidates = batch.get(COUNTED), batch.get(CANDIDATE)  # [B] each, or None
        right = retrieval_hits(image, text, same, candidates)[0]  # [B]
        loss = self._contrast(module, image, text, same, counted, candidates)
        weight = jnp.ones(()) if counted is None else jnp.sum(counted, dtype=jnp.float32)
        return {"retrieval_top1": summed(right.astype(jnp.float32), batch), "loss": (loss * weight, weight)}

    def images(self, module: Clip, frozen: Any, batch: Batch, key: Key[Array, ""]) -> None:
        """CLIP draws nothing."""
        del module, frozen, batch, key
        return None

    def cut_captions(self) -> tuple[int, int, str]:
        """Return how many captions were cut and read, and the length that they were cut to."""
        tokenizer = self.captions.tokenizer(self.model.text_length)
        length = f"task.model.text_length, {self.model.text_length} tokens"
        return tokenizer.truncated_captions, tokenizer.encoded_captions, length

    def model_files(self) -> dict[str, bytes]:
        """``model.gin`` and the text tokenizer's files."""
        return {"model.gin": render(ModelFile(model=self.model)).encode(), **self.captions.files()}
