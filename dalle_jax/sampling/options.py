"""Sampling options: the one dataclass that defines them for requests, evaluation configs and command-line flags."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypedDict, get_args

from dalle_jax.config.errors import UserError

Decoding: TypeAlias = Literal["auto", "sequential", "jacobi"]
"""One code per pass (sequential), or a window of codes per pass (jacobi, sampling/slots.py); auto chooses one of them.

The codes are the same up to rounding (docs/python.md has measured rates).
"""

Ranker: TypeAlias = Literal["clip", "likelihood", "both"]
"""The score by which the candidates of a prompt are ordered, best first.

- ``clip``: CLIP's cosine similarity with the prompt, as in DALL·E 1 (arXiv 2102.12092, section 2.6).
- ``likelihood``: log p(codes | prompt) / I under the transformer, in nats per code: the mean over the I codes of an
  image, without guidance and at temperature 1.
- ``both``: the similarity plus ``likelihood_weight`` times the likelihood, a log-linear mixture.
"""


GUIDANCE = 3.0
"""The guidance scale of images and of edits where neither the request nor the model's folder has one."""


class SamplingKeywords(TypedDict, total=False):
    """The fields of ``SamplingOptions`` as keyword arguments."""

    candidates: int
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    guidance_end: float | None
    decoding: Decoding
    window: int
    ranker: Ranker | None
    likelihood_weight: float


@dataclass(frozen=True)
class SamplingOptions:
    """The number of images to sample per prompt, and how their codes are sampled from the logits.

    Raises UserError for a value out of range.
    """

    candidates: int = field(default=16, metadata={"help": "number of images to sample for each prompt"})
    temperature: float = field(default=1.0, metadata={"help": "sampling temperature; 0 is greedy"})
    top_k: int = field(
        default=0,
        metadata={"help": "sample among the k most likely codes; 0 is off", "default": "the model folder's, or 0"},
    )
    top_p: float = field(
        default=1.0, metadata={"help": "sample among the most likely codes of this total probability; 1 is off"}
    )
    guidance: float = field(
        default=GUIDANCE,
        metadata={
            "help": "scale of classifier-free guidance; 1 is off", "default": f"the model folder's, or {GUIDANCE}"
        },
    )  # fmt: skip
    guidance_end: float | None = field(
        default=None,
        metadata={
            "help": "scale at the last code of a transformer, reached linearly over the codes (default: guidance)"
        },
    )
    decoding: Decoding = field(
        default="auto",
        metadata={"help": "one code per pass of a transformer, or a window of codes (jacobi); auto is by the device"},
    )
    window: int = field(default=16, metadata={"help": "codes per pass of jacobi, and the most of auto"})
    ranker: Ranker | None = field(
        default=None,
        metadata={
            "help": "order candidates by CLIP's similarity, by the likelihood of their codes under the transformer, or "
            "by a weighted sum of both (default: clip, if there is one)"
        },
    )
    likelihood_weight: float = field(
        default=0.05, metadata={"help": "weight of the likelihood, in nats per code, next to CLIP's cosine similarity"}
    )

    def __post_init__(self) -> None:
        check_ranges(
            (
                ("candidates", 1 <= self.candidates <= 512, "between 1 and 512", self.candidates),
                ("temperature", 0.0 <= self.temperature < math.inf, "0 or more", self.temperature),
                ("top_k", self.top_k >= 0, "0 (off) or more", self.top_k),
                ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]", self.top_p),
                ("guidance", 0.0 <= self.guidance < math.inf, "0 or more (1 is off)", self.guidance),
                ("guidance_end", 0.0 <= self.last_guidance < math.inf, "0 or more (1 is off)", self.guidance_end),
                ("decoding", self.decoding in get_args(Decoding), "auto, sequential or jacobi", self.decoding),
                ("ranker", self.ranker in (None, *get_args(Ranker)), "clip, likelihood or both", self.ranker),
                ("likelihood_weight", math.isfinite(self.likelihood_weight), "a finite number", self.likelihood_weight),
                ("window", 1 <= self.window <= 256, "between 1 and 256", self.window),
            )
        )

    @property
    def last_guidance(self) -> float:
        """The guidance scale of the last code."""
        return self.guidance if self.guidance_end is None else self.guidance_end

    @property
    def ranks_by_likelihood(self) -> bool:
        """True if candidates are ordered by their likelihood, alone or with CLIP."""
        return self.ranker in ("likelihood", "both")

    @property
    def guided(self) -> bool:
        """True if any code is sampled with guidance."""
        return not self.guidance == self.last_guidance == 1.0


@dataclass(frozen=True)
class RecommendedSampling:
    """Options that a model's publisher, training or evaluation recommends; None leaves the default."""

    guidance: float | None = None
    top_k: int | None = None

    def keywords(self) -> SamplingKeywords:
        """Return the recommended options."""
        found = SamplingKeywords()
        if self.guidance is not None:
            found["guidance"] = self.guidance
        if self.top_k is not None:
            found["top_k"] = self.top_k
        return found


def check_ranges(checks: Iterable[tuple[str, bool, str, object]]) -> None:
    """Raise UserError for the first check that fails.

    Each check is (name of the field, whether its value is valid, expected range, value).
    """
    for name, valid, expected, got in checks:
        if not valid:
            raise UserError(f"{name}: expected {expected}, got {got}")
