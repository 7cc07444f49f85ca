"""Training curves from a run's ``metrics.jsonl``."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from dalle_jax.evaluate.report.charts import Chart, Line
from dalle_jax.storage import Place

Series = tuple[tuple[float, float], ...]
"""(step, value) pairs, sorted by step."""

LINE_POINTS = 300
"""Largest number of points in a line of a chart. Longer series are averaged to this number."""

LOG_SPAN = 8.0
"""Ratio of the largest to the smallest value above which a positive metric has a logarithmic axis."""

TIMINGS = ("_per_second", "seconds", "eta", "time")
"""Name endings of metrics of speed, which are not drawn by default."""


def read_metrics(text: str) -> dict[str, Series]:
    """Convert lines of ``{"step": 10, name: value, ...}`` to one series per name.

    Skips lines that are not such objects (the last may be cut short by a kill) and values that are not finite numbers.
    If a step occurs twice, as after resuming from an earlier checkpoint, the later line wins.
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
    """Return ``read_metrics`` of a file, or an empty dict if the run wrote no such file."""
    if not path.is_file():
        return {}
    return read_metrics(path.read_bytes().decode("utf-8", errors="replace"))


def training_charts(metrics: dict[str, Series], names: Sequence[str] | None = None) -> tuple[Chart, ...]:
    """Return one chart per metric: ``train/loss`` and ``evaluation/loss`` share the chart "loss".

    ``names`` selects metrics by the part after the last slash, in order. By default all are drawn except timings.
    Series of a single point are never drawn. A name without a slash is a training metric.
    """
    grouped: dict[str, dict[str, Series]] = defaultdict(dict)
    for full_name, series in metrics.items():
        origin, _, figure = full_name.rpartition("/")
        if len(series) > 1:
            grouped[figure][origin or "train"] = series
    chosen = [name for name in grouped if not name.endswith(TIMINGS)] if names is None else names
    return tuple(_figure_chart(figure, grouped[figure]) for figure in chosen if figure in grouped)


def thinned(series: Series, limit: int = LINE_POINTS) -> Series:
    """Return at most ``limit`` points: means of consecutive groups of nearly equal size."""
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
    """Return the sort key of a metric's origin, such as "train": training first, the others by name.

    Colours then have the same meaning in every chart.
    """
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
