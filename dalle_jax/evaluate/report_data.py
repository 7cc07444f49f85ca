"""What a report says, as plain values: no model, no run folder, and every part but the first few may be missing.

The page and ``metrics.json`` are both made from one ``Report``, so they cannot disagree.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dalle_jax.evaluate.charts import Chart, Number
from dalle_jax.evaluate.composition import Composition, Split
from dalle_jax.evaluate.machine import Machine
from dalle_jax.evaluate.reconstruction import Reconstruction
from dalle_jax.evaluate.shares import Share
from dalle_jax.scenes.judge import Part

Kind = Literal["percent", "decibel", "nats", "seconds", "count", "number"]
"""How a figure is written: 0.84 as 84.0 %, 27.13 as 27.1 dB, 831.0 as 13 min 51 s."""


@dataclass(frozen=True)
class Figure:
    """One measured number. ``path`` is its dotted key in ``metrics.json``; a value of None was not measured."""

    path: str
    label: str
    value: Number | None
    kind: Kind
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One thing that took time. Only training has ``steps``, ``parameters`` and ``charts``."""

    name: str
    title: str
    seconds: Number
    steps: int | None = None
    parameters: int | None = None
    charts: tuple[Chart, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """One of the compared networks and its figures; the paths of these are relative: ``image_nll``, ``seconds``."""

    name: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Comparison:
    """Which of several networks was run, and why."""

    contenders: tuple[Contender, ...]
    chosen: str
    why: str

    def __post_init__(self):
        names = [contender.name for contender in self.contenders]
        if self.chosen not in names:
            raise ValueError(f"chosen = {self.chosen!r} is none of the compared: {names}")


@dataclass(frozen=True)
class ReconstructedPicture:
    """A picture, uint8 [H W 3], and what the tokenizer made of it."""

    original: np.ndarray
    copy: np.ndarray
    caption: str


@dataclass(frozen=True)
class Candidate:
    """One generated picture, uint8 [H W 3]; ``right`` is None where nothing can judge it.

    ``index`` counts candidates from 0; ``score`` is what ranked them.
    """

    picture: np.ndarray
    right: bool | None = None
    parts: tuple[Part, ...] = ()
    index: int = 0
    score: Number | None = None


@dataclass(frozen=True)
class Sample:
    """A caption, the first candidate, and what CLIP chose among ``chosen_of`` (None: there was no choice)."""

    caption: str
    first: Candidate
    chosen: Candidate | None = None
    chosen_of: int = 16


@dataclass(frozen=True)
class SampleGroup:
    """Samples shown together, all of one fixed list of captions in its order; level and split where it has them."""

    title: str
    samples: tuple[Sample, ...]
    level: int | None = None
    split: Split | None = None


@dataclass(frozen=True)
class ReaderCheck:
    """How the reader did on one kind of picture: how many captions of each sort it accepted.

    ``wrong_accepted`` are captions with one attribute wrong, ``other_accepted`` those of other pictures altogether.
    """

    name: str
    title: str
    true_accepted: Share
    wrong_accepted: Share
    other_accepted: Share | None = None


@dataclass(frozen=True)
class GuidancePoint:
    """The table at one guidance scale; usually over fewer captions and candidates than the main one."""

    scale: Number
    composition: Composition


@dataclass(frozen=True)
class Report:
    """All that the page shows. ``wall_seconds`` is the whole run, ``seed`` and ``command`` are how to repeat it.

    ``figures`` are those that stand in no table: ``clip.retrieval_top1``, ``transformer.image_nll``. ``limits`` are
    sentences of the caller's on what does not work; the page adds the weakest figures by itself.
    """

    title: str
    summary: str
    command: str
    seed: int
    config_text: str
    wall_seconds: Number
    machine: Machine
    stages: tuple[Stage, ...]
    figures: tuple[Figure, ...] = ()
    comparison: Comparison | None = None
    reconstruction: Reconstruction | None = None
    reconstructed: tuple[ReconstructedPicture, ...] = ()
    sampling: str = ""
    samples: tuple[SampleGroup, ...] = ()
    composition: Composition | None = None
    guidance: tuple[GuidancePoint, ...] = ()
    reader: tuple[ReaderCheck, ...] = ()
    limits: tuple[str, ...] = ()
    level_titles: tuple[tuple[int, str], ...] = ()
