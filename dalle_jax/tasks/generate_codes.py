"""Training a text-to-image transformer: captions to the codes of a frozen image tokenizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Int, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.cross_entropy import cross_entropy, dalle_loss
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, build, load_image_tokenizer
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.tasks.batches import code_rows, pixel_rows, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, check_vocabulary
from dalle_jax.train.task import Batch, MetricSums, Objective, Seed

IMAGES = 8


@dataclass(frozen=True)
class GenerateCodes:
    """p(codes | caption), or p(caption, codes) where the model predicts text too.

    ``loss = text_weight * nll per text token + (1 - text_weight) * nll per code``, each the mean over its own tokens
    (1/8 and 7/8 in DALL·E 1, arXiv 2102.12092, section 2.2); the nll per code alone where no text is predicted.
    ``blank_captions`` is the share of captions replaced by the empty one, which is what guidance needs. ``guidance`` is
    used for the images drawn while training.

    ``image_tokenizer``, the folder of a trained one, encodes images of ``image_size`` inside the step. Without an
    ``image_size`` the data holds codes that were written ahead (data/sources/precomputed.py) and says whose they
    are; the tokenizer
    then only draws.
    """

    model: DalleConfig | DalleBartConfig
    captions: Captions
    image_tokenizer: str | None = None
    image_size: int | None = None
    text_weight: float = 0.125
    blank_captions: float = 0.1
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.blank_captions < 1.0:
            raise ValueError(f"blank_captions: expected a share in [0, 1), got {self.blank_captions}")
        if self.image_tokenizer is None and self.image_size is not None:
            raise ValueError(
                "image_tokenizer: expected the folder of one that encodes images of image_size (which is left out "
                f"where the data holds codes), got None and image_size {self.image_size}"
            )
        if self.image_tokenizer is None and self.model.code_width:
            raise ValueError(
                f"model.code_width: expected 0 without an image_tokenizer, whose code vectors are looked at, "
                f"got {self.model.code_width}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``pixels`` uint8 [B H W 3], or ``codes`` int32 [B I] that were written ahead, and ``text`` int32 [B T]."""
        text = self.captions.rows(examples["caption"], self.model.text_length, seeds)
        if self.image_size is not None:
            return {"pixels": pixel_rows(examples["image"], self.image_size), "text": text}
        return {"codes": code_rows(examples, self.model.grid, self.model.codebook_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        text = text_spec(batch_size, self.model.text_length)
        if self.image_size is not None:
            return {"pixels": pixel_spec(batch_size, self.image_size), "text": text}
        return {"codes": text_spec(batch_size, math.prod(self.model.grid)), "text": text}

    def init(self, rngs: nnx.Rngs) -> Dalle | DalleBart:
        """A new transformer, which knows the tokenizer's code vectors if it looks at them."""
        model = self.model
        empty = model.empty_caption if isinstance(model, DalleBartConfig) else None
        where = "task.model.text_vocab"
        check_vocabulary(self.captions, model.text_vocab, model.text_length, where, pad=model.pad_id, empty=empty)
        module = build(self.model, rngs)
        if self.model.code_width:
            module.codes.set_code_vectors(self.frozen().code_vectors)
        return module

    @cached_property
    def _tokenizer(self) -> Any:
        if self.image_tokenizer is None:
            return None
        with jax.ensure_compile_time_eval():  # ``init`` runs under a trace, and what is kept here must outlive it
            return load_image_tokenizer(storage.place(self.image_tokenizer))

    def frozen(self) -> Any:
        """The image tokenizer, with its averaged weights, or None where it is not known."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        if self.image_size is not None:
            side = self.image_size // tokenizer.downsample
            given = f"the image tokenizer in {self.image_tokenizer} gives for {self.image_size} px"
            check_codes(self.model, tokenizer.codebook_size, (side, side), given)
        if self.model.code_width not in (0, tokenizer.code_vectors.shape[1]):
            raise UserError(
                f"task.model.code_width: expected {tokenizer.code_vectors.shape[1]}, the width of the code vectors of "
                f"the image tokenizer in {self.image_tokenizer}, or 0 not to look at them, got {self.model.code_width}"
            )
        return tokenizer

    def objectives(self) -> tuple[Objective, ...]:
        """One: predict."""
        return (Objective("predict", nnx.Param, self.loss),)

    def loss(
        self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The weighted loss of a batch, some of its captions blanked."""
        del step
        blank_key, dropout_key = jax.random.split(key)
        blank = jax.random.bernoulli(blank_key, self.blank_captions, (batch["text"].shape[0], 1))
        text = jnp.where(blank, module.empty(batch["text"]), batch["text"])
        image, words = self._likelihoods(module, frozen, batch, text, dropout_key)
        loss = dalle_loss(words, image, text_weight=self.text_weight)
        guessing = math.log(self.model.codebook_size)
        sums = _sums(image, words, batch) | {"loss": (loss, jnp.ones(()))}
        return loss, sums | {"image_nll_of_uniform": (jnp.sum(image) / guessing, sums["image_nll"][1])}

    def _codes(self, frozen: Any, batch: Batch) -> Int[Array, "B I"]:
        """The codes of the images, or those that were written ahead."""
        if "codes" in batch:
            return batch["codes"]
        pixels = batch["pixels"]
        return jax.lax.stop_gradient(frozen.encode(to_float(pixels)).reshape(pixels.shape[0], -1))

    def _likelihoods(
        self, module: Any, frozen: Any, batch: Batch, text: Int[Array, "B T"], dropout_key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "B I"], Float[Array, "B T"] | None]:
        """Nats of every code and, where the model predicts text, of every token."""
        codes = self._codes(frozen, batch)
        logits = module(text, codes, dropout_key=dropout_key)
        return cross_entropy(logits.image, codes), None if logits.text is None else cross_entropy(logits.text, text)

    def evaluate(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Nats per code (and per text token) on held-out images with their captions, and what guidance can do."""
        del key
        sums = _sums(*self._likelihoods(module, frozen, batch, batch["text"], None), batch)
        return sums | (self._guidance_effect(module, frozen, batch) if self.blank_captions else {})

    def _guidance_effect(self, module: Any, frozen: Any, batch: Batch) -> MetricSums:
        """How far a caption moves the logits of the codes: the mean of |with it - without it|, in nats.

        Guidance adds multiples of that difference (``sampling.autoregressive.guide``). A part that is the same for
        all codes of a place changes nothing, so it is taken off. On the first few images, their codes given.
        """
        codes, text = self._codes(frozen, batch)[:IMAGES], batch["text"][:IMAGES]  # [n I] [n T]
        text = jnp.concatenate([text, jnp.broadcast_to(module.empty(text), text.shape)])
        with_text, without = jnp.split(module(text, jnp.concatenate([codes, codes])).image, 2)  # [n I K] each
        moved = with_text - without
        moved = jnp.abs(moved - moved.mean(axis=-1, keepdims=True))
        return {"guidance_effect": summed(moved, batch)}

    def images(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"] | None:
        """One sample for each of the first captions, always with the same keys; None with nothing to decode them."""
        del key
        if frozen is None:
            return None
        text = batch["text"][:IMAGES]
        keys = image_keys(jnp.zeros(text.shape[0], jnp.int32), 1)  # [P 1]
        settings = Settings.of(text.shape[0], guidance=self.guidance)
        codes = sample(module, text, keys, settings, guided=True)  # [P 1 I]
        return frozen.decode(codes.reshape(-1, *self.model.grid))

    def cut_captions(self) -> tuple[int, int, str]:
        """Return how many captions were cut and read, and the length that they were cut to."""
        tokenizer = self.captions.tokenizer(self.model.text_length)
        length = f"task.model.text_length, {self.model.text_length} tokens"
        return tokenizer.truncated_captions, tokenizer.encoded_captions, length

    def model_files(self) -> dict[str, bytes]:
        """``model.gin``, which also says which image tokenizer the codes are of, and the text tokenizer's files."""
        needs = absolute_needs(image_tokenizer=self.image_tokenizer)
        file = ModelFile(model=self.model, needs=needs)
        return {"model.gin": render(file).encode(), **self.captions.files()}


def check_codes(
    model: DalleConfig | DalleBartConfig | LlamaGenConfig, codebook_size: int, grid: tuple[int, int], given: str
) -> None:
    """Raises UserError where a transformer's codes are not those that it is ``given``."""
    if codebook_size != model.codebook_size or tuple(grid) != tuple(model.grid):
        raise UserError(
            f"task.model: expected codebook_size {codebook_size} and grid {tuple(grid)}, as {given}, "
            f"got {model.codebook_size} and {tuple(model.grid)}"
        )


def _sums(image: Float[Array, "B I"], text: Float[Array, "B T"] | None, batch: Batch) -> MetricSums:
    """Return the nats per code and per text token, as sums with their counts."""
    sums: MetricSums = {"image_nll": summed(image, batch)}
    if text is not None:
        sums["text_nll"] = summed(text, batch)
    return sums
