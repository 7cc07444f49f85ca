"""Prompts to ranked images: text, codes, pixels, CLIP scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, overload

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from dalle_jax.arrays import Array, Float, Int, Key, Prompts, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput, load_all_pixels, load_pixels
from dalle_jax.images.pixels import centre_square
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.batching import pieces, power_of_two
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import Prompt, Reader, read_prompts
from dalle_jax.pipelines.ranker import Pixels, Ranker
from dalle_jax.pipelines.rerank import best_candidates
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample

SIDE_BY_SIDE = 16
"""Candidates of a prompt that one call draws where there are prompts enough to fill it; more come in further calls."""


@dataclass(frozen=True)
class Request:
    """How one prompt is drawn.

    Candidates are numbered from ``first`` on, so that more can be drawn later. ``temperature`` 0 is greedy; ``top_k`` 0
    and ``top_p`` 1 are off; ``guidance`` 1 is off. ``seed`` alone decides the noise of candidate i, whatever else is
    drawn beside it. ``beginning`` uint8 [rows*f W 3]: the top of an image, whose codes are kept exactly. ``caption``
    is what CLIP compares images with where the prompt is no text.
    """

    prompt: Prompt
    candidates: int = 16
    keep: int = 4
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    seed: int = 0
    first: int = 0
    beginning: np.ndarray | None = None
    caption: str | None = None

    @property
    def text(self) -> str | None:
        """What CLIP compares images with, if anything."""
        return self.prompt if isinstance(self.prompt, str) else self.caption

    @property
    def said(self) -> str:
        """The prompt in words."""
        if self.text is not None:
            return self.text
        return "features" if isinstance(self.prompt, np.ndarray) else f"class {self.prompt}"

    def __post_init__(self) -> None:
        checks = (
            ("candidates", 1 <= self.candidates <= 512, "between 1 and 512", self.candidates),
            ("keep", 1 <= self.keep <= self.candidates, f"between 1 and candidates ({self.candidates})", self.keep),
            ("temperature", 0.0 <= self.temperature < math.inf, "0 or more", self.temperature),
            ("top_k", self.top_k >= 0, "0 (off) or more", self.top_k),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]", self.top_p),
            ("guidance", 0.0 <= self.guidance < math.inf, "0 or more (1 is off)", self.guidance),
            ("seed", 0 <= self.seed < 2**32, "in [0, 2^32)", self.seed),
            ("first", self.first >= 0, "0 or more", self.first),
        )
        for name, fine, expected, got in checks:
            if not fine:
                raise UserError(f"{name}: expected {expected}, got {got}")


@dataclass(frozen=True)
class Generation:
    """The images kept for one prompt, best first, and all that was drawn on the way."""

    prompt: str  # in words, where it is a class or features
    pixels: np.ndarray  # uint8 [keep H W 3]
    scores: np.ndarray | None  # float32 [keep], cosine similarity; None without a CLIP or without a text
    chosen: np.ndarray  # int [keep], which candidates they are
    candidates: np.ndarray  # uint8 [M H W 3]
    candidate_scores: np.ndarray | None  # float32 [M]

    @property
    def images(self) -> list[Image.Image]:
        """``images`` as images of Pillow's."""
        return [Image.fromarray(image) for image in self.pixels]


Several: TypeAlias = list[str] | tuple[str, ...]
SeveralPrompts: TypeAlias = list[str] | list[int] | list[np.ndarray] | tuple[Prompt, ...]
"""Said so closely because a text is a sequence of texts too."""


class Pipeline:
    """A transformer, its tokenizers and, where there is one, the CLIP that ranks (docs/python.md).

    A call draws; ``rank`` compares images with texts; ``tokenizer`` turns images into codes and back. Images are
    drawn in calls of at most ``batch`` at once; a call is compiled once per bucket of (prompts, candidates), both
    rounded up to powers of two, and per guidance on or off.
    """

    def __init__(
        self,
        generator: Any,
        image_tokenizer: Any,
        text: Reader,
        clip: Any = None,
        clip_text: Any = None,
        batch: int = 64,
    ) -> None:
        """``text`` is what reads prompts: a text tokenizer, or the condition of a model that takes no texts."""
        self.grid: tuple[int, int] = tuple(generator.grid)
        self.tokenizer = ImageCodec(image_tokenizer, batch)
        self.ranker = None if clip is None else Ranker(clip, clip_text, batch)
        self.text, self.batch = text, batch
        self._generator = nnx.split(generator)

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.grid[0] * self.tokenizer.downsample

    @cached_property
    def _sample(self) -> Any:
        graph = self._generator[0]

        def run(
            state: Any,
            text: Prompts,
            keys: Key[Array, "P M"],
            settings: Settings,
            prefix: Int[Array, "P I"],
            lengths: Int[Array, " P"],
            guided: bool,
        ) -> Int[Array, "P M I"]:
            return sample(nnx.merge(graph, state), text, keys, settings, prefix, lengths, guided=guided)

        return jit(run, static_argnames="guided")

    @overload
    def __call__(
        self, prompt: Prompt, *, candidates: int = 16, keep: int | None = None, temperature: float = 1.0,
        top_k: int = 0, top_p: float = 1.0, guidance: float = 3.0, seed: int = 0, first: int = 0,
        image: ImageInput | None = None, keep_rows: float = 0.5, caption: str | Several | None = None,
    ) -> Generation: ...  # fmt: skip

    @overload
    def __call__(
        self, prompt: SeveralPrompts, *, candidates: int = 16, keep: int | None = None, temperature: float = 1.0,
        top_k: int = 0, top_p: float = 1.0, guidance: float = 3.0, seed: int = 0, first: int = 0,
        image: ImageInput | None = None, keep_rows: float = 0.5, caption: str | Several | None = None,
    ) -> list[Generation]: ...  # fmt: skip

    def __call__(
        self,
        prompt: Prompt | SeveralPrompts,
        *,
        candidates: int = 16,
        keep: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 3.0,
        seed: int = 0,
        first: int = 0,
        image: ImageInput | None = None,
        keep_rows: float = 0.5,
        caption: str | Several | None = None,
    ) -> Generation | list[Generation]:
        """The images of one prompt, or of each of several, all drawn with the same ``seed``.

        Settings are those of ``Request``; ``keep`` None keeps 4, or all if there are fewer. Of ``image``, cut to the
        middle square at the model's size, the share ``keep_rows`` is kept, in whole rows of codes from the top on; what
        is below is drawn. A model of classes or of a text encoder's features takes a number or an array [t c] (several:
        a list) as its prompt, and a ``caption`` of each for CLIP. Raises UserError for values that cannot be.
        """
        several = isinstance(prompt, list | tuple)
        prompts: list[Any] = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        captions = list(caption) if isinstance(caption, list | tuple) else [caption]
        if not prompts:
            raise UserError(f"prompt: expected one or several, got {prompt!r}")
        if caption is not None and (len(captions) != len(prompts) or isinstance(prompts[0], str)):
            raise UserError(f"caption: expected one for each prompt that is no text ({len(prompts)}), got {caption!r}")
        beginning = None if image is None else self._beginning(image, keep_rows)
        requests = [
            Request(
                prompt=one,
                candidates=candidates,
                keep=min(4, candidates) if keep is None else keep,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                guidance=guidance,
                seed=seed,
                first=first,
                beginning=beginning,
                caption=None if caption is None else captions[number],
            )
            for number, one in enumerate(prompts)
        ]
        drawn = self.draw(requests)
        return drawn if several else drawn[0]

    def _beginning(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """The top of an image, cut to the model's size and to whole rows of codes."""
        if not 0.0 < share <= 1.0:
            raise UserError(f"keep_rows: expected a share in (0, 1], got {share}")
        rows = max(1, round(share * self.grid[0]))
        return centre_square(load_pixels(image), self.side)[: rows * self.tokenizer.downsample]

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Images for every request, in order. Requests of equal ``candidates`` and ``first`` share calls."""
        drawn: dict[int, Generation] = {}
        for candidates, first in sorted({(request.candidates, request.first) for request in requests}):
            chosen = [i for i, one in enumerate(requests) if (one.candidates, one.first) == (candidates, first)]
            together = max(1, self.batch // min(candidates, SIDE_BY_SIDE))
            for start in range(0, len(chosen), together):
                rows = chosen[start : start + together]
                for i, result in zip(rows, self._draw_bucket([requests[i] for i in rows]), strict=True):
                    drawn[i] = result
        return [drawn[i] for i in range(len(requests))]

    def _draw_bucket(self, requests: list[Request]) -> list[Generation]:
        prompts = power_of_two(len(requests))
        padded = requests + [replace(requests[-1], beginning=None)] * (prompts - len(requests))
        candidates, start = requests[0].candidates, requests[0].first
        pieces = min(power_of_two(candidates), max(1, self.batch // prompts))  # candidates in one call
        painted, scored = [], []
        for first in range(0, candidates, pieces):
            pixels, scores = self._draw_call(padded, start + first, pieces)
            painted.append(pixels)
            scored += [] if scores is None else [scores]
        images = np.concatenate(painted, axis=1)[:, :candidates]  # [P M H W 3]
        scores = None if not scored else np.concatenate(scored, axis=1)[:, :candidates]  # [P M]
        results = []
        for row, request in enumerate(requests):
            own = None if scores is None or request.text is None else scores[row]
            best = np.arange(request.keep) if own is None else best_candidates(own[None], request.keep)[0]
            results.append(
                Generation(
                    prompt=request.said,
                    pixels=images[row, best],
                    scores=None if own is None else own[best],
                    chosen=best,
                    candidates=images[row],
                    candidate_scores=own,
                )
            )
        return results

    def _draw_call(self, requests: list[Request], first: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        text = jnp.asarray(read_prompts(self.text, [request.prompt for request in requests]))
        seeds = jnp.asarray([request.seed for request in requests], jnp.uint32)
        keys = image_keys(seeds, count, first=first)
        settings = Settings(
            temperature=jnp.asarray([request.temperature for request in requests], jnp.float32),
            top_k=jnp.asarray([request.top_k for request in requests], jnp.int32),
            top_p=jnp.asarray([request.top_p for request in requests], jnp.float32),
            guidance=jnp.asarray([request.guidance for request in requests], jnp.float32),
        )
        prefix, lengths = self._prefix(requests)
        guided = any(request.guidance != 1.0 for request in requests)
        codes = self._sample(self._generator[1], text, keys, settings, prefix, lengths, guided=guided)
        pixels = self.tokenizer.paint(codes.reshape(-1, *self.grid))  # [P*M H W 3]
        texts = [request.text for request in requests]
        scores = None
        if self.ranker is not None and any(text is not None for text in texts):
            scores = self.ranker.score(pixels, [text or "" for text in texts])
        return np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores

    def _prefix(self, requests: list[Request]) -> tuple[Array, Array]:
        """Codes [P I] and how many of them are given [P]."""
        height, width = self.grid
        codes = np.zeros((len(requests), height * width), np.int32)
        lengths = np.zeros(len(requests), np.int32)
        factor = self.tokenizer.downsample
        for row, request in enumerate(requests):
            if request.beginning is None:
                continue
            rows, extra = divmod(request.beginning.shape[0], factor)
            if extra or request.beginning.shape[1:] != (self.side, 3) or not 0 < rows <= height:
                raise UserError(
                    f"beginning: expected the top of an image {self.side} px wide, its height a multiple of {factor} "
                    f"up to {self.side} px, got {request.beginning.shape[1]} x {request.beginning.shape[0]} px"
                )
            given = self.tokenizer.look(request.beginning[None])[0]  # [rows w]
            codes[row, : rows * width] = np.asarray(given).reshape(-1)
            lengths[row] = rows * width
        return jnp.asarray(codes), jnp.asarray(lengths)

    @cached_property
    def _nats(self) -> Any:
        graph = self._generator[0]

        def run(state: Any, text: Prompts, codes: Int[Array, "B I"]) -> Float[Array, " B"]:
            return cross_entropy(nnx.merge(graph, state)(text, codes).image, codes).mean(axis=-1)

        return jit(run)

    def nats(self, pixels: UInt8[np.ndarray, "B H W 3"], prompts: Sequence[Prompt]) -> Float[np.ndarray, " B"]:
        """Nats that the transformer needs for each code of an image, the mean over its codes, given its prompt."""
        text = read_prompts(self.text, prompts)  # [B T]
        found = []
        for piece, rows in zip(pieces(pixels, self.batch), pieces(text, self.batch), strict=True):
            codes = self.tokenizer.look(piece).reshape(len(piece), -1)
            found.append(np.asarray(self._nats(self._generator[1], jnp.asarray(rows), codes)))
        return np.concatenate(found)[: len(pixels)]

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Images through the image tokenizer and back."""
        return self.tokenizer.reconstruct(pixels)

    @overload
    def rank(self, images: ImageInput | Sequence[ImageInput], text: str) -> Float[np.ndarray, " B"]: ...

    @overload
    def rank(self, images: ImageInput | Sequence[ImageInput], text: Several) -> Float[np.ndarray, "B n"]: ...

    def rank(self, images: ImageInput | Sequence[ImageInput], text: str | Several) -> np.ndarray:
        """CLIP's cosine of each of one or more images, of any sizes, with a text [B], or with each of several [B n].

        Raises UserError where the pipeline has no CLIP.
        """
        scores = self.similarity(load_all_pixels(images), [text] if isinstance(text, str) else list(text))
        return scores[:, 0] if isinstance(text, str) else scores

    def similarity(self, pixels: Pixels, prompts: list[str]) -> Float[np.ndarray, "B n"]:
        """CLIP's cosine of every image with every prompt."""
        return self.image_vectors(pixels) @ self.text_vectors(prompts).T

    def text_vectors(self, prompts: list[str]) -> Float[np.ndarray, "n E"]:
        """CLIP's unit vector of every prompt."""
        return self._ranker().text_vectors(prompts)

    def image_vectors(self, pixels: Pixels) -> Float[np.ndarray, "B E"]:
        """CLIP's unit vector of every image."""
        return self._ranker().image_vectors(pixels)

    def _ranker(self) -> Ranker:
        if self.ranker is None:
            raise UserError(
                "similarity needs a CLIP, and this pipeline has none; name one with --clip DIR (in Python clip=DIR)"
            )
        return self.ranker
