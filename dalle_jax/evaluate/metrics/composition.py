"""Compositional accuracy: the share of captions with a right image, for the first candidate and after reranking.

Letters: P captions, M candidates of each. An image is right if the reader (``scenes.judge``) finds every part of the
caption in its pixels.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.metrics.judging import Judge
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.pipelines.ranker import CANDIDATE_COUNTS, choice_among_first
from dalle_jax.scenes import grammar
from dalle_jax.scenes.judge import Judgement, judge

Split = Literal["seen", "held_out", "prompted", "unnamed"]
SPLITS: tuple[Split, ...] = ("seen", "held_out", "prompted", "unnamed")
"""Splits of captions by their combinations of attributes: "prompted" and "unnamed" are the parts of "held_out"."""
DEFAULT_SPLITS: tuple[Split, ...] = ("seen", "held_out")
RERANKED_COUNTS = CANDIDATE_COUNTS[1:]
ANY_OF_COUNTS = (4, 16)
"""Numbers of candidates for which "at least one is right" is measured; every one of these candidates is judged."""

DRAWS = 1000
"""Number of attempts to draw a caption that is not yet in the list. If all fail, a caption is repeated."""


@dataclass(frozen=True)
class PartShare:
    """Accuracy of one part of the captions (a colour, a relation), counted apart from the other parts."""

    name: str
    first: Share
    chosen: Share


@dataclass(frozen=True)
class SecondReading:
    """Accuracy by a second reader: of the first candidates, and of CLIP's choices among ``Cell.chosen_of``.

    ``agrees`` is the share of these images for which both readers have the same verdict.
    """

    first: Share
    chosen: Share
    agrees: Share

    def to_json(self) -> dict[str, float | None]:
        """Return the three shares."""
        return {"first": self.first.value, "chosen": self.chosen.value, "agrees": self.agrees.value}


@dataclass(frozen=True)
class Cell:
    """Accuracy on one level and split: one row of the table.

    ``reranked[n]`` is the share of captions for which CLIP's choice among the first n candidates is right;
    ``any_of[n]`` the share for which at least one of them is. ``parts`` compares the first candidate with CLIP's choice
    among ``chosen_of`` (16, or all candidates if there are fewer).
    """

    level: int
    split: Split
    first: Share
    reranked: dict[int, Share]
    any_of: dict[int, Share]
    chosen_of: int
    parts: tuple[PartShare, ...]
    second: SecondReading | None = None

    @property
    def chosen(self) -> Share:
        """Return the accuracy of CLIP's choice among ``chosen_of``, or of the only candidate."""
        return self.reranked.get(self.chosen_of, self.first)

    def figures(self) -> dict[str, Share]:
        """Return every share of the cell under its key in ``metrics.json``: first, reranked_16, any_of_16, ..."""
        out = {"first": self.first}
        out |= {f"reranked_{n}": share for n, share in self.reranked.items()}
        return out | {f"any_of_{n}": share for n, share in self.any_of.items()}


@dataclass(frozen=True)
class Composition:
    """The table of compositional accuracy: cells in the order in which they are shown."""

    cells: tuple[Cell, ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the measured levels, from easy to hard."""
        return tuple(sorted({cell.level for cell in self.cells}))

    def cell(self, level: int, split: Split) -> Cell | None:
        """Return the cell of a level and split, or None if it was not measured."""
        return next((cell for cell in self.cells if (cell.level, cell.split) == (level, split)), None)

    def to_json(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return the shares by level and split, with counts, 95 % intervals and parts.

        ``{"level_1": {"seen": {"first": 0.84, ..., "count": 100, "interval_95": {...}, "parts": {...}}}}``
        """
        out: dict[str, dict[str, dict[str, object]]] = {level_name(level): {} for level in self.levels}
        for cell in self.cells:
            figures = cell.figures()
            out[level_name(cell.level)][cell.split] = {
                **{name: share.value for name, share in figures.items()},
                "count": cell.first.count,
                "interval_95": {name: _listed(share.interval) for name, share in figures.items()},
                "parts": {
                    part.name: {"first": part.first.value, f"reranked_{cell.chosen_of}": part.chosen.value}
                    for part in cell.parts
                },
                **({} if cell.second is None else {"second_reader": cell.second.to_json()}),
            }
        return out


@dataclass(frozen=True)
class JudgedCaption:
    """The reader's verdicts on the first candidate of a caption and on CLIP's choice."""

    caption: str
    first: Judgement
    chosen: Judgement
    chosen_index: int


def level_name(level: int) -> str:
    """Return the key of a caption level, such as "level_1", in ``metrics.json``."""
    return f"level_{level}"


def evaluation_captions(level: int, split: Split, count: int, seed: int) -> tuple[str, ...]:
    """Return ``count`` captions, which depend only on the arguments. A larger ``count`` adds captions at the end.

    ``seen`` draws attribute combinations that occur in training, ``held_out`` combinations that never do. Of these,
    ``prompted`` may be prompts of training by rewards, and ``unnamed`` may not (scenes/split.py). A caption is
    repeated only after ``DRAWS`` draws give no new one: level 1 has only some 160 held-out captions.
    """
    rng = np.random.default_rng((seed, level, SPLITS.index(split)))
    source = "validation" if split == "seen" else split
    captions: dict[str, None] = {}
    repeated: list[str] = []
    while len(captions) + len(repeated) < count:
        for _ in range(DRAWS):
            caption = grammar.caption(grammar.sample_scene(level, rng, source), rng)
            if caption not in captions:
                captions[caption] = None
                break
        else:
            repeated.append(caption)
    return (*captions, *repeated)


def measure_cell(
    level: int,
    split: Split,
    captions: Sequence[str],
    images: UInt8[np.ndarray, "P M H W 3"],
    scores: Float[np.ndarray, "P M"],
    judged_by: Judge = judge,
    judged_again_by: Judge | None = None,
) -> tuple[Cell, tuple[JudgedCaption, ...]]:
    """Judge the candidates of one level and split; return its accuracies and the verdicts on each caption.

    Only the first 16 candidates and CLIP's choices are judged. For M = 64 these are about a quarter of the candidates.
    ``judged_again_by`` judges the first candidate and CLIP's choice.
    Raises ValueError if the lengths of captions, images and scores differ.
    """
    if not len(captions) == len(images) == len(scores):
        raise ValueError(
            f"images, scores: expected {len(captions)} rows each, one per caption, got {len(images)}, {len(scores)}"
        )
    if images.shape[1] != scores.shape[1]:
        raise ValueError(f"scores: expected {images.shape[1]} of each caption, one per image, got {scores.shape[1]}")
    available = images.shape[1]
    choices = choice_among_first(scores)
    any_of = [n for n in ANY_OF_COUNTS if n <= available]
    chosen_of = max(n for n in choices if n <= 16)
    verdicts = [
        {
            index: judged_by(images[row, index], caption)
            for index in sorted({*range(max(any_of, default=1)), *(int(choice[row]) for choice in choices.values())})
        }
        for row, caption in enumerate(captions)
    ]
    chosen = choices[chosen_of]
    shown = tuple(
        JudgedCaption(caption, first=seen[0], chosen=seen[int(choice)], chosen_index=int(choice))
        for caption, seen, choice in zip(captions, verdicts, chosen, strict=True)
    )
    cell = Cell(
        level=level,
        split=split,
        first=share_of(seen[0].right for seen in verdicts),
        reranked={
            n: share_of(seen[int(i)].right for seen, i in zip(verdicts, choices[n], strict=True))
            for n in RERANKED_COUNTS
            if n in choices
        },
        any_of={n: share_of(any(seen[i].right for i in range(n)) for seen in verdicts) for n in any_of},
        chosen_of=chosen_of,
        parts=_part_shares(shown),
        second=None if judged_again_by is None else _second_reading(shown, images, judged_again_by),
    )
    return cell, shown


def _second_reading(shown: Sequence[JudgedCaption], images: UInt8[np.ndarray, "P M H W 3"], by: Judge) -> SecondReading:
    first = [by(images[row, 0], one.caption).right for row, one in enumerate(shown)]
    chosen = [by(images[row, one.chosen_index], one.caption).right for row, one in enumerate(shown)]
    before = [one.first.right for one in shown] + [one.chosen.right for one in shown]
    agrees = share_of(one == other for one, other in zip(before, first + chosen, strict=True))
    return SecondReading(share_of(first), share_of(chosen), agrees)


def _part_shares(shown: Sequence[JudgedCaption]) -> tuple[PartShare, ...]:
    """Return the accuracy of each part name, in order of first occurrence.

    A caption may have several parts of one name.
    """
    first: dict[str, list[bool]] = defaultdict(list)
    chosen: dict[str, list[bool]] = defaultdict(list)
    for judged in shown:
        for outcomes, judgement in ((first, judged.first), (chosen, judged.chosen)):
            for part in judgement.parts:
                outcomes[part.name].append(part.right)
    return tuple(PartShare(name, first=share_of(first[name]), chosen=share_of(chosen[name])) for name in first)


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
