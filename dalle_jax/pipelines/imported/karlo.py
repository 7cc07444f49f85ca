"""Karlo, the published unCLIP, as a pipeline that samples images of prompts, and edits images by their CLIP vectors.

B rows   P prompts   M candidates of a prompt   E embedding   h w size of the decoder   H W size of the image
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.images.pixels import resize, to_float, to_uint8
from dalle_jax.models.priors.prior import PriorOptions, read_text, repeat_rows
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.imported.karlo_stages import KarloNetworks, StageNoise, decode, invert_images, upsample
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline, DrawCall
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker, preprocessed
from dalle_jax.sampling.options import RecommendedSampling


@dataclass(frozen=True)
class KarloFile:
    """The content of ``karlo.gin``, next to the folders of the networks: image sizes, and sampling as published.

    ``decoder_side`` and ``side`` are the sides of the decoder's image and of the result, in pixels. ``guidance`` is the
    decoder's, for requests that give none.
    """

    decoder_side: int
    side: int
    prior: PriorOptions = field(default_factory=lambda: PriorOptions(guidance=4.0, steps=25, draws=1))
    guidance: float = 8.0
    decoder_steps: int = 25
    upsampler_steps: int = 7

    def __post_init__(self) -> None:
        if min(self.decoder_steps, self.upsampler_steps) < 2:
            raise ValueError(
                "decoder_steps, upsampler_steps: expected at least 2 each, got "
                f"{self.decoder_steps} and {self.upsampler_steps}"
            )

    @property
    def decoder_shape(self) -> tuple[int, int, int]:
        """The shape of the decoder's image."""
        return self.decoder_side, self.decoder_side, 3


PRIOR, DECODER, UPSAMPLER = range(3)
"""The numbers that make a key of each stage from an image's key."""


def _sample(
    networks: KarloNetworks,
    ids: Int[Array, "P T"],
    empty_ids: Int[Array, "1 T"],
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    file: KarloFile,
    guided: bool,
) -> UInt8[Array, "B H W 3"]:
    """Sample M images of each prompt; an image depends on its key and its prompt alone."""
    text, empty = (read_text(networks.text, one, networks.prior.unit_vectors) for one in (ids, empty_ids))
    rows, count = keys.reshape(-1), keys.shape[1]
    vectors = networks.prior.draw(text, empty, _of_stage(rows, PRIOR).reshape(keys.shape), file.prior)
    small = StageNoise.of(_of_stage(rows, DECODER), file.decoder_shape)
    scales = jnp.repeat(guidance, count) if guided else None
    image = decode(
        networks, repeat_rows(text, count), empty, vectors.reshape(len(rows), -1), small, file.decoder_steps, scales
    )
    return _upsampled(networks, image, rows, file)


def _embed(
    networks: KarloNetworks, ids: Int[Array, "P T"], empty_ids: Int[Array, "1 T"], keys: Key[Array, "P M"],
    file: KarloFile,
) -> Float[Array, "P M E"]:  # fmt: skip
    """Draw an image vector of the prior for each key."""
    text, empty = (read_text(networks.text, one, networks.prior.unit_vectors) for one in (ids, empty_ids))
    return networks.prior.draw(text, empty, _of_stage(keys.reshape(-1), PRIOR).reshape(keys.shape), file.prior)


def _embed_texts(networks: KarloNetworks, ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
    return read_text(networks.text, ids, networks.prior.unit_vectors).vector


def _embed_images(networks: KarloNetworks, pixels: UInt8[Array, "B S S 3"]) -> Float[Array, "B E"]:
    assert networks.image is not None
    return networks.image.encode_image(to_float(pixels))


def _decode(
    networks: KarloNetworks,
    empty_ids: Int[Array, "1 T"],
    vectors: Float[Array, "B E"],
    keys: Key[Array, " B"],
    guidance: Float[Array, " B"],
    start: Float[Array, "B h w 3"] | None,
    file: KarloFile,
    guided: bool,
    eta: float,
) -> UInt8[Array, "B H W 3"]:
    """Sample an image of each vector without a text; from the noise ``start`` by DDIM."""
    empty = read_text(networks.text, empty_ids, networks.prior.unit_vectors)
    text, scales = repeat_rows(empty, len(keys)), guidance if guided else None
    noise = StageNoise.of(_of_stage(keys, DECODER), file.decoder_shape)
    if start is None:
        image = decode(networks, text, empty, vectors, noise, file.decoder_steps, scales)
    else:
        given = noise._replace(start=start)
        image = decode(networks, text, empty, vectors, given, file.decoder_steps, scales, Ddim(eta))
    return _upsampled(networks, image, keys, file)


def _invert(
    networks: KarloNetworks,
    empty_ids: Int[Array, "1 T"],
    vectors: Float[Array, "B E"],
    pixels: UInt8[Array, "B h w 3"],
    guidance: Float[Array, " B"],
    file: KarloFile,
    guided: bool,
) -> Float[Array, "B h w 3"]:
    empty = read_text(networks.text, empty_ids, networks.prior.unit_vectors)
    images, scales = 2 * to_float(pixels) - 1, guidance if guided else None
    return invert_images(networks, empty, vectors, images, file.decoder_steps, scales)


def _of_stage(keys: Key[Array, " B"], stage: int) -> Key[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, stage))(keys)


def _upsampled(
    networks: KarloNetworks, image: Float[Array, "B h w 3"], keys: Key[Array, " B"], file: KarloFile
) -> UInt8[Array, "B H W 3"]:
    noise = StageNoise.of(_of_stage(keys, UPSAMPLER), (file.side, file.side, 3))
    return to_uint8(upsample(networks, image, noise, file.upsampler_steps))


class Karlo(DiffusionPipeline):
    """The networks, the reader of prompts, and a CLIP that ranks the images, if there is one.

    A call samples at most ``batch`` images.
    """

    def __init__(
        self,
        networks: KarloNetworks,
        prompts: TextPrompts,
        file: KarloFile,
        *,
        ranker: ClipRanker | None = None,
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the networks by ``layout``, by default on one device."""
        self.prompts, self.file, self.ranker, self.batch = prompts, file, ranker, batch
        self.recommended = RecommendedSampling(guidance=file.guidance)
        network, static = CompiledNetwork(networks, layout), ("file", "guided")
        self.network, self.parts, self.layout = network, network.parts, network.layout
        self._sample = network.jit(_sample, static_argnames=static)
        self._decode = network.jit(_decode, static_argnames=(*static, "eta"))
        self._invert = network.jit(_invert, static_argnames=static)
        self._embed = network.jit(_embed, static_argnames=("file",))
        self._embed_texts, self._embed_images = network.jit(_embed_texts), network.jit(_embed_images)
        self._image = None if networks.image is None else networks.image.config
        self.empty_ids = jnp.asarray(prompts.read([""]))

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.file.side

    @property
    def embeds_images(self) -> bool:
        """True if the model has its image encoder."""
        return self._image is not None

    @property
    def text_reader(self) -> TextPrompts:
        """The reader of the texts that are embedded."""
        return self.prompts

    def image_vectors(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B E"]:
        """Return the vector of each image. Raise UserError without an image encoder."""
        if self._image is None:
            raise UserError(
                "image_encoder: expected Karlo's image encoder to embed an image, got none; import it into the "
                "model's folder (import karlo-image-encoder SOURCE/image_encoder DIR/image_encoder)"
            )
        pixels = np.asarray(preprocessed(images, self._image.image_size, self._image.crop))
        return in_chunks(pixels, self.batch, self.parts, lambda chunk: self._embed_images(jnp.asarray(chunk)))

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the vector of each text."""
        ids = self.prompts.read(list(texts))
        return in_chunks(ids, self.batch, self.parts, lambda chunk: self._embed_texts(jnp.asarray(chunk)))

    def embed(self, prompts: list[str], keys: Key[Array, "P M"]) -> Float[np.ndarray, "P M E"]:
        """Draw an image vector of the prior for each prompt and key."""
        ids = jnp.asarray(self.prompts.read(prompts))
        return np.asarray(self._embed(ids, self.empty_ids, keys, file=self.file))

    def noise(self, keys: Key[Array, " B"]) -> Float[np.ndarray, "B h w 3"]:
        """Draw the noise that ``decode`` may begin with."""
        return np.asarray(initial_noise(keys, self.file.decoder_shape))

    def invert(
        self, pixels: UInt8[np.ndarray, "B H W 3"], embeddings: Float[np.ndarray, "B E"], guidance: float
    ) -> Float[np.ndarray, "B h w 3"]:
        """Return the noise from which ``decode`` makes nearly these images, resized to the decoder's size, at eta 0."""
        side = self.file.decoder_side
        small = np.stack([resize(one, side, side) for one in pixels])

        def call(rows: np.ndarray) -> Float[Array, "B h w 3"]:
            given = jnp.asarray(embeddings[rows]), jnp.asarray(small[rows]), jnp.full(len(rows), guidance, jnp.float32)
            return self._invert(self.empty_ids, *given, file=self.file, guided=guidance != 1.0)

        return in_chunks(np.arange(len(small)), self.batch, self.parts, call)

    def decode(
        self,
        embeddings: Float[np.ndarray, "B E"],
        keys: Key[Array, " B"],
        guidance: float,
        start: Float[np.ndarray, "B h w 3"] | None = None,
        eta: float = 0.0,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Sample an image of each vector without a text; from a given noise by DDIM with the share ``eta`` of new."""

        def call(rows: np.ndarray) -> UInt8[Array, "B H W 3"]:
            scale = jnp.full(len(rows), guidance, jnp.float32)
            first = None if start is None else jnp.asarray(start[rows])
            return self._decode(
                self.empty_ids, jnp.asarray(embeddings[rows]), keys[rows], scale, first, file=self.file,
                guided=guidance != 1.0, eta=eta,
            )  # fmt: skip

        return in_chunks(np.arange(len(embeddings)), self.batch, self.parts, call)

    def _pixels(self, call: DrawCall) -> UInt8[Array, "B H W 3"]:
        """Sample the candidates of each prompt; ``guidance`` is the decoder's."""
        ids = jnp.asarray(self.prompts.read(call.prompts))
        return self._sample(ids, self.empty_ids, call.keys, call.guidance, file=self.file, guided=call.guided)
