"""Content of a run's report as plain values, independent of models and run folders.

The page and ``metrics.json`` are both made from one ``RunReport``, so they cannot disagree.
"""

from dataclasses import dataclass
from typing import Literal

from dalle_jax.evaluate.metrics.composition import Composition
from dalle_jax.evaluate.metrics.reconstruction import Reconstruction
from dalle_jax.evaluate.metrics.scene_reader import ReaderCheck
from dalle_jax.evaluate.report.charts import Chart, Number
from dalle_jax.evaluate.report.machine import Machine
from dalle_jax.evaluate.suites.findings import EditFindings, GuidancePoint, ReconstructedImage, SampleGroup

Format = Literal["percent", "decibel", "nats", "seconds", "count", "number"]
"""The format of a number: percent 84.0 %, decibel 27.1 dB, nats 1.234 nats, seconds 13 min 51 s, count 4,810,000."""


@dataclass(frozen=True)
class Figure:
    """A number with its label. ``path`` is its dotted key in ``metrics.json``; a value of None was not measured."""

    path: str
    label: str
    value: Number | None
    kind: Format
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage of the run and its duration. Only training stages have ``steps``, ``parameters`` and ``charts``."""

    name: str
    title: str
    seconds: Number
    steps: int | None = None
    parameters: int | None = None
    charts: tuple[Chart, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """A network in a comparison. The paths of its numbers do not begin with its name: ``image_nll``, ``seconds``."""

    name: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Comparison:
    """A comparison of networks: their numbers, the name of the one that the run uses, and the reason for the choice."""

    contenders: tuple[Contender, ...]
    chosen: str
    why: str

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        if self.chosen not in names:
            raise ValueError(f"chosen: expected one of the compared networks {names}, got {self.chosen!r}")


@dataclass(frozen=True)
class RunReport:
    """Contents of the report page and of ``metrics.json``.

    ``wall_seconds`` is the duration of the whole run. ``command`` with ``seed`` reproduces it. ``figures`` are numbers
    that belong to no table, such as ``clip.retrieval_top1``. ``limits`` are sentences about known failures. The page
    adds to them the cells of the composition table with the lowest accuracy.
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
    reconstructed: tuple[ReconstructedImage, ...] = ()
    sampling: str = ""
    samples: tuple[SampleGroup, ...] = ()
    composition: Composition | None = None
    guidance: tuple[GuidancePoint, ...] = ()
    reader: tuple[ReaderCheck, ...] = ()
    edits: tuple[EditFindings, ...] = ()
    limits: tuple[str, ...] = ()
    level_titles: tuple[tuple[int, str], ...] = ()
