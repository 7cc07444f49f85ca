"""Works of the engine: what a request asks of a model, and what comes back while it is done."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from dalle_jax.arrays import Bool, UInt8
from dalle_jax.images.editable import EditableImage
from dalle_jax.pipelines.request import RequestOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownWork:
    """The part of a work that says what is shown while it is drawn. ``options.keep`` of ``options.candidates`` return.

    ``shown`` are the shares of the progress, above 0 and below 1, at which the first ``options.keep`` images are
    returned as far as they are drawn; all candidates are if ``shows_all``, since CLIP may choose any of them.
    """

    options: RequestOptions
    shown: tuple[float, ...] = ()
    shows_all: bool = False

    @property
    def shown_images(self) -> int:
        """The number of candidates that are shown while they are drawn."""
        return self.options.candidates if self.shows_all else self.options.kept


@dataclass(frozen=True, kw_only=True)
class Generate(ShownWork):
    """Images of a prompt. ``steps`` are those of a diffusion decoder."""

    prompt: str
    negative_prompt: str | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(ShownWork):
    """Changes of images by a prompt: the ``hidden`` pixels of the first are drawn anew.

    Without them the vectors of all images are joined and turned toward the prompt by ``strength``.
    """

    images: tuple[EditableImage, ...]
    hidden: Bool[np.ndarray, "H W"] | None
    prompt: str
    steps: int | None = None
    strength: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Vary(ShownWork):
    """Variations of an image, which ``prompt`` may describe."""

    image: EditableImage
    prompt: str | None = None
    strength: float | None = None


Work: TypeAlias = Generate | Edit | Vary


class Partial(NamedTuple):
    """An image as far as it is drawn; ``number`` counts the partial images of image ``image``."""

    image: int
    number: int
    pixels: UInt8[np.ndarray, "H W 3"]


class Drawn(NamedTuple):
    """A finished image, the number of its candidate, and CLIP's score, None without a CLIP."""

    pixels: UInt8[np.ndarray, "H W 3"]
    candidate: int
    score: float | None


class Finished(NamedTuple):
    """The end of a work: its kept images, best first."""

    images: list[Drawn]


class Failed(NamedTuple):
    """The end of a work by an error."""

    error: Exception


Event: TypeAlias = Partial | Finished | Failed
