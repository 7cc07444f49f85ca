"""Training a text-to-image transformer: captions to the codes of a frozen image tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.cross_entropy import cross_entropy, dalle_loss
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.pipelines.load import ModelFile, build, load_image_tokenizer
from dalle_jax.sampling.autoregressive import Settings, picture_keys, sample
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, text_spec
from dalle_jax.tasks.captions import Captions, check_vocabulary
from dalle_jax.train.task import Batch, Objective, Seed, Sums

PICTURES = 8


@dataclass(frozen=True)
class GenerateCodes:
    """p(codes | caption), or p(caption, codes) where the model predicts text too.

    ``loss = text_weight * nll per text token + (1 - text_weight) * nll per code``, each the mean over its own tokens
    (1/8 and 7/8 in DALL·E 1, arXiv 2102.12092, section 2.2); the nll per code alone where no text is predicted.
    ``blank_captions`` is the share of captions replaced by the empty one, which is what guidance needs. ``guidance`` is
    used for the pictures drawn while training.
    """

    model: DalleConfig | DalleBartConfig
    image_tokenizer: str
    image_size: int
    captions: Captions
    text_weight: float = 0.125
    blank_captions: float = 0.1
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.blank_captions < 1.0:
            raise ValueError(f"blank_captions: expected a share in [0, 1), got {self.blank_captions}")

    def prepare(self, examples: dict[str, list[Any]], seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``pixels`` uint8 [B H W 3] and ``text`` int32 [B T]."""
        text = self.captions.rows(examples["caption"], self.model.text_length, seeds)
        return {"pixels": pixel_rows(examples["image"], self.image_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        return {
            "pixels": pixel_spec(batch_size, self.image_size),
            "text": text_spec(batch_size, self.model.text_length),
        }

    def init(self, rngs: nnx.Rngs) -> Dalle | DalleBart:
        """A new transformer, which knows the tokenizer's code vectors if it looks at them."""
        check_vocabulary(self.captions, self.model.text_vocab, self.model.text_length, "task.model.text_vocab")
        module = build(self.model, rngs)
        if self.model.code_width:
            module.codes.know(self.frozen().code_vectors)
        return module

    @cached_property
    def _tokenizer(self) -> Any:
        with jax.ensure_compile_time_eval():  # ``init`` runs under a trace, and what is kept here must outlive it
            return load_image_tokenizer(storage.place(self.image_tokenizer))

    def frozen(self) -> Any:
        """The image tokenizer, with its averaged weights."""
        tokenizer = self._tokenizer
        side = self.image_size // tokenizer.downsample
        if tokenizer.codebook_size != self.model.codebook_size or (side, side) != tuple(self.model.grid):
            raise UserError(
                f"task.model: expected codebook_size {tokenizer.codebook_size} and grid ({side}, {side}), as the image "
                f"tokenizer in {self.image_tokenizer} gives for {self.image_size} px, "
                f"got {self.model.codebook_size} and {tuple(self.model.grid)}"
            )
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
    ) -> tuple[Float[Array, ""], Sums]:
        """The weighted loss of a batch, some of its captions blanked."""
        del step
        blank_key, dropout_key = jax.random.split(key)
        blank = jax.random.bernoulli(blank_key, self.blank_captions, (batch["text"].shape[0], 1))
        text = jnp.where(blank, 0, batch["text"])
        image, words = self._likelihoods(module, frozen, batch["pixels"], text, dropout_key)
        loss = dalle_loss(words, image, text_weight=self.text_weight)
        return loss, _sums(image, words) | {"loss": (loss, jnp.ones(()))}

    def _likelihoods(
        self, module: Any, frozen: Any, pixels: Array, text: Int[Array, "B T"], dropout_key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "B I"], Float[Array, "B T"] | None]:
        """Nats of every code and, where the model predicts text, of every token."""
        codes = jax.lax.stop_gradient(frozen.encode(to_float(pixels)).reshape(pixels.shape[0], -1))  # [B I]
        logits = module(text, codes, dropout_key=dropout_key)
        return cross_entropy(logits.image, codes), None if logits.text is None else cross_entropy(logits.text, text)

    def evaluate(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> Sums:
        """Nats per code (and per text token) on held-out pictures with their captions."""
        del key
        return _sums(*self._likelihoods(module, frozen, batch["pixels"], batch["text"], None))

    def pictures(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"]:
        """One sample for each of the first captions, always with the same keys."""
        del key
        text = batch["text"][:PICTURES]
        keys = picture_keys(jnp.zeros(text.shape[0], jnp.int32), 1)  # [P 1]
        settings = Settings.of(text.shape[0], guidance=self.guidance)
        codes = sample(module, text, keys, settings, guided=True)  # [P 1 I]
        return frozen.decode(codes.reshape(-1, *self.model.grid))

    def model_files(self) -> dict[str, bytes]:
        """``model.gin``, which also says which image tokenizer the codes are of, and ``text.model``."""
        tokenizer = str(storage.absolute(storage.place(self.image_tokenizer)))
        file = ModelFile(model=self.model, image_tokenizer=tokenizer)
        return {"model.gin": render(file).encode(), "text.model": self.captions.model}


def _sums(image: Float[Array, "B I"], text: Float[Array, "B T"] | None) -> Sums:
    """Nats per code and per text token, as sums with their counts."""
    sums: Sums = {"image_nll": (jnp.sum(image), jnp.asarray(image.size, jnp.float32))}
    if text is not None:
        sums["text_nll"] = (jnp.sum(text), jnp.asarray(text.size, jnp.float32))
    return sums
