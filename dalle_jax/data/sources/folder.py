"""Captioned images in a folder: ``x.jpg`` with captions in ``x.txt``, or in a metadata file."""

import hashlib
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.folder_listing import list_folder, read_whole
from dalle_jax.data.formats.folder_metadata import FILE_NAME, NAMES, MetadataColumns, read_metadata
from dalle_jax.data.records import BadRecord, Record

VERSION = 2
"""Increase this whenever the same folder and config give different records."""


@dataclass(frozen=True)
class Folder:
    """The images in and below ``path``, a folder of this machine or a URL. Names that begin with a dot are skipped.

    Any folder may have a metadata file, of a name in ``metadata``, with one or more lines for each image: its path
    relative to that folder in the field ``file``, and its captions in the fields that ``caption`` names. Without
    captions there, each line of the text files next to the image (``x.txt``, by the extensions ``texts``) is a caption.

    The other fields of the first line are the image's metadata. For an image without a line, the object in ``x.json``
    is its metadata. ``images`` holds file extensions. Extensions and names of metadata files may be in capitals. An
    image of more than ``max_bytes`` is left out. A file next to a caption whose extension is not in ``images`` is
    reported as a bad record, unless there is such an image of the same name. With ``captioned`` False an image without
    a caption is a record without captions. With ``listed`` only images that a metadata file lists are read.
    """

    path: str
    caption: tuple[str, ...] = ("text", "caption")
    images: tuple[str, ...] = sidecars.IMAGES
    texts: tuple[str, ...] = sidecars.TEXTS
    metadata: tuple[str, ...] = NAMES
    file: str = FILE_NAME
    max_bytes: int = 64 * 2**20
    captioned: bool = True
    listed: bool = False

    def open(self) -> "FolderRecords":
        """List the folder and read its metadata files. Raises UserError for wrong fields, or if there is no image."""
        extensions = {"images": self.images, "texts": self.texts}
        wrong = [one for one in self.metadata if not one.lower().endswith((".csv", ".tsv", ".jsonl")) or "/" in one]
        problems = [f"metadata: expected names that end in .csv, .tsv or .jsonl, got {one}" for one in wrong]
        check_config("folder of images", {"max_bytes": self.max_bytes}, self.caption, extensions, problems)
        return FolderRecords(self)


class FolderRecords:
    """``Records`` of a folder, in the order of their paths. A key is the image's relative path."""

    def __init__(self, config: Folder):
        self._config = config
        self._top = storage.absolute(storage.place(config.path))
        self._sizes, outside = list_folder(self._top)
        outside_names = {problem.key for problem in outside}
        self._capitals = {folded: name for name in self._sizes if (folded := _folded(name)) != name}
        columns = MetadataColumns(config.metadata, config.file, config.caption)
        self._metadata, broken = read_metadata(self._top, self._sizes, columns, config.images, skipped=outside_names)
        problems = [*outside, *broken]
        keys = []
        for name in sorted(self._sizes):
            if _extension(name) not in config.images:
                if self._is_passed_over(name):
                    expected = " or ".join(f".{one}" for one in config.images)
                    problems.append(BadRecord(name, "no image", f"has a caption, expected an image with {expected}"))
                continue
            if config.listed and name not in self._metadata:
                continue
            fault = self._fault(name)
            if fault is None:
                keys.append(name)
            elif not outside_names & {_sibling(name, one) for one in config.texts}:
                problems.append(BadRecord(name, *fault))
        self._keys = tuple(keys)
        self._problems = tuple(problems)
        if not keys and not problems:
            extensions = ", ".join(f".{one}" for one in config.images)
            raise UserError(f"{config.path}: expected a folder with images ({extensions}) in or below it, found none")

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """The files and metadata lines that were left out when the folder was listed."""
        return self._problems

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = self._keys[index]
        image = self._read(key)
        found = self._metadata.get(key)
        if found is not None:
            metadata = found.fields()
        else:
            json_file = self._sidecar(key, "json")
            metadata = sidecars.json_fields(key, self._read(json_file)) if json_file is not None else {}
        if found is not None and found.captions:
            captions = found.captions
        else:
            captions = [line for text in self._texts(key) for line in sidecars.caption_lines(key, self._read(text))]
        if not captions and not self._config.captioned:
            return Record(key, image, (), metadata)
        return Record(key, image, sidecars.unique_captions(key, captions), metadata)

    def key(self, index: int) -> str:
        """Return the relative path of image ``index``."""
        return self._keys[index]

    def fingerprint(self) -> str:
        """Return a digest of the config, of all files' names and sizes, and of the metadata files' content."""
        config = self._config
        fields = (config.caption, config.images, config.texts, config.metadata, config.file, config.max_bytes)
        options = ("uncaptioned",) * (not config.captioned) + ("listed",) * config.listed
        version = (VERSION, *options) if options else VERSION
        digest = hashlib.sha256(repr((version, fields)).encode())
        for key in self._keys:
            found = self._metadata.get(key)
            names = (key, *self._texts(key), self._sidecar(key, "json"))
            sizes = [self._sizes[one] for one in names if one is not None]
            described = None if found is None else (found.captions, found.json)
            digest.update(repr((key, sizes, described)).encode())
        return "folder-" + digest.hexdigest()[:16]

    def _read(self, name: str) -> bytes:
        return read_whole(self._top, name, self._sizes[name])

    def _sidecar(self, name: str, extension: str) -> str | None:
        """Return the file next to an image that has another extension, in small letters or in capitals, or None."""
        wanted = _sibling(name, extension)
        return wanted if wanted in self._sizes else self._capitals.get(wanted)

    def _texts(self, name: str) -> list[str]:
        """Return the files of captions next to an image."""
        return [found for one in self._config.texts if (found := self._sidecar(name, one)) is not None]

    def _is_passed_over(self, name: str) -> bool:
        """Return True for a file next to a caption that is neither an image, nor a sidecar of one.

        It is probably an image of a format that is not read.
        """
        extension, config = _extension(name), self._config
        if not extension or extension in (*config.texts, "json") or not self._texts(name):
            return False
        return all(self._sidecar(name, one) is None for one in config.images)

    def _fault(self, name: str) -> tuple[str, str] | None:
        """Return the kind of fault and the reason why an image cannot be used, or None.

        Only the listing and the metadata are checked, not the image's content.
        """
        if self._sizes[name] > self._config.max_bytes:
            return sidecars.size_fault("image", "this file", self._sizes[name], self._config.max_bytes)
        found = self._metadata.get(name)
        json_file, texts = self._sidecar(name, "json"), self._texts(name)
        if found is None and json_file is not None and (size := self._sizes[json_file]) > sidecars.MAX_JSON_BYTES:
            return sidecars.size_fault("json", json_file, size, sidecars.MAX_JSON_BYTES)
        if found is not None and found.captions:
            return None
        if not texts and not self._config.captioned:
            return None
        if not texts:
            wanted = " or ".join(_sibling(name, one).rpartition("/")[2] for one in self._config.texts)
            kind, reason = (found.fault if found else None) or ("no caption", "no metadata file gives it a caption")
            return kind, f"has no {wanted} next to it, and {reason}"
        for text in texts:
            if self._sizes[text] > sidecars.MAX_TEXT_BYTES:
                return sidecars.size_fault("caption", text, self._sizes[text], sidecars.MAX_TEXT_BYTES)
        return None


def _extension(name: str) -> str:
    """Return the extension of a file in small letters, "" for a name without a dot."""
    stem, _, extension = name.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def _folded(name: str) -> str:
    """Return a name with its extension in small letters."""
    return _sibling(name, extension) if (extension := _extension(name)) else name


def _sibling(name: str, extension: str) -> str:
    """Return a name with another extension."""
    return f"{name.rpartition('.')[0]}.{extension}"
