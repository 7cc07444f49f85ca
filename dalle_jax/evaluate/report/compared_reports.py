"""Figures of several evaluations beside each other, from the JSON that ``evaluate`` wrote for each.

A figure is compared if two evaluations or more have it, of the same features and, for figures whose value depends on
the numbers of images, of the same numbers. The others are left out, and a line says why.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.metric import Measurement, require_comparable
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, Plot, PlotLine
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_json, read_file

EVALUATION = "evaluation.json"
"""The file that ``evaluate`` writes into the folder of a model."""
CURVES = {
    "by_held_out_share": ("by held-out combinations", "share of the caption's combinations that were held out"),
    "by_number": ("by atoms of the caption", "atoms of the caption"),
}
"""Tables of shares of captions by a number, with the end of a plot's title and the label of its x axis."""
CANDIDATES = {"first": "first candidate", "chosen": "CLIP's choice"}


@dataclass(frozen=True)
class ComparedReports:
    """Figures of evaluations: by path in their JSON, then by the name of the evaluation.

    ``refused`` are lines about figures that are not comparable.
    """

    names: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Measurement]]
    plots: tuple[Plot, ...]
    refused: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return a line for each figure, and one for each that is not comparable."""
        compared = [
            f"{path}: {', '.join(f'{name} {one.value:.4g}' for name, one in found.items())}"
            for path, found in self.figures.items()
        ]
        return [*compared, *self.refused]

    def to_json(self) -> JsonObject:
        """Return the figures of each evaluation, with their intervals and counts."""
        return {
            "refused": list(self.refused),
            **{
                name: {_key(path): found[name].to_json() for path, found in self.figures.items() if name in found}
                for name in self.names
            },
        }

    def panel(self) -> Panel:
        """Return the panel of the page."""
        return Panel(
            "Evaluations beside each other",
            "Intervals resample the images or captions of one evaluation, with the model and its training fixed. "
            "Training again with another seed moves a figure more than that.",
            tuple(
                PanelFigure(
                    f"{name}.{_key(path)}.value",
                    f"{path}: {name}",
                    one.value,
                    "percent" if _is_share(path) else "number",
                    one.interval,
                    f"of {one.count:,}",
                )
                for path, found in self.figures.items()
                for name, one in found.items()
            ),
            plots=self.plots,
            warnings=self.refused,
        )


def compare_reports(places: Sequence[Place]) -> ComparedReports:
    """Read evaluations: JSON files, or folders with ``evaluation.json``.

    Raise ``UserError`` for fewer than two, for other content, and if nothing is comparable.
    """
    if len(places) < 2:
        raise UserError(f"--compare: expected two evaluations or more, got {len(places)}")
    files = [place / EVALUATION if place.is_dir() else place for place in places]
    reports = dict(zip(_names(files), (dict(_measurements(_read(one))) for one in files), strict=True))
    every: dict[str, dict[str, Measurement]] = defaultdict(dict)
    for name, found in reports.items():
        for path, one in found.items():
            every[path][name] = one
    figures: dict[str, dict[str, Measurement]] = {}
    refused = []
    for path, by_report in every.items():
        if len(by_report) < 2:
            continue
        first, *others = by_report.values()
        try:
            for other in others:
                require_comparable(first, other)
        except UserError as error:
            refused.append(f"{path} is not compared: {error}")
            continue
        figures[path] = by_report
    if not figures:
        why = f" ({refused[0]})" if refused else ""
        raise UserError(f"--compare: expected a figure that two evaluations have, got none{why}")
    return ComparedReports(tuple(reports), figures, _plots(reports), tuple(refused))


def _read(file: Place) -> Mapping[str, object]:
    if not file.is_file():
        raise UserError(f"{file}: expected the JSON of an evaluation, found no such file")
    try:
        content = parse_json(read_file(file))
    except ValueError as error:
        raise UserError(
            f"{file}: expected the JSON of an evaluation, got other content ({str(error)[:100]})"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected the JSON of an evaluation, got a {type(content).__name__}")
    return content


def _names(files: Sequence[Place]) -> list[str]:
    """Return a name for each file: its own, or its folder's if it is named as all are, with a number if it repeats."""
    names: list[str] = []
    for file in files:
        own = file.name.removesuffix(".json")
        name = (storage.absolute(file).parent.name if file.name == EVALUATION else own).replace(".", "_") or own
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _measurements(content: Mapping[str, object], path: str = "") -> Iterator[tuple[str, Measurement]]:
    """Yield each measurement of a JSON object with its dotted path."""
    value, count = content.get("value"), content.get("count")
    if _is_number(value) and isinstance(count, int):
        yield path, _measurement(path, value, count, content.get("interval_95"), content)
        return
    intervals = content.get("interval_95")
    if isinstance(intervals, dict) and isinstance(count, int):  # a cell of composition
        for name, interval in intervals.items():
            if _is_number(share := content.get(name)):
                yield f"{path}.{name}", _measurement(f"{path}.{name}", share, count, interval, {})
        return
    for name, below in content.items():
        if isinstance(below, dict):
            yield from _measurements(below, f"{path}.{name}" if path else name)


def _measurement(path: str, value: float, count: int, interval: object, content: Mapping[str, object]) -> Measurement:
    bounds = interval if isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval)) else None
    noise, reference, features = (content.get(name) for name in ("noise", "reference_count", "features"))
    return Measurement(
        path,
        float(value),
        count,
        None if bounds is None else (float(bounds[0]), float(bounds[1])),
        float(noise) if _is_number(noise) else None,
        reference if isinstance(reference, int) else None,
        features if isinstance(features, str) else "",
    )


def _plots(reports: Mapping[str, Mapping[str, Measurement]]) -> tuple[Plot, ...]:
    """Return the curves of captions right, each with a line for every evaluation that has it."""
    plots = []
    for table, (title, label) in CURVES.items():
        for which, words in CANDIDATES.items():
            lines = [PlotLine(name, tuple(_curve(found, f"atoms.{which}.{table}."))) for name, found in reports.items()]
            if lines := [line for line in lines if line.points]:
                plots.append(Plot(f"captions right, {title}, {words}", label, tuple(lines), percent=True))
    return tuple(plots)


def _curve(found: Mapping[str, Measurement], part: str) -> Iterator[tuple[float, float]]:
    for path, one in found.items():
        _, separator, rest = path.partition(part)
        number = rest.removesuffix(".captions")
        if separator and number.replace(".", "", 1).isdecimal():
            yield float(number), one.value


def _key(path: str) -> str:
    """Return the path as a single key, without dots."""
    return path.replace(".", "/")


def _is_share(path: str) -> bool:
    return ".atoms." in f".{path}" or ".composition." in f".{path}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
