"""Prompts of reinforcement that have no images: scenes that are only named, or the lines of a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

import numpy as np

from dalle_jax import storage
from dalle_jax.arrays import ExampleBatch
from dalle_jax.config.errors import UserError
from dalle_jax.data.caption_reader import CaptionSource
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.train.task import Seed
from dalle_jax.untrusted import read_text_file


@dataclass(frozen=True)
class PromptLines:
    """Prompts from a UTF-8 text ``file``, one on each line."""

    file: str

    def open(self) -> "PromptList":
        """Read the file. Raise ``UserError`` if it has no prompt."""
        lines = read_text_file(storage.place(self.file)).splitlines()
        return PromptList([line.strip() for line in lines if line.strip()], self.file)


NamedPrompts: TypeAlias = Scenes | PromptLines
"""Configs of prompts whose images, if there are any, are never read."""


class PromptList:
    """Prompts in memory. As the data of a run it has no images and no held-out examples."""

    def __init__(self, prompts: Sequence[str], name: str, batch_size: int = 1):
        if not prompts:
            raise UserError(f"{name}: expected at least one prompt, got none")
        self._prompts, self.batch_size = list(prompts), batch_size

    def __len__(self) -> int:
        return len(self._prompts)

    def captions(self, index: int) -> list[str]:
        """Return prompt number ``index``, alone."""
        return [self._prompts[index]]

    def batch(self, step: int, rows: Sequence[int]) -> ExampleBatch:
        """Return the prompts of a step: all prompts in turn, shuffled anew in each epoch."""
        found = [self._at(step * self.batch_size + row) for row in rows]
        return ExampleBatch(
            key=[str(one) for one in found], caption=[self._prompts[i] for i in found], caption_group=found
        )

    def evaluation_batches(self, rows: Sequence[int]) -> Iterator[ExampleBatch]:
        """Yield nothing."""
        del rows
        return iter(())

    def fingerprint(self) -> str:
        """Return a hash of the prompts and of the batch size."""
        return "prompts-" + sha256(repr((self._prompts, self.batch_size)).encode()).hexdigest()[:16]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._prompts))
        return int(np.random.default_rng((1, epoch)).permutation(len(self._prompts))[place])


@dataclass(frozen=True, eq=False)
class PromptChoice:
    """The choice of a prompt: the caption of an example, or, with chance ``share``, one of ``named``."""

    named: CaptionSource | None
    count: int
    share: float

    @classmethod
    def open(cls, prompts: NamedPrompts | None, share: float) -> "PromptChoice":
        """Read ``prompts``. Without any, all prompts are captions of the examples."""
        named = None if prompts is None else prompts.open()
        return cls(named, 0 if named is None else len(named), share)

    def choose(self, captions: Sequence[str], seeds: Sequence[Seed]) -> tuple[str, ...]:
        """Return one prompt for each example; each depends on its seed alone."""
        if self.named is None:
            return tuple(captions)
        chosen = []
        for caption, seed in zip(captions, seeds, strict=True):
            rng = np.random.default_rng((*seed, 1))
            if rng.random() < self.share:
                found = self.named.captions(int(rng.integers(self.count)))
                caption = found[int(rng.integers(len(found)))]
            chosen.append(caption)
        return tuple(chosen)
