"""Writing of precomputed codes or embeddings: several processes fill one folder, and a killed run can be continued.

Files appear in this order:

1. ``encoding.json``: the inputs that determine the content.
2. Each shard, atomically, and then ``progress/SHARD.json`` with its checksum. A shard without this file is written
   again.
3. ``manifest.json``.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples import record_stats
from dalle_jax.data.formats import array_files
from dalle_jax.data.precomputed.manifest import (
    MANIFEST,
    UNKNOWN,
    AnyEncoding,
    Shard,
    manifest_of,
    parse_encoding,
    sha256,
    shard_names,
)
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_object, read_file

ENCODING = "encoding.json"
PROGRESS = "progress"
WAIT = 0.5
"""Seconds between two checks for the files of other processes."""


def upload(path: Path, url: Place) -> int:
    """Upload a finished folder, ``manifest.json`` last, and return the number of shards that were missing.

    Raises UserError if the URL holds data of a different encoding, or other files.
    """
    encoding, there = (path / ENCODING).read_bytes(), storage.files(url)
    if ENCODING not in there and (MANIFEST in there or any(name.endswith(".array_record") for name in there)):
        raise UserError(f"{url}: expected an empty folder, or one of an earlier `encode` run; found other files")
    if ENCODING in there and (url / ENCODING).read_bytes() != encoding:
        raise UserError(
            f"{url}: expected codes of the same encoding as {path}, found different ones; give a different --out"
        )
    storage.write(url / ENCODING, encoding)
    sent = 0
    for record in sorted((path / PROGRESS).glob("*.json")):
        name, content = record.name.removesuffix(".json"), record.read_bytes()
        progress = f"{PROGRESS}/{record.name}"
        if (
            there.get(name) == (path / name).stat().st_size
            and progress in there
            and (url / progress).read_bytes() == content
        ):
            continue
        storage.upload(path / name, url / name)
        storage.write(url / progress, content)
        sent += 1
    for name in (record_stats.FILE, MANIFEST):
        if (path / name).is_file():
            storage.write(url / name, (path / name).read_bytes())
    return sent


class EncodedFolder:
    """The part of a folder of codes or embeddings that one of several processes writes.

    Process p writes shards p, p + processes, and so on.
    """

    def __init__(self, path: Path, encoding: AnyEncoding, process: int, processes: int):
        self._path = path
        self._encoding = encoding
        self._process = process
        self._names = shard_names(encoding)
        self._own = range(process, len(self._names), processes)
        # unique, since a process of a killed run may still be writing
        self._temporary = path / f".writing-{process}-{uuid.uuid4().hex[:8]}"

    def begin(self) -> None:
        """Write ``encoding.json``, or compare an existing one, and remove temporary files of killed processes.

        The first process calls this before any process writes. Raises UserError if the folder has other content.
        """
        place = self._path / ENCODING
        if place.is_file():
            self.compare()
        elif (self._path / MANIFEST).exists() or list(self._path.glob("*.array_record")):
            raise UserError(
                f"{self._path}: expected an empty folder, or one of an earlier `encode` run; found other files"
            )
        else:
            storage.write(place, (json.dumps(asdict(self._encoding), indent=1) + "\n").encode())
        self._remove_temporary()

    def compare(self) -> None:
        """Compare ``encoding.json`` with this run. Raises UserError that names each difference."""
        try:
            found = parse_object(read_file(self._path / ENCODING))
            before = parse_encoding(found, type(self._encoding))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._path / ENCODING}: expected an `encode` run's file of {self._encoding.KIND}, got other content"
            ) from error
        names = (one.name for one in fields(self._encoding))
        pairs = [(name, getattr(before, name), getattr(self._encoding, name)) for name in names]
        if changed := [f"{name} was {old} and is {new}" for name, old, new in pairs if old not in (new, UNKNOWN)]:
            raise UserError(
                f"{self._path} holds {self._encoding.KIND} of a different encoding: {'; '.join(changed)}. "
                "Choose a different folder, or undo the change"
            )

    def missing(self) -> list[int]:
        """Return the numbers of this process's shards that are missing or damaged. This reads all of its shards."""
        return [number for number in self._own if not self._is_whole(number)]

    def rows(self, number: int) -> range:
        """Return the indices of the examples in a shard."""
        first = number * self._encoding.shard_examples
        return range(first, min(first + self._encoding.shard_examples, self._encoding.examples))

    def write(self, number: int, records: Iterable[bytes]) -> None:
        """Write a shard, then the file with its checksum."""
        name = self._names[number]
        self._progress(number).unlink(missing_ok=True)
        count = array_files.write(self._path / name, records, temporary_folder=self._temporary)
        path = str(self._path / name)
        shard = Shard(file=name, examples=count, bytes=os.path.getsize(path), sha256=sha256(path))
        storage.write(self._progress(number), json.dumps(asdict(shard)).encode())

    def reopen(self) -> None:
        """Delete the manifest, before shards are written again."""
        (self._path / MANIFEST).unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Return whether the manifest exists."""
        return (self._path / MANIFEST).is_file()

    def wait_for_shards(self) -> None:
        """Wait until all processes have written their shards."""
        while not all(self._progress(number).is_file() for number in range(len(self._names))):
            time.sleep(WAIT)

    def finish(self, network: str, config: str) -> None:
        """Write the manifest in the first process, and wait for it in all others.

        ``network`` is the folder of the image tokenizer or CLIP.
        """
        if self._process:
            while not self.is_finished():
                time.sleep(WAIT)
            return
        records = [read_file(self._progress(number)) for number in range(len(self._names))]
        shards = tuple(Shard(**parse_object(one)) for one in records)
        manifest = manifest_of(self._encoding, network, config, shards)
        storage.write(self._path / MANIFEST, manifest.to_json())
        self._remove_temporary()
        for left in [*self._path.glob(".*.json.*"), *(self._path / PROGRESS).glob(".*")]:
            left.unlink(missing_ok=True)

    def _remove_temporary(self) -> None:
        for left in self._path.glob(".writing-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _progress(self, number: int) -> Path:
        return self._path / PROGRESS / f"{self._names[number]}.json"

    def _is_whole(self, number: int) -> bool:
        try:
            shard = Shard(**parse_object(read_file(self._progress(number))))
            whole = sha256(str(self._path / self._names[number])) == shard.sha256
        except (OSError, ValueError, TypeError, UserError):
            return False
        if not whole:
            self._progress(number).unlink(missing_ok=True)
        return whole
