"""Text to images through CLIP: prompt, prior, CLIP image embedding, denoised codes, pixels (arXiv 2204.06125).

DALL·E 2's decoder denoises pixels; this one denoises the codes of an image tokenizer (models/code_denoiser.py).
"""

from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.code_vectors import KnownCodes, invert_codes, sample_codes
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.flow_ode import Euler
from dalle_jax.diffusion.samplers.sampler import Sampler
from dalle_jax.images.inputs import ImageInput
from dalle_jax.models.clip import Clip
from dalle_jax.models.code_denoiser import CodeDenoiser, Guide
from dalle_jax.models.priors.prior import Prior, PriorOptions, TextCondition, read_text
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import padded_chunks
from dalle_jax.pipelines.buckets import draw_in_buckets
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.prompts import Prompt, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestOptions
from dalle_jax.sampling.autoregressive import GivenCodes, image_keys

Sees: TypeAlias = Literal["embedding", "caption", "both"]
"""The inputs of the decoder: the image embedding of the prior, the caption alone (GLIDE, arXiv 2112.10741), or both."""


def sees_of(name: str) -> Sees:
    """Return the inputs of that name. Raise UserError for an unknown one."""
    for one in get_args(Sees):
        if one == name:
            return one
    raise UserError(f"sees: expected {', '.join(get_args(Sees))}, got {name}")


DECODER_STEPS = 8
"""The decoder's steps by default."""

NO_GIVEN_IMAGE = "given_image: expected none for a diffusion model; inpainting takes a mask"


class TextVectorPrior(nnx.Module):
    """The text vector itself in place of an image vector: the baseline without a prior (section 5.1)."""

    @property
    def unit_vectors(self) -> bool:
        """True: text and image vectors have length 1."""
        return True

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Return the text vector of each prompt, M times."""
        del empty, options
        return jnp.repeat(text.vector[:, None], keys.shape[1], axis=1)


class PromptEmbedder(nnx.Module):
    """A prior, and the CLIP whose texts it reads."""

    def __init__(self, prior: Prior, clip: Clip) -> None:
        self.prior, self.clip = nnx.data(prior), clip


class UnclipNetworks(PromptEmbedder):
    """The networks from token ids to codes."""

    def __init__(self, prior: Prior, clip: Clip, decoder: CodeDenoiser) -> None:
        super().__init__(prior, clip)
        self.decoder = decoder


class PromptIds(NamedTuple):
    """Token ids of prompts, cut to the text length of the decoder and of CLIP, and those of the empty text."""

    decoder: Int[Array, "P T"]
    clip: Int[Array, "P T"]
    empty: Int[Array, "1 T"]


def embed_prompts(
    networks: PromptEmbedder, ids: PromptIds, keys: Key[Array, "P M"], options: PriorOptions
) -> Float[Array, "P M E"]:
    """Draw an image vector for each candidate, from its own key."""
    prior = networks.prior
    text, empty = (read_text(networks.clip, one, prior.unit_vectors) for one in (ids.clip, ids.empty))
    prior_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 0)))(keys)
    return prior.draw(text, empty, prior_keys, options)


def given_inputs(ids: PromptIds, embeddings: Float[Array, "P M E"], sees: Sees) -> Guide:
    """Return the embedding, the caption or both of each candidate, as the decoder reads them."""
    prompts, count = embeddings.shape[:2]
    text = jnp.repeat(ids.decoder, count, axis=0)  # [P*M T]
    given = Guide(text, embeddings.reshape(prompts * count, -1), jnp.ones(prompts * count, bool))
    every, none = jnp.ones(prompts * count, bool), jnp.zeros(prompts * count, bool)
    return given.without(every if sees == "embedding" else none, every if sees == "caption" else none)


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
    sees: Sees,
    steps: int,
    guided: bool,
    options: PriorOptions,
) -> Int[Array, "P M I"]:
    embeddings = embed_prompts(networks, ids, keys, options)
    return decode_embeddings(networks, ids, embeddings, keys, guidance, None, sees, steps, guided)


def _fill(
    networks: UnclipNetworks,
    ids: PromptIds,
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    given: GivenCodes,
    sees: Sees,
    steps: int,
    guided: bool,
    options: PriorOptions,
) -> Int[Array, "P M I"]:
    """Draw an embedding for each candidate and denoise the codes that are not given."""
    _, count, places = given.codes.shape
    embeddings = embed_prompts(networks, ids, keys, options)
    known = KnownCodes(given.codes.reshape(-1, places), jnp.repeat(given.keep, count, axis=0))
    return decode_embeddings(networks, ids, embeddings, keys, guidance, None, sees, steps, guided, known=known)


class Unclip(PromptedPipeline):
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
        self._sample = network.jit(_sample, static_argnames=(*static, "options"))
        self._fill = network.jit(_fill, static_argnames=(*static, "options"))
        self._decode = network.jit(decode_embeddings, static_argnames=(*static, "eta"))
        self._invert = network.jit(invert_images, static_argnames=("steps", "guided"))
        self._embed = network.jit(embed_prompts, static_argnames=("options",))

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.grid[0] * self.codec.downsample

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order, ranked by CLIP.

        Raise UserError for an option that diffusion does not have: a temperature, top-k, top-p, or a given image.
        """
        for request in requests:
            check_options(request)
        return draw_in_buckets(requests, self.batch, self._draw_call)

    def fill_codes(
        self, prompts: list[Prompt], options: list[RequestOptions], keys: Key[Array, "P M"], given: GivenCodes
    ) -> Int[Array, "P M I"]:
        """Denoise the codes that are not given, from all the given ones (diffusion/code_vectors.py)."""
        for prompt, one in zip(prompts, options, strict=True):
            check_options(Request(prompt, one))
        guidance = jnp.asarray([one.guidance for one in options], jnp.float32)
        guided = any(one.guidance != 1.0 for one in options)
        return self._fill(
            self._ids([str(one) for one in prompts]), keys, guidance, given, sees=self.sees, steps=self.steps,
            guided=guided, options=self.prior,
        )  # fmt: skip

    def given_top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Raise UserError: a diffusion model keeps no rows of codes."""
        del image, share
        raise UserError(NO_GIVEN_IMAGE)

    def embed(self, prompts: list[str], keys: Key[Array, "P M"]) -> Float[np.ndarray, "P M E"]:
        """Draw an image vector of the prior for each prompt and key."""
        return np.asarray(self._embed(self._ids(prompts), keys, options=self.prior))

    def invert(
        self, pixels: UInt8[np.ndarray, "B H W 3"], embeddings: Float[np.ndarray, "B E"], guidance: float
    ) -> Float[np.ndarray, "B I c"]:
        """Return the noise from which ``decode`` makes nearly the same codes at ``eta`` 0, of images and vectors."""
        found = []
        for rows in padded_chunks(np.arange(len(pixels)), self.batch):
            ids, scale = self._ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            codes = self.codec.encode_device(pixels[rows]).reshape(len(rows), -1)
            given = jnp.asarray(embeddings[rows])
            noise = self._invert(ids, given, codes, scale, steps=self.steps, guided=guidance != 1.0)
            found.append(np.asarray(noise))
        return np.concatenate(found)[: len(pixels)]

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
        found = []
        for rows in padded_chunks(np.arange(len(embeddings)), self.batch):
            ids, scale = self._ids([""] * len(rows)), jnp.full(len(rows), guidance, jnp.float32)
            first = None if start is None else jnp.asarray(start[rows])[:, None]
            codes = self._decode(
                ids, jnp.asarray(embeddings[rows])[:, None], keys[rows][:, None], scale, first, sees="embedding",
                steps=self.steps, guided=guidance != 1.0, eta=eta,
            )  # fmt: skip
            found.append(np.asarray(codes.reshape(-1, *self.grid)))
        return np.concatenate(found)[: len(embeddings)]

    def _ids(self, prompts: list[str]) -> PromptIds:
        clip = self.embedder.text.encode_batch([*prompts, ""])
        return PromptIds(jnp.asarray(self.prompts.read(prompts)), jnp.asarray(clip[:-1]), jnp.asarray(clip[-1:]))

    def _draw_call(self, requests: list[Request], first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample ``count`` candidates of each request in one call; return images [P M H W 3] and scores [P M]."""
        prompts = [str(request.prompt) for request in requests]
        keys = image_keys(jnp.asarray([one.options.seed for one in requests], jnp.uint32), count, first=first)
        guidance = jnp.asarray([one.options.guidance for one in requests], jnp.float32)
        guided = any(one.options.guidance != 1.0 for one in requests)
        codes = self._sample(
            self._ids(prompts), keys, guidance, sees=self.sees, steps=self.steps, guided=guided, options=self.prior
        )
        pixels = self.codec.decode_device(codes.reshape(-1, *self.grid))  # [P*M H W 3]
        scores = self.ranker.scores(pixels, prompts)
        return np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores


def check_options(request: Request) -> None:
    """Raise UserError for an option that diffusion does not have, and for a prompt that is not a text."""
    options = request.options
    wrong = {"temperature": options.temperature != 1.0, "top_k": options.top_k != 0, "top_p": options.top_p != 1.0}
    for name in (name for name, set_ in wrong.items() if set_):
        raise UserError(f"{name}: expected its default, since a diffusion model has no {name}, got a different value")
    if request.given_image is not None:
        raise UserError(NO_GIVEN_IMAGE)
    if not isinstance(request.prompt, str):
        raise UserError(f"prompt: expected a text, got {type(request.prompt).__name__}")
