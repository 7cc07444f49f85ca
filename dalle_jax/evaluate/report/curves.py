"""From a run's ``metrics.jsonl`` to the lines of its training curves."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from dalle_jax.evaluate.report.charts import Chart, Line
from dalle_jax.storage import Place

Series = tuple[tuple[float, float], ...]
"""(step, value) pairs in the order of steps."""

LINE_POINTS = 300
"""More than a chart has pixels for; longer series are averaged down to this many points."""

LOG_SPAN = 8.0
"""A positive figure whose largest value is this many times its smallest is drawn on a log scale."""

TIMINGS = ("_per_second", "seconds", "eta", "time")
"""Ends of names that say how fast training went, not how well."""


def read_metrics(text: str) -> dict[str, Series]:
    """Lines of ``{"step": 10, name: value, ...}`` to one series per name.

    A line that is torn (the run was killed while writing) or is no such object is passed over, as are values that are
    no finite number. Where a step stands twice, as after resuming from an earlier checkpoint, the later line wins.
    """
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for line in text.splitlines():
        record = _record(line)
        step = _finite(record.pop("step", None))
        if step is None:
            continue
        for name, value in record.items():
            number = _finite(value)
            if number is not None:
                found[name][step] = number
    return {name: tuple(sorted(points.items())) for name, points in found.items()}


def read_metrics_file(path: Place) -> dict[str, Series]:
    """``read_metrics`` of a file; a file that is not there is a run that wrote nothing."""
    if not path.is_file():
        return {}
    return read_metrics(path.read_bytes().decode("utf-8", errors="replace"))


def training_charts(metrics: dict[str, Series], names: Sequence[str] | None = None) -> tuple[Chart, ...]:
    """One chart per figure: ``train/loss`` and ``evaluation/loss`` share the chart "loss".

    ``names`` chooses figures (by what stands after the last slash) and their order; without it all are drawn but
    timings and series of a single point. A name with no slash is a training figure.
    """
    grouped: dict[str, dict[str, Series]] = defaultdict(dict)
    for full_name, series in metrics.items():
        origin, _, figure = full_name.rpartition("/")
        if len(series) > 1:
            grouped[figure][origin or "train"] = series
    chosen = [name for name in grouped if not name.endswith(TIMINGS)] if names is None else names
    return tuple(_figure_chart(figure, grouped[figure]) for figure in chosen if figure in grouped)


def thinned(series: Series, limit: int = LINE_POINTS) -> Series:
    """At most ``limit`` points: the means of consecutive groups of nearly equal size, so no point is left out."""
    if len(series) <= limit:
        return series
    edges = [round(i * len(series) / limit) for i in range(limit + 1)]
    groups = [series[start:end] for start, end in pairwise(edges)]
    return tuple((_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups)


def _figure_chart(figure: str, by_origin: dict[str, Series]) -> Chart:
    values = [value for series in by_origin.values() for _, value in series]
    lines = tuple(
        Line(name=origin.replace("_", " "), points=thinned(by_origin[origin]))
        for origin in sorted(by_origin, key=_rank)
    )
    log_y = min(values) > 0 and max(values) > LOG_SPAN * min(values)
    return Chart(title=figure.replace("_", " "), x_label="step", lines=lines, log_y=log_y)


def _rank(origin: str) -> tuple[bool, str]:
    """Training first, then the others by name, so that colours mean the same in every chart."""
    return (not origin.startswith("train"), origin)


def _record(line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
