"""Findings of the evaluation suites as plain values; ``report`` turns them into pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dalle_jax.evaluate.metrics.composition import Composition, Split
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.scenes.judge import Part


@dataclass(frozen=True)
class ReconstructedImage:
    """An image, uint8 [H W 3], and its reconstruction by the image tokenizer."""

    original: np.ndarray
    reconstruction: np.ndarray
    caption: str


@dataclass(frozen=True)
class Candidate:
    """A generated image, uint8 [H W 3]; ``right`` is None if no reader can judge it.

    ``index`` counts candidates from 0; ``score`` is the CLIP score that ranked them.
    """

    image: np.ndarray
    right: bool | None = None
    parts: tuple[Part, ...] = ()
    index: int = 0
    score: float | None = None


@dataclass(frozen=True)
class Sample:
    """A caption, its first candidate, and CLIP's choice among ``chosen_of``; without a CLIP ``chosen`` is None."""

    caption: str
    first: Candidate
    chosen: Candidate | None = None
    chosen_of: int = 16


@dataclass(frozen=True)
class SampleGroup:
    """Samples of one fixed list of captions, in order; level and split are None if the captions are not of scenes.

    ``headings`` name the two images of a sample.
    """

    title: str
    samples: tuple[Sample, ...]
    level: int | None = None
    split: Split | None = None
    headings: tuple[str, str] = ("First candidate", "CLIP’s choice")


@dataclass(frozen=True)
class EditMeasure:
    """A measure of an edit: a share of the cases or a number. ``key`` is its name in ``metrics.json``."""

    key: str
    title: str
    value: Share | float
    note: str = ""


@dataclass(frozen=True)
class EditedImages:
    """The images of one case, uint8 [H W 3] each, such as the input and its results; ``right`` is its verdict."""

    caption: str
    images: tuple[np.ndarray, ...]
    right: bool | None = None


@dataclass(frozen=True)
class EditFindings:
    """The measures of one thing that is done with images, and the first cases.

    ``name`` is the command, and the measures are at ``edits.NAME`` in ``metrics.json``. ``about`` says how the cases
    were made and judged. ``count`` is their number.
    """

    name: str
    title: str
    about: str
    count: int
    measures: tuple[EditMeasure, ...]
    cases: tuple[EditedImages, ...]


@dataclass(frozen=True)
class GuidancePoint:
    """The composition table at one guidance scale, usually over fewer captions and candidates than the main one."""

    scale: float
    composition: Composition


def best_scale(points: Sequence[GuidancePoint]) -> float | None:
    """Return the scale with the highest mean share of right first candidates over all cells; the lower of equal ones.

    None without points.
    """

    def right(point: GuidancePoint) -> tuple[float, float]:
        return fmean(cell.first.value or 0.0 for cell in point.composition.cells), -point.scale

    return max(points, key=right).scale if points else None
