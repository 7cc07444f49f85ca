"""Captioned images in tars, as img2dataset and webdataset write them: read at random, never unpacked."""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.data.files.patterns import named
from dalle_jax.data.files.ranges import read_all, stored
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.tar_index import TarIndex, index
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Goes up whenever the same tars and configuration would give other records."""

_CAPTION = re.compile(r"json:.+|[^.:A-Z][^:A-Z]*")


@dataclass(frozen=True)
class WebDataset:
    """The samples of the tars that ``files`` name: files, folders, patterns with ``*`` and ``{000..127}``, URLs.

    ``caption`` says where captions are looked for, all of those that there are being taken: an extension, whose text
    has a caption on each line; ``json``, for the field ``caption`` of the sample's json; ``json:NAME`` for another
    field. ``images`` are the extensions of images, the preferred first. An image of more than ``max_bytes`` is
    left out. Indexes of the tars are stored beside them, or in ``index_folder`` if it is given.
    """

    files: tuple[str, ...]
    caption: tuple[str, ...] = ("txt",)
    images: tuple[str, ...] = sidecars.IMAGES
    max_bytes: int = 64 * 2**20
    index_folder: str | None = None

    def open(self) -> "WebDatasetRecords":
        """The records. Raises UserError for fields that make no sense, and where there are no such tars."""
        problems = []
        if not self.caption or not all(_CAPTION.fullmatch(one) for one in self.caption):
            problems.append(
                f"caption must name extensions in small letters (txt), json or json:FIELD, got {self.caption}"
            )
        sidecars.check("tars of images", self.images, self.max_bytes, problems)
        found = [index(stored(name), self.index_folder) for name in named(self.files, (".tar",))]
        if homeless := [one.file.name for one, is_stored in found if not is_stored]:
            more = f" and {len(homeless) - 1} more" if len(homeless) > 1 else ""
            line = f"the index of {homeless[0]}{more} cannot be stored beside it and is made anew each time"
            print(f"dalle-jax: WARNING: {line}; name an index_folder that can be written", file=sys.stderr, flush=True)
        return WebDatasetRecords(self, [one for one, _ in found])


class WebDatasetRecords:
    """``Records`` of tars, in the order of the tars' names and of their samples."""

    def __init__(self, config: WebDataset, indexes: Sequence[TarIndex]):
        self._config = config
        self._indexes = tuple(indexes)
        self._texts = tuple(one for one in config.caption if one.partition(":")[0] != "json")
        self._fields = tuple(
            one.partition(":")[2] or "caption" for one in config.caption if one.partition(":")[0] == "json"
        )
        problems = []
        tars, samples = [], []
        again = _repeated(self._indexes)
        for tar, (one, repeated) in enumerate(zip(self._indexes, again, strict=True)):
            problems += [BadRecord(*problem) for problem in one.problems]
            bad = dict(self._faults(one, repeated))
            problems += [BadRecord(one.key(sample), *fault) for sample, fault in bad.items() if fault is not None]
            good = np.setdiff1d(np.arange(len(one)), np.fromiter(bad, np.int64, len(bad)), assume_unique=True)
            tars.append(np.full(len(good), tar, np.int32))
            samples.append(good)
        self._problems = tuple(problems)
        self._tars = np.concatenate(tars)
        self._samples = np.concatenate(samples)

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """What was left out when the tars were indexed."""
        return self._problems

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tar, sample = self._indexes[self._tars[index]], int(self._samples[index])
        key, spans = tar.key(sample), tar.spans(sample)
        image = next(one for one in self._config.images if one in spans)
        wanted = [image, *(one for one in (*self._texts, "json") if one in spans)]
        parts = dict(zip(wanted, read_all(tar.file, [spans[one] for one in wanted]), strict=True))
        about = sidecars.fields(key, parts["json"]) if "json" in parts else {}
        captions = []
        for place in self._config.caption:
            kind, _, field = place.partition(":")
            if kind == "json":
                captions += sidecars.said(about.get(field or "caption"))
            elif place in parts:
                captions += sidecars.lines(key, parts[place])
        rest = {name: value for name, value in about.items() if name not in self._fields}
        return Record(key, parts[image], sidecars.distinct(key, captions), rest)

    def key(self, index: int) -> str:
        """The key of sample ``index``, from the index of its tar."""
        return self._indexes[self._tars[index]].key(int(self._samples[index]))

    def fingerprint(self) -> str:
        """A digest of the configuration and of all headers of the tars: names, sizes and times of their members."""
        config = self._config
        parts = (VERSION, config.caption, config.images, config.max_bytes, [one.digest for one in self._indexes])
        return "webdataset-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _faults(self, index: TarIndex, repeated: np.ndarray) -> Iterator[tuple[int, tuple[str, str] | None]]:
        """Samples that are no records, with kind and reason; None for those whose fault the index has named."""
        tar = index.file.name.rpartition("/")[2]
        named_before = {key for key, _, _ in index.problems}
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
            ("caption", largest_text, sidecars.MOST_OF_A_TEXT),
            ("json", json_bytes, sidecars.MOST_OF_A_JSON),
        )
        bad = repeated | (image_bytes < 0) | ~has_caption
        for _, sizes, most in limits:
            bad = bad | (sizes > most)
        for sample in map(int, np.flatnonzero(bad)):
            if repeated[sample]:
                again = "its key was there before; a sample's members stand side by side (tar --sort=name)"
                yield sample, ("duplicate key", f"{again}: {tar}")
            elif image_bytes[sample] < 0 or not has_caption[sample]:
                kind = "no image" if image_bytes[sample] < 0 else "no caption"
                wanted = self._config.images if kind == "no image" else self._config.caption
                reason = f"has {', '.join(index.spans(sample))} in {tar}, expected {' or '.join(wanted)}"
                yield sample, (None if index.key(sample) in named_before else (kind, reason))
            else:
                what, sizes, most = next(one for one in limits if one[1][sample] > one[2])
                yield sample, sidecars.too_large(what, tar, int(sizes[sample]), most)


def _repeated(indexes: Sequence[TarIndex]) -> list[np.ndarray]:
    """For each sample of each tar whether an earlier one has its key: bool [S] each.

    Numbers of 64 bits are compared, and where two are the same the keys themselves.
    """
    hashes = np.concatenate([one.key_hashes for one in indexes])
    bounds = np.cumsum([0, *(len(one) for one in indexes)])
    order = np.argsort(hashes, kind="stable")
    new = np.ones(len(order), bool)
    new[1:] = hashes[order][1:] != hashes[order][:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    repeated = np.zeros(len(order), bool)

    def key(sample: int) -> str:
        tar = int(np.searchsorted(bounds, sample, side="right")) - 1
        return indexes[tar].key(sample - int(bounds[tar]))

    for place in np.flatnonzero(~new):
        sample, earlier = int(order[place]), int(order[first[place]])
        repeated[sample] = key(sample) == key(earlier)
    return np.split(repeated, bounds[1:-1])
