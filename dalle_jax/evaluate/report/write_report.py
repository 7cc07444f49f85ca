"""Writes a report: one HTML page that opens from disk, and ``metrics.json`` with the same figures beside it."""

import json
import math
from typing import Any

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.composition import Composition
from dalle_jax.evaluate.report.charts import Number
from dalle_jax.evaluate.report.page import page
from dalle_jax.evaluate.report.run_report import Comparison, ReaderCheck, Report
from dalle_jax.storage import Place

PAGE_NAME = "report.html"
METRICS_NAME = "metrics.json"


def write_report(report: Report, folder: Place) -> tuple[Place, Place]:
    """Writes both files into ``folder`` (made if need be) and returns their paths.

    Raises UserError where the folder cannot be written to; a file that is there is whole, or is the one from before.
    """
    page_path, metrics_path = folder / PAGE_NAME, folder / METRICS_NAME
    write_metrics(metrics_path, metrics_of(report))
    write_aside(page_path, page(report))
    return page_path, metrics_path


def metrics_of(report: Report) -> dict[str, Any]:
    """Every figure of the report as nested objects, under the paths that the page gives for them."""
    out: dict[str, Any] = {
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
        out["reader"] = {check.name: _reader(check) for check in report.reader}
    if report.comparison is not None:
        out["comparison"] = _comparison(report.comparison)
    for figure in report.figures:
        _put(out, figure.path, figure.value)
    return out


def write_metrics(path: Place, metrics: dict[str, Any]) -> None:
    """Writes ``metrics`` as strict JSON, whole or not at all.

    JSON knows no NaN and no infinity: such a value is written as null, and ``unmeasured`` says which and why. Raises
    UserError where the file cannot be written, TypeError for a value that is no figure, text, list or object.
    """
    reasons: dict[str, str] = {}
    cleaned = _cleaned(metrics, "", reasons)
    if reasons:
        cleaned["unmeasured"] = reasons
    write_aside(path, json.dumps(cleaned, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_aside(path: Place, text: str) -> None:
    """Writes beside ``path`` and renames, so that no reader meets half a file and a full disk destroys nothing."""
    try:
        storage.write(path, text.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder with --out"
        ) from error


def _shares(composition: Composition) -> dict[str, Any]:
    """``to_json`` without parts and intervals: what the guidance table shows."""
    dropped = ("parts", "interval_95")
    return {
        level: {split: {k: v for k, v in cell.items() if k not in dropped} for split, cell in splits.items()}
        for level, splits in composition.to_json().items()
    }


def _reader(check: ReaderCheck) -> dict[str, Any]:
    other = check.other_accepted
    return {
        "true_accepted": check.true_accepted.value,
        "wrong_accepted": check.wrong_accepted.value,
        "other_accepted": None if other is None else other.value,
        "count": check.true_accepted.count,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    out: dict[str, Any] = {"chosen": comparison.chosen, "why": comparison.why, "contenders": {}}
    for contender in comparison.contenders:
        out["contenders"][contender.name] = {figure.path: figure.value for figure in contender.figures}
    return out


def _put(out: dict[str, Any], path: str, value: Number | None) -> None:
    """Sets the value at a dotted path; two figures at one path would hide one of them, so that is refused."""
    *parents, leaf = path.split(".")
    for name in parents:
        out = out.setdefault(name, {})
    if leaf in out:
        raise ValueError(f"two figures for {path}: {out[leaf]} and {value}")
    out[leaf] = value


def _cleaned(value: Any, path: str, reasons: dict[str, str]) -> Any:
    """The value in JSON's own types; notes in ``reasons`` what had to become null."""
    if isinstance(value, dict):
        return {str(key): _cleaned(item, f"{path}.{key}" if path else str(key), reasons) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, f"{path}.{index}", reasons) for index, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a scalar of numpy or jax
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        reasons[path] = f"the value was {value}, which is no measurement"
        return None
    raise TypeError(f"{path}: cannot write a {type(value).__name__} as JSON")
