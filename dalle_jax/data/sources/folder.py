"""Captioned images in a folder: ``x.jpg`` with captions in ``x.txt``, metadata.jsonl or metadata.csv."""

import hashlib
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.folder_listing import list_folder, read_whole
from dalle_jax.data.formats.folder_metadata import read_metadata
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Increase this whenever the same folder and config give different records."""


@dataclass(frozen=True)
class Folder:
    """The images in and below ``path``, a folder of this machine or a URL. Names that begin with a dot are skipped.

    Any folder may have a metadata file, ``metadata.jsonl`` or ``metadata.csv``, with a line for each image: its path
    relative to that folder in ``file_name``, and its captions in the fields that ``caption`` names. Without captions
    there, each line of the text file next to the image (``x.txt``) is a caption.

    The other fields of the line are the image's metadata. For an image without a line, the object in ``x.json`` is its
    metadata. ``images`` holds file extensions. An image of more than ``max_bytes`` is left out.
    """

    path: str
    caption: tuple[str, ...] = ("text", "caption")
    images: tuple[str, ...] = sidecars.IMAGES
    max_bytes: int = 64 * 2**20

    def open(self) -> "FolderRecords":
        """List the folder and read its metadata files. Raises UserError for wrong fields, or if there is no image."""
        check_config("folder of images", {"max_bytes": self.max_bytes}, self.caption, self.images)
        return FolderRecords(self)


class FolderRecords:
    """``Records`` of a folder, in the order of their paths. A key is the image's relative path."""

    def __init__(self, config: Folder):
        self._config = config
        self._top = storage.absolute(storage.place(config.path))
        self._sizes, outside = list_folder(self._top)
        outside_names = {problem.key for problem in outside}
        self._metadata, broken = read_metadata(
            self._top, self._sizes, config.caption, config.images, skipped=outside_names
        )
        problems = [*outside, *broken]
        keys = []
        for name in sorted(self._sizes):
            if name.rpartition(".")[2].lower() not in config.images:
                continue
            fault = self._fault(name)
            if fault is None:
                keys.append(name)
            elif _sidecar(name, "txt") not in outside_names:
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
            json_file = _sidecar(key, "json")
            metadata = sidecars.json_fields(key, self._read(json_file)) if json_file in self._sizes else {}
        if found is not None and found.captions:
            captions = list(found.captions)
        else:
            captions = sidecars.caption_lines(key, self._read(_sidecar(key, "txt")))
        return Record(key, image, sidecars.unique_captions(key, captions), metadata)

    def key(self, index: int) -> str:
        """Return the relative path of image ``index``."""
        return self._keys[index]

    def fingerprint(self) -> str:
        """Return a digest of the config, of all files' names and sizes, and of the metadata files' content."""
        config = self._config
        digest = hashlib.sha256(repr((VERSION, config.caption, config.images, config.max_bytes)).encode())
        for key in self._keys:
            sizes = [self._sizes.get(one) for one in (key, _sidecar(key, "txt"), _sidecar(key, "json"))]
            found = self._metadata.get(key)
            described = None if found is None else (found.captions, found.json)
            digest.update(repr((key, sizes, described)).encode())
        return "folder-" + digest.hexdigest()[:16]

    def _read(self, name: str) -> bytes:
        return read_whole(self._top, name, self._sizes[name])

    def _fault(self, name: str) -> tuple[str, str] | None:
        """Return the kind of fault and the reason why an image cannot be used, or None.

        Only the listing and the metadata are checked, not the image's content.
        """
        if self._sizes[name] > self._config.max_bytes:
            return sidecars.size_fault("image", "this file", self._sizes[name], self._config.max_bytes)
        found = self._metadata.get(name)
        json_file, text = _sidecar(name, "json"), _sidecar(name, "txt")
        if found is None and (size := self._sizes.get(json_file, 0)) > sidecars.MAX_JSON_BYTES:
            return sidecars.size_fault("json", json_file, size, sidecars.MAX_JSON_BYTES)
        if found is not None and found.captions:
            return None
        if text not in self._sizes:
            return "no caption", f"has no {text.rpartition('/')[2]} next to it, and no metadata file gives it a caption"
        if self._sizes[text] > sidecars.MAX_TEXT_BYTES:
            return sidecars.size_fault("caption", text, self._sizes[text], sidecars.MAX_TEXT_BYTES)
        return None


def _sidecar(name: str, extension: str) -> str:
    return f"{name.rpartition('.')[0]}.{extension}"
