"""Training of a text-to-image transformer: captions to the codes of a frozen image tokenizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Int, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.cross_entropy import dalle_loss, z_loss
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.model_configs import TextToCodesConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs
from dalle_jax.sampling.autoregressive import CachedDecoder, Settings, image_keys, sample
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.tasks.batches import (
    check_loss_parts,
    code_rows,
    pixel_rows,
    pixel_spec,
    summed,
    text_spec,
    with_random_codes,
)
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import IMAGE_TOKENIZER, frozen_image_tokenizer, image_tokenizer_of, load_if_named
from dalle_jax.tasks.precomputed_codes import check_codes, load_codes_tokenizer, refuse_precomputed
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed

IMAGES = 8
"""Number of images that are sampled during training, and of examples on which the effect of guidance is measured."""


@dataclass(frozen=True)
class GenerateCodes:
    """Settings of p(codes | caption), or of p(caption, codes) if the model predicts text too.

    ``loss = text_weight * nll per text token + (1 - text_weight) * nll per code``, each averaged over its own tokens
    (1/8 and 7/8 in DALL·E 1, arXiv 2102.12092, section 2.2). Without text prediction it is the nll per code alone.

    - ``image_tokenizer``: the folder of a trained image tokenizer.
    - ``image_size``: the size of images that the training step encodes with the image tokenizer. Set None for
      precomputed codes, whose manifest names their image tokenizer (data/sources/precomputed.py). The tokenizer then
      only decodes samples.
    - ``blank_captions``: the share of captions that training replaces by the empty caption, for guidance.
    - ``random_codes``: the share of codes that training shows the model as random ones, while it predicts the image's
      own. The model then relies less on the codes before, and more on the caption. It is 1 - ``pkeep`` in the code of
      arXiv 2012.09841, and arXiv 1511.06349, section 3.1, does it to words. Evaluation shows all codes as they are.
    - ``guidance``: the guidance scale of the images sampled during training, and the one that ``model.gin`` recommends
      if training has ``blank_captions``.
    - ``loss_parts``: the number of ranges of positions whose logits are computed one after the other. More than 1 saves
      memory for one more product of the logits. It must divide the number of codes, and of text tokens if predicted.
    - ``z_loss``: the weight of the mean squared log Z of all positions in the loss (``z_loss`` in
      losses/cross_entropy.py; PaLM has 1e-4).
    """

    model: TextToCodesConfig
    captions: Captions
    image_tokenizer: str | None = None
    image_size: int | None = None
    text_weight: float = 0.125
    blank_captions: float = 0.1
    random_codes: float = 0.0
    guidance: float = 3.0
    loss_parts: int = 1
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        words = {"text tokens": self.model.text_length} if isinstance(self.model, DalleConfig) else {}
        check_loss_parts(self.loss_parts, codes=math.prod(self.model.grid), **words)
        for name in ("blank_captions", "random_codes"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}: expected a share in [0, 1), got {getattr(self, name)}")
        if self.image_tokenizer is None and self.image_size is not None:
            raise ValueError(
                "image_tokenizer: expected the folder of an image tokenizer, because image_size is set "
                f"(precomputed codes need neither), got None and image_size {self.image_size}"
            )
        if self.image_tokenizer is None and self.model.code_width:
            raise ValueError(
                f"model.code_width: expected 0 without an image_tokenizer, whose code vectors it needs, "
                f"got {self.model.code_width}"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        text = text_spec(batch_size, self.model.text_length)
        if self.image_size is not None:
            return {"pixels": pixel_spec(batch_size, self.image_size), "text": text}
        return {"codes": text_spec(batch_size, math.prod(self.model.grid)), "text": text}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "CodeGeneration":
        """Load the text tokenizer and the image tokenizer, and check that they fit the model and the data.

        If the config has no ``image_tokenizer``, the resolved config has the image tokenizer of the manifest.
        """
        del layout
        captions = self.captions.open(self.model.text_length)
        if self.image_size is not None:
            refuse_precomputed(self, manifest, "set task.image_size to None")
        if manifest is None:
            return CodeGeneration(self, captions, load_if_named(self.image_tokenizer))
        found = load_codes_tokenizer(self.model, self.image_tokenizer, manifest)
        return CodeGeneration(replace(self, image_tokenizer=found.folder), captions, found.network)

    def open_for_plan(self) -> "CodeGeneration":
        """Open the task for ``plan``: load the image tokenizer, and the text tokenizer if its file exists."""
        captions = self.captions.open_if_present(self.model.text_length)
        return CodeGeneration(self, captions, load_if_named(self.image_tokenizer))


@dataclass(frozen=True, eq=False)
class CodeGeneration:
    """The task that trains a transformer from captions to codes.

    ``captions`` is None for the command ``plan`` if the tokenizer's file is missing. ``image_tokenizer`` is loaded with
    its EMA weights.

    Raise ``UserError`` if the text tokenizer or the image tokenizer does not fit the model.
    """

    config: GenerateCodes
    captions: CaptionTokenizer | None
    image_tokenizer: ImageTokenizer | None

    def __post_init__(self) -> None:
        model = self.config.model
        if self.captions is not None:
            empty = model.empty_caption if isinstance(model, DalleBartConfig) else None
            self.captions.check_model(model.text_vocab, "task.model.text_vocab", pad=model.pad_id, empty=empty)
        if self.image_tokenizer is not None:
            self._check_image_tokenizer(self.image_tokenizer)

    def _check_image_tokenizer(self, tokenizer: ImageTokenizer) -> None:
        model, image_size = self.config.model, self.config.image_size
        if image_size is not None:
            side = image_size // tokenizer.downsample
            given = f"the image tokenizer in {self.config.image_tokenizer} gives for {image_size} px"
            check_codes(model, tokenizer.codebook_size, (side, side), given)
        if model.code_width and model.code_width != (width := tokenizer.code_vectors.shape[1]):
            raise UserError(
                f"task.model.code_width: expected {width}, the width of the code vectors of the image tokenizer in "
                f"{self.config.image_tokenizer}, or 0 to leave them out, got {model.code_width}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``text`` int32 [B T], and ``pixels`` uint8 [B H W 3] or precomputed ``codes`` int32 [B I]."""
        model, image_size = self.config.model, self.config.image_size
        text = loaded(self.captions).rows(examples["caption"], seeds)
        if image_size is not None:
            return {"pixels": pixel_rows(examples["image"], image_size), "text": text}
        return {"codes": code_rows(examples, model.grid, model.codebook_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> Dalle | DalleBart:
        """Create the transformer, with the image tokenizer's code vectors if ``model.code_width`` is not 0."""
        module: Dalle | DalleBart = self.config.model.build(rngs)
        if self.config.model.code_width and self.image_tokenizer is not None:
            module.set_code_vectors(self.image_tokenizer.code_vectors)
        return module

    def frozen(self) -> Frozen:
        """Return the image tokenizer, if there is one."""
        return frozen_image_tokenizer(self.image_tokenizer)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the weighted loss of the whole model."""
        return (Objective("predict", nnx.Param, self.loss),)

    def loss(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the weighted loss of a batch in which some captions are blank, and some codes are shown as others."""
        del step
        blank_key, dropout_key = jax.random.split(key)
        blank = jax.random.bernoulli(blank_key, self.config.blank_captions, (batch["text"].shape[0], 1))
        text = jnp.where(blank, module.empty(batch["text"]), batch["text"])
        codes = self.codes_of(frozen, batch)
        share, size, parts = self.config.random_codes, self.config.model.codebook_size, self.config.loss_parts
        shown = with_random_codes(codes, share, size, jax.random.fold_in(key, 1))
        image, words, log_z = module.nats(text, codes, shown=shown, dropout_key=dropout_key, parts=parts)
        loss = dalle_loss(words, image, text_weight=self.config.text_weight)
        if self.config.z_loss:
            loss = loss + self.config.z_loss * z_loss(log_z)
        guessing = math.log(self.config.model.codebook_size)
        sums = _sums(image, words, batch) | {"loss": (loss, jnp.ones(()))}
        return loss, sums | {"image_nll_of_uniform": (jnp.sum(image) / guessing, sums["image_nll"][1])}

    def codes_of(self, frozen: Frozen, batch: Batch) -> Int[Array, "B I"]:
        """Return the codes of the images, or the precomputed codes of the batch."""
        if "codes" in batch:
            return batch["codes"]
        pixels = batch["pixels"]
        return jax.lax.stop_gradient(image_tokenizer_of(frozen).encode(to_float(pixels)).reshape(pixels.shape[0], -1))

    def evaluate(self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return nats per code (and per text token) of held-out examples, and the effect of guidance."""
        del key
        found = module.nats(batch["text"], self.codes_of(frozen, batch), parts=self.config.loss_parts)
        sums = _sums(found.image, found.text, batch)
        return sums | (self._guidance_effect(module, frozen, batch) if self.config.blank_captions else {})

    def _guidance_effect(self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch) -> MetricSums:
        """Return the mean of |logits with the caption - logits without it| over all codes, in nats.

        Guidance adds multiples of that difference (``sampling.autoregressive.guide``). The difference's mean over the
        codebook is subtracted first, because it does not change any probability. The first examples are used, with
        their own codes.
        """
        codes, text = self.codes_of(frozen, batch)[:IMAGES], batch["text"][:IMAGES]  # [n I] [n T]
        text = jnp.concatenate([text, jnp.broadcast_to(module.empty(text), text.shape)])
        with_text, without = jnp.split(module(text, jnp.concatenate([codes, codes])).image, 2)  # [n I K] each
        moved = with_text - without
        moved = jnp.abs(moved - moved.mean(axis=-1, keepdims=True))
        return {"guidance_effect": summed(moved, batch)}

    def images(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"] | None:
        """Return one sample for each of the first captions, from fixed keys; None without an image tokenizer."""
        del key
        if IMAGE_TOKENIZER not in frozen:
            return None
        text = batch["text"][:IMAGES]
        keys = image_keys(jnp.zeros(text.shape[0], jnp.int32), 1)  # [P 1]
        settings = Settings.of(text.shape[0], guidance=self.config.guidance)
        codes = sample(cast(CachedDecoder, module), text, keys, settings, guided=True)  # [P 1 I]
        return image_tokenizer_of(frozen).decode(codes.reshape(-1, *self.config.model.grid))

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return loaded(self.captions).truncated()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, with the image tokenizer and recommended guidance, and the text tokenizer's files."""
        needs = absolute_needs(image_tokenizer=self.config.image_tokenizer)
        recommended = RecommendedSampling(guidance=self.config.guidance if self.config.blank_captions else 1.0)
        file = ModelFile(model=self.config.model, needs=needs, sampling=recommended)
        return {"model.gin": render(file).encode(), **loaded(self.captions).files()}


def _sums(image: Float[Array, "B I"], text: Float[Array, "B T"] | None, batch: Batch) -> MetricSums:
    """Return the nats per code and per text token, as sums with their counts."""
    sums: MetricSums = {"image_nll": summed(image, batch)}
    if text is not None:
        sums["text_nll"] = summed(text, batch)
    return sums
