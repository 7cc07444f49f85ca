"""DALL·E 2 proper: prompt, prior, CLIP image embedding, denoised pixels, upsampled pixels (arXiv 2204.06125).

P prompts   M candidates of each   B = P * M   E embedding
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.models.clip import Clip
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder
from dalle_jax.models.decoders.upsampler import Upsampler
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.priors.prior import Prior, PriorOptions
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.embedding_pipeline import (
    EmbeddingPipeline,
    PromptEmbedder,
    PromptIds,
    Sees,
    embed_prompts,
    given_inputs,
)
from dalle_jax.pipelines.pixel_sampling import sample_pixels, upsample_pixels
from dalle_jax.pipelines.prompted_pipeline import DrawCall
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker


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
    sees: Sees,
    guided: bool,
    sampling: ImageSampling,
) -> UInt8[Array, "B H W 3"]:
    """Sample pixels from the embedding, the caption or both; the noise of a candidate depends on its key alone."""
    guide = given_inputs(ids, embeddings, sees)
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys.reshape(-1))
    scales = jnp.repeat(guidance, keys.shape[1]) if guided else None
    return to_uint8(sample_pixels(networks.decoder, guide, noise_keys, sampling, scales, networks.image_tokenizer))


def _sample(
    networks: PixelNetworks,
    ids: PromptIds,
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    sees: Sees,
    guided: bool,
    sampling: ImageSampling,
    options: PriorOptions,
) -> UInt8[Array, "B H W 3"]:
    embeddings = embed_prompts(networks, ids, keys, options)
    return _decode(networks, ids, embeddings, keys, guidance, sees, guided, sampling)


def _upsample(
    upsampler: Upsampler,
    pixels: UInt8[Array, "B h w 3"],
    keys: Key[Array, " B"],
    sampling: ImageSampling,
    noise: float,
    tiles: Tiles,
) -> UInt8[Array, "B H W 3"]:
    side = upsampler.config.factor * max(pixels.shape[1:3])
    chosen = tiles if side > tiles.side else None
    return to_uint8(upsample_pixels(upsampler, to_float(pixels), keys, sampling, noise, chosen))


class PixelUnclip(EmbeddingPipeline):
    """A prior, a decoder of pixels, upsamplers in their order, and a CLIP that embeds prompts and ranks images.

    The same CLIP ranks the images unless ``ranker`` is another one. A call samples at most ``batch`` images.
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
        factors = [one.config.factor for one in upsamplers]
        self._side = networks.decoder.config.image_size * int(np.prod(factors, dtype=int))
        network, static = CompiledNetwork(networks, layout), ("sees", "guided", "sampling")
        self.parts = network.parts
        self._sample = network.jit(_sample, static_argnames=(*static, "options"))
        self._decode = network.jit(_decode, static_argnames=static)
        names = ("sampling", "noise", "tiles")
        self._upsamplers = [CompiledNetwork(one, layout).jit(_upsample, static_argnames=names) for one in upsamplers]

    @property
    def side(self) -> int:
        """The side of an image in pixels, after the upsamplers."""
        return self._side

    @property
    def steps(self) -> int:
        """The decoder's steps."""
        return self.sampling.decoder.steps

    def decode(
        self, embeddings: Float[np.ndarray, "B E"], keys: Key[Array, " B"], guidance: float
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Sample one image of each embedding, from the embedding alone (section 3.1)."""
        ids, scale = self._ids([""] * len(embeddings)), jnp.full(len(embeddings), guidance, jnp.float32)
        pixels = self._decode(
            ids, jnp.asarray(embeddings)[:, None], keys[:, None], scale, sees="embedding", guided=guidance != 1.0,
            sampling=self.sampling.decoder,
        )  # fmt: skip
        return self._upsampled(pixels, keys)

    def _pixels(self, call: DrawCall) -> UInt8[np.ndarray, "B H W 3"]:
        small = self._sample(
            self._ids(call.prompts), call.keys, call.guidance, sees=self.sees, guided=call.guided,
            sampling=self.sampling.decoder, options=self.prior,
        )  # fmt: skip
        return self._upsampled(small, call.keys.reshape(-1))

    def _upsampled(self, pixels: UInt8[Array, "B h w 3"], keys: Key[Array, " B"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Run the upsamplers, ``together`` images at once; the noise of each depends on the image's key."""
        sampling, count = self.sampling, len(pixels)
        size = min(sampling.together, count)
        padded = np.minimum(np.arange(-(-count // size) * size), count - 1)  # the last image fills up the last call
        images = np.asarray(pixels)
        for number, (upsample, one) in enumerate(zip(self._upsamplers, sampling.upsamplers, strict=False)):
            own = jax.vmap(lambda key, number=number: jax.random.fold_in(key, 2 + number))(keys)
            calls = [
                upsample(jnp.asarray(images[rows]), own[rows], sampling=one, noise=sampling.noise, tiles=sampling.tiles)
                for rows in padded.reshape(-1, size)
            ]
            images = np.concatenate([np.asarray(call) for call in calls])[:count]
        return images
