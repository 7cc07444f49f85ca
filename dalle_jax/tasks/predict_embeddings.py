"""Training of a prior: the text that a CLIP reads to the CLIP vector of its image (arXiv 2204.06125, section 2.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.models.clip import INITIAL_SCALE, Clip
from dalle_jax.models.model_configs import PriorConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPrior, OneStepPriorConfig
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, VectorSample, read_text
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_clip
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed, text_spec
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import CLIP
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.tasks.precomputed_embeddings import (
    image_and_text,
    load_embeddings_clip,
    no_states,
    vector_rows,
    vector_spec,
)
from dalle_jax.tasks.prior_losses import (
    OneStepVectors,
    SampledPrior,
    drop_text,
    eclipse_loss,
    one_step_vectors,
    sampled_loss,
)
from dalle_jax.train.task import Batch, CachedEmbeddings, Frozen, MetricSums, Objective, Seed

GuidedConfig: TypeAlias = DiffusionPriorConfig | AutoregressivePriorConfig
"""Configs of the priors that sample with guidance, and so train with dropped texts."""
EVALUATED = PriorOptions(guidance=1.0)
"""The options of the vectors whose cosine the evaluation measures."""


@dataclass(frozen=True)
class PredictEmbeddings:
    """Settings of p(image vector | text) between the vectors of a frozen CLIP (tasks/prior_losses.py).

    - ``text_length``: CLIP's. ``image_size``: the step embeds images of this size, CLIP's, and their captions. None is
      for embeddings that ``encode`` wrote.
    - ``clip``: the folder of the trained CLIP. With embeddings, None is the folder that their manifest names.
    - ``measured_examples``: the number of training examples, the first of the run, of which the statistics of the
      vectors are measured before the first step.
    - ``blank_captions``: the share of texts that training drops, for guidance. None is 0.1 (DALL·E 2, appendix C) for
      the diffusion and autoregressive priors; the others have no guidance.
    - ``contrast``: the weight of the contrast with texts in the one-step prior's loss. None is 0.2 (ECLIPSE,
      arXiv 2312.04655, section 3.2); the other priors have none. Its temperature is CLIP's own.
    """

    model: PriorConfig
    captions: Captions
    text_length: int
    image_size: int | None = None
    clip: str | None = None
    measured_examples: int = 8192
    blank_captions: float | None = None
    contrast: float | None = None

    def __post_init__(self) -> None:
        kind = type(self.model).__name__
        if self.measured_examples < 2:
            raise ValueError(f"measured_examples: expected at least 2, got {self.measured_examples}")
        if self.blank_captions is not None and not isinstance(self.model, GuidedConfig):
            raise ValueError(f"blank_captions: expected None, since {kind} has no guidance, got {self.blank_captions}")
        if not 0.0 <= self.dropped_share < 1.0:
            raise ValueError(f"blank_captions: expected a share in [0, 1), got {self.blank_captions}")
        if self.contrast is not None and not isinstance(self.model, OneStepPriorConfig):
            raise ValueError(f"contrast: expected None, since {kind} has another loss, got {self.contrast}")
        if isinstance(self.model, DiffusionPriorConfig | OneStepPriorConfig) and not self.model.unit_vectors:
            raise ValueError("model.unit_vectors: expected True, the vectors that training reads, got False")
        length = self.text_length if isinstance(self.model, MlpPriorConfig) else self.model.text_length
        if length != self.text_length:
            raise ValueError(f"model.text_length: expected text_length {self.text_length}, got {length}")

    @property
    def text_width(self) -> int | None:
        """The width of the text states that the model reads, or None if it reads the text vector alone."""
        return None if isinstance(self.model, MlpPriorConfig) else self.model.text_width

    @property
    def dropped_share(self) -> float:
        """The share of texts that training drops."""
        if self.blank_captions is None:
            return 0.1 if isinstance(self.model, GuidedConfig) else 0.0
        return self.blank_captions

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        spec = {"caption_group": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
        if self.image_size is not None:
            text = text_spec(batch_size, self.text_length)
            return spec | {"pixels": pixel_spec(batch_size, self.image_size), "text": text}
        return spec | vector_spec(batch_size, self.model.embed_width, self.text_length, self.text_width)

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "EmbeddingPrediction":
        """Load the text tokenizer and the CLIP. Raise ``UserError`` if the CLIP is not named or does not fit."""
        del layout
        captions = self.captions.open(self.text_length)
        if self.image_size is not None:
            refuse_precomputed(self, manifest, "set task.image_size to None for data of embeddings")
            return EmbeddingPrediction(self, captions, self._named_clip())
        found = load_embeddings_clip(self.clip, captions, self.text_width is not None, manifest)
        empty = read_text(found.network, jnp.asarray(captions.empty_row()), unit_vectors=True)
        return EmbeddingPrediction(replace(self, clip=found.folder), captions, found.network, empty)

    def open_for_plan(self) -> "EmbeddingPrediction":
        """Load the CLIP if it is named or embeds in the step, and the text tokenizer if its file exists."""
        clip = None if self.clip is None and self.image_size is None else self._named_clip()
        return EmbeddingPrediction(self, self.captions.open_if_present(self.text_length), clip)

    def _named_clip(self) -> Clip:
        if self.clip is None:
            raise UserError("task.clip: expected the folder of a trained CLIP, got None")
        return load_clip(storage.place(self.clip))


AnyPrior: TypeAlias = SampledPrior | OneStepPrior


class Pairs(NamedTuple):
    """The inputs of a loss: image vectors, the text of each, and the empty text as one row."""

    image: Float[Array, "B E"]
    text: TextCondition
    empty: TextCondition


@dataclass(frozen=True, eq=False)
class EmbeddingPrediction:
    """The task that trains a prior. ``captions`` and ``clip`` are None only for the command ``plan``.

    ``empty`` is the empty text for data of embeddings; the step computes it for data of images, and None is zeros.
    ``sample`` holds the vectors of which a new prior measures its statistics, or None before they are measured.
    Raise ``UserError`` if the CLIP does not fit.
    """

    config: PredictEmbeddings
    captions: CaptionTokenizer | None
    clip: Clip | None
    empty: TextCondition | None = None
    sample: VectorSample | None = None

    def __post_init__(self) -> None:
        if self.clip is None:
            return
        found, config = self.clip.config, self.config
        if self.captions is not None:
            self.captions.check_model(found.vocab_size, "the vocab_size of task.clip")
        image_size = found.image_size if config.image_size is None else config.image_size
        text_width = found.text.width if config.text_width is None else config.text_width
        given = (found.embed_width, found.text.width, found.image_size, found.text_length)
        if given != (expected := (config.model.embed_width, text_width, image_size, config.text_length)):
            raise UserError(
                "task.clip: expected model.embed_width, model.text_width, image_size and text_length "
                f"{expected}, got {given} in {config.clip}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return pixels uint8 [B H W 3] and ids int32 [B T], or embeddings that ``encode`` wrote (``vector_rows``)."""
        config, group = self.config, {"caption_group": np.array(examples["caption_group"], np.int32)}
        if config.image_size is None:
            return group | vector_rows(examples, config.text_length, config.text_width)
        text = loaded(self.captions).rows(examples["caption"], seeds)
        return group | {"pixels": pixel_rows(examples["image"], config.image_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> AnyPrior:
        """Create the prior, with the statistics of the sample if there is one."""
        module: AnyPrior = self.config.model.build(rngs)
        if self.sample is not None:
            module.measure(self.sample)
        return module

    def frozen(self) -> Frozen:
        """Return the CLIP, if the step embeds images with it."""
        return {} if self.clip is None or self.config.image_size is None else {CLIP: self.clip}

    @property
    def measured_examples(self) -> int:
        """The number of examples to measure."""
        return self.config.measured_examples

    def measurements(self, frozen: Frozen, batch: Batch) -> dict[str, Array]:
        """Return the image vectors and the text vectors of a batch."""
        pairs = self._pairs(frozen, batch)
        return {"image": pairs.image, "text": pairs.text.vector}

    def with_measurements(self, found: Mapping[str, np.ndarray]) -> "EmbeddingPrediction":
        """Return the task whose new prior has the statistics of these vectors."""
        return replace(self, sample=VectorSample(found["image"], found["text"]))

    def objectives(self) -> tuple[Objective, ...]:
        """Return the one objective. The one-step prior's contrast is over all pairs of a batch."""
        if not isinstance(self.config.model, OneStepPriorConfig):
            return (Objective("predict", nnx.Param, self.loss),)
        parts = CachedEmbeddings(self._one_step_vectors, self._one_step_loss)
        return (Objective("predict", nnx.Param, self.loss, microbatches=parts),)

    def loss(
        self, module: AnyPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the loss of the prior's kind: squared error, squared error and contrast, or nats per code."""
        if isinstance(module, OneStepPrior):
            vectors = self._one_step_vectors(module, frozen, batch, key, step)
            return self._one_step_loss(module, vectors, batch, key, step)
        image, text, empty = self._pairs(frozen, batch)
        drop_key, key = jax.random.split(key)
        dropped = jax.random.bernoulli(drop_key, self.config.dropped_share, image.shape[:1])
        loss = sampled_loss(module, image, drop_text(text, empty, dropped), text, key)
        return loss, {"loss": (loss, jnp.ones(()))}

    def _one_step_vectors(
        self, module: OneStepPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> OneStepVectors:
        del key, step
        pairs = self._pairs(frozen, batch)
        return one_step_vectors(module, pairs.image, pairs.text)

    def _one_step_loss(
        self, module: OneStepPrior, vectors: OneStepVectors, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        del key, step
        group, one = batch["caption_group"], jnp.ones(())
        scale = INITIAL_SCALE if self.clip is None else float(np.exp(np.asarray(self.clip.log_scale[...])))
        error, contrast = eclipse_loss(module, vectors, scale, group[:, None] == group[None, :])
        weight = 0.2 if self.config.contrast is None else self.config.contrast
        loss = error + weight * contrast
        return loss, {"loss": (loss, one), "squared_error": (error, one), "contrast": (contrast, one)}

    def evaluate(self, module: AnyPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the mean cosine of the image vector with a sample of the prior, and with the text vector."""
        del key
        image, text, empty = self._pairs(frozen, batch)
        keys = jax.random.split(jax.random.key(0), (image.shape[0], 1))
        drawn = module.draw(text, empty, keys, EVALUATED)[:, 0]
        return {
            "prior_cosine": summed((drawn * image).sum(axis=-1), batch),
            "text_cosine": summed((text.vector * image).sum(axis=-1), batch),
        }

    def images(self, module: AnyPrior, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> None:
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

    def _pairs(self, frozen: Frozen, batch: Batch) -> Pairs:
        """Return the vectors of a batch and what a prior reads of its texts, without gradients."""
        if self.config.image_size is None:
            image, text = image_and_text(batch)
            empty = TextCondition(*(jnp.zeros_like(leaf[:1]) for leaf in text)) if self.empty is None else self.empty
            if self.config.text_width is None:
                empty = no_states(empty.vector)
            return jax.lax.stop_gradient(Pairs(image, text, empty))
        clip = cast(Clip, frozen[CLIP])
        image = clip.encode_image(to_float(batch["pixels"]))
        text = read_text(clip, batch["text"], unit_vectors=True)
        empty = read_text(clip, jnp.asarray(self._empty_ids()), unit_vectors=True)
        return jax.lax.stop_gradient(Pairs(image, text, empty))

    def _empty_ids(self) -> np.ndarray:
        """Return the token ids int32 [1 T] of the empty caption; zeros without a text tokenizer."""
        zeros = np.zeros((1, self.config.text_length), np.int32)
        return zeros if self.captions is None else self.captions.empty_row()
