"""DALL·E 2 proper: prompt, prior, CLIP image embedding, denoised pixels, upsampled pixels (arXiv 2204.06125).

P prompts   M candidates of each   B = P * M   E embedding
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling
from dalle_jax.images.pixels import resize, to_float, to_uint8
from dalle_jax.models.clip import Clip
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder
from dalle_jax.models.decoders.upsampler import Upsampler
from dalle_jax.models.glide import KnownPixels
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.priors.prior import Prior, PriorOptions
from dalle_jax.models.spaces.space import Latents
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.pixel_filler import known_at
from dalle_jax.pipelines.embedding_pipeline import (
    EmbeddingPipeline,
    PromptEmbedder,
    PromptIds,
    Sees,
    embed_prompts,
    given_inputs,
)
from dalle_jax.pipelines.pixel_sampling import invert_pixels, sample_pixels, upsample_pixels
from dalle_jax.pipelines.prompted_pipeline import DrawCall, check_diffusion_options
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request


@dataclass(frozen=True)
class PixelSampling:
    """The sampling of each network; the upsamplers' is published (arXiv 2204.06125, table 3): 27 and 15 steps of DDIM.

    - ``noise``: the time 0 .. 1 of the noise added to a low-resolution image, for upsamplers that see noise.
    - ``tiles``: the tiles of an upsampled image that is larger than one.
    - ``together``: the images that are upsampled in one call.
    """

    decoder: ImageSampling = field(default_factory=ImageSampling)
    upsamplers: tuple[ImageSampling, ...] = (ImageSampling(Ddim(), 27), ImageSampling(Ddim(), 15))
    noise: float = 0.0
    tiles: Tiles = field(default_factory=lambda: Tiles(side=256, overlap=32))
    together: int = 4


class PixelNetworks(PromptEmbedder):
    """The networks from token ids to the decoder's pixels; a decoder of latents needs their image tokenizer."""

    def __init__(
        self, prior: Prior, clip: Clip, decoder: PixelDecoder, image_tokenizer: ImageTokenizer | None = None
    ) -> None:
        super().__init__(prior, clip)
        self.decoder, self.image_tokenizer = decoder, image_tokenizer


def _decode(
    networks: PixelNetworks,
    ids: PromptIds,
    embeddings: Float[Array, "P M E"],
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    start: Float[Array, "B h w c"] | None,
    sees: Sees,
    guided: bool,
    sampling: ImageSampling,
    known: KnownPixels | None = None,
) -> UInt8[Array, "B H W 3"]:
    """Sample pixels from the embedding, the caption or both; the noise of a candidate depends on its key alone.

    ``known`` pixels come back to rounding.
    """
    guide = given_inputs(ids, embeddings, sees)
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys.reshape(-1))
    scales, tokenizer = jnp.repeat(guidance, keys.shape[1]) if guided else None, networks.image_tokenizer
    return to_uint8(sample_pixels(networks.decoder, guide, noise_keys, sampling, scales, tokenizer, known, start))


def _invert(
    networks: PixelNetworks,
    ids: PromptIds,
    embeddings: Float[Array, "B 1 E"],
    pixels: UInt8[Array, "B H W 3"],
    guidance: Float[Array, " B"],
    guided: bool,
    sampling: ImageSampling,
) -> Float[Array, "B h w c"]:
    """Return the noise from which DDIM makes nearly these images of the embedding alone (section 3.1)."""
    guide, scales = given_inputs(ids, embeddings, "embedding"), guidance if guided else None
    return invert_pixels(networks.decoder, guide, to_float(pixels), sampling, scales, networks.image_tokenizer)


def _sample(
    networks: PixelNetworks,
    ids: PromptIds,
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    known: KnownPixels | None,
    sees: Sees,
    guided: bool,
    sampling: ImageSampling,
    options: PriorOptions,
) -> UInt8[Array, "B H W 3"]:
    embeddings = embed_prompts(networks, ids, keys, options)
    return _decode(networks, ids, embeddings, keys, guidance, None, sees, guided, sampling, known)


def _upsample(
    upsampler: Upsampler,
    pixels: UInt8[Array, "B h w 3"],
    keys: Key[Array, " B"],
    known: KnownPixels | None,
    sampling: ImageSampling,
    noise: float,
    tiles: Tiles,
) -> UInt8[Array, "B H W 3"]:
    side = upsampler.config.factor * max(pixels.shape[1:3])
    chosen = tiles if side > tiles.side else None
    return to_uint8(upsample_pixels(upsampler, to_float(pixels), keys, sampling, noise, chosen, known))


class PixelUnclip(EmbeddingPipeline):
    """A prior, a decoder of pixels, upsamplers in their order, and a CLIP that embeds prompts and ranks images.

    The same CLIP ranks the images unless ``ranker`` is another one. A call samples at most ``batch`` images.

    Holes are filled at the decoder's size and then upsampled, with the known pixels kept by each network in each step.
    A decoder that was trained to inpaint reads them too.
    """

    def __init__(
        self,
        networks: PixelNetworks,
        upsamplers: Sequence[Upsampler],
        prompts: TextPrompts,
        embedder: ClipRanker,
        *,
        ranker: ClipRanker | None = None,
        sees: Sees = "embedding",
        sampling: PixelSampling = PixelSampling(),
        prior: PriorOptions = PriorOptions(),  # noqa: B008 (frozen)
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the networks by ``layout``, by default on one device."""
        if len(upsamplers) > len(sampling.upsamplers):
            raise UserError(f"upsamplers: expected at most {len(sampling.upsamplers)}, got {len(upsamplers)}")
        self.prompts, self.embedder = prompts, embedder
        self.ranker: ClipRanker = embedder if ranker is None else ranker
        self.sees, self.sampling, self.prior, self.batch = sees, sampling, prior, batch
        self.decoder_config = networks.decoder.config
        self._factors = [one.config.factor for one in upsamplers]
        self._side = self.decoder_config.image_size * int(np.prod(self._factors, dtype=int))
        space = networks.decoder.space(networks.image_tokenizer)
        self._noise_shape = space.shape(self.decoder_config.image_size, self.decoder_config.image_size)
        network, static = CompiledNetwork(networks, layout), ("sees", "guided", "sampling")
        self.network, self.parts, self.layout = network, network.parts, network.layout
        self._sample = network.jit(_sample, static_argnames=(*static, "options"))
        self._decode = network.jit(_decode, static_argnames=static)
        self._invert = network.jit(_invert, static_argnames=("guided", "sampling"))
        self._compile_prior(network)
        names = ("sampling", "noise", "tiles")
        self.upsamplers = [CompiledNetwork(one, layout) for one in upsamplers]
        self.upsampler_configs = [one.config for one in upsamplers]
        self._upsample = [one.jit(_upsample, static_argnames=names) for one in self.upsamplers]

    @property
    def side(self) -> int:
        """The side of an image in pixels, after the upsamplers."""
        return self._side

    @property
    def steps(self) -> int:
        """The decoder's steps."""
        return self.sampling.decoder.steps

    @property
    def inpaints(self) -> bool:
        """True for a decoder of pixels, which can keep the known ones."""
        return not isinstance(self.decoder_config.space, Latents)

    def with_steps(self, steps: int) -> "PixelUnclip":
        """Return this pipeline with a number of steps of its decoder; both share networks and compiled programs."""
        changed = copy.copy(self)
        changed.sampling = replace(self.sampling, decoder=replace(self.sampling.decoder, steps=steps))
        return changed

    def noise(self, keys: Key[Array, " B"]) -> Float[np.ndarray, "B h w c"]:
        """Draw the noise that ``decode`` may begin with."""
        return np.asarray(initial_noise(keys, self._noise_shape))

    def invert(
        self, pixels: UInt8[np.ndarray, "B H W 3"], embeddings: Float[np.ndarray, "B E"], guidance: float
    ) -> Float[np.ndarray, "B h w c"]:
        """Return the noise from which ``decode`` makes nearly these images, resized to the decoder's size, at eta 0."""
        side = self.decoder_config.image_size
        small = np.stack([resize(one, side, side) for one in pixels])

        def call(rows: np.ndarray) -> Float[Array, "B h w c"]:
            ids, scale = self.prompt_ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            given = jnp.asarray(embeddings[rows])[:, None], jnp.asarray(small[rows])
            return self._invert(ids, *given, scale, guided=guidance != 1.0, sampling=self.sampling.decoder)

        return in_chunks(np.arange(len(small)), self.batch, self.parts, call)

    def decode(
        self,
        embeddings: Float[np.ndarray, "B E"],
        keys: Key[Array, " B"],
        guidance: float,
        start: Float[np.ndarray, "B h w c"] | None = None,
        eta: float = 0.0,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Sample one image of each embedding, from the embedding alone (section 3.1).

        From a given noise ``start`` DDIM samples, with the share ``eta`` of new noise in a step.
        """
        own = self.sampling.decoder
        sampling = own if start is None else replace(own, sampler=Ddim(eta))

        def call(rows: np.ndarray) -> UInt8[np.ndarray, "B H W 3"]:
            ids, scale = self.prompt_ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            first = None if start is None else jnp.asarray(start[rows])
            pixels = self._decode(
                ids, jnp.asarray(embeddings[rows])[:, None], keys[rows][:, None], scale, first, sees="embedding",
                guided=guidance != 1.0, sampling=sampling,
            )  # fmt: skip
            return self._upsampled(pixels, keys[rows])

        return in_chunks(np.arange(len(embeddings)), self.batch, self.parts, call)

    def fill_windows(self, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
        """Draw the hidden pixels of windows. Raise UserError for a decoder of latents, which has no known pixels."""
        if not self.inpaints:
            raise UserError("decoder: expected one of pixels or of codes to fill holes, got one of latents")
        for prompt, one in zip(call.prompts, call.options, strict=True):
            check_diffusion_options(Request(prompt, one))
        ids, known = self.prompt_ids([str(one) for one in call.prompts]), known_at(call, self.decoder_config.image_size)
        guidance = jnp.asarray([one.guidance for one in call.options], jnp.float32)
        small = self._sample(
            ids, call.keys, guidance, known, sees=self.sees, guided=any(one.guidance != 1.0 for one in call.options),
            sampling=self.sampling.decoder, options=self.prior,
        )  # fmt: skip
        return self._upsampled(small, call.keys.reshape(-1), call).reshape(call.windows.shape)

    def _pixels(self, call: DrawCall) -> UInt8[np.ndarray, "B H W 3"]:
        small = self._sample(
            self.prompt_ids(call.prompts), call.keys, call.guidance, None, sees=self.sees, guided=call.guided,
            sampling=self.sampling.decoder, options=self.prior,
        )  # fmt: skip
        return self._upsampled(small, call.keys.reshape(-1))

    def _upsampled(
        self, pixels: UInt8[Array, "B h w 3"], keys: Key[Array, " B"], call: FillCall | None = None
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Run the upsamplers, ``together`` images at once; the noise of each depends on the image's key.

        The known pixels of the windows of ``call`` are kept.
        """
        sampling, count = self.sampling, len(pixels)
        size = min(sampling.together, count)
        padded = np.minimum(np.arange(-(-count // size) * size), count - 1)  # the last image fills up the last call
        images = np.asarray(pixels)
        for number, (upsample, one) in enumerate(zip(self._upsample, sampling.upsamplers, strict=False)):
            own = jax.vmap(lambda key, number=number: jax.random.fold_in(key, 2 + number))(keys)
            known = None if call is None else known_at(call, images.shape[1] * self._factors[number])
            calls = [
                upsample(
                    jnp.asarray(images[rows]), own[rows], jax.tree.map(lambda array, rows=rows: array[rows], known),
                    sampling=one, noise=sampling.noise, tiles=sampling.tiles,
                )
                for rows in padded.reshape(-1, size)
            ]  # fmt: skip
            images = np.concatenate([np.asarray(call) for call in calls])[:count]
        return images
