"""The call of a pipeline with prompts, and the CLIP that ranks its images.

Every kind of text-to-image model shares the first class, and every diffusion model the second.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, Unpack, overload

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.buckets import CallResult, draw_in_buckets
from dalle_jax.pipelines.prompts import Prompt, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestKeywords, RequestOptions, check_rankers
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.sampling.options import Ranker, RecommendedSampling, SamplingOptions

Captions: TypeAlias = str | list[str] | tuple[str, ...]
SeveralPrompts: TypeAlias = list[str] | list[int] | list[np.ndarray] | tuple[Prompt, ...]
"""Lists and tuples only, since a string is itself a sequence of strings."""


class PromptedPipeline(ABC):
    """A pipeline from prompts to images, which its ``ranker`` compares with the prompts; None without a CLIP.

    ``recommended`` are the options of sampling that the publisher, the training or an evaluation recommends.
    """

    ranker: ClipRanker | None
    recommended: RecommendedSampling = RecommendedSampling()

    def options(self, **given: Unpack[RequestKeywords]) -> RequestOptions:
        """Return the options of a request: those ``given``, else the recommended ones, else the defaults."""
        return RequestOptions(**(RequestKeywords(**self.recommended.keywords()) | given))

    @abstractmethod
    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order."""

    @abstractmethod
    def given_top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return the top of an image that a request may keep. Raise UserError if the model keeps none."""

    @overload
    def __call__(
        self, prompt: Prompt, *, given_image: ImageInput | None = None, given_rows: float = 0.5,
        caption: Captions | None = None, negative_prompt: Prompt | None = None, **options: Unpack[RequestKeywords],
    ) -> Generation: ...  # fmt: skip

    @overload
    def __call__(
        self, prompt: SeveralPrompts, *, given_image: ImageInput | None = None, given_rows: float = 0.5,
        caption: Captions | None = None, negative_prompt: Prompt | None = None, **options: Unpack[RequestKeywords],
    ) -> list[Generation]: ...  # fmt: skip

    def __call__(
        self,
        prompt: Prompt | SeveralPrompts,
        *,
        given_image: ImageInput | None = None,
        given_rows: float = 0.5,
        caption: Captions | None = None,
        negative_prompt: Prompt | None = None,
        **options: Unpack[RequestKeywords],
    ) -> Generation | list[Generation]:
        """Sample images of one prompt, or of each of several with the same ``seed``.

        ``options`` are fields of ``RequestOptions``; ``self.options`` supplies the others. ``given_image`` is cut to
        its middle square at the model's size, and the share ``given_rows`` of it, in whole rows of codes from the top,
        is kept. A model of classes or of caption features takes an int or an array [t c] as its prompt, and a
        ``caption`` for CLIP. ``negative_prompt`` replaces the empty prompt in the guidance of all prompts. Raises
        UserError for values out of range.
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
        top = None if given_image is None else self.given_top(given_image, given_rows)
        one_for_all = self.options(**options)
        requests = [
            Request(one, one_for_all, top, None if caption is None else captions[number], negative_prompt)
            for number, one in enumerate(prompts)
        ]
        drawn = self.draw(requests)
        return drawn if several else drawn[0]

    def rank(
        self,
        images: ImageInput | Sequence[ImageInput],
        text: str | list[str] | tuple[str, ...],
        *,
        ranker: Ranker = "clip",
        likelihood_weight: float = SamplingOptions.likelihood_weight,
    ) -> np.ndarray:
        """Return the scores of images with one text [B], or with several [B n].

        They are CLIP's cosine similarities unless ``ranker`` says otherwise (``Ranker`` in sampling/options.py). Raise
        UserError if there is no such ranker.
        """
        SamplingOptions(ranker=ranker, likelihood_weight=likelihood_weight)
        texts = [text] if isinstance(text, str) else list(text)
        scores = np.zeros(())
        if ranker != "likelihood":
            scores = self.require_ranker().rank(images, texts)
        if ranker != "clip":
            likelihoods = self._log_likelihoods(images, texts)
            scores = likelihoods if ranker == "likelihood" else scores + likelihood_weight * likelihoods
        return scores[:, 0] if isinstance(text, str) else scores

    def _log_likelihoods(self, images: ImageInput | Sequence[ImageInput], texts: list[str]) -> Float[np.ndarray, "B n"]:
        """Return log p(codes | text) / I of images. Raise UserError for a model without a likelihood."""
        del images, texts
        raise UserError("ranker: expected clip, since this model has no likelihood of codes, got likelihood or both")

    def require_ranker(self) -> ClipRanker:
        """Return the ranker; raise UserError if there is none."""
        if self.ranker is None:
            raise UserError(
                "similarity: expected a CLIP, got none; give its folder with --clip DIR (in Python clip=DIR)"
            )
        return self.ranker


class DrawCall(NamedTuple):
    """One call of a diffusion model: texts, a key for each of M candidates, and guidance scales.

    ``guided`` is False if all scales are 1, so that the network need not run without the prompt.
    """

    prompts: list[str]
    keys: Key[Array, "P M"]
    guidance: Float[Array, " P"]
    guided: bool


class DiffusionPipeline(PromptedPipeline):
    """A pipeline of a diffusion model. A call samples at most ``batch`` images, which ``parts`` devices share."""

    prompts: TextPrompts
    batch: int
    parts: int

    @abstractmethod
    def _pixels(self, call: DrawCall) -> UInt8[Array, "B H W 3"] | UInt8[np.ndarray, "B H W 3"]:
        """Sample the candidates of each prompt, in the order of the keys."""

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order, ranked by CLIP if there is one.

        Raise UserError for an option that diffusion does not have: a temperature, top-k, top-p, or a given image.
        """
        for request in requests:
            check_diffusion_options(request)
        check_rankers(requests, clip=self.ranker is not None, transformer=False)
        return draw_in_buckets(requests, self.batch, self._draw_call, self.parts)

    def given_top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Raise UserError: a diffusion model keeps no rows of codes."""
        del image, share
        raise UserError(NO_GIVEN_IMAGE)

    def _draw_call(self, requests: list[Request], first: int, count: int) -> CallResult:
        """Sample ``count`` candidates of each request."""
        prompts, options = [str(one.prompt) for one in requests], [one.options for one in requests]
        keys = image_keys(jnp.asarray([one.seed for one in options], jnp.uint32), count, first=first)
        guidance = jnp.asarray([one.guidance for one in options], jnp.float32)
        guided = any(one.guidance != 1.0 for one in options)
        pixels = jnp.asarray(self._pixels(DrawCall(prompts, keys, guidance, guided)))
        scores = None if self.ranker is None else self.ranker.scores(pixels, prompts)
        return CallResult(np.asarray(pixels).reshape(len(requests), count, *pixels.shape[1:]), scores)


NO_GIVEN_IMAGE = "given_image: expected none for a diffusion model; inpainting takes a mask"


def check_diffusion_options(request: Request) -> None:
    """Raise UserError for an option that diffusion does not have, and for a prompt that is not a text."""
    if request.negative_prompt is not None:
        raise UserError(f"negative_prompt: expected none for a diffusion model, got {request.negative_prompt!r:.60}")
    options = request.options
    wrong = {"temperature": options.temperature != 1.0, "top_k": options.top_k != 0, "top_p": options.top_p != 1.0}
    wrong |= {"decoding": options.decoding == "jacobi"}
    for name in (name for name, set_ in wrong.items() if set_):
        raise UserError(f"{name}: expected its default, since a diffusion model has no {name}, got a different value")
    if options.guidance_end is not None:
        raise UserError(
            "guidance_end: expected none for a diffusion model, which draws all codes or pixels together, "
            f"got {options.guidance_end:g}"
        )
    if request.given_image is not None:
        raise UserError(NO_GIVEN_IMAGE)
    if not isinstance(request.prompt, str):
        raise UserError(f"prompt: expected a text, got {type(request.prompt).__name__}")
