"""Findings of a suite as a panel of plain values: figures, plots and images; ``report`` turns panels into a page."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from dalle_jax.evaluate.metrics.shares import Share

Unit = Literal["percent", "number", "decibel", "nats", "count"]
"""The unit of a figure: percent is a share in [0, 1], shown times 100."""


@dataclass(frozen=True)
class PanelFigure:
    """A number with its name in the suite's JSON, and the 95 % interval if there is one."""

    key: str
    label: str
    value: float | None
    unit: Unit = "number"
    interval: tuple[float, float] | None = None
    note: str = ""

    @classmethod
    def of_share(cls, key: str, label: str, share: Share, note: str = "") -> "PanelFigure":
        """Return the figure of a share."""
        counted = f"of {share.count:,}"
        return cls(key, label, share.value, "percent", share.interval, f"{note}, {counted}" if note else counted)


@dataclass(frozen=True)
class PlotLine:
    """A named line through (x, y) points."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """A plot; ``percent`` shows y from 0 to 1 as 0 to 100 %."""

    title: str
    x_label: str
    lines: tuple[PlotLine, ...]
    percent: bool = False


@dataclass(frozen=True)
class ShownImage:
    """An image, uint8 [H W 3], its caption, and a note such as its score; ``right`` is None if nothing judges it."""

    image: np.ndarray
    caption: str
    note: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class ShownImages:
    """The images behind a figure, the worst first."""

    title: str
    images: tuple[ShownImage, ...]


@dataclass(frozen=True)
class Panel:
    """The findings of one suite. ``about`` says how they were measured, and ``warnings`` what to keep in mind."""

    title: str
    about: str
    figures: tuple[PanelFigure, ...]
    plots: tuple[Plot, ...] = ()
    images: tuple[ShownImages, ...] = ()
    warnings: tuple[str, ...] = ()


def scalars_of(panel: Panel) -> dict[str, float]:
    """Return the measured figures under their paths in the suite's JSON, with slashes and without a last "value"."""
    return {
        one.key.removesuffix(".value").replace(".", "/"): one.value for one in panel.figures if one.value is not None
    }


JsonObject: TypeAlias = dict[str, object]


@runtime_checkable
class SuiteFindings(Protocol):
    """Measurements of a suite, as JSON and as a panel of the page."""

    def to_json(self) -> JsonObject:
        """Return all figures as ``evaluation.json`` holds them."""
        ...

    def panel(self) -> Panel:
        """Return the panel of the page."""
        ...
