"""Metadata files of a folder of images (.jsonl, .csv, .tsv), in the format of Hugging Face's ImageFolder.

Several lines about one image give it several captions, as COCO and Flickr write them.
"""

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
from dalle_jax.untrusted import parse_json

NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
FILE_NAME = "file_name"
MAX_BAD_LINES = 50_000
"""Largest number of bad lines in the metadata files of a folder; each takes a kilobyte in memory."""
MAX_HEADER = 65_536
"""Number of characters of a table in which its header is looked for."""


@dataclass(frozen=True)
class MetadataColumns:
    """Names of metadata files in any case, of the column of images' paths, and of the columns of captions."""

    files: tuple[str, ...]
    path: str
    caption: tuple[str, ...]


@dataclass(frozen=True)
class ImageMetadata:
    """The captions of an image, and its other fields as JSON text, which takes less memory than a dict.

    ``fault`` is the kind and the reason of the BadRecord if there are no captions.
    """

    captions: list[str]
    json: str
    fault: tuple[str, str] | None

    def fields(self) -> Metadata:
        """Parse and return all fields other than the captions and the file name."""
        return json.loads(self.json)


class _Line(NamedTuple):
    """A line of a metadata file: its number, the path of its image and its other fields."""

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
    columns: MetadataColumns,
    images: Sequence[str],
    skipped: Container[str],
) -> tuple[dict[str, ImageMetadata], list[BadRecord]]:
    """Read all metadata files among ``sizes``. Return each image's metadata by path, and the lines with faults.

    ``images`` are the extensions of images. Lines about an image in ``skipped`` are ignored. If several lines are about
    one image, its captions are those of all, and its other fields those of the first. Raises UserError for two metadata
    files in one folder and for a file without the column of paths.
    """
    found: dict[str, ImageMetadata] = {}
    problems: list[BadRecord] = []
    known = {name.lower() for name in columns.files}
    files = sorted(name for name in sizes if name.rpartition("/")[2].lower() in known)
    folders = [name.rpartition("/")[0] for name in files]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        both = " and ".join(name.rpartition("/")[2] for name in files if name.rpartition("/")[0] == twice)
        raise UserError(f"{top / twice}: expected one metadata file in this folder, got {both}; remove one")
    for file in files:
        content = read_whole(top, file, sizes[file])
        is_json = file.lower().endswith(".jsonl")
        lines = _read_jsonl(content, columns) if is_json else _read_table(content, str(top / file), columns)
        for line in lines:
            if len(problems) > MAX_BAD_LINES:
                raise UserError(f"{top / file}: expected metadata of images, got more than {MAX_BAD_LINES:,} bad lines")
            if isinstance(line, _BadLine):
                problems.append(BadRecord(f"{file}:{line.number}", line.kind, line.reason))
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(file), line.name)).removeprefix(f"{top}/")
            if name in skipped:
                continue
            place = f"({file}:{line.number})"
            if (fault := _fault(name, sizes, images)) is not None:
                problems.append(BadRecord(name, fault[0], f"{fault[1]} {place}"))
                continue
            texts, none = sidecars.captions_in(line.fields, columns.caption)
            if name in found:
                found[name].captions.extend(texts)
                continue
            fields = {field: value for field, value in line.fields.items() if field not in columns.caption}
            fault = None if none is None else (none[0], f"{none[1]} {place}")
            found[name] = ImageMetadata(texts, json.dumps(fields), fault)
    return found, problems


def _fault(name: str, sizes: Mapping[str, int], images: Sequence[str]) -> tuple[str, str] | None:
    """Return the kind of fault and the reason why the image that a line names cannot be used, or None."""
    if name.startswith(("/", "../")):
        return "path outside", "leads out of the folder"
    if name not in sizes:
        return "no image", "does not exist"
    if name.rpartition(".")[2].lower() not in images:
        return "no image", f"expected a name that ends in {' or '.join(images)}"
    return None


def _not_utf8(number: int) -> _BadLine:
    return _BadLine(number, "caption not utf-8", "the line is not UTF-8")


def _read_jsonl(content: bytes, columns: MetadataColumns) -> Iterator[_Line | _BadLine]:
    """Yield the lines of a JSON Lines file that are not blank."""
    for number, raw in enumerate(io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")), start=1):
        if not raw.strip():
            continue
        try:
            fields = parse_json(raw)
        except UnicodeDecodeError:
            yield _not_utf8(number)
        except ValueError as error:
            yield _BadLine(number, "broken metadata", f"expected a json object: {error}")
        else:
            if isinstance(fields, dict) and isinstance(name := fields.pop(columns.path, None), str):
                yield _Line(number, name, fields)
            else:
                keys = list(fields)[: sidecars.MAX_FIELDS_NAMED] if isinstance(fields, dict) else None
                got = type(fields).__name__ if keys is None else f"one with {', '.join(map(str, keys)) or 'nothing'}"
                reason = f"expected a json object with a text in {columns.path}, got {got}"
                yield _BadLine(number, "broken metadata", reason)


def _read_table(content: bytes, path: str, columns: MetadataColumns) -> Iterator[_Line | _BadLine]:
    """Yield the rows of a table; a row's number is that of its last line.

    Columns are separated by tabs if the name ends in .tsv, or if the column of paths stands between tabs in the header.
    Raises UserError, with the file's ``path``, for a table without that column.
    """
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", errors="surrogateescape", newline="")
    names = content[:MAX_HEADER].decode("utf-8-sig", errors="replace").partition("\n")[0].strip().split("\t")
    by_tabs = path.lower().endswith(".tsv") or (len(names) > 1 and columns.path in names)
    rows = csv.reader(text, delimiter="\t" if by_tabs else ",")
    try:
        header = next(rows, [])
        if columns.path not in header:
            raise UserError(
                f"{path}: expected a column {columns.path}, got {', '.join(header) or 'an empty file'}; name the "
                "columns of paths and captions with `file` and `caption`"
            )
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # such as a field of more than 131,072 letters
            yield _BadLine(rows.line_num, "broken metadata", f"cannot be read: {error}")
            continue
        if len(row) != len(header):
            if row:
                yield _BadLine(rows.line_num, "broken metadata", f"expected {len(header)} columns, got {len(row)}")
        elif any("\udc80" <= letter <= "\udcff" for value in row for letter in value):
            yield _not_utf8(rows.line_num)
        else:
            fields = dict(zip(header, row, strict=True))
            yield _Line(rows.line_num, fields.pop(columns.path), {**fields})
