"""``stages.json`` of a demo: the seconds and the last metrics of each stage, over all resumed runs."""

import json
from typing import NotRequired, TypedDict

from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place, write_bytes
from dalle_jax.train.trainer import TrainResult
from dalle_jax.untrusted import parse_object, read_file

NAME = "stages.json"


class StageEntry(TypedDict):
    """Entry of a stage in ``stages.json``: its seconds over all runs, and its last metrics if the trainer ran it."""

    seconds: float
    steps: NotRequired[int]
    parameters: NotRequired[int]
    metrics: NotRequired[dict[str, float]]


def read_record(folder: Place) -> dict[str, StageEntry]:
    """Read ``stages.json``; an absent file has no entries."""
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        return parse_object(read_file(path))
    except ValueError as error:
        raise UserError(f"{path}: expected the JSON that the demo wrote, got other content; delete the file") from error


def add_seconds(folder: Place, stage: str, seconds: float, result: TrainResult | None = None) -> None:
    """Add ``seconds`` to the seconds of a stage over all resumed runs, and store the stage's last metrics."""
    record = read_record(folder)
    entry = record.setdefault(stage, StageEntry(seconds=0.0))
    entry["seconds"] += seconds
    if result is not None:
        entry["steps"], entry["parameters"], entry["metrics"] = result.step, result.parameters, result.metrics
    write_bytes(folder / NAME, json.dumps(record, indent=2).encode())
