"""Line charts as SVG text: no library, no script, and readable in print and without colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

Number: TypeAlias = float | int

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 40
"""Margins around the plot in units of the drawing; the legend's rows come on top of ``TOP``."""

ROW, LETTER = 18, 6.7
"""The height of a row of the legend and the width of an average letter at the size of the labels."""

COLOURS = ("#0b6e99", "#d1641b", "#5b7f2b", "#8a4f9e", "#b23a48", "#5f6b76")
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "1 2")
MARKED_POINTS = 12
"""Lines of up to this many points show each of them."""


@dataclass(frozen=True)
class Line:
    """One named line through (x, y) points."""

    name: str
    points: tuple[tuple[Number, Number], ...]


@dataclass(frozen=True)
class Chart:
    """What to draw. ``percent`` labels values 0 to 1 of the y axis as 0 to 100 %; ``x_ticks`` fixes the x labels."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False
    percent: bool = False
    x_ticks: tuple[Number, ...] = ()


@dataclass(frozen=True)
class _Axis:
    """Maps values to positions along one side of the plot."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool
    ticks: tuple[Number, ...]

    def at(self, value: Number) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def svg(chart: Chart) -> str:
    """The chart as one ``<svg>`` element, scaling to the width it is given; what cannot be drawn is left out."""
    lines = [_drawable(line, chart) for line in chart.lines]
    lines = [line for line in lines if line.points]
    label = f"{chart.title} against {chart.x_label}: {', '.join(_summary(line, chart) for line in lines) or 'no data'}"
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    if not lines:
        return f'{head}<text x="{WIDTH / 2}" y="{HEIGHT / 2}" class="tick" text-anchor="middle">no data</text></svg>'
    x = _x_axis([x for line in lines for x, _ in line.points], chart)
    legend, legend_rows = _legend([line.name for line in lines])
    y = _y_axis([y for line in lines for _, y in line.points], chart, top=TOP + ROW * legend_rows)
    body = [*_grid(x, y, chart), *legend]
    for index, line in enumerate(lines):
        body += _path(line, x, y, index)
    return head + "".join(body) + "</svg>"


def nice_ticks(low: Number, high: Number, count: int = 5) -> tuple[float, ...]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) apart, from at or below ``low`` to at or above ``high``."""
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(step * i for i in range(first, max(last, first + 1) + 1))


def log_ticks(low: Number, high: Number) -> tuple[float, ...]:
    """Of 1, 2 and 5 times powers of ten those that bracket the values; only the powers where the span is large."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    factors = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
    above = [tick for tick in ticks if tick >= high * (1 - 1e-9)]
    return tuple(tick for tick in ticks if below[-1] <= tick <= above[0]) if below and above else tuple(ticks)


def tick_label(value: Number, percent: bool = False) -> str:
    """A short label: 12k for 12,000, 40 % for 0.4, no trailing zeros."""
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
    ticks = chart.x_ticks or (log_ticks(low, high) if chart.log_x else nice_ticks(low, high))
    inside = tuple(tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9))
    return _Axis(low, high, LEFT + 6, WIDTH - RIGHT - 6, chart.log_x, inside)


def _range(values: Sequence[Number], log: bool) -> tuple[Number, Number]:
    """Smallest and largest, moved apart where they are all but the same."""
    low, high = min(values), max(values)
    if high - low > 1e-6 * max(abs(low), abs(high)):
        return low, high
    room = 0.1 * max(abs(low), abs(high)) or 0.5
    return (low / 2, high * 2) if log else (low - room, high + room)


def _y_axis(values: Sequence[Number], chart: Chart, top: Number) -> _Axis:
    low, high = (0.0, 1.0) if chart.percent else _range(values, chart.log_y)
    ticks = log_ticks(low, high) if chart.log_y else nice_ticks(low, high)
    return _Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, top, chart.log_y, ticks)


def _grid(x: _Axis, y: _Axis, chart: Chart) -> list[str]:
    out = []
    for tick in y.ticks:
        at = f"{y.at(tick):.1f}"
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        label = tick_label(tick, chart.percent)
        out.append(f'<text class="tick" x="{LEFT - 7}" y="{at}" dy="4" text-anchor="end">{label}</text>')
    for tick in x.ticks:
        at = f"{x.at(tick):.1f}"
        foot = HEIGHT - BOTTOM
        out.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{foot}" y2="{foot + 4}"/>')
        out.append(f'<text class="tick" x="{at}" y="{foot + 17}" text-anchor="middle">{tick_label(tick)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(chart.x_label)}</text>')
    return out


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """A stroke as it is drawn, then the name; rows are filled like text. Returns the elements and how many rows."""
    out, at, row = [], float(LEFT), 0
    for index, name in enumerate(names):
        length = 27 + LETTER * len(name)
        if at > LEFT and at + length > WIDTH - RIGHT:
            at, row = float(LEFT), row + 1
        middle = 12 + ROW * row
        out.append(f'<line x1="{at:.0f}" x2="{at + 22:.0f}" y1="{middle}" y2="{middle}" {_stroke(index)}/>')
        out.append(f'<text class="tick" x="{at + 27:.0f}" y="{middle + 4}">{escape(name)}</text>')
        at += length + 16
    return out, row + 1


def _path(line: Line, x: _Axis, y: _Axis, index: int) -> list[str]:
    places = [(x.at(px), y.at(py)) for px, py in line.points]
    data = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    out = [f'<path d="{data}" fill="none" {_stroke(index)}/>']
    if len(places) <= MARKED_POINTS:
        colour = COLOURS[index % len(COLOURS)]
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.2" fill="{colour}"/>' for px, py in places]
    return out


def _stroke(index: int) -> str:
    dash = DASHES[index % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="2" stroke-linejoin="round"{dashed}'
