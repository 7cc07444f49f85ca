"""Training of a code denoiser: noised code vectors, a caption and a CLIP image embedding to codes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Int, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.diffusion.code_vectors import LATEST, own_likelihood, sample_codes
from dalle_jax.diffusion.continuous import LogitNormalTimes, straight_level
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.clip import Clip
from dalle_jax.models.code_denoiser import CodeDenoiser, CodeDenoiserConfig, Guide
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_clip
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import (
    CLIP,
    IMAGE_TOKENIZER,
    check_clip,
    frozen_image_tokenizer,
    image_tokenizer_of,
    load_if_named,
)
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed

IMAGES = 8
"""Number of images that are sampled during training."""
HIGH_NOISE = 0.1
"""The time of the evaluation's loss: at high noise, caption and embedding decide the codes."""


@dataclass(frozen=True)
class DenoiseCodes:
    """Settings of p(codes | noised code vectors, caption, CLIP embedding of the image).

    The loss is the cross-entropy of the codes at times ``sigmoid(N(time_mean, time_deviation^2))``. The mean over
    times mostly counts local denoising; the evaluation measures high noise, where the condition decides.

    - ``image_tokenizer``: the folder of a trained image tokenizer; ``clip``: the folder of a trained CLIP.
    - ``blank_captions``, ``blank_clips``: the shares of captions and embeddings that training drops, independently
      (0.5 and 0.1 in DALL·E 2, arXiv 2204.06125, section 2.1).
    - ``guidance``, ``steps``: the sampling of the images during training, from the embedding alone.
    """

    model: CodeDenoiserConfig
    captions: Captions
    image_size: int
    image_tokenizer: str | None = None
    clip: str | None = None
    blank_captions: float = 0.5
    blank_clips: float = 0.1
    time_mean: float = -1.6
    time_deviation: float = 1.0
    guidance: float = 2.0
    steps: int = 8

    def __post_init__(self) -> None:
        for name, share in (("blank_captions", self.blank_captions), ("blank_clips", self.blank_clips)):
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name}: expected a share in [0, 1), got {share}")
        if self.time_deviation <= 0 or self.steps < 1:
            raise ValueError(
                f"time_deviation, steps: expected more than 0 and at least 1, got {self.time_deviation}, {self.steps}"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {
            "pixels": pixel_spec(batch_size, self.image_size),
            "text": text_spec(batch_size, self.model.text_length),
        }

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "CodeDenoising":
        """Load text tokenizer, image tokenizer and CLIP. Raise ``UserError`` if one is not named or does not fit."""
        del layout
        refuse_precomputed(self, manifest, "train it from images, whose CLIP embeddings it reads")
        captions = self.captions.open(self.model.text_length)
        for name, folder in (("image_tokenizer", self.image_tokenizer), ("clip", self.clip)):
            if folder is None:
                raise UserError(f"task.{name}: expected the folder of a trained model, got None")
        return self._opened(captions)

    def open_for_plan(self) -> "CodeDenoising":
        """Load the networks that are named, and the text tokenizer if its file exists."""
        return self._opened(self.captions.open_if_present(self.model.text_length))

    def _opened(self, captions: CaptionTokenizer | None) -> "CodeDenoising":
        clip = None if self.clip is None else load_clip(storage.place(self.clip))
        return CodeDenoising(self, captions, load_if_named(self.image_tokenizer), clip)


@dataclass(frozen=True, eq=False)
class CodeDenoising:
    """The task that trains a code denoiser. ``captions`` and the networks are None only for the command ``plan``.

    Raise ``UserError`` if the text tokenizer, the image tokenizer or the CLIP does not fit the model.
    """

    config: DenoiseCodes
    captions: CaptionTokenizer | None
    image_tokenizer: ImageTokenizer | None
    clip: Clip | None

    def __post_init__(self) -> None:
        model = self.config.model
        if self.captions is not None:
            self.captions.check_model(model.text_vocab, "task.model.text_vocab")
        if self.image_tokenizer is not None:
            self._check_image_tokenizer(self.image_tokenizer)
        size = self.config.image_size
        check_clip(self.clip, model.embed_width, size, "image_size", self.config.clip)

    def _check_image_tokenizer(self, tokenizer: ImageTokenizer) -> None:
        model, side = self.config.model, self.config.image_size // tokenizer.downsample
        given = (tokenizer.codebook_size, tokenizer.code_vectors.shape[1], (side, side))
        if given != (expected := (model.codebook_size, model.code_width, tuple(model.grid))):
            raise UserError(
                f"task.model: expected codebook_size, code_width and grid {given}, as the image tokenizer in "
                f"{self.config.image_tokenizer} gives for {self.config.image_size} px, got {expected}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``pixels`` uint8 [B H W 3] and ``text`` int32 [B T]."""
        text = loaded(self.captions).rows(examples["caption"], seeds)
        return {"pixels": pixel_rows(examples["image"], self.config.image_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> CodeDenoiser:
        """Create the denoiser, with the image tokenizer's code vectors."""
        module = self.config.model.build(rngs)
        if self.image_tokenizer is not None:
            module.set_code_vectors(self.image_tokenizer.code_vectors)
        return module

    def frozen(self) -> Frozen:
        """Return the image tokenizer and the CLIP."""
        clip = {} if self.clip is None else {CLIP: self.clip}
        return {**frozen_image_tokenizer(self.image_tokenizer), **clip}

    def objectives(self) -> tuple[Objective, ...]:
        """Return the one objective."""
        return (Objective("denoise", nnx.Param, self.loss),)

    def loss(
        self, module: CodeDenoiser, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the cross-entropy of the codes at drawn times, some captions and embeddings dropped."""
        del step
        codes, guide = _inputs(frozen, batch)
        count = codes.shape[0]
        time_key, noise_key, text_key, clip_key = jax.random.split(key, 4)
        times = LogitNormalTimes(self.config.time_mean, self.config.time_deviation)
        time = jnp.minimum(times.draw(jax.random.split(time_key, count)), LATEST)
        guide = guide.without(
            jax.random.bernoulli(text_key, self.config.blank_captions, (count,)),
            jax.random.bernoulli(clip_key, self.config.blank_clips, (count,)),
        )
        nats = _nats(module, codes, guide, time, noise_key)  # [B I]
        loss = nats.mean()
        return loss, {"loss": (loss, jnp.ones(()))}

    def evaluate(self, module: CodeDenoiser, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the nats per code at high noise from the embedding alone, the caption alone, and neither.

        The noise is that of a fixed key, so that evaluations at different steps are comparable.
        """
        del key
        codes, guide = _inputs(frozen, batch)
        time = jnp.full(codes.shape[0], HIGH_NOISE)
        all_rows, no_rows = jnp.ones(codes.shape[0], bool), jnp.zeros(codes.shape[0], bool)
        guides = {
            "nll_clip": guide.without(all_rows, no_rows),
            "nll_text": guide.without(no_rows, all_rows),
            "nll_free": guide.nothing(),
        }
        nats = functools.partial(_nats, module, codes, time=time, key=jax.random.key(0))
        return {name: summed(nats(guide=one), batch) for name, one in guides.items()}

    def images(
        self, module: CodeDenoiser, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"] | None:
        """Return the first images, reconstructed, and one sample from the embedding of each; None without networks."""
        if not {IMAGE_TOKENIZER, CLIP} <= frozen.keys():
            return None
        codes, guide = _inputs(frozen, {name: rows[:IMAGES] for name, rows in batch.items()})
        count, places = codes.shape
        guide = guide.without(jnp.ones(count, bool), jnp.zeros(count, bool))
        scale = jnp.full(count, self.config.guidance)
        keys = jax.random.split(key, count)
        drawn = sample_codes(module, guide, keys, places, self.config.steps, scale, guide.nothing())
        both = jnp.concatenate([codes, drawn]).reshape(-1, *self.config.model.grid)
        return image_tokenizer_of(frozen).decode(both)

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return loaded(self.captions).truncated()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, which names image tokenizer and CLIP, and the files of the text tokenizer."""
        needs = absolute_needs(image_tokenizer=self.config.image_tokenizer, clip=self.config.clip)
        file = ModelFile(model=self.config.model, needs=needs)
        return {"model.gin": render(file).encode(), **loaded(self.captions).files()}


def _inputs(frozen: Frozen, batch: Batch) -> tuple[Int[Array, "B I"], Guide]:
    """Encode images as codes and CLIP embeddings, without gradients."""
    pixels = to_float(batch["pixels"])
    codes = image_tokenizer_of(frozen).encode(pixels).reshape(pixels.shape[0], -1)
    vectors = cast(Clip, frozen[CLIP]).encode_image(pixels)
    codes, vectors = jax.lax.stop_gradient((codes, vectors))
    return codes, Guide(batch["text"], vectors, jnp.ones(pixels.shape[0], bool))


def _nats(
    module: CodeDenoiser, codes: Int[Array, "B I"], guide: Guide, time: Float[Array, " B"], key: Key[Array, ""]
) -> Float[Array, "B I"]:
    """Return the negative log-likelihood, in nats, of each code given noised vectors."""
    vectors = module.code_vectors
    clean = vectors[codes]  # [B I c]
    x = add_noise(clean, jax.random.normal(key, clean.shape), straight_level(time))
    return cross_entropy(module(x, time, guide) + own_likelihood(x, time, vectors), codes)
