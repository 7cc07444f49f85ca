"""Text to images: prompts, codes, pixels, CLIP scores."""

from collections.abc import Sequence
from typing import TypeAlias, Unpack, overload

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Int, Key, Prompts, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput, load_pixels
from dalle_jax.images.pixels import centre_square
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.buckets import draw_in_buckets
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.likelihood import CodeLikelihood
from dalle_jax.pipelines.prompts import Prompt, PromptReader
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestKeywords, RequestOptions
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys, sample

Captions: TypeAlias = str | list[str] | tuple[str, ...]
SeveralPrompts: TypeAlias = list[str] | list[int] | list[np.ndarray] | tuple[Prompt, ...]
"""Lists and tuples only, since a string is itself a sequence of strings."""


def _sample(
    generator: CodeGenerator,
    text: Prompts,
    keys: Key[Array, "P M"],
    settings: Settings,
    given: GivenCodes,
    guided: bool,
) -> Int[Array, "P M I"]:
    return sample(generator, text, keys, settings, given, guided=guided)


class TextToImage:
    """A transformer that samples codes, a codec that decodes them, and a CLIP that ranks the images (docs/python.md).

    A call samples at most ``batch`` images. It is compiled once per bucket of (prompts, candidates), both rounded up
    to powers of two, and per guidance on or off.
    """

    def __init__(
        self,
        generator: CodeGenerator,
        codec: ImageCodec,
        prompts: PromptReader,
        ranker: ClipRanker | None = None,
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the transformer by ``layout``, by default on one device. Without a ``ranker`` no image is scored."""
        self.grid = generator.grid
        self.codec, self.prompts, self.ranker, self.batch = codec, prompts, ranker, batch
        self.likelihood = CodeLikelihood(generator, codec, prompts, batch, layout)
        self._sample = CompiledNetwork(generator, layout).jit(_sample, static_argnames=("guided",))

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.grid[0] * self.codec.downsample

    @overload
    def __call__(
        self, prompt: Prompt, *, given_image: ImageInput | None = None, given_rows: float = 0.5,
        caption: Captions | None = None, **options: Unpack[RequestKeywords],
    ) -> Generation: ...  # fmt: skip

    @overload
    def __call__(
        self, prompt: SeveralPrompts, *, given_image: ImageInput | None = None, given_rows: float = 0.5,
        caption: Captions | None = None, **options: Unpack[RequestKeywords],
    ) -> list[Generation]: ...  # fmt: skip

    def __call__(
        self,
        prompt: Prompt | SeveralPrompts,
        *,
        given_image: ImageInput | None = None,
        given_rows: float = 0.5,
        caption: Captions | None = None,
        **options: Unpack[RequestKeywords],
    ) -> Generation | list[Generation]:
        """Sample images of one prompt, or of each of several with the same ``seed``.

        ``options`` are the fields of ``RequestOptions``. ``given_image`` is cut to its middle square at the model's
        size, and the share ``given_rows`` of it, in whole rows of codes from the top, is kept. A model of classes or
        of caption features takes an int or an array [t c] as its prompt, and a ``caption`` for CLIP. Raises UserError
        for values out of range.
        """
        several = isinstance(prompt, list | tuple)
        prompts: list[Prompt] = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        captions = list(caption) if isinstance(caption, list | tuple) else [caption]
        if not prompts:
            raise UserError(f"prompt: expected one or several, got {prompt!r}")
        if caption is not None and (len(captions) != len(prompts) or isinstance(prompts[0], str)):
            raise UserError(
                f"caption: expected one for each prompt that is not a text ({len(prompts)}), got {caption!r}"
            )
        top = None if given_image is None else self._top(given_image, given_rows)
        one_for_all = RequestOptions(**options)
        requests = [
            Request(one, one_for_all, top, None if caption is None else captions[number])
            for number, one in enumerate(prompts)
        ]
        drawn = self.draw(requests)
        return drawn if several else drawn[0]

    def rank(self, images: ImageInput | Sequence[ImageInput], text: str | list[str] | tuple[str, ...]) -> np.ndarray:
        """Return CLIP's cosine similarity of images with one text [B], or with several [B n]."""
        return self.require_ranker().rank(images, text)

    def require_ranker(self) -> ClipRanker:
        """Return the ranker; raise UserError if there is none."""
        if self.ranker is None:
            raise UserError(
                "similarity: expected a CLIP, got none; give its folder with --clip DIR (in Python clip=DIR)"
            )
        return self.ranker

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order; requests of equal ``candidates`` and ``first`` share calls."""
        return draw_in_buckets(requests, self.batch, self._draw_call)

    def _top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Cut an image to the model's size, and return its top in whole rows of codes."""
        if not 0.0 < share <= 1.0:
            raise UserError(f"given_rows: expected a share in (0, 1], got {share}")
        rows = max(1, round(share * self.grid[0]))
        return centre_square(load_pixels(image, "given_image"), self.side)[: rows * self.codec.downsample]

    def _draw_call(self, requests: list[Request], first: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample ``count`` candidates of each request in one call; return images [P M H W 3] and scores [P M]."""
        text = jnp.asarray(self.prompts.read([request.prompt for request in requests]))
        options = [request.options for request in requests]
        keys = image_keys(jnp.asarray([one.seed for one in options], jnp.uint32), count, first=first)
        guided = any(one.guidance != 1.0 for one in options)
        codes = self._sample(text, keys, Settings.stack(options), self._given(requests, count), guided=guided)
        pixels = self.codec.decode_device(codes.reshape(-1, *self.grid))  # [P*M H W 3]
        texts = [request.text for request in requests]
        scores = None
        if self.ranker is not None and any(text is not None for text in texts):
            scores = self.ranker.scores(pixels, [text or "" for text in texts])
        return np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores

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
