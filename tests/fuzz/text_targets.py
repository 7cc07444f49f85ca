"""Readers of text tokenizers and of the files that this package writes: indexes, locks, metrics and jobs."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples import index
from dalle_jax.data.examples.record_stats import _earlier_reports
from dalle_jax.data.files.patterns import find_files
from dalle_jax.data.formats import tar_index
from dalle_jax.data.records import Record
from dalle_jax.data.sources import array_record
from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.folder_lock import Holder
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.text.byte_pairs import parse_merges, read_text
from dalle_jax.text.sentencepiece import SentencePieceModel
from dalle_jax.train.output.writers import read_lines, truncate
from tests.data import tars
from tests.fuzz.targets import Target, _read_records
from tests.small_unclip import small_words


def text_targets(folder: Path) -> list[Target]:
    """Return the targets; ``folder`` is for the seeds' files."""
    return [*_texts(), *_array_records(folder), *_indexes(folder), *_own_files()]


def _texts() -> Iterator[Target]:
    def sentencepiece(path: Path) -> None:
        model = SentencePieceModel()
        model.tokenizer(model.files(str(path)), 8).encode_batch(["a red circle", "é blue \U0001f600", ""])

    yield Target("text.model", "text.model", (small_words(),), sentencepiece)
    merges = b"#version: 0.2\na b\nab c\n"
    seeds = (merges, gzip.compress(merges))
    yield Target("merges", "merges.txt", seeds, lambda path: parse_merges(read_text(path.read_bytes(), "m"), "m"))


def _array_records(folder: Path) -> Iterator[Target]:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, "PNG")
    records = [Record(str(number), stream.getvalue(), ("a",), {}) for number in range(3)]
    array_record.write(folder / "a.array_record", records)
    seed = (folder / "a.array_record").read_bytes()
    yield Target(
        "array_record", "a.array_record", (seed,), lambda path: _read_records(ArrayRecord((str(path),)).open())
    )


def _indexes(folder: Path) -> Iterator[Target]:
    tar = tars.write(folder / "indexed.tar", *tars.sample("1"), *tars.sample("2"))
    (file,) = find_files((str(tar),), (".tar",))
    magic, content = tar_index._MAGIC, tar_index.encode_index(tar_index.build_index(file))

    def read_index(path: Path) -> None:
        _or_value_error(lambda: tar_index.decode_index(path.read_bytes(), file))

    yield Target("tar index", "i", (content[len(magic) + 32 :],), read_index, _sealed(magic))
    head = json.dumps({"records": 3, "bad_read": 0, "report": {}}).encode()

    def read_usable(path: Path) -> None:
        _or_value_error(lambda: index._from_bytes(path.read_bytes(), None))

    yield Target("usable index", "i", (head + b"\n\xe0",), read_usable, _sealed(index._MAGIC))


def _sealed(magic: bytes) -> Callable[[Path, bytes], object]:
    """Return a writer of a file with a magic number and a right checksum."""
    return lambda path, body: path.write_bytes(magic + hashlib.sha256(body).digest() + body)


def _or_value_error(read: Callable[[], object]) -> None:
    """Call a reader whose callers take a ValueError for a damaged file."""
    try:
        read()
    except ValueError as error:
        raise UserError(str(error)) from error


def _own_files() -> Iterator[Target]:
    job = BulkJob({"transformer": "x"}, 8, "y", {"seed": 1, "guidance": 2.0}, 4)
    yield Target("bulk job", "job.json", (job.to_json(),), lambda path: BulkJob.read(path).differences(job))
    lines = b'{"step": 2, "train/loss": 0.5}\n{"step": 4, "train/loss": null}\n'
    yield Target("metrics", "metrics.jsonl", (lines,), _resume)
    reports = b'{"source": {"records": 3, "report": {"read": 3, "bad": {}, "dropped": {}}}}'
    yield Target("records.json", "records.json", (reports,), lambda path: _earlier_reports(path.parent))
    yield Target("lock", ".lock", (Holder.this_process("train").render(),), _describe)


def _resume(path: Path) -> None:
    truncate(path, 3)
    read_lines(path)


def _describe(path: Path) -> None:
    holder = Holder.parse(path.read_bytes())
    if holder is not None:
        holder.describe()
        holder.is_here()
        holder.runs()
