"""metadata.jsonl and metadata.csv in a folder of images, as Hugging Face's ImageFolder reads them."""

import csv
import io
import json
import posixpath
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.folder_listing import read_whole
from dalle_jax.data.records import BadRecord

NAMES = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class Described:
    """What a line says of an image: its captions, and the other fields as JSON, smaller than a dict."""

    captions: tuple[str, ...]
    rest: str

    def about(self) -> dict[str, Any]:
        """The fields that are neither captions nor the name."""
        return json.loads(self.rest)


def described(
    top: Path | epath.Path,
    sizes: Mapping[str, int],
    caption: Sequence[str],
    images: Sequence[str],
    faulty: Container[str],
) -> tuple[dict[str, Described], list[BadRecord]]:
    """What the metadata files among ``sizes`` say of each image, by its path, and the lines that cannot be used.

    ``caption`` are the fields that hold captions; of an image that is ``faulty`` its line says nothing new. Raises
    UserError for two metadata files in one folder, and for one that is none.
    """
    found: dict[str, Described] = {}
    problems: list[BadRecord] = []
    files = sorted(name for name in sizes if name.rpartition("/")[2] in NAMES)
    folders = [name.rpartition("/")[0] for name in files]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"{top / twice}: expected {' or '.join(NAMES)}, got both")
    for file in files:
        content = read_whole(top, file, sizes[file])
        for number, line in (_csv if file.endswith(".csv") else _jsonl)(content, str(top / file)):
            if isinstance(line, str):
                kind = "caption not utf-8" if line == _NOT_UTF8 else "broken metadata"
                problems.append(BadRecord(f"{file}:{number}", kind, line))
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(file), line.pop("file_name")))
            if name in faulty:
                continue
            fault = _fault(name, sizes, images, found)
            if fault is not None:
                problems.append(BadRecord(name, fault[0], f"{fault[1]} ({file}:{number})"))
                continue
            captions = tuple(one for field in caption for one in sidecars.said(line.pop(field, None)))
            found[name] = Described(captions, json.dumps(line))
    return found, problems


_NOT_UTF8 = "the line is not UTF-8"


def _fault(name: str, sizes: Mapping[str, int], images: Sequence[str], found: Container[str]) -> tuple[str, str] | None:
    if name.startswith(("/", "../")):
        return "path outside", "leads out of the folder"
    if name in found:
        return "duplicate key", "was named before"
    if name not in sizes:
        return "no image", "is not there"
    if name.rpartition(".")[2].lower() not in images:
        return "no image", f"expected a name that ends in {' or '.join(images)}"
    return None


def _jsonl(content: bytes, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line's number and object, or what is wrong with it."""
    del name
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw.decode())
        except UnicodeDecodeError:
            yield number, _NOT_UTF8
        except (ValueError, RecursionError) as error:
            yield number, f"expected a json object: {error}"
        else:
            named = isinstance(line, dict) and isinstance(line.get("file_name"), str)
            yield number, (line if named else "expected a json object with a file_name")


def _csv(content: bytes, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """As ``_jsonl``; numbers are those of the last line of each row."""
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig", errors="surrogateescape"), newline=""))
    try:
        header = next(rows, [])
        if "file_name" not in header:
            raise UserError(f"{name}: expected a column file_name, got {', '.join(header) or 'an empty file'}")
        for row in rows:
            if len(row) != len(header):
                if row:
                    yield rows.line_num, f"expected {len(header)} columns, got {len(row)}"
            elif any("\udc80" <= letter <= "\udcff" for text in row for letter in text):
                yield rows.line_num, _NOT_UTF8
            else:
                yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {rows.line_num}: {error}") from error
