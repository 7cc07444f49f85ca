"""Opening of the data that a config names: sources are opened, records checked and held out, and a loader made."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out import Subset
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.examples.images import MIN_READS, Images, RecordSource, too_many_bad
from dalle_jax.data.examples.index import build_index
from dalle_jax.data.examples.record_report import RecordReport, format_report
from dalle_jax.data.examples.record_stats import RecordStats, SourceStats
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import ConcatSource, MixedSources, Mixture
from dalle_jax.data.records import Records
from dalle_jax.data.source import Source
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place

NEEDS_IMAGES = (
    "data.images: expected data.images = @Images and its size, "
    "because the images of data.{name} differ in size; got None"
)


@runtime_checkable
class Openable(Protocol):
    """The config of a source of examples, or of a source of records, which ``Images`` turns into examples."""

    def open(self) -> Source | Records:
        """Open the source that the config names."""
        ...


class SourceOpener:
    """The opener of a run's sources. It collects the statistics of their records."""

    def __init__(self, images: Images | None, workers: int, folder: Place | None, log: Callable[[str], None]):
        if images is not None:
            images.check()
        self._images, self._workers, self._folder, self._log = images, workers, folder, log
        self._stats: dict[str, SourceStats] = {}
        self._images_used = False

    def open(self, config: Openable, name: str, held_out: AnyHeldOut | None = None) -> tuple[Source, Source | None]:
        """Open a source.

        Return its training examples, and its held-out examples with the centre crop (None without any).

        ``name`` is the path of the source below ``data``. Raise ``UserError`` if the source cannot be opened, has
        records without ``Images``, or cannot hold records out.
        """
        opened = hosts.call_and_share_errors(config.open)
        if len(set(hosts.gather(opened.fingerprint().encode()))) > 1:
            raise UserError(f"data.{name}: expected the same files on all hosts of the run, got different ones")
        if not isinstance(opened, Records):
            if held_out is not None:
                raise UserError(
                    "data.evaluation: expected a source of its own, since only records of files can be held out and "
                    f"data.{name} is a {type(config).__name__}; got {type(held_out).__name__}"
                )
            return opened, None
        if self._images is None:
            raise UserError(NEEDS_IMAGES.format(name=name))
        self._images_used = True
        return self._open_records(opened, self._images, name, held_out)

    def finish(self) -> RecordStats | None:
        """Return the statistics of records, or None if no source has records.

        Raise ``UserError`` if ``Images`` was given but no source needs it.
        """
        if self._images is not None and not self._images_used:
            raise UserError("data.images: expected None, since no source of data has images to decode; got Images")
        return RecordStats(self._stats, self._folder) if self._stats else None

    def _open_records(
        self, records: Records, images: Images, name: str, held_out: AnyHeldOut | None
    ) -> tuple[RecordSource, RecordSource | None]:
        if name == "evaluation":
            images = replace(images, crop="centre")
        report, usable = self._check(records, images)
        held = np.zeros(len(usable), bool)
        if held_out is not None:
            held = held_out.held(records, usable)
        validated = images.validate != "none"
        remaining = Subset(records, usable[~held], () if validated else records.problems)
        source = images.source_of(remaining, shared_stop=True)
        kept = None
        if held_out is not None:
            kept = replace(images, crop="centre").source_of(Subset(records, usable[held]), shared_stop=True)
        total = len(records) + len(records.problems)
        self._stats[name] = SourceStats(
            fingerprint=source.fingerprint(),
            records=total,
            validated=validated,
            min_reads=min(MIN_READS, len(source)),
            bad_share=images.bad_share,
            before=report.content(),
            since=[source.report] if kept is None else [source.report, kept.report],
        )
        counts = f"{len(source):,} to use" + (f", {len(kept):,} held out" if kept is not None else "")
        problems = format_report(report.content())
        self._log(f"data.{name}: {total:,} records, {counts}" + (f"; {problems}" if validated else ""))
        if held.any() and held.all():
            raise UserError(
                f"data.evaluation: expected some of data.{name} to be left to train on, got all {len(held):,} held "
                "out; hold out fewer, or nothing with data.evaluation = None"
            )
        if len(source) == 0:
            raise UserError(f"data.{name}: expected usable records, got none of {total:,} ({problems})")
        return source, kept

    def _check(self, records: Records, images: Images) -> tuple[RecordReport, np.ndarray]:
        """Return a report on the records, and the indices of the usable ones.

        Without validation these are all indices.
        """
        report = RecordReport()
        if images.validate == "none":
            return report, np.arange(len(records))
        folder = storage.place(images.index_folder) if images.index_folder is not None else self._folder
        index = build_index(records, images, self._workers, folder)
        for problem in records.problems:
            report.add_problem(problem)
        report.add_content(index.content, index.bad_read)
        bad, total = len(records.problems) + index.bad_read, len(records) + len(records.problems)
        if bad > images.bad_share * total:
            raise too_many_bad(bad, total, images.bad_share, report.content())
        return report, np.flatnonzero(index.usable)


def open_batches(
    source: Openable | Mixture,
    evaluation: Openable | AnyHeldOut | None,
    batch_size: int,
    seed: int,
    images: Images | None,
    workers: int,
    folder: Place | None,
    log: Callable[[str], None],
) -> Loader:
    """Open all sources and return a loader of their batches.

    ``folder`` is the run folder, which stores the index of records.

    All hosts of a run must call this together. Raise ``UserError`` if any part of the data cannot be used.
    """
    opener = SourceOpener(images, workers, folder, log)
    examples: Source | MixedSources
    held: Source | None
    held_out = evaluation if isinstance(evaluation, AnyHeldOut) else None
    if isinstance(source, Mixture):
        parts = [opener.open(part.source, f"source.parts.{name}", held_out) for name, part in source.parts.items()]
        examples = MixedSources([training for training, _ in parts], source.weights)
        held = ConcatSource([kept for _, kept in parts if kept is not None]) if held_out is not None else None
    else:
        examples, held = opener.open(source, "source", held_out)
    if evaluation is not None and not isinstance(evaluation, AnyHeldOut):
        held, _ = opener.open(evaluation, "evaluation")
    loader = Loader(examples, held, batch_size, seed, workers, opener.finish())
    if not loader.held_out:
        log("data.evaluation: no images are held out, so nothing is evaluated and no images are drawn while training")
    if batch_size > loader.examples:
        log(
            f"data.batch_size: {batch_size} with {loader.examples:,} images to train on, so images come several times "
            "in a batch"
        )
    return loader
