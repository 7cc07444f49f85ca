"""The folder that ``encode`` fills: which shards are whole, who makes which, and when it is finished.

``encoding.json`` says what decides the codes, and is there first. A shard is written aside and renamed; after it
``progress/SHARD.json`` is, with its checksum, so a shard without one is made anew. ``manifest.json`` comes last.
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
from dalle_jax.data.sources.precomputed import MANIFEST, Encoding, Manifest, Shard, sha256, shard_names
from dalle_jax.storage import Place

BEGUN = "encoding.json"
PROGRESS = "progress"
WAIT = 0.5
"""Seconds between looks for what other processes write."""


def send(path: Path, url: Place) -> int:
    """Copies a finished folder to a URL, ``manifest.json`` last; returns how many shards were not there yet.

    Raises UserError where codes of something else are there, or files that `encode` did not put there.
    """
    begun, there = (path / BEGUN).read_bytes(), storage.files(url)
    if BEGUN not in there and (MANIFEST in there or any(name.endswith(".array_record") for name in there)):
        raise UserError(f"{url}: expected an empty folder, or one that `encode` began; found other files")
    if BEGUN in there and (url / BEGUN).read_bytes() != begun:
        raise UserError(f"{url} holds codes of something else than {path}; name another one for --out")
    storage.write(url / BEGUN, begun)
    sent = 0
    for record in sorted((path / PROGRESS).glob("*.json")):
        name, content = record.name.removesuffix(".json"), record.read_bytes()
        said = f"{PROGRESS}/{record.name}"
        if there.get(name) == (path / name).stat().st_size and said in there and (url / said).read_bytes() == content:
            continue
        storage.upload(path / name, url / name)
        storage.write(url / said, content)
        sent += 1
    for name in (record_stats.FILE, MANIFEST):
        if (path / name).is_file():
            storage.write(url / name, (path / name).read_bytes())
    return sent


class CodeFolder:
    """A folder of codes for one process of those that share its shards: process p makes p, p + processes, and so on."""

    def __init__(self, path: Path, encoding: Encoding, process: int, processes: int):
        self._path = path
        self._encoding = encoding
        self._process = process
        self._names = shard_names(encoding)
        self._own = range(process, len(self._names), processes)
        self._aside = path / f".writing-{process}-{uuid.uuid4().hex[:8]}"  # a process that outlived its run has its own

    def begin(self) -> None:
        """Say what the codes are of, or compare; remove what killed processes left.

        The first process calls this before any writes. Raises UserError for a folder with codes of something else.
        """
        place = self._path / BEGUN
        if place.is_file():
            self.compare()
        elif (self._path / MANIFEST).exists() or list(self._path.glob("*.array_record")):
            raise UserError(f"{self._path}: expected an empty folder, or one that `encode` began; found other files")
        else:
            storage.write(place, (json.dumps(asdict(self._encoding), indent=1) + "\n").encode())
        self._clear_aside()

    def compare(self) -> None:
        """Raises UserError where the folder was begun with other settings, naming each."""
        try:
            found = json.loads((self._path / BEGUN).read_text(encoding="utf-8"))
            before = Encoding(**found | {"grid": tuple(found["grid"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self._path / BEGUN}: expected what `encode` wrote, got something else") from error
        names = (one.name for one in fields(Encoding))
        pairs = [(name, getattr(before, name), getattr(self._encoding, name)) for name in names]
        if changed := [f"{name} was {old} and is {new}" for name, old, new in pairs if old != new]:
            raise UserError(
                f"{self._path} holds codes of something else: {'; '.join(changed)}. Name another folder, or undo that"
            )

    def missing(self) -> list[int]:
        """The shards of this process that are not there or not as they were written; reads those that are."""
        return [number for number in self._own if not self._is_whole(number)]

    def rows(self, number: int) -> range:
        """The examples of a shard."""
        first = number * self._encoding.shard_examples
        return range(first, min(first + self._encoding.shard_examples, self._encoding.examples))

    def write(self, number: int, records: Iterable[bytes]) -> None:
        """Writes a shard, then its checksum."""
        name = self._names[number]
        self._record(number).unlink(missing_ok=True)
        count = array_files.write(self._path / name, records, aside_in=self._aside)
        path = str(self._path / name)
        shard = Shard(file=name, examples=count, bytes=os.path.getsize(path), sha256=sha256(path))
        storage.write(self._record(number), json.dumps(asdict(shard)).encode())

    def reopen(self) -> None:
        """Takes the manifest away before shards are made anew."""
        (self._path / MANIFEST).unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether the manifest is there."""
        return (self._path / MANIFEST).is_file()

    def wait_for_shards(self) -> None:
        """Until all processes have written theirs."""
        while not all(self._record(number).is_file() for number in range(len(self._names))):
            time.sleep(WAIT)

    def finish(self, image_tokenizer: str, config: str) -> None:
        """Writes the manifest when all shards are there; processes other than the first only wait for it."""
        if self._process:
            while not self.is_finished():
                time.sleep(WAIT)
            return
        records = [self._record(number).read_text(encoding="utf-8") for number in range(len(self._names))]
        shards = tuple(Shard(**json.loads(one)) for one in records)
        manifest = Manifest(encoding=self._encoding, image_tokenizer=image_tokenizer, config=config, shards=shards)
        storage.write(self._path / MANIFEST, manifest.to_json())
        self._clear_aside()
        for left in [*self._path.glob(".*.json.*"), *(self._path / PROGRESS).glob(".*")]:
            left.unlink(missing_ok=True)

    def _clear_aside(self) -> None:
        for left in self._path.glob(".writing-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _record(self, number: int) -> Path:
        return self._path / PROGRESS / f"{self._names[number]}.json"

    def _is_whole(self, number: int) -> bool:
        try:
            shard = Shard(**json.loads(self._record(number).read_text(encoding="utf-8")))
            whole = sha256(str(self._path / self._names[number])) == shard.sha256
        except (OSError, ValueError, TypeError):
            return False
        if not whole:
            self._record(number).unlink(missing_ok=True)
        return whole
