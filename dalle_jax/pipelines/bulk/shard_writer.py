"""The writer of one shard: a tar of the kept images with their prompts, and a table of the scores of all candidates."""

import importlib
import io
import json
import tarfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.images.png import encode_png
from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt
from dalle_jax.pipelines.bulk.prompt_files import NUMBERS
from dalle_jax.pipelines.bulk.shards import BulkFolder, shard_name

MOST_ENCODED_AHEAD = 64
"""Largest number of PNG files that threads encode before the first of them is in the tar."""


def require_pyarrow() -> None:
    """Raise UserError if the package pyarrow is missing."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"--tars: expected the package pyarrow for the scores, found none; {install_hint('parquet')}"
        ) from error


class ShardWriter:
    """The tar and the scores of one shard, written aside. A tar's bytes depend on its images and prompts alone."""

    def __init__(self, folder: BulkFolder, number: int, pool: ThreadPoolExecutor) -> None:
        """Open the tar in a temporary folder. ``pool`` encodes PNG files."""
        self._folder, self._number, self._pool = folder, number, pool
        self._encoding: deque[tuple[str, dict[str, object], Future[bytes]]] = deque()
        self._images = self._prompts = self._candidates = 0
        self._scores = ScoreTable()
        try:
            self._aside = folder.temporary()
            self._tar = tarfile.open(self._aside / f"{shard_name(number)}.tar", "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        except OSError as error:
            raise storage.cannot_write(shard_name(number), error) from error

    def add(self, drawn: DrawnPrompt) -> None:
        """Add the images and scores of a prompt. Raises UserError if the disk is full."""
        first = drawn.request.options.first
        keys = [f"{shard_name(self._number)}{self._images + rank:04d}" for rank in range(len(drawn.pixels))]
        self._scores.add(drawn, keys)
        for rank, (key, image, place) in enumerate(zip(keys, drawn.pixels, drawn.chosen, strict=True)):
            score = None if drawn.scores is None else round(float(drawn.scores[place]), 6)
            record = _record(drawn, image) | {
                "key": key, "rank": rank, "candidate": first + int(place), "score": score,
            }  # fmt: skip
            text = {"prompt": drawn.request.title}
            self._encoding.append((key, record, self._pool.submit(encode_png, image, text)))
        self._images += len(keys)
        self._prompts += 1
        self._candidates += drawn.request.options.candidates
        self._write(MOST_ENCODED_AHEAD)

    def finish(self) -> None:
        """Write the rest of the files, and move them into the output folder."""
        self._write(0)
        try:
            self._tar.close()
            self._scores.write(self._aside / f"{shard_name(self._number)}.parquet")
        except OSError as error:
            raise storage.cannot_write(shard_name(self._number), error) from error
        counts = {"count": self._images, "successes": self._images, "prompts": self._prompts}
        self._folder.commit(self._number, self._aside, counts | {"candidates": self._candidates})

    def _write(self, left: int) -> None:
        """Write encoded images to the tar until only ``left`` of them wait."""
        while len(self._encoding) > left:
            key, record, png = self._encoding.popleft()
            try:
                self._member(f"{key}.png", png.result())
                self._member(f"{key}.txt", str(record["caption"]).encode())
                self._member(f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
            except OSError as error:
                raise storage.cannot_write(shard_name(self._number), error) from error

    def _member(self, name: str, content: bytes) -> None:
        """Add a file to the tar, without times and owners."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all members


def _record(drawn: DrawnPrompt, image: np.ndarray) -> dict[str, object]:
    """Return the metadata of a kept image: img2dataset's fields, and the options by which it can be drawn again."""
    request = drawn.request
    options = {name: getattr(request.options, name) for name in NUMBERS if name != "keep"}
    return {
        "caption": request.title,
        "status": "success",
        "width": image.shape[1],
        "height": image.shape[0],
        "prompt_number": drawn.number,
        "negative_prompt": request.negative_prompt,
        **options,
    }


class ScoreTable:
    """A row for each candidate of a shard: its prompt, number and score, and the rank and key of a kept one."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}
        self._prompts: list[str] = []

    def add(self, drawn: DrawnPrompt, keys: list[str]) -> None:
        """Add the candidates of a prompt; ``keys`` are those of the kept ones, best first."""
        options = drawn.request.options
        count = options.candidates
        ranks, named = np.full(count, -1, np.int32), np.full(count, None, object)
        ranks[drawn.chosen], named[drawn.chosen] = np.arange(len(keys)), keys
        columns: dict[str, np.ndarray] = {
            "prompt_number": np.full(count, drawn.number, np.int64),
            "candidate": options.first + np.arange(count, dtype=np.int32),
            "seed": np.full(count, options.seed, np.uint32),
            "score": np.full(count, np.nan, np.float32) if drawn.scores is None else drawn.scores,
            "rank": ranks,
            "key": named,
        }
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column)
        self._prompts += [drawn.request.title] * count

    def write(self, path: Path) -> None:
        """Write the table as parquet. A candidate without a rank or score has a null there."""
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        whole = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        arrays = {
            name: arrow.array(column, mask=_absent(name, column)) for name, column in whole.items() if name != "key"
        }
        arrays["key"] = arrow.array(whole["key"].tolist(), arrow.string())
        arrays["prompt"] = arrow.array(self._prompts, arrow.string())
        parquet.write_table(arrow.table(arrays), str(path))


def _absent(name: str, column: np.ndarray) -> np.ndarray | None:
    if name == "score":
        return np.isnan(column)
    return column < 0 if name == "rank" else None
