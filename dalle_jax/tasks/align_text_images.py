"""Training of CLIP: contrastive learning of a common embedding space for images and captions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import CANDIDATE, COUNTED, Array, Bool, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.noise_schedules import NoiseSchedule
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.contrastive import (
    contrastive,
    own_similarities,
    retrieval_hits,
    same_caption_group,
    sigmoid,
)
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.models.clip_resnet import ResNetConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.batches import ImageFit, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import IMAGE_TOKENIZER, frozen_image_tokenizer, image_tokenizer_of, load_if_named
from dalle_jax.tasks.negatives.any_negatives import AnyNegatives
from dalle_jax.tasks.negatives.batch_arrays import (
    WRONG_TEXT,
    Embeddings,
    all_pixels,
    joined,
    negative_rows,
    negative_spec,
    split_negatives,
    with_negatives,
    with_neighbours,
)
from dalle_jax.tasks.negatives.hard_negatives import HardNegatives
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.train.task import (
    Batch,
    CachedEmbeddings,
    Constraint,
    Frozen,
    MetricSums,
    Microbatches,
    Objective,
    Seed,
    WholeBatchOnly,
)

LARGEST_SCALE = 100.0
"""The largest logit scale (arXiv 2103.00020, section 2.5)."""


def at_most_100(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Clip the logarithm of the logit scale to ln 100.

    The trainer clips the parameter after each update. If the loss clipped it instead, the gradient would be 0 above the
    bound.
    """
    return jnp.minimum(log_scale, math.log(LARGEST_SCALE))


@dataclass(frozen=True)
class AlignTextImages:
    """Settings of the contrastive loss over the global batch (CLIP, arXiv 2103.00020, section 2.3).

    - ``image_tokenizer``: the folder of a trained image tokenizer. A share ``reconstructed`` of the images is replaced
      by its reconstructions, so that the CLIP can also rank generated images.
    - ``contrast``: CLIP's softmax over the batch, or SigLIP's sigmoid for each pair (arXiv 2303.15343), which needs
      ``model.initial_bias``.
    - ``noise``: the schedule of a noised CLIP, which guides a diffusion model (GLIDE, arXiv 2112.10741, section 4.4).
      Each training image is noised at a uniform timestep. ``model.timesteps`` is the schedule's number of steps.
    - ``crop_area``: the least share of a training image's area that a random square crop keeps (``area_box`` in
      images/crops.py; open_clip has 0.9). 1 crops nothing.
    - ``negatives``: hard negatives. Wrong captions of an image are further texts in its softmax (NegCLIP, arXiv
      2210.01936, section 4). Neighbours join the batch as examples of their own.
    """

    model: ClipConfig
    captions: Captions
    image_tokenizer: str | None = None
    reconstructed: float = 0.5
    contrast: Literal["softmax", "sigmoid"] = "softmax"
    noise: NoiseSchedule | None = None
    crop_area: float = 1.0
    negatives: AnyNegatives | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.crop_area <= 1.0:
            raise ValueError(f"crop_area: expected a share above 0 and up to 1, got {self.crop_area}")
        steps = 0 if self.noise is None else self.noise.steps
        if self.model.timesteps != steps:
            raise ValueError(f"model.timesteps: expected {steps}, the steps of noise, got {self.model.timesteps}")
        if (self.contrast == "sigmoid") == (self.model.initial_bias is None):
            bias = self.model.initial_bias
            raise ValueError(
                f"contrast = {self.contrast!r} with model.initial_bias = {bias}: "
                "expected a bias for the sigmoid loss (-10 in SigLIP), and None for the softmax loss"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {
            "pixels": pixel_spec(batch_size, self.model.image_size),
            "text": text_spec(batch_size, self.model.text_length),
            "caption_group": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            **({} if self.negatives is None else negative_spec(self.negatives, batch_size, self.model)),
        }

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "TextImageAlignment":
        """Load the text tokenizer and the image tokenizer. Raise ``UserError`` for data of precomputed codes."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        captions = self.captions.open(self.model.text_length)
        negatives = None if self.negatives is None else self.negatives.open()
        return TextImageAlignment(self, captions, load_if_named(self.image_tokenizer), negatives)

    def open_for_plan(self) -> "TextImageAlignment":
        """Open the task for ``plan``: load the image tokenizer, and the text tokenizer if its file exists."""
        captions = self.captions.open_if_present(self.model.text_length)
        return TextImageAlignment(self, captions, load_if_named(self.image_tokenizer))


@dataclass(frozen=True, eq=False)
class TextImageAlignment:
    """The task that trains a CLIP.

    For the command ``plan``, ``negatives`` is None, and so is ``captions`` if the tokenizer's file is missing. Raise
    ``UserError`` if the text tokenizer does not fit the model.
    """

    config: AlignTextImages
    captions: CaptionTokenizer | None
    image_tokenizer: ImageTokenizer | None
    negatives: HardNegatives | None = None

    def __post_init__(self) -> None:
        if self.captions is not None:
            self.captions.check_model(self.config.model.vocab_size, "task.model.vocab_size")

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``pixels`` uint8 [B H W 3], ``text`` int32 [B T] and ``caption_group`` int32 [B] (data/loader.py).

        With hard negatives there are also the arrays of ``negative_rows``.
        """
        captions, size = loaded(self.captions), self.config.model.image_size
        fit = ImageFit(size, 1.0 if seeds is None else self.config.crop_area)
        return {
            "pixels": fit.rows(examples["image"], seeds),
            "text": captions.rows(examples["caption"], seeds),
            "caption_group": np.array(examples["caption_group"], np.int32),
            **({} if self.negatives is None else negative_rows(self.negatives, captions, fit, examples, seeds)),
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> Clip:
        """Create the CLIP."""
        return self.config.model.build(rngs)

    def frozen(self) -> Frozen:
        """Return the image tokenizer, if there is one."""
        return frozen_image_tokenizer(self.image_tokenizer)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective. With the softmax loss, the logit scale is kept at 100 or below, as published."""
        bounded = (Constraint(nnx.PathContains("log_scale"), at_most_100),) if self.config.contrast == "softmax" else ()
        parts: Microbatches = CachedEmbeddings(self.embed_part, self.loss_of_embeddings)
        if isinstance(self.config.model.vision, ResNetConfig):
            parts = WholeBatchOnly(
                "the batch normalisation of task.model.vision = @ResNetConfig takes its statistics from the whole batch"
            )
        return (Objective("align", nnx.Param, self.loss, constraints=bounded, microbatches=parts),)

    def loss(
        self, module: Clip, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the contrastive loss of a batch in which some images are replaced by reconstructions."""
        return self.loss_of_embeddings(module, self.embed(module, frozen, batch, key, step), batch, key, step)

    def embed(self, module: Clip, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array) -> Embeddings:
        """Return the embeddings of images and captions, after the first images were replaced by reconstructions.

        With ``noise``, all images are then noised.
        """
        del step
        pixels = to_float(all_pixels(batch))
        count = round(self.config.reconstructed * batch["pixels"].shape[0]) if IMAGE_TOKENIZER in frozen else 0
        count *= pixels.shape[0] // batch["pixels"].shape[0]  # those of an example are together
        if count:  # batches are shuffled, so the first images are a random choice
            tokenizer = image_tokenizer_of(frozen)
            reconstructions = jax.lax.stop_gradient(tokenizer.decode(tokenizer.encode(pixels[:count])))
            pixels = jnp.concatenate([reconstructions, pixels[count:]])
        text = module.encode_text(with_negatives(batch))
        if self.config.noise is None:
            return split_negatives(module.encode_image(pixels, train=True), text, batch)
        process, (times, noises) = DiscreteProcess.of(self.config.noise), jax.random.split(key)
        level = process.level(jax.random.randint(times, pixels.shape[:1], 0, process.steps))
        noised = add_noise(2 * pixels - 1, jax.random.normal(noises, pixels.shape), level)
        return split_negatives(module.encode_noised(noised, level.time), text, batch)

    def embed_part(self, module: Clip, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array) -> Embeddings:
        """Return the embeddings of a microbatch, some of whose images are replaced by reconstructions.

        The first images of each microbatch are replaced. Together they are the images that ``embed`` replaces in the
        whole batch.

        Raise ``UserError`` if the number of reconstructed images is not whole: rounding would change their share.
        """
        rows = batch["pixels"].shape[0]
        count = self.config.reconstructed * rows
        if IMAGE_TOKENIZER in frozen and abs(count - round(count)) > 1e-6:
            raise UserError(
                "trainer.accumulate: expected a whole number of reconstructed images in each microbatch, got "
                f"task.reconstructed = {self.config.reconstructed} times {rows} images"
            )
        return self.embed(module, frozen, batch, key, step)

    def loss_of_embeddings(
        self, module: Clip, embeddings: Embeddings, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the contrastive loss over all pairs of a batch, of its neighbours, and of its wrong captions.

        ``loss_of_uniform`` is the softmax loss divided by the logarithm of the batch size, the loss of a uniform guess.
        """
        del key, step
        image, text, *wrong = joined(embeddings)
        same = same_caption_group(with_neighbours(batch, "text"), with_neighbours(batch, "caption_group"))
        loss = self._contrast(module, image, text, same, None, None, *wrong)
        one = jnp.ones(())
        sums = {"loss": (loss, one), "logit_scale": (module.logit_scale, one)}
        if self.config.contrast == "softmax":
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
        wrong: Float[Array, "B n E"] | None = None,
        wrong_images: Float[Array, "B k E"] | None = None,
    ) -> Float[Array, ""]:
        if module.bias is None:
            return contrastive(image, text, module.logit_scale, same, counted, candidates, wrong, wrong_images)
        bias = module.bias[...]
        return sigmoid(image, text, module.logit_scale, bias, same, counted, candidates, wrong, wrong_images)

    def evaluate(self, module: Clip, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the top-1 accuracy of caption retrieval within the batch, and the loss without hard negatives.

        With hard negatives, ``wrong_captions_top1`` is the share of images that are nearer to their own caption than to
        each of its wrong captions. Images are replaced by reconstructions if there is an image tokenizer. A caption
        counts as right if its ``caption_group`` is the image's. A padded batch repeats examples; each example is
        counted once, and its caption is a candidate once.
        """
        del key
        pixels = to_float(batch["pixels"])
        if IMAGE_TOKENIZER in frozen:
            tokenizer = image_tokenizer_of(frozen)
            pixels = tokenizer.decode(tokenizer.encode(pixels))
        image, text = module.encode_image(pixels), module.encode_text(batch["text"])
        same = same_caption_group(batch["text"], batch["caption_group"])  # [B B]
        counted, candidates = batch.get(COUNTED), batch.get(CANDIDATE)  # [B] each, or None
        right = retrieval_hits(image, text, same, candidates)[0]  # [B]
        loss = self._contrast(module, image, text, same, counted, candidates)
        weight = jnp.ones(()) if counted is None else jnp.sum(counted, dtype=jnp.float32)
        sums: MetricSums = {"retrieval_top1": summed(right.astype(jnp.float32), batch), "loss": (loss * weight, weight)}
        if WRONG_TEXT in batch:
            rows = batch[WRONG_TEXT][:, 0]  # [B n T]
            wrong = module.encode_text(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:2], -1)
            nearer = own_similarities(image, text[:, None]) > own_similarities(image, wrong)  # [B n]
            sums["wrong_captions_top1"] = summed(nearer.all(axis=-1).astype(jnp.float32), batch)
        return sums

    def images(self, module: Clip, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> None:
        """Return None: CLIP generates no images."""
        del module, frozen, batch, key
        return None

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return loaded(self.captions).truncated()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin`` and the files of the text tokenizer."""
        return {"model.gin": render(ModelFile(model=self.config.model)).encode(), **loaded(self.captions).files()}
