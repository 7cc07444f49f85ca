"""Layout of line charts for SVG, without scripts; dashes keep the lines apart in print and without colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

Number: TypeAlias = float | int

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 40
"""Margins around the plot in units of the drawing; rows of the legend add to ``TOP``."""

ROW, LETTER = 18, 6.7
"""The height of a row of the legend and the width of an average letter at the size of the labels."""

COLOURS = ("#0b6e99", "#d1641b", "#5b7f2b", "#8a4f9e", "#b23a48", "#5f6b76")
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "1 2")
MARKED_POINTS = 12
"""Lines with at most this many points have a mark at each point."""


@dataclass(frozen=True)
class Line:
    """A named line through (x, y) points."""

    name: str
    points: tuple[tuple[Number, Number], ...]


@dataclass(frozen=True)
class Chart:
    """Lines and axes of a chart.

    ``percent`` shows y from 0 to 1 as 0 to 100 %. ``x_ticks`` sets the labels of the x axis.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False
    percent: bool = False
    x_ticks: tuple[Number, ...] = ()


@dataclass(frozen=True)
class _Axis:
    """Scale from values to positions along one side of the plot."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool
    ticks: tuple[Number, ...]

    def at(self, value: Number) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


@dataclass(frozen=True)
class Mark:
    """A tick of an axis: its label and its position along the axis."""

    at: str
    label: str


@dataclass(frozen=True)
class LegendEntry:
    """The name of a line and the position of its stroke."""

    name: str
    x: float
    y: int
    index: int


@dataclass(frozen=True)
class Curve:
    """The SVG path of a line, and the positions of its marked ``points``."""

    path: str
    points: tuple[tuple[str, str], ...]
    index: int


@dataclass(frozen=True)
class ChartDrawing:
    """Positions of all elements of a chart, for ``chart.svg.j2``. Without curves the chart is empty."""

    label: str
    x_label: str
    x_marks: tuple[Mark, ...] = ()
    y_marks: tuple[Mark, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    curves: tuple[Curve, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    foot: int = HEIGHT - BOTTOM
    colours: tuple[str, ...] = COLOURS
    dashes: tuple[str, ...] = DASHES


def drawing(chart: Chart) -> ChartDrawing:
    """Lay out a chart. Points that an axis cannot show are dropped, such as 0 on a logarithmic axis."""
    lines = [_drawable(line, chart) for line in chart.lines]
    lines = [line for line in lines if line.points]
    label = f"{chart.title} against {chart.x_label}: {', '.join(_summary(line, chart) for line in lines) or 'no data'}"
    if not lines:
        return ChartDrawing(label, chart.x_label)
    x = _x_axis([x for line in lines for x, _ in line.points], chart)
    legend, legend_rows = _legend([line.name for line in lines])
    y = _y_axis([y for line in lines for _, y in line.points], chart, top=TOP + ROW * legend_rows)
    return ChartDrawing(
        label=label,
        x_label=chart.x_label,
        x_marks=tuple(Mark(f"{x.at(tick):.1f}", tick_label(tick)) for tick in x.ticks),
        y_marks=tuple(Mark(f"{y.at(tick):.1f}", tick_label(tick, chart.percent)) for tick in y.ticks),
        legend=legend,
        curves=tuple(_curve(line, x, y, index) for index, line in enumerate(lines)),
    )


def nice_ticks(low: Number, high: Number) -> tuple[float, ...]:
    """Return about five ticks around ``low`` and ``high`` at a round step: 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(step * i for i in range(first, max(last, first + 1) + 1))


def log_ticks(low: Number, high: Number) -> tuple[float, ...]:
    """Return ticks that enclose the values: 1, 2 and 5 times powers of ten.

    Over 3 decades they are powers of ten only.
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    factors = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
    above = [tick for tick in ticks if tick >= high * (1 - 1e-9)]
    return tuple(tick for tick in ticks if below[-1] <= tick <= above[0]) if below and above else tuple(ticks)


def tick_label(value: Number, percent: bool = False) -> str:
    """Return a short label without trailing zeros: 12k for 12,000, 40 % for 0.4."""
    if percent:
        return f"{100 * value:.4g} %"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{round(value, 12):.4g}"


def _drawable(line: Line, chart: Chart) -> Line:
    def fits(value: Number, log: bool) -> bool:
        return abs(value) < 1e300 and (value > 0 or not log)

    return Line(line.name, tuple((x, y) for x, y in line.points if fits(x, chart.log_x) and fits(y, chart.log_y)))


def _summary(line: Line, chart: Chart) -> str:
    return f"{line.name} ends at {tick_label(line.points[-1][1], chart.percent)}"


def _x_axis(values: Sequence[Number], chart: Chart) -> _Axis:
    low, high = _range(values, chart.log_x)
    given = chart.x_ticks or (log_ticks(low, high) if chart.log_x else nice_ticks(low, high))
    axis = _Axis(low, high, LEFT + 6, WIDTH - RIGHT - 6, chart.log_x, _inside(given, low, high))
    if not _overlap(axis):
        return axis
    return replace(axis, ticks=_apart(replace(axis, ticks=_inside(nice_ticks(low, high), low, high))))


def _inside(ticks: Sequence[Number], low: Number, high: Number) -> tuple[Number, ...]:
    return tuple(tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9))


def _overlap(axis: _Axis) -> bool:
    """Return True if labels below the axis come closer than a letter."""
    return len(_apart(axis)) < len(axis.ticks)


def _apart(axis: _Axis) -> tuple[Number, ...]:
    """Return the ticks whose labels, from the left on, keep the width of a letter between them."""
    kept: list[Number] = []
    end = -math.inf
    for tick in axis.ticks:
        half = LETTER * len(tick_label(tick)) / 2
        if axis.at(tick) - half >= end + LETTER:
            kept.append(tick)
            end = axis.at(tick) + half
    return tuple(kept)


def _range(values: Sequence[Number], log: bool) -> tuple[Number, Number]:
    """Return the smallest and largest value. If they are nearly equal, move them apart."""
    low, high = min(values), max(values)
    if high - low > 1e-6 * max(abs(low), abs(high)):
        return low, high
    room = 0.1 * max(abs(low), abs(high)) or 0.5
    return (low / 2, high * 2) if log else (low - room, high + room)


def _y_axis(values: Sequence[Number], chart: Chart, top: Number) -> _Axis:
    low, high = (0.0, 1.0) if chart.percent else _range(values, chart.log_y)
    ticks = log_ticks(low, high) if chart.log_y else nice_ticks(low, high)
    return _Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, top, chart.log_y, ticks)


def _legend(names: Sequence[str]) -> tuple[tuple[LegendEntry, ...], int]:
    """Place the entries of a legend in rows that are filled like lines of text. Return them and the number of rows."""
    out, at, row = [], float(LEFT), 0
    most = int((WIDTH - RIGHT - LEFT - 27) / LETTER)
    for index, name in enumerate(one if len(one) <= most else f"{one[: most - 1]}…" for one in names):
        length = 27 + LETTER * len(name)
        if at > LEFT and at + length > WIDTH - RIGHT:
            at, row = float(LEFT), row + 1
        out.append(LegendEntry(name, at, 12 + ROW * row, index))
        at += length + 16
    return tuple(out), row + 1


def _curve(line: Line, x: _Axis, y: _Axis, index: int) -> Curve:
    places = [(f"{x.at(px):.1f}", f"{y.at(py):.1f}") for px, py in line.points]
    path = "M" + "L".join(f"{px} {py}" for px, py in places)
    return Curve(path, tuple(places) if len(places) <= MARKED_POINTS else (), index)
