"""metadata.jsonl and metadata.csv in a folder of images, in the format of Hugging Face's ImageFolder."""

import csv
import io
import json
import posixpath
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from etils import epath

from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.folder_listing import read_whole
from dalle_jax.data.records import BadRecord, Metadata

NAMES = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class ImageMetadata:
    """The captions of an image, and its other fields as JSON text, which takes less memory than a dict."""

    captions: tuple[str, ...]
    json: str

    def fields(self) -> Metadata:
        """Parse and return all fields other than the captions and the file name."""
        return json.loads(self.json)


class _Line(NamedTuple):
    """A line of a metadata file: its number, its ``file_name`` and its other fields."""

    number: int
    name: str
    fields: dict[str, object]


class _BadLine(NamedTuple):
    """A line that cannot be used: its number, the kind of its fault, and the reason."""

    number: int
    kind: str
    reason: str


def read_metadata(
    top: Path | epath.Path,
    sizes: Mapping[str, int],
    caption: Sequence[str],
    images: Sequence[str],
    skipped: Container[str],
) -> tuple[dict[str, ImageMetadata], list[BadRecord]]:
    """Read all metadata files among ``sizes``. Return each image's metadata by path, and the lines with faults.

    ``caption`` names the fields that hold captions, and ``images`` the extensions of images. Lines about an image in
    ``skipped`` are ignored. Raises UserError for two metadata files in one folder and for a file without a
    ``file_name`` column.
    """
    found: dict[str, ImageMetadata] = {}
    problems: list[BadRecord] = []
    files = sorted(name for name in sizes if name.rpartition("/")[2] in NAMES)
    folders = [name.rpartition("/")[0] for name in files]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"{top / twice}: expected one of {' and '.join(NAMES)} in this folder, got both; remove one")
    for file in files:
        content = read_whole(top, file, sizes[file])
        lines = _read_csv(content, str(top / file)) if file.endswith(".csv") else _read_jsonl(content)
        for line in lines:
            if isinstance(line, _BadLine):
                problems.append(BadRecord(f"{file}:{line.number}", line.kind, line.reason))
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(file), line.name))
            if name in skipped:
                continue
            fault = _fault(name, sizes, images, found)
            if fault is not None:
                problems.append(BadRecord(name, fault[0], f"{fault[1]} ({file}:{line.number})"))
                continue
            captions = tuple(one for field in caption for one in sidecars.caption_texts(line.fields.pop(field, None)))
            found[name] = ImageMetadata(captions, json.dumps(line.fields))
    return found, problems


def _fault(name: str, sizes: Mapping[str, int], images: Sequence[str], found: Container[str]) -> tuple[str, str] | None:
    """Return the kind of fault and the reason why the image that a line names cannot be used, or None."""
    if name.startswith(("/", "../")):
        return "path outside", "leads out of the folder"
    if name in found:
        return "duplicate key", "has an earlier line"
    if name not in sizes:
        return "no image", "does not exist"
    if name.rpartition(".")[2].lower() not in images:
        return "no image", f"expected a name that ends in {' or '.join(images)}"
    return None


def _not_utf8(number: int) -> _BadLine:
    return _BadLine(number, "caption not utf-8", "the line is not UTF-8")


def _read_jsonl(content: bytes) -> Iterator[_Line | _BadLine]:
    """Yield the lines of a JSON Lines file that are not blank."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            fields = json.loads(raw.decode())
        except UnicodeDecodeError:
            yield _not_utf8(number)
        except (ValueError, RecursionError) as error:
            yield _BadLine(number, "broken metadata", f"expected a json object: {error}")
        else:
            if isinstance(fields, dict) and isinstance(name := fields.pop("file_name", None), str):
                yield _Line(number, name, fields)
            else:
                yield _BadLine(number, "broken metadata", "expected a json object with a file_name")


def _read_csv(content: bytes, path: str) -> Iterator[_Line | _BadLine]:
    """Yield the rows of a CSV file; a row's number is that of its last line.

    Raises UserError, with the file's ``path``, for a file without a column ``file_name``.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig", errors="surrogateescape"), newline=""))
    try:
        header = next(rows, [])
        if "file_name" not in header:
            raise UserError(f"{path}: expected a column file_name, got {', '.join(header) or 'an empty file'}")
        for row in rows:
            if len(row) != len(header):
                if row:
                    reason = f"expected {len(header)} columns, got {len(row)}"
                    yield _BadLine(rows.line_num, "broken metadata", reason)
            elif any("\udc80" <= letter <= "\udcff" for text in row for letter in text):
                yield _not_utf8(rows.line_num)
            else:
                fields = dict(zip(header, row, strict=True))
                yield _Line(rows.line_num, fields.pop("file_name"), {**fields})
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error
