"""Training of a pixel decoder: noised images, a caption and a CLIP image embedding to images (arXiv 2204.06125)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.differences import differences
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.diffusion.diffusion_training import DiffusionTraining
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.trained_diffusion import ImageSampling, from_pixels, to_pixels
from dalle_jax.images.pixels import to_float
from dalle_jax.images.random_masks import RandomMasks
from dalle_jax.models.clip import Clip
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder, PixelDecoderConfig
from dalle_jax.models.glide import KnownPixels
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.spaces.space import Latents, LatentStatistics
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_clip, read_model_file
from dalle_jax.pipelines.pixel_sampling import sample_pixels
from dalle_jax.storage import Place
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, text_spec
from dalle_jax.tasks.caption_tokens import Captions, CaptionTokenizer, loaded
from dalle_jax.tasks.frozen_networks import (
    CLIP,
    IMAGE_TOKENIZER,
    check_clip,
    frozen_image_tokenizer,
    image_tokenizer_of,
    load_if_named,
)
from dalle_jax.tasks.image_denoising import PREFIX, ImageDenoising, TrainedDenoiser
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.train.task import Batch, Frozen, MetricSums, Seed

IMAGES = 8
"""Number of images that are sampled during training."""
MAY_DIFFER = ("dtype", "remat", "dropout")
"""Fields of a model that change neither its parameters nor the function that it computes, but for rounding."""
MASK = 2
"""The number that makes the key of the masks, of the step's or by itself for evaluation."""


@dataclass(frozen=True)
class DenoiseImages:
    """Settings of p(image | caption, CLIP embedding of the image), by diffusion on pixels.

    - ``clip_size``: the side of the images that the CLIP reads; None is the decoder's.
    - ``clip``: the folder of a trained CLIP. With None and ``blank_clips`` 1, captions alone train it, as in GLIDE.
    - ``blank_captions``, ``blank_clips``: the shares of captions and embeddings that training drops, independently
      (arXiv 2204.06125, section 2.1).
    - ``image_tokenizer``: the folder of a trained image tokenizer, whose latents are denoised if ``model.space`` is
      ``Latents``; its sampling has no threshold of x0.
    - ``masks``: the hidden regions of images, for a decoder that inpaints (``model.unet.extra_channels`` 4), else None.
      Such a decoder may start from a trained one without extra channels (``trainer.initial``).
    - ``guidance``, ``sampling``: the sampling of the images during training, from the embedding if there is one.
    """

    model: PixelDecoderConfig
    captions: Captions
    clip: str | None = None
    clip_size: int | None = None
    image_tokenizer: str | None = None
    blank_captions: float = 0.5
    blank_clips: float = 0.1
    masks: RandomMasks | None = None
    training: DiffusionTraining = field(default_factory=DiffusionTraining)
    guidance: float = 2.0
    sampling: ImageSampling = field(default_factory=ImageSampling)

    def __post_init__(self) -> None:
        for name, share in (("blank_captions", self.blank_captions), ("blank_clips", self.blank_clips)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}: expected a share in [0, 1], got {share}")
        self.training.check(self.model.diffusion)
        if self.model.inpaints != (self.masks is not None):
            extra, got = self.model.unet.extra_channels, "None" if self.masks is None else "@RandomMasks"
            raise ValueError(
                "masks: expected @RandomMasks for a decoder that inpaints (model.unet.extra_channels 4), else None, "
                f"got {got} with {extra} extra channels"
            )
        if isinstance(self.model.space, Latents) and self.sampling.threshold is not None:
            raise ValueError("sampling.threshold: expected None for latents, which have no bounds")

    @property
    def source_size(self) -> int:
        """The side of the images of a batch, the larger of those of the decoder and the CLIP."""
        return max(self.model.image_size, self.clip_size or self.model.image_size)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {
            "pixels": pixel_spec(batch_size, self.source_size),
            "text": text_spec(batch_size, self.model.text_length),
        }

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "ImageDecoding":
        """Load text tokenizer and CLIP. Raise ``UserError`` if one is not named or does not fit."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        captions = self.captions.open(self.model.text_length)
        if (self.clip is None) != (self.blank_clips == 1.0):
            raise UserError(
                "task.clip: expected the folder of a trained CLIP, or None with blank_clips 1 to train from captions "
                f"alone, got {self.clip} with blank_clips {self.blank_clips}"
            )
        if (self.image_tokenizer is not None) != isinstance(self.model.space, Latents):
            raise UserError(
                "task.image_tokenizer: expected the folder of a trained image tokenizer if task.model.space is "
                f"@Latents, else None, got {self.image_tokenizer} with @{type(self.model.space).__name__}"
            )
        return self._opened(captions)

    def open_for_plan(self) -> "ImageDecoding":
        """Load the CLIP if it is named, and the text tokenizer if its file exists."""
        return self._opened(self.captions.open_if_present(self.model.text_length))

    def _opened(self, captions: CaptionTokenizer | None) -> "ImageDecoding":
        clip = None if self.clip is None else load_clip(storage.place(self.clip))
        return ImageDecoding(self, captions, clip, load_if_named(self.image_tokenizer))


class DecoderInputs(NamedTuple):
    """Captions and embeddings of images, and the known pixels for a decoder that inpaints."""

    guide: Guide
    known: KnownPixels | None


@dataclass(frozen=True, eq=False)
class ImageDecoding(ImageDenoising[PixelDecoder, DecoderInputs]):
    """The task that trains a pixel decoder. ``captions`` is None only for the command ``plan``.

    Raise ``UserError`` if the text tokenizer or the CLIP does not fit the model.
    """

    config: DenoiseImages
    captions: CaptionTokenizer | None
    clip: Clip | None
    image_tokenizer: ImageTokenizer | None = None

    def __post_init__(self) -> None:
        model = self.config.model
        if self.image_tokenizer is not None:
            sizes = (self.image_tokenizer.code_vectors.shape[1], self.image_tokenizer.downsample)
            if sizes != (wanted := (model.space.channels, model.space.downsample)):
                raise UserError(
                    f"task.model.space: expected channels and downsample {sizes}, as the image tokenizer in "
                    f"{self.config.image_tokenizer} has, got {wanted}"
                )
        if self.captions is not None:
            self.captions.check_model(model.vocab_size, "task.model.vocab_size")
        size = self.config.clip_size or model.image_size
        check_clip(self.clip, model.embed_width, size, "clip_size", self.config.clip)

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``pixels`` uint8 [B H W 3] and ``text`` int32 [B T]."""
        text = loaded(self.captions).rows(examples["caption"], seeds)
        return {"pixels": pixel_rows(examples["image"], self.config.source_size), "text": text}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def frozen(self) -> Frozen:
        """Return the CLIP and the image tokenizer, if there are any."""
        clip: Frozen = {} if self.clip is None else {CLIP: self.clip}
        return {**clip, **frozen_image_tokenizer(self.image_tokenizer)}

    def build(self, rngs: nnx.Rngs) -> PixelDecoder:
        """Create the decoder."""
        return self.config.model.build(rngs)

    def smaller(self, folder: Place) -> "ImageDecoding | None":
        """Return the task without extra channels if this one has them and the decoder in ``folder`` has none.

        Raise ``UserError`` if that decoder differs in more.
        """
        model = self.config.model
        if not model.inpaints:
            return None
        trained = read_model_file(folder).model
        if isinstance(trained, PixelDecoderConfig) and trained.inpaints:
            return None
        plain = replace(model, unet=replace(model.unet, extra_channels=0))
        wrong = list(differences("model", trained, plain, MAY_DIFFER))
        if wrong:
            raise UserError(f"task.model: it does not fit trainer.initial, {folder}: {'; '.join(wrong)}")
        return replace(self, config=replace(self.config, model=plain, masks=None))

    def extended(self, module: TrainedDenoiser[PixelDecoder]) -> TrainedDenoiser[PixelDecoder]:
        """Return the module of ``smaller`` with extra input channels of weight zero."""
        module.network = module.network.with_extra_channels()
        return module

    def inputs(
        self, frozen: Frozen, batch: Batch, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "B H W 3"], DecoderInputs]:
        """Return the images, and their captions and embeddings, some of them dropped if ``key`` is given.

        A decoder that inpaints also gets known pixels; without ``key`` the masks are those of a fixed key.
        """
        config, pixels, rows = self.config, to_float(batch["pixels"]), batch["pixels"].shape[0]
        vectors = jnp.zeros((rows, config.model.embed_width))
        if CLIP in frozen:
            clip = cast(Clip, frozen[CLIP])
            vectors = jax.lax.stop_gradient(clip.encode_image(_at_size(pixels, clip.config.image_size)))
        guide = Guide(batch["text"], vectors, jnp.full(rows, CLIP in frozen))
        if key is not None:
            text_key, clip_key = jax.random.split(key)
            guide = guide.without(
                jax.random.bernoulli(text_key, config.blank_captions, (rows,)),
                jax.random.bernoulli(clip_key, config.blank_clips, (rows,)),
            )
        images = from_pixels(_at_size(pixels, config.model.image_size))
        return images, DecoderInputs(guide, self._known(images, key))

    def _known(self, images: Float[Array, "B H W 3"], key: Key[Array, ""] | None) -> KnownPixels | None:
        """Hide a random region of each image."""
        if self.config.masks is None:
            return None
        mask_key = jax.random.key(MASK) if key is None else jax.random.fold_in(key, MASK)
        hidden = self.config.masks.hidden(jax.random.split(mask_key, images.shape[0]), images.shape[1])
        return KnownPixels(images, 1.0 - hidden[..., None])

    @property
    def measures_latents(self) -> bool:
        """True if the decoder denoises latents."""
        return isinstance(self.config.model.space, Latents)

    def statistics_of(self, network: PixelDecoder) -> LatentStatistics | None:
        """Return the decoder's statistics of latents."""
        return network.statistics

    def encode(
        self, module: TrainedDenoiser[PixelDecoder], frozen: Frozen, images: Float[Array, "B H W 3"]
    ) -> Float[Array, "B h w c"]:
        """Return the images in -1 .. 1, or their normalised latents."""
        if module.network.statistics is None:
            return images
        return module.network.space(image_tokenizer_of(frozen)).encode((images + 1) / 2)

    def predict(
        self,
        network: PixelDecoder,
        x: Float[Array, "B h w c"],
        level: NoiseLevel,
        condition: DecoderInputs,
        key: Key[Array, ""] | None,
    ) -> ModelOutput:
        """Return the decoder's prediction."""
        return network(x, level, condition.guide, key, condition.known)

    def evaluate(
        self, module: TrainedDenoiser[PixelDecoder], frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> MetricSums:
        """Return the loss with all conditions, and the errors of x0 at high noise.

        The errors are those from the embedding alone, from the caption alone, and from neither.
        """
        del key
        images, inputs = self.inputs(frozen, batch, None)
        guide, x0 = inputs.guide, self.encode(module, frozen, images)
        every, none = jnp.ones(x0.shape[0], bool), jnp.zeros(x0.shape[0], bool)
        guides = {"mse_text": guide.without(none, every), "mse_free": guide.nothing()}
        if CLIP in frozen:
            guides["mse_clip"] = guide.without(every, none)
        found = {name: self.errors(module, x0, inputs._replace(guide=one), batch) for name, one in guides.items()}
        return found | {"loss": self.evaluation_loss(module, x0, inputs, batch)}

    def images(
        self, module: TrainedDenoiser[PixelDecoder], frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"]:
        """Return the first images, and one sample from the embedding of each, or else from its caption.

        A decoder that inpaints fills a hole of each image, and the images with their holes stand in between.
        """
        images, (guide, known) = self.inputs(frozen, {name: rows[:IMAGES] for name, rows in batch.items()}, None)
        count = images.shape[0]
        if CLIP in frozen:
            guide = guide.without(jnp.ones(count, bool), jnp.zeros(count, bool))
        scales = None if self.config.guidance == 1 else jnp.full(count, self.config.guidance)
        tokenizer = image_tokenizer_of(frozen) if IMAGE_TOKENIZER in frozen else None
        keys, sampling = jax.random.split(key, count), self.config.sampling
        drawn = sample_pixels(module.network, guide, keys, sampling, scales, tokenizer, known)
        holes = [] if known is None else [to_pixels(known.image * known.mask)]
        return jnp.concatenate([(images + 1) / 2, *holes, drawn])

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return loaded(self.captions).truncated()

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, which names the CLIP, and the files of the text tokenizer."""
        needs = absolute_needs(clip=self.config.clip, image_tokenizer=self.config.image_tokenizer)
        file = ModelFile(model=self.config.model, needs=needs, prefix=PREFIX)
        return {"model.gin": render(file).encode(), **loaded(self.captions).files()}


def _at_size(pixels: Float[Array, "B H W 3"], size: int) -> Float[Array, "B h w 3"]:
    """Resize images in 0 .. 1 to ``size`` pixels a side, bicubic with antialiasing."""
    if pixels.shape[1] == size:
        return pixels
    return jax.image.resize(pixels, (pixels.shape[0], size, size, 3), "bicubic").clip(0, 1)
