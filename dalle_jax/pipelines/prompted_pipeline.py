"""The call of a pipeline with prompts, and its CLIP: the parts that every kind of text-to-image model shares."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias, Unpack, overload

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.prompts import Prompt
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestKeywords, RequestOptions

Captions: TypeAlias = str | list[str] | tuple[str, ...]
SeveralPrompts: TypeAlias = list[str] | list[int] | list[np.ndarray] | tuple[Prompt, ...]
"""Lists and tuples only, since a string is itself a sequence of strings."""


class PromptedPipeline(ABC):
    """A pipeline from prompts to images, which its ``ranker`` compares with the prompts; None without a CLIP."""

    ranker: ClipRanker | None

    @abstractmethod
    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order."""

    @abstractmethod
    def given_top(self, image: ImageInput, share: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return the top of an image that a request may keep. Raise UserError if the model keeps none."""

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
        top = None if given_image is None else self.given_top(given_image, given_rows)
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
