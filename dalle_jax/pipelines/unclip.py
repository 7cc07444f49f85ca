"""Text to images through CLIP: prompt, prior, CLIP image embedding, denoised codes, pixels (arXiv 2204.06125).

DALL·E 2's decoder denoises pixels; this one denoises the codes of an image tokenizer (models/code_denoiser.py).
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.code_vectors import KnownCodes, invert_codes, sample_codes
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.flow_ode import Euler
from dalle_jax.diffusion.samplers.sampler import Sampler
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.priors.prior import PriorOptions
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.edits.code_filler import fill_by_codes
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.embedding_pipeline import (
    EmbeddingPipeline,
    PromptIds,
    Sees,
    UnclipNetworks,
    embed_prompts,
    given_inputs,
)
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompted_pipeline import DrawCall, check_diffusion_options
from dalle_jax.pipelines.prompts import Prompt, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.sampling.autoregressive import GivenCodes

DECODER_STEPS = 8
"""The decoder's steps by default."""


def decode_embeddings(
    networks: UnclipNetworks,
    ids: PromptIds,
    embeddings: Float[Array, "P M E"],
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    start: Float[Array, "P M I c"] | None,
    sees: Sees,
    steps: int,
    guided: bool,
    eta: float = 0.0,
    known: KnownCodes | None = None,
) -> Int[Array, "P M I"]:
    """Denoise codes from the embedding, the caption or both; the noise of a candidate depends on its key alone.

    ``start`` is the noise to begin with, and ``eta`` the share of new noise in a step (arXiv 2010.02502, equation 16).
    ``known`` are codes that stay.
    """
    prompts, count = keys.shape
    height, width = networks.decoder.config.grid
    guide = given_inputs(ids, embeddings, sees)
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys.reshape(-1))
    scale = jnp.repeat(guidance, count)
    nothing = guide.nothing() if guided else None
    first = None if start is None else start.reshape(prompts * count, *start.shape[2:])
    sampler: Sampler = Ddim(eta) if eta else Euler()
    codes = sample_codes(
        networks.decoder, guide, noise_keys, height * width, steps, scale, nothing, start=first, sampler=sampler,
        known=known,
    )  # fmt: skip
    return codes.reshape(prompts, count, -1)


def invert_images(
    networks: UnclipNetworks,
    ids: PromptIds,
    embeddings: Float[Array, "B E"],
    codes: Int[Array, "B I"],
    guidance: Float[Array, " B"],
    steps: int,
    guided: bool,
) -> Float[Array, "B I c"]:
    """Return the noise from which the decoder makes nearly these codes of the embedding alone (section 3.1)."""
    every = jnp.ones(len(codes), bool)
    guide = Guide(jnp.zeros_like(ids.decoder), embeddings, every)
    return invert_codes(networks.decoder, guide, codes, steps, guidance, guide.nothing() if guided else None)


def _sample(
    networks: UnclipNetworks,
    ids: PromptIds,
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    given: GivenCodes | None,
    sees: Sees,
    steps: int,
    guided: bool,
    options: PriorOptions,
) -> Int[Array, "P M I"]:
    """Draw an embedding for each candidate and denoise the codes that are not given, all without ``given``."""
    embeddings, known = embed_prompts(networks, ids, keys, options), None
    if given is not None:
        _, count, places = given.codes.shape
        known = KnownCodes(given.codes.reshape(-1, places), jnp.repeat(given.keep, count, axis=0))
    return decode_embeddings(networks, ids, embeddings, keys, guidance, None, sees, steps, guided, known=known)


class Unclip(EmbeddingPipeline):
    """A prior, a decoder of codes, a codec that decodes the codes, and a CLIP that embeds prompts and images.

    Each candidate has its own embedding. The same CLIP ranks the images unless ``ranker`` is another one. A call
    samples at most ``batch`` images.
    """

    def __init__(
        self,
        networks: UnclipNetworks,
        codec: ImageCodec,
        prompts: TextPrompts,
        embedder: ClipRanker,
        *,
        ranker: ClipRanker | None = None,
        sees: Sees = "embedding",
        steps: int = DECODER_STEPS,
        prior: PriorOptions = PriorOptions(),  # noqa: B008 (frozen)
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the networks by ``layout``, by default on one device. ``steps`` are the decoder's."""
        if steps < 1:
            raise UserError(f"steps: expected at least 1, got {steps}")
        self.grid, self.code_width = networks.decoder.config.grid, networks.decoder.config.code_width
        self.codec, self.prompts, self.embedder = codec, prompts, embedder
        self.ranker: ClipRanker = embedder if ranker is None else ranker
        self.sees, self.steps, self.prior, self.batch = sees, steps, prior, batch
        network, static = CompiledNetwork(networks, layout), ("sees", "steps", "guided")
        self.network = network
        self.parts, self.layout = network.parts, network.layout
        self._sample = network.jit(_sample, static_argnames=(*static, "options"))
        self._decode = network.jit(decode_embeddings, static_argnames=(*static, "eta"))
        self._invert = network.jit(invert_images, static_argnames=("steps", "guided"))
        self._compile_prior(network)

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.grid[0] * self.codec.downsample

    def with_steps(self, steps: int) -> "Unclip":
        """Return this pipeline with a number of steps of its decoder; both share networks and compiled programs."""
        changed = copy.copy(self)
        changed.steps = steps
        return changed

    def fill_windows(self, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
        """Draw the hidden pixels of windows by their codes."""
        return fill_by_codes(self, call)

    def fill_codes(
        self, prompts: list[Prompt], options: list[RequestOptions], keys: Key[Array, "P M"], given: GivenCodes
    ) -> Int[Array, "P M I"]:
        """Denoise the codes that are not given, from all the given ones (diffusion/code_vectors.py)."""
        for prompt, one in zip(prompts, options, strict=True):
            check_diffusion_options(Request(prompt, one))
        guidance = jnp.asarray([one.guidance for one in options], jnp.float32)
        guided = any(one.guidance != 1.0 for one in options)
        return self._sample(
            self.prompt_ids([str(one) for one in prompts]), keys, guidance, given, sees=self.sees, steps=self.steps,
            guided=guided, options=self.prior,
        )  # fmt: skip

    def noise(self, keys: Key[Array, " B"]) -> Float[np.ndarray, "B I c"]:
        """Draw the noise that ``decode`` may begin with."""
        height, width = self.grid
        return np.asarray(initial_noise(keys, (height * width, self.code_width)))

    def invert(
        self, pixels: UInt8[np.ndarray, "B H W 3"], embeddings: Float[np.ndarray, "B E"], guidance: float
    ) -> Float[np.ndarray, "B I c"]:
        """Return the noise from which ``decode`` makes nearly the same codes at ``eta`` 0, of images and vectors."""

        def call(rows: np.ndarray) -> Float[Array, "B I c"]:
            ids, scale = self.prompt_ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            codes = self.codec.encode_device(pixels[rows]).reshape(len(rows), -1)
            given = jnp.asarray(embeddings[rows])
            return self._invert(ids, given, codes, scale, steps=self.steps, guided=guidance != 1.0)

        return in_chunks(np.arange(len(pixels)), self.batch, self.parts, call)

    def decode(
        self,
        embeddings: Float[np.ndarray, "B E"],
        keys: Key[Array, " B"],
        guidance: float,
        start: Float[np.ndarray, "B I c"] | None = None,
        eta: float = 0.0,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Decode one image of each embedding, as ``decode_codes`` does its codes."""
        return self.codec.decode(self.decode_codes(embeddings, keys, guidance, start, eta))

    def decode_codes(
        self,
        embeddings: Float[np.ndarray, "B E"],
        keys: Key[Array, " B"],
        guidance: float,
        start: Float[np.ndarray, "B I c"] | None = None,
        eta: float = 0.0,
    ) -> Int[np.ndarray, "B h w"]:
        """Denoise the codes of an image for each embedding, from the embedding alone (section 3.1).

        Without ``start`` the noise is drawn from the keys. ``eta`` is the share of new noise in a step, from 0 to 1.
        """

        def call(rows: np.ndarray) -> Int[Array, "B h w"]:
            ids, scale = self.prompt_ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            first = None if start is None else jnp.asarray(start[rows])[:, None]
            codes = self._decode(
                ids, jnp.asarray(embeddings[rows])[:, None], keys[rows][:, None], scale, first, sees="embedding",
                steps=self.steps, guided=guidance != 1.0, eta=eta,
            )  # fmt: skip
            return codes.reshape(-1, *self.grid)

        return in_chunks(np.arange(len(embeddings)), self.batch, self.parts, call)

    def _pixels(self, call: DrawCall) -> UInt8[Array, "B H W 3"]:
        ids, options = self.prompt_ids(call.prompts), self.prior
        codes = self._sample(
            ids, call.keys, call.guidance, None, sees=self.sees, steps=self.steps, guided=call.guided, options=options
        )
        return self.codec.decode_device(codes.reshape(-1, *self.grid))
