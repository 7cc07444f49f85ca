"""Captioned images in tars, as img2dataset and webdataset write them, with random access and without unpacking."""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dalle_jax.data.files.patterns import find_files
from dalle_jax.data.files.ranges import read_byte_ranges
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.row_files import short_names
from dalle_jax.data.formats.tar_index import TarIndex, load_index
from dalle_jax.data.records import BadRecord, Record

VERSION = 2
"""Increase this whenever the same tars and config give different records."""

_CAPTION = re.compile(r"json:.+|[^.:A-Z][^:A-Z]*")


@dataclass(frozen=True)
class WebDataset:
    """The samples of tars.

    ``files`` are files, folders, URLs, and patterns with ``*`` or ``{000..127}`` (data/files/patterns.py).

    ``caption`` lists the places of captions; all that exist in a sample are read. A place is the extension of a text
    file with one caption a line, or ``json`` for the field ``caption`` of the sample's JSON. ``json:NAME`` is the
    JSON's field ``NAME``. The other JSON fields are metadata.

    ``images`` are the extensions of images, the preferred one first. An image of more than ``max_bytes`` is left out.
    The index of a tar is stored next to it, or in ``index_folder``.
    """

    files: tuple[str, ...]
    caption: tuple[str, ...] = ("txt",)
    images: tuple[str, ...] = sidecars.IMAGES
    max_bytes: int = 64 * 2**20
    index_folder: str | None = None

    def open(self) -> "WebDatasetRecords":
        """Open the tars and index them. Raises UserError for wrong fields and missing tars."""
        problems = []
        if not self.caption or not all(_CAPTION.fullmatch(one) for one in self.caption):
            problems.append(f"caption: expected extensions in lower case (txt), json or json:FIELD, got {self.caption}")
        check_config(
            "tars of images", {"max_bytes": self.max_bytes}, extensions={"images": self.images}, problems=problems
        )
        found = [load_index(file, self.index_folder) for file in find_files(self.files, (".tar",))]
        if unstored := [one.file.name for one, is_stored in found if not is_stored]:
            more = f" and {len(unstored) - 1} more" if len(unstored) > 1 else ""
            line = f"the index of {unstored[0]}{more} cannot be written next to the tar and is built again in each run"
            print(f"dalle-jax: WARNING: {line}; set index_folder to a writable folder", file=sys.stderr, flush=True)
        return WebDatasetRecords(self, [one for one, _ in found])


class WebDatasetRecords:
    """``Records`` of tars, in the order of the tars' names and of the samples in each.

    A key that an earlier tar has too gets the name of its own tar in front: ``1.tar:000``.
    """

    def __init__(self, config: WebDataset, indexes: Sequence[TarIndex]):
        self._config = config
        self._indexes = tuple(indexes)
        self._texts = tuple(one for one in config.caption if one.partition(":")[0] != "json")
        self._fields = tuple(
            one.partition(":")[2] or "caption" for one in config.caption if one.partition(":")[0] == "json"
        )
        problems = []
        tars, samples = [], []
        self._repeats = _repeated_keys(self._indexes)
        self._labels = short_names(one.file.name for one in self._indexes)
        for tar, (one, repeats) in enumerate(zip(self._indexes, self._repeats, strict=True)):
            problems += [BadRecord(*problem) for problem in one.problems]
            bad = dict(self._faults(one, repeats.same_tar))
            problems += [
                BadRecord(self._key(tar, sample), *fault) for sample, fault in bad.items() if fault is not None
            ]
            good = np.setdiff1d(np.arange(len(one)), np.fromiter(bad, np.int64, len(bad)), assume_unique=True)
            tars.append(np.full(len(good), tar, np.int32))
            samples.append(good)
        self._problems = tuple(problems)
        self._tars = np.concatenate(tars)
        self._samples = np.concatenate(samples)

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """The samples that were left out when the tars were indexed."""
        return self._problems

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tar, sample = self._indexes[self._tars[index]], int(self._samples[index])
        key, ranges = self.key(index), tar.byte_ranges(sample)
        image = next(one for one in self._config.images if one in ranges)
        members = [image, *(one for one in (*self._texts, "json") if one in ranges)]
        contents = read_byte_ranges(tar.file, [ranges[one] for one in members])
        read = dict(zip(members, contents, strict=True))
        fields = sidecars.json_fields(key, read["json"]) if "json" in read else {}
        captions: list[str] = []
        fault = None
        for place in self._config.caption:
            kind, _, field = place.partition(":")
            if kind == "json" and "json" in read:
                found = sidecars.captions_in(fields, (field or "caption",))
                captions, fault = captions + found.texts, fault or found.fault
            elif place in read:
                captions += sidecars.caption_lines(key, read[place])
        metadata = {name: value for name, value in fields.items() if name not in self._fields}
        return Record(key, read[image], sidecars.unique_captions(key, captions, fault), metadata)

    def key(self, index: int) -> str:
        """Return the key of record ``index``, from the index of its tar."""
        return self._key(int(self._tars[index]), int(self._samples[index]))

    def _key(self, tar: int, sample: int) -> str:
        key = self._indexes[tar].key(sample)
        return f"{self._labels[tar]}:{key}" if self._repeats[tar].earlier_tar[sample] else key

    def fingerprint(self) -> str:
        """Return a digest of the config and of the tars' headers: names, sizes and times of all members."""
        config = self._config
        content = (VERSION, config.caption, config.images, config.max_bytes, [one.digest for one in self._indexes])
        return "webdataset-" + hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _faults(self, index: TarIndex, repeated: np.ndarray) -> Iterator[tuple[int, tuple[str, str] | None]]:
        """Yield the number of each sample that cannot be used, with the kind of fault and the reason.

        Kind and reason are replaced by None if the index of the tar already reports a fault of the sample.
        """
        tar = index.file.name.rpartition("/")[2]
        reported = {key for key, _, _ in index.problems}
        image_bytes = np.full(len(index), -1, np.int64)
        for extension in reversed(self._config.images):
            found = index.bytes_of(extension)
            image_bytes = np.where(found >= 0, found, image_bytes)
        text_bytes = {extension: index.bytes_of(extension) for extension in self._texts}
        json_bytes = index.bytes_of("json")
        has_caption = (json_bytes >= 0) & bool(self._fields)
        largest_text = np.full(len(index), -1, np.int64)
        for found in text_bytes.values():
            has_caption |= found >= 0
            largest_text = np.maximum(largest_text, found)
        limits = (
            ("image", image_bytes, self._config.max_bytes),
            ("caption", largest_text, sidecars.MAX_TEXT_BYTES),
            ("json", json_bytes, sidecars.MAX_JSON_BYTES),
        )
        bad = repeated | (image_bytes < 0) | ~has_caption
        for _, sizes, most in limits:
            bad = bad | (sizes > most)
        for sample in map(int, np.flatnonzero(bad)):
            if repeated[sample]:
                reason = f"an earlier sample has the same key; the members of a sample must follow each other in {tar}"
                yield sample, ("duplicate key", f"{reason} (tar --sort=name)")
            elif image_bytes[sample] < 0 or not has_caption[sample]:
                kind = "no image" if image_bytes[sample] < 0 else "no caption"
                expected = self._config.images if kind == "no image" else self._config.caption
                reason = f"has {', '.join(index.byte_ranges(sample))} in {tar}, expected {' or '.join(expected)}"
                yield sample, (None if index.key(sample) in reported else (kind, reason))
            else:
                kind, sizes, most = next(one for one in limits if one[1][sample] > one[2])
                yield sample, sidecars.size_fault(kind, tar, int(sizes[sample]), most)


class _Repeats(NamedTuple):
    """For each sample of a tar, bool [S]: whether an earlier sample of this tar, or an earlier tar, has its key."""

    same_tar: np.ndarray
    earlier_tar: np.ndarray


def _repeated_keys(indexes: Sequence[TarIndex]) -> list[_Repeats]:
    """Find the keys that several samples have. Hashes of 64 bits are compared first, then the keys within one tar.

    If keys of different tars have equal hashes, the later key gets a label that it does not need.
    """
    hashes = np.concatenate([one.key_hashes for one in indexes])
    bounds = np.cumsum([0, *(len(one) for one in indexes)])
    tars = np.repeat(np.arange(len(indexes)), np.diff(bounds))
    order = np.argsort(hashes, kind="stable")  # so samples of one hash are in the order of the tars
    new = np.ones(len(order), bool)
    new[1:] = hashes[order][1:] != hashes[order][:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    earlier, same = np.zeros(len(order), bool), np.zeros(len(order), bool)
    earlier[order] = tars[order] != tars[order[first]]
    begins = new.copy()  # the first sample of its hash in its tar
    begins[1:] |= tars[order][1:] != tars[order][:-1]
    first_in_tar = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))

    def key(sample: int) -> str:
        tar = int(tars[sample])
        return indexes[tar].key(sample - int(bounds[tar]))

    for place in np.flatnonzero(~begins):
        sample, before = int(order[place]), int(order[first_in_tar[place]])
        same[sample] = key(sample) == key(before)
    return [_Repeats(*each) for each in zip(np.split(same, bounds[1:-1]), np.split(earlier, bounds[1:-1]), strict=True)]
