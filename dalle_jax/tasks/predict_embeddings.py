"""Training of a prior: the CLIP text embedding of a caption to the CLIP embedding of its image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import Manifest
from dalle_jax.diffusion.continuous import straight_level
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.images.pixels import to_float
from dalle_jax.models.clip import Clip
from dalle_jax.models.priors.mlp_prior import MlpPrior, MlpPriorConfig
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, read_text
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_clip
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import CLIP
from dalle_jax.tasks.precomputed_codes import refuse_codes
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed


@dataclass(frozen=True)
class PredictEmbeddings:
    """Settings of p(image embedding | text embedding): the mean squared error of x0 at uniform times.

    ``clip`` is the folder of the trained CLIP whose embeddings are read. ``image_size`` and ``text_length`` are its.
    """

    model: MlpPriorConfig
    captions: Captions
    image_size: int
    text_length: int
    clip: str | None = None

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {"pixels": pixel_spec(batch_size, self.image_size), "text": text_spec(batch_size, self.text_length)}

    def open(self, layout: Layout, manifest: Manifest | None = None) -> "EmbeddingPrediction":
        """Load the text tokenizer and the CLIP. Raise ``UserError`` if the CLIP is not named or does not fit."""
        del layout
        refuse_codes(self, manifest, "train it from images, whose CLIP embeddings it reads")
        captions = self.captions.open(self.text_length)
        if self.clip is None:
            raise UserError("task.clip: expected the folder of a trained CLIP, got None")
        return EmbeddingPrediction(self, captions, load_clip(storage.place(self.clip)))

    def open_for_plan(self) -> "EmbeddingPrediction":
        """Load the CLIP if it is named, and the text tokenizer if its file exists."""
        clip = None if self.clip is None else load_clip(storage.place(self.clip))
        return EmbeddingPrediction(self, self.captions.open_if_present(self.text_length), clip)


@dataclass(frozen=True, eq=False)
class EmbeddingPrediction:
    """The task that trains a prior. ``captions`` and ``clip`` are None only for the command ``plan``.

    Raise ``UserError`` if the CLIP does not fit.
    """

    config: PredictEmbeddings
    captions: CaptionTokenizer | None
    clip: Clip | None

    def __post_init__(self) -> None:
        if self.clip is None:
            return
        found = self.clip.config
        if self.captions is not None:
            self.captions.check_model(found.vocab_size, "the vocab_size of task.clip")
        given = (found.embed_width, found.image_size, found.text_length)
        config = self.config
        if given != (expected := (config.model.embed_width, config.image_size, config.text_length)):
            raise UserError(
                f"task.clip: expected model.embed_width, image_size and text_length {expected}, got {given} in "
                f"{config.clip}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``pixels`` uint8 [B H W 3] and ``text`` int32 [B T]."""
        text = loaded(self.captions).rows(examples["caption"], seeds)
        return {"pixels": pixel_rows(examples["image"], self.config.image_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> MlpPrior:
        """Create the prior."""
        return self.config.model.build(rngs)

    def frozen(self) -> Frozen:
        """Return the CLIP."""
        return {} if self.clip is None else {CLIP: self.clip}

    def objectives(self) -> tuple[Objective, ...]:
        """Return the one objective."""
        return (Objective("predict", nnx.Param, self.loss),)

    def loss(
        self, module: MlpPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the mean squared error of the predicted image embeddings, scaled to variance 1."""
        del step
        image, text = _vectors(frozen, batch)
        time_key, noise_key = jax.random.split(key)
        time = jax.random.uniform(time_key, image.shape[:1])
        clean = module.scale * image
        x = add_noise(clean, jax.random.normal(noise_key, clean.shape), straight_level(time))
        loss = jnp.square(module(x, time, text.vector) - clean).mean()
        return loss, {"loss": (loss, jnp.ones(()))}

    def evaluate(self, module: MlpPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the mean cosine of the image embedding with a sample of the prior, and with the text embedding."""
        del key
        image, text = _vectors(frozen, batch)
        keys = jax.random.split(jax.random.key(0), (image.shape[0], 1))
        drawn = module.draw(text, text, keys, PriorOptions())[:, 0]
        return {
            "prior_cosine": summed((drawn * image).sum(axis=-1), batch),
            "text_cosine": summed((text.vector * image).sum(axis=-1), batch),
        }

    def images(self, module: MlpPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> None:
        """Return None: a prior generates no images."""
        del module, frozen, batch, key
        return None

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return loaded(self.captions).truncated()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, which names the CLIP, and the files of the text tokenizer."""
        file = ModelFile(model=self.config.model, needs=absolute_needs(clip=self.config.clip))
        return {"model.gin": render(file).encode(), **loaded(self.captions).files()}


def _vectors(frozen: Frozen, batch: Batch) -> tuple[Float[Array, "B E"], TextCondition]:
    """Return the image vectors and what the prior reads of the captions, without gradients."""
    clip = cast(Clip, frozen[CLIP])
    image, text = clip.encode_image(to_float(batch["pixels"])), read_text(clip, batch["text"], unit_vectors=True)
    return jax.lax.stop_gradient((image, text))
