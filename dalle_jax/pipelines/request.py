"""A request for the images of one prompt, and its result."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Unpack, cast

import numpy as np
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.prompts import Prompt
from dalle_jax.sampling.options import SamplingKeywords, SamplingOptions, check_ranges
from dalle_jax.untrusted import check_text

DEFAULT_KEEP = 4
"""The number of images to keep by default, or all candidates if there are fewer."""


class RequestKeywords(SamplingKeywords, total=False):
    """The fields of ``RequestOptions`` as keyword arguments."""

    keep: int | None
    seed: int
    first: int


@dataclass(frozen=True)
class RequestOptions(SamplingOptions):
    """Options of one request. The noise of a candidate depends on ``seed`` and its own number alone."""

    keep: int | None = field(
        default=None,
        metadata={"help": f"number of images to keep, best first (default {DEFAULT_KEEP}, or all if fewer)"},
    )
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    first: int = field(default=0, metadata={"help": "number of the first candidate, to sample more of them later"})

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range = 1 <= self.kept <= self.candidates
        check_ranges(
            (
                ("keep", in_range, f"between 1 and candidates ({self.candidates})", self.kept),
                ("seed", 0 <= self.seed < 2**32, "in [0, 2^32)", self.seed),
                ("first", self.first >= 0, "0 or more", self.first),
            )
        )

    @property
    def kept(self) -> int:
        """The number of images to keep."""
        return min(DEFAULT_KEEP, self.candidates) if self.keep is None else self.keep

    @classmethod
    def of(cls, sampling: SamplingOptions, **changes: Unpack[RequestKeywords]) -> "RequestOptions":
        """Return the options of a request that samples as ``sampling`` does, with ``changes`` to them."""
        shared = {field.name: getattr(sampling, field.name) for field in fields(SamplingOptions)}
        return replace(cls(**cast(SamplingKeywords, shared)), **changes)


@dataclass(frozen=True)
class Request:
    """A prompt and how its images are sampled.

    ``given_image``, uint8 [rows*f W 3], is the top of an image, whose codes are kept exactly. ``caption`` is the text
    that CLIP compares images with if the prompt is not a text. ``negative_prompt`` takes the place of the empty prompt
    in guidance, so that images move away from it.
    """

    prompt: Prompt
    options: RequestOptions = RequestOptions()
    given_image: np.ndarray | None = None
    caption: str | None = None
    negative_prompt: Prompt | None = None

    def __post_init__(self) -> None:
        if self.negative_prompt is not None and not self.options.guided:
            raise UserError("negative_prompt: expected a guidance other than 1, which turns guidance off, got 1")
        texts = {"prompt": self.prompt, "caption": self.caption, "negative_prompt": self.negative_prompt}
        for name, text in texts.items():
            if isinstance(text, str):
                check_text(text, name)

    @property
    def text(self) -> str | None:
        """The text that CLIP compares images with, if any."""
        return self.prompt if isinstance(self.prompt, str) else self.caption

    @property
    def is_ranked(self) -> bool:
        """True if a ranker can compare images with the prompt: CLIP needs a text."""
        return self.text is not None or self.options.ranks_by_likelihood

    @property
    def title(self) -> str:
        """The prompt as a short text, such as for a file name or a caption."""
        if self.text is not None:
            return self.text
        return "features" if isinstance(self.prompt, np.ndarray) else f"class {self.prompt}"


def check_rankers(requests: Iterable[Request], *, clip: bool, transformer: bool) -> None:
    """Raise UserError if a request names a ranker that is not there.

    ``clip`` and ``transformer`` are True if there is a CLIP, and a transformer whose candidates have a likelihood.
    """
    for request in requests:
        named = request.options.ranker
        if request.options.ranks_by_likelihood and not transformer:
            raise UserError(
                f"ranker: expected clip, since only images drawn by a transformer from a prompt have a likelihood, "
                f"got {named}"
            )
        if named in ("clip", "both") and not clip:
            raise UserError(
                f"ranker: expected likelihood, since there is no CLIP, got {named}; give its folder with --clip DIR "
                "(in Python clip=DIR)"
            )
        if named in ("clip", "both") and request.text is None:
            raise UserError(f"caption: expected a text for ranker = {named}, since the prompt is none, got none")


@dataclass(frozen=True)
class Generation:
    """The images kept for one prompt, best first, and all its candidates in the order of sampling."""

    prompt: str  # in words, if it is a class or features
    pixels: np.ndarray  # uint8 [keep H W 3]
    scores: np.ndarray | None  # float32 [keep], of the ranker; None without a CLIP or without a text for it
    chosen: np.ndarray  # int [keep], indices of the kept candidates
    candidates: np.ndarray  # uint8 [M H W 3]
    candidate_scores: np.ndarray | None  # float32 [M]
    passes: int | None = None  # passes of a transformer in the calls that sampled them

    @property
    def images(self) -> list[Image.Image]:
        """The kept images as Pillow images."""
        return [Image.fromarray(image) for image in self.pixels]
