"""Files of a report: an HTML page that opens from disk, and next to it ``metrics.json`` with the same numbers."""

import json
import math
from collections.abc import Mapping

import jax
import numpy as np

from dalle_jax import storage
from dalle_jax.evaluate.metrics.composition import Composition
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.report.charts import Number
from dalle_jax.evaluate.report.report_page import report_page
from dalle_jax.evaluate.report.run_report import Comparison, RunReport
from dalle_jax.storage import Place

PAGE_NAME = "report.html"
METRICS_NAME = "metrics.json"


def write_report(report: RunReport, folder: Place) -> tuple[Place, Place]:
    """Write both files into ``folder``, which is created if it is missing, and return their paths.

    Raises UserError if the folder cannot be written to. Each file is replaced as a whole or stays as it was.
    """
    page_path, metrics_path = folder / PAGE_NAME, folder / METRICS_NAME
    write_metrics(metrics_path, metrics_of(report))
    storage.write_bytes(page_path, report_page(report).encode())
    return page_path, metrics_path


def metrics_of(report: RunReport) -> dict[str, object]:
    """Return all numbers of the report as nested objects, under the paths that the page shows for them."""
    out: dict[str, object] = {
        "title": report.title,
        "command": report.command,
        "seed": report.seed,
        "wall_seconds": report.wall_seconds,
        "stages": {
            stage.name: {"seconds": stage.seconds, "steps": stage.steps, "parameters": stage.parameters}
            for stage in report.stages
        },
        "machine": report.machine.to_json(),
    }
    if report.reconstruction is not None:
        out["reconstruction"] = report.reconstruction.to_json()
    if report.composition is not None:
        out["composition"] = report.composition.to_json()
    if report.guidance:
        out["guidance"] = {f"{point.scale:g}": _shares(point.composition) for point in report.guidance}
    if report.reader:
        out["reader"] = {check.name: check.to_json() for check in report.reader}
    if report.comparison is not None:
        out["comparison"] = _comparison(report.comparison)
    for edit in report.edits:
        _put(out, f"edits.{edit.name}.count", edit.count)
        for one in edit.measures:
            _put(out, f"edits.{edit.name}.{one.key}", one.value.value if isinstance(one.value, Share) else one.value)
    for figure in report.figures:
        _put(out, figure.path, figure.value)
    return out


def write_metrics(path: Place, metrics: Mapping[str, object]) -> None:
    """Write ``metrics`` as strict JSON, whole or not at all.

    JSON has no NaN and no infinity: such a value becomes null, and ``unmeasured`` names it and the reason. Raises
    UserError if the file cannot be written, TypeError for a value that is not a number, text, list or object.
    """
    reasons: dict[str, str] = {}
    cleaned: dict[str, object] = {key: _cleaned(item, key, reasons) for key, item in metrics.items()}
    if reasons:
        cleaned["unmeasured"] = reasons
    content = json.dumps(cleaned, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(path, content.encode())


def _shares(composition: Composition) -> dict[str, dict[str, dict[str, object]]]:
    """Return the shares of ``Composition.to_json`` that the guidance table shows, without parts and intervals."""
    dropped = ("parts", "interval_95")
    return {
        level: {split: {k: v for k, v in cell.items() if k not in dropped} for split, cell in splits.items()}
        for level, splits in composition.to_json().items()
    }


def _comparison(comparison: Comparison) -> dict[str, object]:
    contenders = {
        contender.name: {figure.path: figure.value for figure in contender.figures}
        for contender in comparison.contenders
    }
    return {"chosen": comparison.chosen, "why": comparison.why, "contenders": contenders}


def _put(out: dict[str, object], path: str, value: Number | None) -> None:
    """Set the value at a dotted path. Raises ValueError if the path is taken."""
    *parents, leaf = path.split(".")
    for name in parents:
        below = out.setdefault(name, {})
        if not isinstance(below, dict):
            raise ValueError(f"{path}: expected an object at {name!r}, got {below!r}")
        out = below
    if leaf in out:
        raise ValueError(f"{path}: expected one number, got two: {out[leaf]} and {value}")
    out[leaf] = value


def _cleaned(value: object, path: str, reasons: dict[str, str]) -> object:
    """Return the value in JSON's own types. For each value that becomes null, add the reason to ``reasons``."""
    if isinstance(value, dict):
        return {str(key): _cleaned(item, f"{path}.{key}", reasons) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, f"{path}.{index}", reasons) for index, item in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.shape == ():
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        reasons[path] = f"the value was {value}, which is not a measurement"
        return None
    raise TypeError(f"{path}: expected a number, text, list or object, got a {type(value).__name__}")
