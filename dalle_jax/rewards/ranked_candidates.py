"""A data source of preferences: pairs of a prompt's candidates, of which one has the better score."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord, Record
from dalle_jax.data.source import Example
from dalle_jax.data.sources.webdataset import WebDataset, WebDatasetRecords
from dalle_jax.images.decode import decode
from dalle_jax.images.header import BadImage
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.rewards.reward import SampledGroups
from dalle_jax.rewards.reward_mixture import RewardMixture
from dalle_jax.rewards.score_with_clip import ScoreWithClip

VERSION = 1
"""Increase this when the same folder and config give different pairs."""
PROMPTS_AT_ONCE = 32
"""Number of prompts whose candidates are judged in one call."""

ImageReward: TypeAlias = ReadScenes | ScoreWithClip
"""The rewards that need the pixels of an image alone."""


@dataclass(frozen=True)
class RankedCandidates:
    """Pairs of images from a bulk job (``sample --tars`` with ``--keep`` above 1).

    The images of a prompt are ordered by their scores. The best is paired with the worst, the second best with the
    second worst, and so on.

    - ``folder``: the job's output. A job that is not finished gives the pairs of its finished shards.
    - ``rewards``: rewards by name that score the images anew. Without any, the scores are the job's, of its CLIP.
    - ``margin``: a pair's scores differ by more than this.
    - ``pairs``: the largest number of pairs of a prompt.
    """

    folder: str
    rewards: Mapping[str, ImageReward] = field(default_factory=dict)
    margin: float = 0.0
    pairs: int = 1

    def __post_init__(self) -> None:
        if self.margin < 0 or self.pairs < 1:
            raise ValueError(f"margin, pairs: expected 0 or more and at least 1, got {self.margin} and {self.pairs}")

    def open(self) -> "PreferredImages":
        """Read the scores, or judge the images, and form the pairs.

        Raise ``UserError`` for a folder without tars, broken records, missing scores, or without a single pair.
        """
        records = WebDataset((self.folder,), caption=("json",)).open()
        if records.problems:
            raise UserError(f"{self.folder}: expected the tars of sample --tars, got {records.problems[0]}")
        candidates = _candidates(self.folder, records)
        scores = _judged(self, records, candidates) if self.rewards else _stored(self.folder, candidates)
        return PreferredImages(self, records, _pairs(self, candidates, scores))


class ScoredRecord(NamedTuple):
    """An image of a prompt: its number among the records, and the job's score, NaN if it has none."""

    record: int
    score: float


Candidates: TypeAlias = dict[str, list[ScoredRecord]]
"""The candidates of each prompt, in the order of the records."""


class Pair(NamedTuple):
    """The numbers of the preferred and of the rejected image among the records."""

    preferred: int
    rejected: int


class PreferredImages:
    """A ``Source`` of pairs. An example has the preferred ``image`` and the ``rejected`` one."""

    def __init__(self, config: RankedCandidates, records: WebDatasetRecords, pairs: Sequence[Pair]):
        self._config, self._records, self._pairs = config, records, tuple(pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        pair = self._pairs[index]
        preferred, rejected = (_read(self._config.folder, self._records, one) for one in pair)
        return Example(
            key=f"{preferred.key}-{rejected.key}",
            image=_pixels(self._config.folder, preferred),
            rejected=_pixels(self._config.folder, rejected),
            captions=list(preferred.captions),
        )

    def fingerprint(self) -> str:
        """Return a digest of the tars' headers and of the pairs."""
        text = repr((VERSION, self._records.fingerprint(), self._pairs))
        return "preferences-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(folder: str, records: WebDatasetRecords, index: int) -> Record:
    try:
        return records[index]
    except BadRecord as error:
        raise UserError(f"{folder}: expected images of sample --tars, got {error}") from error


def _pixels(folder: str, record: Record) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return decode(record.image)
    except BadImage as error:
        raise UserError(f"{folder}: {record.key}: expected an image, got {error}") from error


def _candidates(folder: str, records: WebDatasetRecords) -> Candidates:
    found: Candidates = {}
    for index in range(len(records)):
        record = _read(folder, records, index)
        score = record.metadata.get("score")
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        value = float(score) if is_number and math.isfinite(score) else math.nan  # type: ignore[arg-type]
        found.setdefault(record.captions[0], []).append(ScoredRecord(index, value))
    return found


def _stored(folder: str, candidates: Candidates) -> dict[int, float]:
    """Return the job's scores by record."""
    every = [one for group in candidates.values() for one in group]
    missing = sum(math.isnan(one.score) for one in every)
    if missing:
        raise UserError(
            f"data.source.folder: expected a score of every image, got none of {missing:,} of {len(every):,} in "
            f"{folder}; sample with a CLIP (--clip), or set data.source.rewards"
        )
    return {one.record: one.score for one in every}


def _judged(config: RankedCandidates, records: WebDatasetRecords, candidates: Candidates) -> dict[int, float]:
    """Return the sum of the rewards by record."""
    mixture = RewardMixture({name: one.open() for name, one in config.rewards.items()})
    scores: dict[int, float] = {}
    for prompts, numbers in _alike(candidates):
        images = [_pixels(config.folder, _read(config.folder, records, one)) for one in numbers.ravel().tolist()]
        sizes = sorted({one.shape[:2] for one in images})
        if len(sizes) > 1:
            raise UserError(f"{config.folder}: expected images of one size, got {sizes[0]} and {sizes[1]}")
        pixels = np.stack(images).reshape(*numbers.shape, *images[0].shape)
        groups = SampledGroups(tuple(prompts), pixels, np.zeros((*numbers.shape, 0), np.int32))
        total = mixture.total(mixture.parts(groups))
        scores.update(zip(numbers.ravel().tolist(), total.ravel().tolist(), strict=True))
    return scores


def _alike(candidates: Candidates) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield prompts of equal numbers of candidates, and their records [P M]."""
    by_count: dict[int, list[str]] = {}
    for prompt, group in candidates.items():
        by_count.setdefault(len(group), []).append(prompt)
    for prompts in by_count.values():
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            chosen = prompts[start : start + PROMPTS_AT_ONCE]
            yield chosen, np.array([[one.record for one in candidates[prompt]] for prompt in chosen])


def _pairs(config: RankedCandidates, candidates: Candidates, scores: Mapping[int, float]) -> list[Pair]:
    """Return the pairs in the order of the prompts. Raise ``UserError`` if there is none."""
    pairs = []
    for group in candidates.values():
        ordered = sorted((one.record for one in group), key=lambda record: (-scores[record], record))
        for rank in range(min(config.pairs, len(ordered) // 2)):
            better, worse = ordered[rank], ordered[-1 - rank]
            if scores[better] - scores[worse] > config.margin:
                pairs.append(Pair(better, worse))
    if not pairs:
        most = max(map(len, candidates.values()), default=0)
        raise UserError(
            f"data.source: expected prompts with two images whose scores differ by more than margin {config.margin}, "
            f"got none among {len(candidates):,} prompts of up to {most} images in {config.folder}; sample with "
            "--keep above 1, or lower margin"
        )
    return pairs
