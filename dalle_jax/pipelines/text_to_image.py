"""Text to images: prompts, codes, pixels, CLIP scores."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key, Prompts, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput, load_all_pixels, load_pixels
from dalle_jax.images.pixels import centre_square
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.buckets import CallResult, draw_in_buckets
from dalle_jax.pipelines.compiled_network import CompiledNetwork, one_device
from dalle_jax.pipelines.edits.code_filler import fill_by_codes
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.likelihood import CodeLikelihood
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.prompts import Prompt, PromptReader
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestOptions, check_rankers
from dalle_jax.pipelines.slot_engine import SlotEngine
from dalle_jax.sampling.autoregressive import (
    GivenCodes,
    NegativePrompts,
    Settings,
    image_keys,
    sample,
)
from dalle_jax.sampling.decoding import choose_window
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.sampling.slots import Prefilled, SlotSamples, prefill, sample_in_slots


def _sample(
    generator: CodeGenerator,
    text: Prompts,
    keys: Key[Array, "P M"],
    settings: Settings,
    given: GivenCodes | None,
    negative: NegativePrompts | None,
    guided: bool,
    window: int,
) -> SlotSamples:
    """Sample codes, one per pass if ``window`` is 1; code 0 takes no pass of its own."""
    if window > 1:
        return sample_in_slots(generator, text, keys, settings, given, negative, guided=guided, window=window)
    codes = sample(generator, text, keys, settings, given, negative, guided=guided)
    return SlotSamples(codes, jnp.int32(codes.shape[-1] - 1))


def _prefill(generator: CodeGenerator, text: Prompts, guided: bool) -> Prefilled:
    return prefill(generator, text, guided=guided)


CONTEXTS = 16
"""The most prompts that a slot engine computes at once, and holds for images that wait."""


class TextToImage(PromptedPipeline):
    """A transformer that samples codes, a codec that decodes them, and rankers of the images (docs/python.md).

    A call samples at most ``batch`` images. It is compiled once per bucket of (prompts, candidates), both rounded up
    to powers of two, per guidance on or off, and per number of codes in a pass.
    """

    def __init__(
        self,
        generator: CodeGenerator,
        codec: ImageCodec,
        prompts: PromptReader,
        ranker: ClipRanker | None = None,
        batch: int = 64,
        layout: Layout | None = None,
        recommended: RecommendedSampling = RecommendedSampling(),  # noqa: B008 (frozen)
    ) -> None:
        """Place the transformer by ``layout``, by default on one device. Without a ``ranker`` no image is scored."""
        self.grid = generator.grid
        self.codec, self.prompts, self.ranker, self.batch = codec, prompts, ranker, batch
        self.recommended = recommended
        self.layout = one_device() if layout is None else layout
        self.likelihood = CodeLikelihood(generator, codec, prompts, batch, layout)
        self._network = CompiledNetwork(generator, layout)
        self._sample = self._network.jit(_sample, static_argnames=("guided", "window"))
        self.parts = self._network.parts

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.grid[0] * self.codec.downsample

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order; requests of equal ``candidates`` and ``first`` share calls."""
        check_rankers(requests, clip=self.ranker is not None, transformer=True)
        return draw_in_buckets(requests, self.batch, self._draw_call, self.parts)

    def fill_windows(self, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
        """Draw the hidden pixels of windows by their codes."""
        return fill_by_codes(self, call)

    def fill_codes(
        self, prompts: list[Prompt], options: list[RequestOptions], keys: Key[Array, "P M"], given: GivenCodes
    ) -> Int[Array, "P M I"]:
        """Sample the codes that are not given, in raster order: they depend on the given codes before them alone."""
        return self._codes(prompts, options, keys, given, None).codes

    def _codes(
        self, prompts: list[Prompt], options: list[RequestOptions], keys: Key[Array, "P M"], given: GivenCodes,
        negative: NegativePrompts | None,
    ) -> SlotSamples:  # fmt: skip
        """Sample codes. All options have the same ``decoding`` and ``window``."""
        text, guided = jnp.asarray(self.prompts.read(prompts)), any(one.guided for one in options)
        window = self.window(options[0], keys.size, guided)
        return self._sample(text, keys, Settings.stack(options), given, negative, guided=guided, window=window)

    def window(self, options: RequestOptions, images: int, guided: bool) -> int:
        """Return the number of codes per pass of a call of so many images; 1 is sequential decoding."""
        device = self.layout.mesh.devices.flat[0].device_kind
        rows = -(-images * (2 if guided else 1) // self.parts)  # on each device
        return choose_window(options.decoding, options.window, rows, device)

    def slot_engine(self, *, guided: bool, window: int, group: int = 1, slots: int | None = None) -> SlotEngine:
        """Return a new engine of the transformer, by default of ``batch`` slots."""
        count = self.batch if slots is None else slots
        contexts = min(count, CONTEXTS)
        return SlotEngine(self._network, slots=count, contexts=contexts, guided=guided, window=window, group=group)

    def code_flops(self, images_per_prompt: float, guided: bool) -> float:
        """Return the FLOPs of the products of an image's codes, one per pass, with its share of its prompt."""
        text, key = jnp.asarray(self.prompts.read(["any"])), image_keys(jnp.zeros(1, jnp.uint32), 1)
        prompt = self._network.jit(_prefill, static_argnames=("guided",)).flops(text, guided=guided)
        codes = self._sample.flops(text, key, Settings.of(1), None, None, guided=guided, window=1)
        return codes - prompt + prompt / images_per_prompt

    def given_top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Cut an image to the model's size, and return its top in whole rows of codes."""
        if not 0.0 < share <= 1.0:
            raise UserError(
                f"given_rows: expected the share of the image's rows that is given, above 0 and at most 1, got {share}"
            )
        rows = max(1, round(share * self.grid[0]))
        return centre_square(load_pixels(image, "given_image"), self.side)[: rows * self.codec.downsample]

    def _draw_call(self, requests: list[Request], first: int, count: int) -> CallResult:
        """Sample ``count`` candidates of each request in one call."""
        options = [request.options for request in requests]
        keys = image_keys(jnp.asarray([one.seed for one in options], jnp.uint32), count, first=first)
        prompts, given = [one.prompt for one in requests], self._given(requests, count)
        found = self._codes(prompts, options, keys, given, self._negative(requests))
        pixels = self.codec.decode_device(found.codes.reshape(-1, *self.grid))  # [P*M H W 3]
        scores = self._scores(requests, found.codes, pixels)
        return CallResult(
            np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores, int(found.passes)
        )

    def _scores(
        self, requests: list[Request], codes: Int[Array, "P M I"], pixels: UInt8[Array, "B H W 3"]
    ) -> Float[np.ndarray, "P M"] | None:
        """Return the scores of candidates by the ranker that all requests name, or None without one."""
        options, texts, scores = [one.options for one in requests], [one.text for one in requests], None
        if self.ranker is not None and options[0].ranker != "likelihood" and any(text is not None for text in texts):
            scores = self.ranker.scores(pixels, [text or "" for text in texts])
        if not options[0].ranks_by_likelihood:
            return scores
        likelihood = self.likelihood.of_codes([one.prompt for one in requests], codes)
        weights = np.array([[one.likelihood_weight] for one in options], np.float32)  # [P 1]
        return likelihood if scores is None else scores + weights * likelihood

    def _log_likelihoods(self, images: ImageInput | Sequence[ImageInput], texts: list[str]) -> Float[np.ndarray, "B n"]:
        """Return log p(codes | text) / I of the middle squares of images, at the model's size."""
        pixels = np.stack([centre_square(one, self.side) for one in load_all_pixels(images)])
        every = np.repeat(pixels, len(texts), axis=0)  # [B*n H W 3]
        return -self.likelihood.nats(every, texts * len(pixels)).reshape(len(pixels), len(texts))

    def _negative(self, requests: list[Request]) -> NegativePrompts | None:
        """Return the negative prompts of the requests, or None if none has one."""
        given = [request.negative_prompt is not None for request in requests]
        if not any(given):
            return None
        every = [one.prompt if one.negative_prompt is None else one.negative_prompt for one in requests]
        return NegativePrompts(jnp.asarray(self.prompts.read(every)), jnp.asarray(given))

    def _given(self, requests: list[Request], candidates: int) -> GivenCodes:
        """Return the codes of the given images, for each candidate."""
        height, width = self.grid
        codes = np.zeros((len(requests), height * width), np.int32)
        keep = np.zeros(codes.shape, bool)
        factor = self.codec.downsample
        for row, request in enumerate(requests):
            top = request.given_image
            if top is None:
                continue
            rows, extra = divmod(top.shape[0], factor)
            if extra or top.shape[1:] != (self.side, 3) or not 0 < rows <= height:
                raise UserError(
                    f"given_image: expected the top of an image, {self.side} px wide and a multiple of {factor} px "
                    f"high up to {self.side} px, got {top.shape[1]} x {top.shape[0]} px"
                )
            given = self.codec.encode_device(top[None])[0]  # [rows w]
            codes[row, : rows * width] = np.asarray(given).reshape(-1)
            keep[row, : rows * width] = True
        return GivenCodes(jnp.repeat(jnp.asarray(codes)[:, None], candidates, axis=1), jnp.asarray(keep))
