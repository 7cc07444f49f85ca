"""Captioned images in a folder: ``x.jpg`` with ``x.txt`` beside it, or named by metadata.jsonl or metadata.csv."""

import hashlib
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.folder_listing import listed, read_whole
from dalle_jax.data.formats.folder_metadata import described
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Goes up whenever the same folder and configuration would give other records."""


@dataclass(frozen=True)
class Folder:
    """The images in and below ``path``, a folder of this machine or a URL; what begins with a dot is left out.

    A metadata file, ``metadata.jsonl`` or ``metadata.csv`` in any of the folders, has a line for each image: its path
    from there in ``file_name``, its captions in the fields that ``caption`` names. Where there are none, captions are
    the lines of the text file with the image's name (``x.txt``). What else is known of it are the other fields of its
    line, or the object in ``x.json``. ``images`` are extensions; an image of more than ``max_bytes`` is left out.
    """

    path: str
    caption: tuple[str, ...] = ("text", "caption")
    images: tuple[str, ...] = sidecars.IMAGES
    max_bytes: int = 64 * 2**20

    def open(self) -> "FolderRecords":
        """The records; reads the listing and the metadata files. Raises UserError for what makes no sense."""
        problems = [] if self.caption else ["caption must name the fields of metadata that hold captions, got none"]
        sidecars.check("folder of images", self.images, self.max_bytes, problems)
        return FolderRecords(self)


class FolderRecords:
    """``Records`` of a folder, in the order of their paths; the key is the path from the folder on."""

    def __init__(self, config: Folder):
        self._config = config
        self._top = storage.absolute(storage.place(config.path))
        self._sizes, outside = listed(self._top)
        outside_names = {problem.key for problem in outside}
        self._described, broken = described(self._top, self._sizes, config.caption, config.images, outside_names)
        problems = [*outside, *broken]
        keys = []
        for name in sorted(self._sizes):
            if name.rpartition(".")[2].lower() not in config.images:
                continue
            fault = self._fault(name)
            if fault is None:
                keys.append(name)
            elif _beside(name, "txt") not in outside_names:
                problems.append(BadRecord(name, *fault))
        self._keys = tuple(keys)
        self._problems = tuple(problems)
        if not keys and not problems:
            wanted = ", ".join(f".{one}" for one in config.images)
            raise UserError(f"{config.path}: expected a folder with images ({wanted}) in or below it, found none")

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """What was left out when the folder was listed."""
        return self._problems

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = self._keys[index]
        image = self._read(key)
        found = self._described.get(key)
        if found is not None:
            about = found.about()
        else:
            beside = _beside(key, "json")
            about = sidecars.fields(key, self._read(beside)) if beside in self._sizes else {}
        if found is not None and found.captions:
            captions = list(found.captions)
        else:
            captions = sidecars.lines(key, self._read(_beside(key, "txt")))
        return Record(key, image, sidecars.distinct(key, captions), about)

    def key(self, index: int) -> str:
        """The path of image ``index`` from the folder on."""
        return self._keys[index]

    def fingerprint(self) -> str:
        """A digest of the configuration, of the names and bytes of all files, and of the metadata."""
        config = self._config
        digest = hashlib.sha256(repr((VERSION, config.caption, config.images, config.max_bytes)).encode())
        for key in self._keys:
            sizes = [self._sizes.get(one) for one in (key, _beside(key, "txt"), _beside(key, "json"))]
            digest.update(repr((key, sizes, self._described.get(key))).encode())
        return "folder-" + digest.hexdigest()[:16]

    def _read(self, name: str) -> bytes:
        return read_whole(self._top, name, self._sizes[name])

    def _fault(self, name: str) -> tuple[str, str] | None:
        """Kind and reason why an image is no record, as far as listing and metadata tell."""
        if self._sizes[name] > self._config.max_bytes:
            return sidecars.too_large("image", "this file", self._sizes[name], self._config.max_bytes)
        found = self._described.get(name)
        if found is None and (size := self._sizes.get(_beside(name, "json"), 0)) > sidecars.MOST_OF_A_JSON:
            return sidecars.too_large("json", _beside(name, "json"), size, sidecars.MOST_OF_A_JSON)
        if found is not None and found.captions:
            return None
        text = _beside(name, "txt")
        if text not in self._sizes:
            return "no caption", f"has no {text.rpartition('/')[2]} beside it, and no metadata file gives it a caption"
        if self._sizes[text] > sidecars.MOST_OF_A_TEXT:
            return sidecars.too_large("caption", text, self._sizes[text], sidecars.MOST_OF_A_TEXT)
        return None


def _beside(name: str, extension: str) -> str:
    return f"{name.rpartition('.')[0]}.{extension}"
