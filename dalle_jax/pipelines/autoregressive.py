"""Prompts to ranked pictures: text, codes, pixels, CLIP scores."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.load import load_clip, load_generator, load_image_tokenizer, stage_folders
from dalle_jax.pipelines.load_text import load_text
from dalle_jax.pipelines.rerank import best_candidates
from dalle_jax.sampling.autoregressive import Settings, picture_keys, sample
from dalle_jax.storage import Place

SIDE_BY_SIDE = 16
"""Candidates of a prompt that one call draws where there are prompts enough to fill it; more come in further calls."""


@dataclass(frozen=True)
class Request:
    """How one prompt is drawn.

    Candidates are numbered from ``first`` on, so that more can be drawn later. ``temperature`` 0 is greedy; ``top_k`` 0
    and ``top_p`` 1 are off; ``guidance`` 1 is off. ``seed`` alone decides the noise of candidate i, whatever else is
    drawn beside it. ``beginning`` uint8 [rows*f W 3]: the top of a picture, whose codes are kept exactly.
    """

    prompt: str
    candidates: int = 16
    keep: int = 4
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    seed: int = 0
    first: int = 0
    beginning: np.ndarray | None = None

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
class Drawn:
    """The pictures kept for one prompt, best first, and all that was drawn on the way."""

    prompt: str
    pictures: np.ndarray  # uint8 [keep H W 3]
    scores: np.ndarray | None  # float32 [keep], cosine similarity; None without a CLIP
    chosen: np.ndarray  # int [keep], which candidates they are
    candidates: np.ndarray  # uint8 [M H W 3]
    candidate_scores: np.ndarray | None  # float32 [M]


class Pipeline:
    """A transformer, its tokenizers and, where there is one, the CLIP that ranks.

    Pictures are drawn in calls of at most ``batch`` at once; a call is compiled once per bucket of
    (prompts, candidates), both rounded up to powers of two, and per guidance on or off.
    """

    def __init__(
        self, generator: Any, image_tokenizer: Any, text: Any, clip: Any = None, clip_text: Any = None, batch: int = 64
    ) -> None:
        self.grid: tuple[int, int] = tuple(generator.grid)
        self.image_tokenizer = image_tokenizer
        self.text, self.clip_text, self.batch = text, clip_text, batch
        self._generator = nnx.split(generator)
        self._tokenizer = nnx.split(image_tokenizer)
        self._clip = None if clip is None else nnx.split(clip)

    @property
    def side(self) -> int:
        """The side of a picture in pixels."""
        return self.grid[0] * self.image_tokenizer.downsample

    @cached_property
    def _sample(self) -> Any:
        graph = self._generator[0]

        def run(
            state: Any,
            text: Int[Array, "P T"],
            keys: Key[Array, "P M"],
            settings: Settings,
            prefix: Int[Array, "P I"],
            lengths: Int[Array, " P"],
            guided: bool,
        ) -> Int[Array, "P M I"]:
            return sample(nnx.merge(graph, state), text, keys, settings, prefix, lengths, guided=guided)

        return jit(run, static_argnames="guided")

    @cached_property
    def _paint(self) -> Any:
        graph = self._tokenizer[0]
        return jit(lambda state, codes: to_uint8(nnx.merge(graph, state).decode(codes.reshape(-1, *self.grid))))

    @cached_property
    def _encode(self) -> Any:
        graph = self._tokenizer[0]
        return jit(lambda state, pixels: nnx.merge(graph, state).encode(to_float(pixels)))

    @cached_property
    def _score(self) -> Any:
        if self._clip is None:
            return None
        graph = self._clip[0]

        def run(state: Any, pixels: Array, text: Int[Array, "P T"]) -> Float[Array, "P M"]:
            clip = nnx.merge(graph, state)
            image = clip.encode_image(to_float(pixels))  # [P*M E]
            words = clip.encode_text(text)  # [P E]
            return jnp.einsum("pme,pe->pm", image.reshape(text.shape[0], -1, image.shape[-1]), words)

        return jit(run)

    def draw(self, requests: list[Request]) -> list[Drawn]:
        """Pictures for every request, in order. Requests of equal ``candidates`` and ``first`` share calls."""
        drawn: dict[int, Drawn] = {}
        for candidates, first in sorted({(request.candidates, request.first) for request in requests}):
            chosen = [i for i, one in enumerate(requests) if (one.candidates, one.first) == (candidates, first)]
            together = max(1, self.batch // min(candidates, SIDE_BY_SIDE))
            for start in range(0, len(chosen), together):
                rows = chosen[start : start + together]
                for i, result in zip(rows, self._draw_bucket([requests[i] for i in rows]), strict=True):
                    drawn[i] = result
        return [drawn[i] for i in range(len(requests))]

    def _draw_bucket(self, requests: list[Request]) -> list[Drawn]:
        prompts = _power_of_two(len(requests))
        padded = requests + [replace(requests[-1], beginning=None)] * (prompts - len(requests))
        candidates, start = requests[0].candidates, requests[0].first
        pieces = min(_power_of_two(candidates), max(1, self.batch // prompts))  # candidates in one call
        painted, scored = [], []
        for first in range(0, candidates, pieces):
            pixels, scores = self._draw_call(padded, start + first, pieces)
            painted.append(pixels)
            scored += [] if scores is None else [scores]
        pictures = np.concatenate(painted, axis=1)[:, :candidates]  # [P M H W 3]
        scores = None if not scored else np.concatenate(scored, axis=1)[:, :candidates]  # [P M]
        results = []
        for row, request in enumerate(requests):
            own = None if scores is None else scores[row]
            best = np.arange(request.keep) if own is None else best_candidates(own[None], request.keep)[0]
            results.append(
                Drawn(
                    prompt=request.prompt,
                    pictures=pictures[row, best],
                    scores=None if own is None else own[best],
                    chosen=best,
                    candidates=pictures[row],
                    candidate_scores=own,
                )
            )
        return results

    def _draw_call(self, requests: list[Request], first: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        text = jnp.asarray(self.text.encode_batch([request.prompt for request in requests]))
        seeds = jnp.asarray([request.seed for request in requests], jnp.uint32)
        keys = picture_keys(seeds, count, first=first)
        settings = Settings(
            temperature=jnp.asarray([request.temperature for request in requests], jnp.float32),
            top_k=jnp.asarray([request.top_k for request in requests], jnp.int32),
            top_p=jnp.asarray([request.top_p for request in requests], jnp.float32),
            guidance=jnp.asarray([request.guidance for request in requests], jnp.float32),
        )
        prefix, lengths = self._prefix(requests)
        guided = any(request.guidance != 1.0 for request in requests)
        codes = self._sample(self._generator[1], text, keys, settings, prefix, lengths, guided=guided)
        pixels = self._paint(self._tokenizer[1], codes)  # [P*M H W 3]
        scores = None
        if self._clip is not None:
            rows = jnp.asarray(self.clip_text.encode_batch([request.prompt for request in requests]))
            scores = np.asarray(self._score(self._clip[1], pixels, rows))
        return np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores

    def _prefix(self, requests: list[Request]) -> tuple[Array, Array]:
        """Codes [P I] and how many of them are given [P]."""
        height, width = self.grid
        codes = np.zeros((len(requests), height * width), np.int32)
        lengths = np.zeros(len(requests), np.int32)
        factor = self.image_tokenizer.downsample
        for row, request in enumerate(requests):
            if request.beginning is None:
                continue
            rows, extra = divmod(request.beginning.shape[0], factor)
            if extra or request.beginning.shape[1:] != (self.side, 3) or not 0 < rows <= height:
                raise UserError(
                    f"beginning: expected the top of a picture {self.side} px wide, its height a multiple of {factor} "
                    f"up to {self.side} px, got {request.beginning.shape[1]} x {request.beginning.shape[0]} px"
                )
            given = self._encode(self._tokenizer[1], request.beginning[None])[0]  # [rows w]
            codes[row, : rows * width] = np.asarray(given).reshape(-1)
            lengths[row] = rows * width
        return jnp.asarray(codes), jnp.asarray(lengths)

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Pictures through the image tokenizer and back."""
        copies = [
            self._paint(self._tokenizer[1], self._encode(self._tokenizer[1], piece)) for piece in self._split(pixels)
        ]
        return np.concatenate([np.asarray(copy) for copy in copies])[: len(pixels)]

    @cached_property
    def _nats(self) -> Any:
        graph = self._generator[0]

        def run(state: Any, text: Int[Array, "B T"], codes: Int[Array, "B I"]) -> Float[Array, " B"]:
            return cross_entropy(nnx.merge(graph, state)(text, codes).image, codes).mean(axis=-1)

        return jit(run)

    def nats(self, pixels: UInt8[np.ndarray, "B H W 3"], captions: list[str]) -> Float[np.ndarray, " B"]:
        """Nats that the transformer needs for each code of a picture, the mean over its codes, given its caption."""
        text = self.text.encode_batch(captions)  # [B T]
        found = []
        for piece, rows in zip(self._split(pixels), self._split(text), strict=True):
            codes = self._encode(self._tokenizer[1], piece).reshape(len(piece), -1)
            found.append(np.asarray(self._nats(self._generator[1], jnp.asarray(rows), codes)))
        return np.concatenate(found)[: len(pixels)]

    def similarity(self, pixels: UInt8[np.ndarray, "B H W 3"], prompts: list[str]) -> Float[np.ndarray, "B n"]:
        """CLIP's cosine of every picture with every prompt."""
        return self.image_vectors(pixels) @ self.text_vectors(prompts).T

    def text_vectors(self, prompts: list[str]) -> Float[np.ndarray, "n E"]:
        """CLIP's unit vector of every prompt."""
        graph, state = self._ranker()
        words = jit(lambda state, text: nnx.merge(graph, state).encode_text(text))
        return np.asarray(words(state, jnp.asarray(self.clip_text.encode_batch(prompts))))

    def image_vectors(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B E"]:
        """CLIP's unit vector of every picture."""
        graph, state = self._ranker()
        see = jit(lambda state, pixels: nnx.merge(graph, state).encode_image(to_float(pixels)))
        return np.concatenate([np.asarray(see(state, piece)) for piece in self._split(pixels)])[: len(pixels)]

    def _ranker(self) -> Any:
        if self._clip is None:
            raise UserError("similarity needs a CLIP, and this pipeline has none; name one with --clip")
        return self._clip

    def _split(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Pieces of one shape, of at most ``batch``, the last filled up by repeating its last picture."""
        size = min(self.batch, _power_of_two(len(pixels)))
        filled = np.concatenate([pixels, np.repeat(pixels[-1:], -len(pixels) % size, axis=0)])
        return list(filled.reshape(-1, size, *pixels.shape[1:]))

    def __call__(self, prompt: str, **settings: Any) -> Drawn:
        """One prompt; ``settings`` are the fields of ``Request``."""
        return self.draw([Request(prompt, **settings)])[0]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def load_pipeline(
    folder: Place, image_tokenizer: Place | None = None, clip: Place | None = None, batch: int = 64
) -> Pipeline:
    """The pipeline of a folder that holds ``pipeline.gin``, or of a transformer's run folder."""
    stages = stage_folders(folder)
    transformer = storage.place(stages.transformer)
    generator = load_generator(transformer)
    ranker_folder = clip or (None if stages.clip is None else storage.place(stages.clip))
    ranker = None if ranker_folder is None else load_clip(ranker_folder)
    return Pipeline(
        generator=generator,
        image_tokenizer=load_image_tokenizer(image_tokenizer or storage.place(stages.image_tokenizer)),
        text=load_text(transformer, generator.text_length),
        clip=ranker,
        clip_text=None
        if ranker is None or ranker_folder is None
        else load_text(ranker_folder, ranker.config.text_length),
        batch=batch,
    )
