"""From what a configuration names to batches: sources opened, records looked at, some held out, all put in order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out import HeldOut, Subset, keys_of
from dalle_jax.data.examples.images import READS_BEFORE_A_STOP, Images, RecordSource, stop_if_bad
from dalle_jax.data.examples.index import build_index
from dalle_jax.data.examples.record_report import RecordReport, summary
from dalle_jax.data.examples.record_stats import Account, RecordStats
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import ConcatSource, MixedSources, Mixture
from dalle_jax.data.records import Records
from dalle_jax.data.source import Source
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place

NEEDS_IMAGES = (
    "data.images: expected data.images = @Images with its size, since data.{name} gives images of any size; got None"
)


@runtime_checkable
class Openable(Protocol):
    """The configuration of a source: examples ready made, or records that ``Images`` makes examples of."""

    def open(self) -> Source | Records:
        """What it names."""
        ...


class SourceOpener:
    """Opens the sources of a run one after the other and keeps the accounts of their records."""

    def __init__(self, images: Images | None, workers: int, folder: Place | None, say: Callable[[str], None]):
        if images is not None:
            images.check()
        self._images, self._workers, self._folder, self._say = images, workers, folder, say
        self._accounts: dict[str, Account] = {}
        self._used = False

    def examples(self, config: Openable, name: str, held_out: HeldOut | None = None) -> tuple[Source, Source | None]:
        """A source of examples, and those held out of it, in the middle's crop; ``name`` is its place in the data.

        Raises ``UserError`` as opening does, and where records need ``Images`` or nothing can be held out.
        """
        opened = hosts.call_and_share_errors(config.open)
        if len(set(hosts.gather(opened.fingerprint().encode()))) > 1:
            raise UserError(f"data.{name}: expected the same files on all hosts of the run, got others on some")
        if not isinstance(opened, Records):
            if held_out is not None:
                raise UserError(
                    f"data.evaluation: expected a source of its own, since records can be held out of files alone and "
                    f"data.{name} is a {type(config).__name__}; got HeldOut"
                )
            return opened, None
        if self._images is None:
            raise UserError(NEEDS_IMAGES.format(name=name))
        self._used = True
        return self._of_records(opened, self._images, name, held_out)

    def finish(self) -> RecordStats | None:
        """The accounts, None where no source has records. Raises ``UserError`` for ``Images`` that nothing uses."""
        if self._images is not None and not self._used:
            raise UserError("data.images: expected None, since no source of data gives encoded images; got Images")
        return RecordStats(self._accounts, self._folder) if self._accounts else None

    def _of_records(
        self, records: Records, images: Images, name: str, held_out: HeldOut | None
    ) -> tuple[RecordSource, RecordSource | None]:
        if name == "evaluation":
            images = replace(images, crop="centre")
        before, usable = self._look(records, images)
        held = np.zeros(len(usable), bool)
        if held_out is not None:
            held = held_out.chosen(keys_of(records, usable))
        validated = images.validate != "none"
        source = images.of(Subset(records, usable[~held], () if validated else records.problems), agreed=True)
        kept = None
        if held_out is not None:
            kept = replace(images, crop="centre").of(Subset(records, usable[held]), agreed=True)
        total = len(records) + len(records.problems)
        since = [source.report] if kept is None else [source.report, kept.report]
        enough = min(READS_BEFORE_A_STOP, len(source))
        share = images.bad_share
        account = Account(source.fingerprint(), total, validated, enough, share, before.content(), since)
        self._accounts[name] = account
        use = f"{int((~held).sum()):,} to use" + (f", {int(held.sum()):,} held out" if held_out is not None else "")
        told = f"bad: {summary(before.content(), 'bad')}; left out: {summary(before.content(), 'dropped')}"
        self._say(f"data.{name}: {total:,} records, {use}" + (f"; {told}" if validated else ""))
        if held.any() and held.all():
            raise UserError(
                f"data.evaluation: expected some of data.{name} to be left to train on, got all {len(held):,} held "
                "out; hold out fewer, or nothing with data.evaluation = None"
            )
        if len(source) == 0:
            raise UserError(f"data.{name}: expected records that can be used, got none of {total:,} ({told})")
        return source, kept

    def _look(self, records: Records, images: Images) -> tuple[RecordReport, np.ndarray]:
        """What a survey finds, and the indices of the records that can be used as far as it knows."""
        report = RecordReport()
        if images.validate == "none":
            return report, np.arange(len(records))
        folder = storage.place(images.index_folder) if images.index_folder is not None else self._folder
        found = build_index(records, images, self._workers, folder)
        for problem in records.problems:
            report.found(problem)
        report.add(found.content, found.bad_read)
        problems, total = len(records.problems), len(records) + len(records.problems)
        stop_if_bad(problems + found.bad_read, total, images.bad_share, report.content)
        return report, np.flatnonzero(found.usable)


def open_batches(
    source: Openable | Mixture,
    evaluation: Openable | HeldOut | None,
    batch_size: int,
    seed: int,
    images: Images | None,
    workers: int,
    folder: Place | None,
    say: Callable[[str], None],
) -> Loader:
    """Batches as the trainer asks for them; ``folder`` is the run's, which keeps lists of records.

    All hosts of a run call it at the same place. Raises ``UserError`` where anything that is named cannot be used.
    """
    opening = SourceOpener(images, workers, folder, say)
    examples: Any
    held: Source | None = None
    held_out = evaluation if isinstance(evaluation, HeldOut) else None
    if isinstance(source, Mixture):
        parts = [opening.examples(one.source, f"source.parts.{name}", held_out) for name, one in source.parts.items()]
        examples = MixedSources([training for training, _ in parts], source.weights)
        held = ConcatSource([kept for _, kept in parts if kept is not None]) if held_out is not None else None
    else:
        examples, held = opening.examples(source, "source", held_out)
    if evaluation is not None and not isinstance(evaluation, HeldOut):
        held, _ = opening.examples(evaluation, "evaluation")
    loader = Loader(examples, held, batch_size, seed, workers, opening.finish())
    if not loader.held_out:
        say("data.evaluation: no images are held out, so nothing is evaluated and no images are drawn while training")
    if batch_size > loader.examples:
        say(
            f"data.batch_size: {batch_size} with {loader.examples:,} images to train on, so images come several times "
            "in a batch"
        )
    return loader
